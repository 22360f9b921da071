"""The algorithms by hand, the fit of a device's products, and how the model stands to everything published."""

import json
from collections import Counter

import numpy as np
import pytest

from cnn.arithmetic import Sizes
from cnn.cli import main
from cnn.cost import DATA, FORWARD, WEIGHT, count
from cnn.energy.algorithms import DIRECT, FAST, FREQUENCIES, GEMM, LIBRARIES, executed
from cnn.energy.checks import LEAST_SPREAD, PRODUCTS, checks, fitted_libraries, held_out, summaries
from cnn.energy.devices import catalogue
from cnn.energy.fitting import Product, fit_law, published_products, refitted
from cnn.energy.model import predict
from cnn.errors import UsageError
from cnn.layers import Conv2D, Flatten, Linear
from cnn.model.architecture import Architecture, Recipe

DEVICES = catalogue()


def stages(*layers, batch=4, shape=(14, 14, 16)):
    net = Architecture("net", [*layers, Flatten(), Linear(10)], shape, Recipe())
    return {(stage.layer, stage.phase): stage for stage in count(net, batch, training=True).stages if stage.operations}


def runs(stage, name, batch=4):
    return executed(stage, batch, LIBRARIES[name])


def test_image_by_image_there_are_as_many_products_as_images():
    found = stages(Conv2D(8, 3), Conv2D(32, 3, padding=1))
    for phase, sizes in ((FORWARD, (144, 32, 72)), (WEIGHT, (72, 32, 144)), (DATA, (144, 72, 32))):
        stage = found["conv2", phase]
        (each,) = runs(stage, "im2col-image")
        (product,) = (run for run in each if run.sizes)
        assert (product.sizes, product.times) == (sizes, 4)
        assert product.flops * 4 == stage.gemm_flops
        moved = [run for run in each if run.sizes is None]
        assert sum(run.bytes * run.times for run in moved) + sum(product.sizes.operands) * 4 >= stage.bytes
        # Without a column matrix in memory, each array counts once.
        ((*_, implicit),) = ([run for run in each if run.sizes] for each in runs(stage, "implicit"))
        assert implicit.flops == stage.gemm_flops
        assert implicit.bytes == 4 * (4 * 12 * 12 * 8 + 9 * 8 * 32 + 4 * 12 * 12 * 32)
    assert runs(found["linear1", FORWARD], "im2col-image") == runs(found["linear1", FORWARD], "im2col")


def test_winograd_multiplies_16_for_36_on_tiles_of_two_by_two():
    found = stages(Conv2D(8, 3), Conv2D(32, 3, padding=1), Conv2D(8, 3, padding=1, stride=2))
    for phase, of_four in ((FORWARD, 2), (WEIGHT, 1), (DATA, 2)):
        stage = found["conv2", phase]
        implicit, winograd = runs(stage, "winograd")
        assert sum(run.flops for run in winograd if run.sizes) == pytest.approx(stage.gemm_flops * 16 / 36)
        assert len(runs(stage, "winograd-data")) == of_four
        assert sum(run.flops for run in implicit if run.sizes) == stage.gemm_flops
    # Not with a stride.
    assert len(runs(found["conv3", FORWARD], "winograd")) == 1
    odd = stages(Conv2D(8, 3), Conv2D(32, 3), shape=(15, 15, 3))["conv2", FORWARD]
    _, winograd = runs(odd, "winograd")
    assert sum(run.flops for run in winograd if run.sizes) == pytest.approx(odd.gemm_flops * 16 / 36 * (12 / 11) ** 2)


def test_a_frequency_is_a_complex_product_of_channels_and_filters():
    stage = stages(Conv2D(8, 3), Conv2D(32, 5, padding=2, groups=2), batch=3, shape=(34, 34, 3))["conv2", FORWARD]
    _, fft = runs(stage, "implicit-fft", 3)
    products = [run for run in fft if run.sizes]
    # Tiles give 28 pixels of 32, a side of which needs two.
    assert [run.sizes for run in products] == [(3 * 4, 16, 4)] * 2
    assert products[0].flops == 8 * 12 * 16 * 4 * FREQUENCIES
    assert len(runs(stages(Conv2D(8, 3), Conv2D(8, 3))["conv2", FORWARD], "implicit-fft")) == 1


def test_the_law_of_a_device_is_found_again():
    sides = [Sizes(m, n, k) for m in (16, 64, 1024) for n in (16, 512, 2048) for k in (64, 1760)]

    def seconds(sizes):
        return 5e-5 + sizes.flops / 4e12 * (1 + 60 * sum(1 / side for side in sizes))

    products = [Product("d", each, "", seconds(each), "", "") for each in sides]
    fit = fit_law(products, 1e15)
    assert (fit.rate, fit.half, fit.start, fit.spread) == pytest.approx((4000, 60, 50, 0), rel=1e-3, abs=1e-4)
    # A product that is far off is no reason to move.
    fit = fit_law([*products, products[3]._replace(seconds=9 * products[3].seconds)], 1e15)
    assert (fit.rate, fit.half, fit.start) == pytest.approx((4000, 60, 50), rel=0.1)


def test_a_device_without_products_is_known_by_its_peak():
    known = DEVICES["titan-x-maxwell"]
    others = [fit_law([each for each in published_products() if each.device == "tesla-k40"], 2e11)]
    changed = refitted(known, [], others)
    low, high = changed.sgemm_gflops.low, changed.sgemm_gflops.high
    assert (low, high) == pytest.approx((0.6 * 6144, 0.9 * 6144))
    assert low < known.sgemm_gflops.value < high
    assert changed.half_side.value == pytest.approx(others[0].half)
    assert refitted(DEVICES["xeon-phi-7250"], [], others).half_side is None


@pytest.fixture(scope="module")
def alone():
    return held_out(DEVICES)


def test_every_published_time_is_predicted_once_also_without_its_source(alone):
    found = checks(DEVICES)
    assert Counter((each.what, each.measured) for each in found) == Counter(
        (each.what, each.measured) for each in alone
    )
    assert {each.kind for each in found} == {PRODUCTS, GEMM, FAST, DIRECT}
    # What is left out is missed.
    with_it, without = (
        [abs(each.error) for each in all_of_it if each.source.endswith("TitanX.xlsx")] for all_of_it in (found, alone)
    )
    assert np.mean(without) > 1.2 * np.mean(with_it)
    (direct,) = (each for each in found if each.kind == DIRECT)
    (direct_alone,) = (each for each in alone if each.kind == DIRECT)
    assert abs(direct_alone.error) > 3 * abs(direct.error)


def test_nine_in_ten_published_times_lie_within_the_intervals(alone):
    by_kind = {each.kind: each for each in summaries(alone)}
    assert by_kind[PRODUCTS].error < 0.2
    assert 0.8 <= by_kind[PRODUCTS].within <= 0.97
    assert by_kind[GEMM].error < 0.15
    assert by_kind[FAST].error < 0.3
    assert 0.8 <= sum(each.within for each in alone) / len(alone) <= 0.97


def test_the_spread_of_software_is_what_the_published_steps_leave():
    exact = {key: library._replace(spread=0.0, share=1.0) for key, library in LIBRARIES.items()}
    fitted = fitted_libraries([each for each in checks(DEVICES, exact) if each.library])
    for key, library in LIBRARIES.items():
        assert library.spread == pytest.approx(fitted[key].spread, abs=0.005)
        assert library.share == pytest.approx(fitted[key].share, abs=0.005)
    assert {library.kind: library.spread for library in fitted_libraries([]).values()} == LEAST_SPREAD


def test_an_algorithm_of_its_own_is_predicted_and_named(capsys):
    words = ["compare", "vgg6", "--no-measure", "--device", "titan-x-maxwell", "--mode", "infer"]
    shown = {}
    for name in ("im2col", "im2col-image", "winograd"):
        assert main([*words, "--algorithm", name, "--json"]) == 0

        (row,) = json.loads(capsys.readouterr().out)["rows"]
        shown[row["software"]] = row["seconds"]
    assert list(shown) == [None, "im2col-image", "winograd"]
    assert shown["winograd"] < shown[None] < shown["im2col-image"]
    assert main([*words[:4], "xeon-phi-5110p@2x-e5-2620v3", "--algorithm", "winograd"]) == 2
    assert "Offload is predicted for im2col + GEMM only" in capsys.readouterr().err


def test_threads_reach_predicted_processors(capsys):

    words = ["compare", "--no-measure", "--device", "2x-e5-2620v3,titan-x-maxwell", "--json"]
    times = []
    for extra in ([], ["--threads", "3"]):
        assert main([*words, *extra]) == 0
        rows = {row["device"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
        times.append(rows)
    all_cores, three = times
    node, card = DEVICES["2x-e5-2620v3"].name, DEVICES["titan-x-maxwell"].name
    assert three[node]["seconds"] > 2 * all_cores[node]["seconds"]
    assert three[node]["threads"] == 3
    assert three[card] == all_cores[card]
    assert main(["compare", "--no-measure", "--nodes", "1", "--threads", "3", "--json"]) == 0
    (link, *_) = json.loads(capsys.readouterr().out)["scaling"]
    assert link["seconds"] == pytest.approx(three[node]["seconds"])


def test_unknown_software_is_refused():

    cost = count(Architecture("net", [Flatten(), Linear(10)], (4, 4, 1), Recipe()), 1, training=False)
    with pytest.raises(UsageError, match="no algorithm 'winogrd'; did you mean 'winograd'"):
        predict(cost, DEVICES["tesla-k40"], library="winogrd")
    assert np.isfinite(predict(cost, DEVICES["tesla-k40"], library="winograd").seconds.value)
