"""Published measurements: derived values are recomputed, unverified ones are marked, and bad entries are refused."""

import pytest

from cnn.cost import DATA, UPDATE, count
from cnn.energy.algorithms import LIBRARIES
from cnn.energy.devices import catalogue
from cnn.energy.published import Published, parse, published, published_cost, ran
from cnn.errors import FileFormatError
from cnn.layers import Conv2D, Flatten, Layer, Linear
from cnn.model.architecture import Architecture, Recipe
from cnn.model.zoo import ZOO, architecture

ROW = '[[row]]\ndevice = "D"\nnet = "N"\nmode = "infer"\nsource = "S"\n'


def rates(net: str, mode: str = "train") -> dict[tuple[str, str | None], float]:
    return {
        (run.device, run.software): run.quantities()["images_per_second"].value
        for run in published()
        if (run.net, run.mode) == (net, mode)
    }


def test_rates_follow_from_the_times_read():
    assert {key: round(rate, 1) for key, rate in rates("VGG-16").items()} == {
        ("2x Xeon E5-2630 v3", "Torch nn"): 1.9,
        ("Tesla K40c", "Torch, cuDNN 5.0"): 17.4,
        ("Tesla K40c", "Torch nn, no cuDNN"): 13.0,
        ("GTX Titan X (Maxwell)", "Torch, cuDNN 5.1"): 82.9,
        ("GTX Titan X (Maxwell)", "Torch nn, no cuDNN"): 27.2,
    }
    by_software = {software: round(rate) for (_, software), rate in rates("AlexNet, one tower").items()}
    assert by_software == {"Caffe": 395, "Torch nn": 374, "cuDNN R2": 554, "cuDNN R4": 1580}
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
    assert {run.library for run in runs} - {None} <= set(LIBRARIES)


def test_a_row_is_of_the_network_whose_layers_it_ran_whatever_its_name():
    layers = architecture("lenet5").network.config()
    (cornell, *_) = (run for run in published() if run.zoo == "lenet5")
    renamed = Architecture("renamed", [Layer.from_config(each) for each in layers], (28, 28, 1), Recipe())
    assert ran(cornell, count(renamed, 5, training=True))
    other = Architecture("lenet5", [Conv2D(6, 3), Flatten(), Linear(10)], (28, 28, 1), Recipe())
    assert not ran(cornell, count(other, 5, training=True))


def test_a_published_step_is_counted_as_it_was_timed():
    vgg = published_cost(Published("D", "N", "train", "S", batch=1, zoo="vgg16"))
    assert not [stage for stage in vgg.stages if stage.phase == UPDATE]
    assert not [stage for stage in vgg.stages if (stage.layer, stage.phase) == ("conv1", DATA)]
    more = published_cost(
        Published("D", "N", "train", "S", batch=1, zoo="vgg16", update=True, first_data_gradient=True)
    )
    # Published: 138 million parameters.
    assert [stage.bytes for stage in more.stages if stage.phase == UPDATE] == [20 * 138_357_544]
    assert [stage.gemm_flops for stage in more.stages if (stage.layer, stage.phase) == ("conv1", DATA)] == [173_408_256]


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
