"""Published measurements: derived values are recomputed, unverified ones are marked, and bad entries are refused."""

import pytest

from cnn.energy.devices import catalogue
from cnn.energy.published import Published, parse, published
from cnn.errors import FileFormatError
from cnn.model.zoo import ZOO

ROW = '[[row]]\ndevice = "D"\nnet = "N"\nmode = "infer"\nsource = "S"\n'


def rates(net: str) -> dict[tuple[str, str | None], float]:
    return {
        (run.device, run.software): run.quantities()["images_per_second"].value for run in published() if run.net == net
    }


def test_rates_follow_from_the_times_read():
    assert {device: round(rate, 1) for (device, _), rate in rates("VGG-16").items()} == {
        "2x Xeon E5-2630 v3": 1.9,
        "Tesla K40c": 17.4,
        "GTX Titan X (Maxwell)": 82.9,
    }
    by_software = {software: round(rate) for (_, software), rate in rates("AlexNet, one tower").items()}
    assert by_software == {"Caffe": 395, "cuDNN R2": 554, "cuDNN R4": 1580}
    # The source prints 444.
    assert int(rates("AlexNet")["Xeon Phi 7250", "Intel Caffe, MKL2017"]) == 444


def test_watts_and_images_a_joule_follow_from_each_other():
    (tegra,) = (run for run in published() if run.device == "Tegra X1")
    watts = tegra.quantities()["watts"]
    assert watts.value == pytest.approx(258 / 45)
    assert watts.confidence == "derived"
    assert tegra.unverified() == []
    (catapult,) = (run for run in published() if run.device.startswith("Catapult"))
    efficiency = catapult.quantities()["images_per_joule"]
    assert efficiency.value == pytest.approx(134 / 25)
    # The watts were given from memory.
    assert efficiency.confidence == "unverified"
    assert catapult.unverified() == ["watts = 25"]


def test_what_is_unknown_is_absent():
    (node,) = (run for run in published() if run.device.startswith("DaDianNao"))
    assert node.quantities() == {}
    rate_only = parse(ROW + 'images_per_second = {value = 5, confidence = "read"}')[0]
    assert set(rate_only.quantities()) == {"images_per_second"}
    time_without_batch = parse(ROW + 'seconds = {value = 5, confidence = "read"}')[0]
    assert time_without_batch.quantities() == {}


def test_every_row_names_its_source_and_what_exists():
    runs = published()
    assert len(runs) > 15
    assert all(run.source and run.mode in ("train", "infer") for run in runs)
    assert {run.zoo for run in runs} - {None} <= set(ZOO)
    assert {run.device_key for run in runs} - {None} <= set(catalogue())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('watts = {value = 5, confidence = "sure"}', "confidence of read, derived, unverified"),
        ('watts = {value = 0, confidence = "read"}', "above 0"),
        ('watts = {value = 5, confidence = "derived"}', "say how"),
        ('watts = {confidence = "read"}', "value"),
        ("watts = 5", "must be a mapping"),
        ("joules = 5", "no setting 'joules'"),
        ("batch = 1.5", "batch must be"),
        ('mode = "infer"', "Cannot overwrite"),
    ],
)
def test_bad_entries_are_refused(line, message):
    with pytest.raises(FileFormatError, match=message):
        parse(ROW + line)


def test_a_row_without_its_source_is_refused():
    with pytest.raises(FileFormatError, match="source"):
        parse(ROW.replace('source = "S"\n', ""))
    assert isinstance(parse(ROW)[0], Published)
