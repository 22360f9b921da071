"""Comparisons: rows recomputed, provenance kept, missing values stay missing, and the same numbers in every format."""

import csv
import io
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from helpers.fresh_python import python
from PIL import Image

import cnn.report.measured as measured
from cnn.cli import main
from cnn.cost import count
from cnn.energy.devices import catalogue
from cnn.energy.interval import Interval
from cnn.energy.model import Thresholds, predict
from cnn.energy.published import published
from cnn.errors import UsageError
from cnn.meter import Energy, Meter
from cnn.model.zoo import architecture
from cnn.registry import create
from cnn.report.comparison import compare
from cnn.report.comparison_charts import comparison_charts
from cnn.report.drawing import LIGHT
from cnn.report.figures import picture
from cnn.report.html import TEMPLATES
from cnn.report.page import page, summary
from cnn.report.predicted import Target, predict_at, targets
from cnn.report.row import QUANTITIES, Row, published_row
from cnn.report.table import HEAD, cells, interval_text, notes, number_text, sources, to_csv, to_dict

DEVICES = catalogue()
KEYS = ("titan-x-maxwell", "xeon-phi-5110p", "xeon-phi-5110p@2x-e5-2620v3")


def a_row(**changes):
    given = {"device": "D", "software": None, "net": "lenet", "batch": 64, "mode": "train"}
    return Row(**(given | {"provenance": "measured", "source": "S & <T>"} | changes))


@pytest.fixture(scope="module")
def comparison():
    """Predicted rows of three places and two made by hand, one of them without numbers."""
    cost = count(architecture("lenet"), 64, training=True)
    predicted = [predict_at(cost, target, Thresholds()) for target in targets(KEYS, DEVICES)]
    by_hand = [a_row(seconds_per_image=Interval(1e-4, 0.9e-4, 1.2e-4)), a_row(device="unknown <&>")]
    rows = [*by_hand, *(row for row, _ in predicted)]
    return compare(cost, rows, published(), [breakdown for _, breakdown in predicted], ["E is left out."])


def test_an_interval_turns_round_when_it_is_inverted():
    assert Interval(4, 2, 8).inverse() == (1 / 4, 1 / 8, 1 / 2)
    assert Interval(4, 2, 8).times(3) == (12, 6, 24)
    assert Interval(4).inverse() == (1 / 4, None, None)


def test_the_numbers_of_a_row_follow_from_seconds_and_joules_an_image():
    row = a_row(seconds_per_image=Interval(0.01, 0.008, 0.02), joules_per_image=Interval(0.5))
    assert row.seconds == pytest.approx((0.64, 0.512, 1.28))
    assert row.images_per_second == pytest.approx((100, 50, 125))
    assert row.images_per_joule.value == 2


def test_what_is_unknown_stays_absent_in_every_form(comparison):
    row = a_row()
    table = row.to_dict()
    assert all(table[name] is None for quantity in QUANTITIES for name in (quantity, f"{quantity}_low"))
    assert cells(row, ["S & <T>"])[3:5] == ["-", "-"]
    assert row.energy == "unavailable"
    assert comparison.rows[-1].device == "unknown <&>"


def test_the_published_row_of_an_unknown_batch_has_a_rate_but_no_time_of_a_batch():
    (run,) = (each for each in published() if (each.device, each.software) == ("GTX 980", "MXNet + cuDNN v3"))
    row = published_row(run)
    assert row.images_per_second.value == pytest.approx(842)
    assert row.seconds is None
    assert (row.provenance, row.energy, row.indicative) == ("published", "unavailable", False)


def test_a_number_nobody_verified_makes_a_row_indicative():
    (run,) = (each for each in published() if each.device.startswith("Catapult"))
    row = published_row(run)
    assert row.indicative
    assert row.joules_per_image.value == pytest.approx(25 / 134)
    assert cells(row, [row.source])[2] == "published*"
    assert row.source.endswith("; images_per_joule = images_per_second / watts")


def test_published_rows_are_of_the_mode_and_never_ranked_with_others():
    lenet5 = compare(count(architecture("lenet5"), 360, training=True), [], published())
    assert {row.net for row in lenet5.same_network} == {"LeNet-5"}
    assert not {row.net for row in lenet5.other_networks} & {"LeNet-5"}
    assert {row.mode for row in lenet5.all_rows} == {"train"}
    infer = compare(count(architecture("lenet5"), 1, training=False), [], published())
    assert not infer.same_network
    assert {row.mode for row in infer.all_rows} == {"infer"}


def test_rows_stand_in_the_order_of_their_times(comparison):
    times = [row.seconds.value for row in comparison.rows if row.seconds]
    assert times == sorted(times)
    assert len(times) == len(comparison.rows) - 1


@pytest.mark.parametrize("key", KEYS)
def test_a_predicted_row_is_the_models_and_its_stages_make_up_its_time(key):
    cost = count(architecture("cifar10_quick"), 32, training=True)
    (target,) = targets([key], DEVICES)
    row, breakdown = predict_at(cost, target, Thresholds())
    prediction = predict(cost, target.device, host=target.host, offload=Thresholds() if target.host else None)
    assert row.provenance == "predicted"
    assert row.seconds.value == pytest.approx(prediction.seconds.value)
    assert row.images_per_second.low == pytest.approx(32 / prediction.seconds.high)
    assert row.joules_per_image.value == pytest.approx(prediction.joules.value / 32)
    # Nobody has timed a network on a Phi that multiplies as the model does.
    assert row.indicative == (prediction.indicative or key != "titan-x-maxwell")
    assert ("the time of any network on it" in row.unverified) == (key != "titan-x-maxwell")
    assert sum(each.seconds.value for each in breakdown.stages) == pytest.approx(row.seconds.value)
    assert (breakdown.peak is None) == (target.host is not None)


def test_an_offload_beyond_mkls_rule_moves_the_time():
    cost = count(architecture("lenet"), 64, training=True)
    (target,), (host,) = targets(KEYS[2:], DEVICES), targets(["2x-e5-2620v3"], DEVICES)
    by_rule, _ = predict_at(cost, target, Thresholds())
    everything, _ = predict_at(cost, target, Thresholds(0, 0, 0))
    alone, _ = predict_at(cost, host, Thresholds())
    # By MKL's rule no product of a network this small is offloaded.
    assert by_rule.seconds == alone.seconds
    assert by_rule.joules_per_image.value > alone.joules_per_image.value
    assert everything.seconds.value != by_rule.seconds.value


@pytest.mark.parametrize(
    ("key", "wrong"), [("no-such", "no-such"), ("a@b@c", "a"), ("titan-x-maxwell@no-such", "no-such"), ("", "")]
)
def test_a_place_that_is_none_is_refused_by_name(key, wrong):
    with pytest.raises(UsageError, match=f"no device '{wrong}'; known are: xeon-phi-5110p"):
        targets([key], DEVICES)


class TwoJoulesAnImage(Meter):
    """Counts two joules per image."""

    kind = "measured"
    source = "a test"

    def stop(self, images, seconds):
        return Energy(2.0 * images, "measured", self.source)


@pytest.mark.parametrize("training", [True, False])
def test_a_measured_row_has_the_meters_joules(monkeypatch, training):
    monkeypatch.setattr(measured, "open_meter", lambda parts, watts: TwoJoulesAnImage())
    monkeypatch.setattr(measured, "STRETCH", 0.01)
    (row,) = measured.measured_rows(architecture("mlp"), [create("numpy")], 4, training=training, threads=1, rounds=3)
    assert row.joules_per_image.value == pytest.approx(2)
    assert (row.provenance, row.energy, row.threads, row.batch) == ("measured", "measured", 1, 4)
    assert row.seconds.low <= row.seconds.value <= row.seconds.high


@pytest.mark.parametrize(("last", "busy"), [(1.2, False), (1.3, True)])
def test_rows_measured_on_a_busy_machine_say_so_in_one_sentence(monkeypatch, last, busy):
    times = [0.01] * 19 + [0.01 * last] * 2
    monkeypatch.setattr(measured, "samples", lambda jobs, rounds: [times for _ in jobs])
    backends = [create("numpy"), create("reference")]
    rows = measured.measured_rows(architecture("mlp"), backends, 1, training=False, threads=1, rounds=21)
    said = [note for note in notes(tuple(rows)) if "numpy, reference fell below 80% of the median rate" in note]
    assert len(said) == busy
    if busy:
        assert {row.busy for row in rows} == set(said)
        assert said[0] in page(compare(count(architecture("mlp"), 1, training=False), rows, []), {})


def test_watts_that_the_user_gave_make_the_energy_modelled():
    (row,) = measured.measured_rows(
        architecture("mlp"), [create("numpy")], 4, training=True, threads=1, rounds=3, watts=90
    )
    assert row.energy == "modelled"
    assert row.watts.value == pytest.approx(90)
    assert row.joules_per_image.value == pytest.approx(90 * row.seconds_per_image.value)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(106027, 100296, 110855), "106,000 (100,000-111,000)"),
        (Interval(0.604, 0.577, 0.638), "0.60 (0.58-0.64)"),
        (Interval(614, 580, 1610), "610 (580-1,610)"),
        (Interval(3.3), "3.30"),
        (Interval(7, 7, 7), "7.00"),
        (None, "-"),
    ],
)
def test_an_interval_has_no_more_digits_than_are_known(interval, text):
    assert interval_text(interval) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0.00"), (0.01234, "0.0123"), (1.5, "1.50"), (99.96, "100.0"), (13326.7, "13,327")]
)
def test_three_digits(value, text):
    assert number_text(value) == text


def test_csv_json_and_text_hold_the_same_numbers(comparison):
    table = to_dict(comparison)
    lines = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    listed = [(name, row) for name in ("rows", "same_network", "other_networks") for row in table[name]]
    assert [line.pop("table") for line in lines] == [name for name, _ in listed]
    for line, (_, row) in zip(lines, listed, strict=True):
        assert line == {key: "" if value is None else str(value) for key, value in row.items()}
    for row, values in zip(comparison.rows, table["rows"], strict=True):
        shown = dict(zip(HEAD, cells(row, sources(comparison)), strict=True))
        assert shown["ms per batch"] == interval_text(row.seconds and row.seconds.times(1e3))
        if values["seconds"]:
            number = float(shown["ms per batch"].split()[0].replace(",", ""))
            assert values["seconds_low"] <= number / 1e3 <= values["seconds_high"]
    assert json.loads(json.dumps(table, allow_nan=False)) == table


def test_the_page_is_well_formed_and_needs_nothing_else(comparison):
    text = page(comparison, {"made": "by a test & <for> it"})
    root = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    tags = {each.tag.rpartition("}")[2] for each in root.iter()}
    assert not tags & {"script", "link", "img", "iframe", "object", "image", "metadata"}
    assert "@import" not in text
    assert re.findall(r'(?:href|src)="(?!#)', text) == []
    assert not re.findall(r"https?://|url\(", text)
    shown = "".join(root.itertext())
    assert all(row.source.replace("`", "") in shown for row in comparison.all_rows)
    assert all(row.label in shown for row in comparison.all_rows if row.seconds_per_image)
    assert "E is left out." in shown
    charts = [each for each in root.iter("svg") if each.attrib["class"] == "chart"]
    assert len(charts) == len(comparison_charts(comparison)) == 2


def test_the_page_has_a_colour_of_its_own_for_light_and_for_dark(comparison):
    text = page(comparison, {})
    body = text[text.index("<body>") :]
    assert not [colour for colour in LIGHT.values() if colour in body]
    light, dark = (TEMPLATES / "chart.css").read_text().split("@media (prefers-color-scheme: dark)")
    for name, colour in LIGHT.items():
        assert f"--{name}: {colour}" in light
        assert f"--{name}: #" in dark
    used = set(re.findall(r"var\(--(\w+)\)", text))
    assert {"ink", "blue", "green", "orange", "purple"} <= used <= set(re.findall(r"--(\w+):", light))


def test_the_page_begins_with_this_machine_and_folds_the_others(comparison):
    text = page(comparison, {})
    assert summary(comparison) in re.sub(r"&#39;", "'", text)
    assert "D trains 10,000 images/s of lenet" in summary(comparison)
    assert text.index("<h2>This machine</h2>") < text.index("<h2>Other devices, predicted</h2>")
    root = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    first, *_ = root.iter("table")
    assert [cell.text for cell in first.iterfind("thead/tr/th")][:3] == ["device", "ms per batch", "images/s"]
    assert [row.find("td").text for row in first.iterfind("tbody/tr")] == ["D", "unknown <&>"]
    assert "open" not in next(root.iter("details")).attrib
    others = page(replace(comparison, rows=comparison.rows[:1]), {})
    assert '<details open="open">' in others


def test_published_rows_that_say_nothing_are_left_out(comparison):
    nothing = a_row(device="Empty", provenance="published", net="other", batch=None)
    assert "Empty" not in page(replace(comparison, other_networks=(nothing,)), {})


def test_the_layers_table_has_each_stage_on_each_device(comparison):
    root = ElementTree.fromstring(page(comparison, {}).removeprefix("<!DOCTYPE html>\n"))
    table = next(table for table in root.iter("table") if table.find("thead/tr/th").text == "layer")
    rows = [[cell.text for cell in row] for row in table.iterfind("tbody/tr")]
    stages = [stage for stage in comparison.cost.stages if stage.operations]
    assert [row[:2] for row in rows] == [[stage.layer, stage.phase] for stage in stages]
    columns = dict(zip([cell.text for cell in table.iterfind("thead/tr/th")], zip(*rows, strict=True), strict=True))
    for breakdown in comparison.breakdowns:
        for unit, of_stage in (("ms", [each.seconds for each in breakdown.stages]), ("mJ", joules(breakdown))):
            shown = tuple(number_text(each.value * 1e3) for each in of_stage)
            assert columns[f"{breakdown.device}, {unit}"] == shown


def joules(breakdown):
    return [each.joules for each in breakdown.stages]


def test_the_layers_table_has_no_energy_where_none_is_known():
    nothing = replace(DEVICES["tesla-k40"], idle_watts=None)
    cost = count(architecture("mlp"), 1, training=False)
    row, breakdown = predict_at(cost, Target(nothing), Thresholds())
    text = page(compare(cost, [row], [], [breakdown]), {})
    assert "Tesla K40, ms" in text
    assert "Tesla K40, mJ" not in text


def test_the_picture_is_a_png_of_all_drawings(comparison):
    with Image.open(io.BytesIO(picture(comparison))) as image:
        assert image.format == "PNG"
        assert image.width == 1650
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_nothing_to_draw_is_said():
    empty = compare(count(architecture("mlp"), 1, training=False), [], published())
    with pytest.raises(UsageError, match="nothing to draw"):
        picture(empty)
    assert "Other networks, published" in page(empty, {})


def test_rows_that_know_nothing_are_not_drawn():
    only = compare(count(architecture("mlp"), 1, training=False), [a_row()], [])
    assert not comparison_charts(only)
    with pytest.raises(UsageError, match="nothing to draw"):
        picture(only)
    assert "S &amp; &lt;T&gt;" in page(only, {})


def test_rows_far_apart_are_drawn_as_points_on_a_logarithmic_axis():
    rows = [a_row(seconds_per_image=Interval(seconds)) for seconds in (1e-5, 1e-2)]
    far = compare(count(architecture("mlp"), 1, training=False), rows, [])
    assert picture(far) != picture(compare(far.cost, rows[:1], []))


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    files = [tmp_path / name for name in ("a.csv", "a.html", "a.png")]
    options = [text for file in files for text in (f"--{file.suffix[1:]}", str(file))]
    assert main(["compare", "lenet5", "--batch-size", "360", "--no-measure", "--json", *options]) == 0
    table = json.loads(capsys.readouterr().out)
    assert (table["model"], table["batch_size"], table["mode"]) == ("lenet5", 360, "train")
    assert {row["provenance"] for row in table["rows"]} == {"predicted"}
    lines = list(csv.DictReader(io.StringIO(files[0].read_text())))
    assert len(lines) == sum(len(table[name]) for name in ("rows", "same_network", "other_networks"))
    assert [line["device"] for line in lines[: len(table["rows"])]] == [row["device"] for row in table["rows"]]
    assert files[2].read_bytes().startswith(b"\x89PNG")
    assert "Tesla K20" in " ".join(table["omitted"])
    assert not any(row["device"] == "Tesla K20" for row in table["rows"])


def test_the_command_measures_the_backend_asked_for(capsys):
    asked = ["--backend", "numpy", "--threads", "1", "--rounds", "2", "--device", "tesla-k40", "--watts", "50"]
    assert main(["compare", "mlp", "--batch-size", "2", "--mode", "infer", "--json", *asked]) == 0
    rows = {row["provenance"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert set(rows) == {"measured", "predicted"}
    assert rows["measured"]["software"].startswith("numpy")
    assert rows["measured"]["images_per_second"] == pytest.approx(2 / rows["measured"]["seconds"])
    assert rows["measured"]["energy"] == "modelled"
    assert rows["predicted"]["device"] == "Tesla K40"


def test_the_printed_table_says_what_is_indicative_and_where_it_is_from(capsys):
    assert main(["compare", "--no-measure", "--device", "tesla-k40", "--mode", "infer"]) == 0
    out = capsys.readouterr().out
    assert "predicted*" in out
    assert "* Tesla K40: indicative, as nobody has verified" in out
    assert main(["compare", "--no-measure", "--device", "e5-2680v3,e5-2695v2"]) == 0
    # A note for two rows is printed once.
    assert capsys.readouterr().out.count("E5-2680 v3; Xeon E5-2695 v2: watts of the processor without its memory") == 1
    assert "not comparable" in out
    assert re.search(r"\[\d\] NVIDIA's blog", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "abacus"], "There is no device 'abacus'"),
        (["--device", "tesla-k20"], "No time can be predicted for Tesla K20"),
        (["--thresholds", "1,2"], "is not M,N,K"),
        (["--devices", "/no/such.toml"], "There is no TOML file"),
        (["no-such-net"], "There is no architecture"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, capsys):
    assert main(["compare", "--no-measure", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("form", ["--png"])
def test_without_matplotlib_a_picture_says_what_to_install(form, tmp_path):
    result = python(
        f"""
        import sys
        sys.modules["matplotlib"] = None
        from cnn.cli import main
        sys.exit(main(["compare", "--no-measure", "{form}", "{tmp_path}/x"]))
        """
    )
    assert result.returncode == 1
    assert result.stderr == "cnn: Plots are drawn by matplotlib, which is missing: pip install 'cnn-blas[bench]'.\n"
    assert list(tmp_path.iterdir()) == []


def test_tables_and_the_page_need_no_matplotlib(tmp_path):
    result = python(
        f"""
        import sys
        sys.modules["matplotlib"] = None
        from cnn.cli import main
        sys.exit(main(["compare", "--no-measure", "--html", "{tmp_path}/x.html"]))
        """
    )
    assert result.returncode == 0, result.stderr
