"""The device catalogue: every number has a source and a confidence, and user files are checked."""

import json

import pytest

from cnn.cli import main
from cnn.energy.devices import EXAMPLE, SPREAD, catalogue
from cnn.energy.fitting import fit_law, published_products
from cnn.errors import FileFormatError, UsageError

PROPOSAL = {
    *("xeon-phi-5110p", "xeon-phi-7120p", "xeon-phi-se10p", "xeon-phi-7250", "2x-e5-2620v3", "e5-2650v2"),
    *("e5-2680v3", "e5-2695v2", "tesla-k20", "tesla-k40", "titan-x-maxwell"),
}


def test_the_devices_of_the_proposal_are_there_and_every_number_has_a_source():
    devices = catalogue()
    assert devices.keys() >= PROPOSAL
    for device in devices.values():
        for quantity in device.quantities().values():
            assert quantity.low <= quantity.value <= quantity.high
            assert quantity.confidence in SPREAD
            assert quantity.source


def test_what_is_recalled_makes_what_is_derived_from_it_unverified():
    quantities = [quantity for device in catalogue().values() for quantity in device.quantities().values()]
    recalled = [quantity for quantity in quantities if "recalled" in quantity.source]
    assert 0 < len(recalled) < len(quantities)
    assert {quantity.confidence for quantity in recalled} == {"unverified"}


@pytest.mark.parametrize("key", ["xeon-phi-7250", "titan-x-maxwell", "tesla-k40"])
def test_what_is_fitted_is_found_again_in_the_products(key):
    device = catalogue()[key]
    fit = fit_law([each for each in published_products() if each.device == key], device.stream_gbs.value * 1e9)
    found = (device.sgemm_gflops.value, device.half_side.value, device.product_us.value)
    assert found == pytest.approx((fit.rate, fit.half, fit.start), rel=0.005)
    if key != "tesla-k40":  # only squares of it were published
        assert device.product_spread.value == pytest.approx(fit.spread, rel=0.005)


def test_a_file_of_ones_own_adds_and_replaces_devices(tmp_path, capsys):
    own = tmp_path / "own.toml"
    own.write_text(
        '[mine]\nname = "Mine"\nkind = "cpu"\nsgemm_gflops = {value = 100, confidence = "measured", source = "here"}\n'
        '[tesla-k20]\nname = "K20"\nkind = "gpu"\ncap_watts = {low = 1, high = 3, confidence = "read", source = "x"}\n'
    )
    assert main(["devices", "--devices", str(own), "--json"]) == 0
    devices = json.loads(capsys.readouterr().out)["devices"]
    assert devices["mine"]["sgemm_gflops"]["low"] == pytest.approx(95)
    assert devices["tesla-k20"]["cap_watts"]["value"] == 2
    assert main(["devices", "xeon-phi-5110p"]) == 0
    assert "Intel forum 507670" in capsys.readouterr().out


def test_the_example_of_a_device_is_enough(tmp_path, capsys):
    own = tmp_path / "own.toml"
    own.write_text(EXAMPLE)
    assert catalogue(own)["mine"].sgemm_gflops.confidence == "unverified"
    assert main(["compare", "--no-measure", "--devices", str(own), "--device", "mine"]) == 0
    assert "nobody has verified sgemm_gflops, stream_gbs, half_side" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[a]\nname = 'A'\n",
            "a needs a kind: cpu, coprocessor, gpu; it needs sgemm_gflops too; it needs stream_gbs too",
        ),
        ("[a]\nkind = 'cpu'\ncolour = 1\ncores = -1\n", r"no entry 'colour'.*cores: value.*An example: mine = \{kind"),
        ("[a]\nkind = 'cpu'\nsgemm_gflops = 0\nstream_gbs = 1\n", "sgemm_gflops must be above 0"),
        ("[a]\nname = 'A'\nkind = 'cpu'\ncolour = 1\n", "a has no entry 'colour'; known are: name, kind, covers"),
        ("[a]\nname = 'A'\nkind = 'cpu'\ncores = 'four'\n", "must be a table"),
        (
            "[a]\nname = 'A'\nkind = 'cpu'\ncores = {value = 4, confidence = 'sure', source = 's'}\n",
            "confidence must be",
        ),
        ("[a]\nname = 'A'\nkind = 'cpu'\ncores = {value = -4, confidence = 'read', source = 's'}\n", "at least 0"),
        ("[a]\nname = 'A'\nkind = 'cpu'\ncores = {low = 4, confidence = 'read', source = 's'}\n", "both or none"),
        ("[a]\nname = 'A'\nkind = 'cpu'\ncores = {confidence = 'read', source = 's'}\n", "needs a value"),
        (
            "[a]\nname = 'A'\nkind = 'cpu'\ncores = {value = 9, low = 1, high = 2, confidence = 'read', source = ''}\n",
            "does not lie",
        ),
        ("a = 1\n", "must be a table"),
    ],
)
def test_a_wrong_entry_is_refused(tmp_path, text, message):
    own = tmp_path / "own.toml"
    own.write_text(text)
    with pytest.raises(UsageError, match=message):
        catalogue(own)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileFormatError, match=r"none\.toml"):
        catalogue(tmp_path / "none.toml")
    own = tmp_path / "own.toml"
    own.write_text("[")
    with pytest.raises(FileFormatError, match="TOML"):
        catalogue(own)
