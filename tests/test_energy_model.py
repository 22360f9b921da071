"""The model of time and energy against sums done by hand, and its messages for unknown values."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest

from cnn.arithmetic import Operation, Sizes
from cnn.cost import FORWARD, Cost, Extent, Stage, count
from cnn.energy.algorithms import Library
from cnn.energy.calibrated import predict_calibrated
from cnn.energy.calibration import Calibration, fit_products
from cnn.energy.devices import HALF_SIDE, Device, Quantity, catalogue
from cnn.energy.law import Law, Point
from cnn.energy.model import Thresholds, predict
from cnn.energy.validation import cornell_curves
from cnn.errors import UsageError
from cnn.model.zoo import SMALL, architecture

EXACT = Library("by hand", ("im2col",), "by hand", 0.0)


def exactly(value):
    return Quantity(value, value, value, "read", "by hand")


def device(**numbers):
    known = {"sgemm_gflops": 100.0, "half_side": 10.0, "stream_gbs": 10.0, "product_spread": 0.0} | numbers
    return Device("hand", "By hand", "cpu", **{name: exactly(value) for name, value in known.items()})


def cost_of(*operations, batch=4):
    stages = tuple(Stage(str(k), "X", FORWARD, (each,), Extent(1, 1, 1, 1)) for k, each in enumerate(operations))
    return Cost("hand", batch, False, stages)


def gemm(m, n, k):
    sizes = Sizes(m, n, k)
    return Operation("gemm", sizes.flops, sum(sizes.operands), sizes)


def test_a_product_and_a_pass_by_hand():
    product, copy = gemm(1000, 40, 500), Operation("im2col", 0, 4_000_000)
    prediction = predict(cost_of(product, copy), device(launch_us=5.0))
    compute = 4e7 / 100e9 * (1 + 10 * (1 / 1000 + 1 / 40 + 1 / 500))
    memory = 4 * (1000 * 500 + 500 * 40 + 1000 * 40) / 10e9
    assert compute > memory
    assert prediction.seconds.value == pytest.approx(compute + 4e-4 + 2 * 5e-6)
    assert prediction.images_per_second.value == pytest.approx(4 / prediction.seconds.value)
    assert prediction.joules is None
    assert any("no energy" in remark for remark in prediction.remarks)


def test_a_narrow_product_is_bound_by_memory():
    vector = gemm(1, 4096, 9216)
    known = device(sgemm_gflops=5000.0, half_side=75.0, stream_gbs=300.0)
    assert predict(cost_of(vector), known).seconds.value == pytest.approx(sum(vector.sizes.operands) / 300e9)
    # Sides shorter than 8 lose what one of 8 loses.
    few = gemm(4, 4096, 4096)
    lost = 75 * (1 / 8 + 2 / 4096)
    fast = replace(known, stream_gbs=exactly(1e6))
    assert predict(cost_of(few), fast).seconds.value == pytest.approx(few.flops / 5e12 * (1 + lost))


def test_the_smallest_product_may_take_longer_than_the_smallest_pass():
    product, copy = gemm(1000, 1000, 1000), Operation("im2col", 0, 4_000_000)
    prediction = predict(cost_of(product, copy), device(half_side=0.0, product_us=50.0, launch_us=5.0))
    assert [each.seconds.value for each in prediction.stages] == pytest.approx([0.02 + 50e-6, 4e-4 + 5e-6])


def test_energy_by_hand():
    product, copy = gemm(2000, 2000, 2000), Operation("im2col", 0, 400_000_000)
    watts = {"idle_watts": 20.0, "busy_watts": 60.0}
    whole = predict(cost_of(product, copy), device(half_side=0.0, launch_us=1e5, **watts))
    # Busy for 0.16 s, moving for 0.04 s at three quarters of what that draws above idle, starting twice at half of it.
    assert whole.seconds.value == pytest.approx(0.16 + 0.04 + 0.2)
    assert whole.joules.value == pytest.approx(20 * 0.4 + 40 * (0.16 + 0.75 * 0.04 + 0.5 * 0.2))
    # A rate that a product does not reach costs the same watts for longer.
    slow = predict(cost_of(product), device(half_side=2000.0, **watts))
    assert slow.watts.value == pytest.approx(60)


def test_a_power_cap_bounds_the_watts_and_stretches_no_time():
    product = gemm(2000, 2000, 2000)
    free = predict(cost_of(product), device(idle_watts=20.0, busy_watts=60.0))
    capped = predict(cost_of(product), device(idle_watts=20.0, busy_watts=60.0, cap_watts=50.0))
    assert capped.seconds == free.seconds
    assert (free.watts.value, capped.watts.value) == pytest.approx((60, 50))


def test_threads_share_the_rate_of_their_cores():
    product = gemm(4000, 4000, 4000)
    numbers = {"cores": 4.0, "threads_per_core": 2.0}
    whole = predict(cost_of(product), device(**numbers)).seconds.value
    assert predict(cost_of(product), device(**numbers), threads=2).seconds.value == pytest.approx(4 * whole)
    assert predict(cost_of(product), device(**numbers), threads=16).seconds.value == pytest.approx(whole)
    with pytest.raises(UsageError, match="its number of cores is not known"):
        predict(cost_of(product), device(), threads=2)


def test_offload_sends_what_mkl_sends_and_pays_for_the_way():
    assert Thresholds().send(Sizes(2049, 2049, 257))
    assert not any(
        Thresholds().send(Sizes(*sizes)) for sizes in [(2048, 2049, 257), (2049, 2048, 257), (2049, 2049, 256)]
    )
    watts = {"idle_watts": 10.0, "busy_watts": 30.0}
    host = device(**watts)
    card = device(sgemm_gflops=1000.0, pcie_latency_us=5.0, pcie_gbs=5.0, launch_us=80.0, **watts)
    small, large = gemm(1000, 10, 500), gemm(3000, 3000, 3000)
    prediction = predict(cost_of(small, large), card, host=host, offload=Thresholds())
    assert prediction.stages[0].seconds == predict(cost_of(small), host).seconds
    flown = 5.4e10 / 1e12 * (1 + 10 * 3 / 3000) + 80e-6
    way = 2 * 5e-6 + 4 * 3 * 3000**2 / 5e9
    assert prediction.stages[1].seconds.value == pytest.approx(flown + way)
    # Both sides idle all the time.
    assert prediction.joules.value > 20 * prediction.seconds.value
    with pytest.raises(UsageError, match="host"):
        predict(cost_of(large), card, offload=Thresholds())
    with pytest.raises(UsageError, match="pcie"):
        predict(cost_of(large), host, host=host, offload=Thresholds())


@pytest.mark.parametrize("name", SMALL)
def test_what_of_the_zoo_is_offloaded_by_default(name):
    """As measured with MKL: N is the number of filters, or for the data's gradient the elements of a filter."""
    forward, step = (count(architecture(name), 64, training=training).products for training in (False, True))
    assert forward
    assert not any(Thresholds().send(sizes) for sizes in forward)
    sent = {sizes for sizes in step if Thresholds().send(sizes)}
    assert sent == ({(64 * 7 * 7, 3 * 3 * 384, 384)} if name == "airbench95" else set())


def test_wider_bounds_widen_the_interval_and_repeat():
    product = cost_of(gemm(4000, 4000, 4000))
    exact = predict(product, device(), library=EXACT)
    assert exact.seconds.low == exact.seconds.high
    wide = {**device().quantities(), "sgemm_gflops": Quantity(100, 50, 200, "unverified", "by hand")}
    loose = predict(product, Device("hand", "By hand", "cpu", **wide), library=EXACT)
    assert loose.seconds.low < exact.seconds.value < loose.seconds.high
    assert loose == predict(product, Device("hand", "By hand", "cpu", **wide), library=EXACT)
    assert (exact.indicative, loose.indicative) == (False, True)
    assert loose.unverified == ["hand.sgemm_gflops"]


@pytest.mark.parametrize("key", [key for key, each in catalogue().items() if each.cap_watts and each.stream_gbs])
def test_no_draw_is_beyond_the_power_cap(key):
    """Also if only physical bounds on idle and busy watts are known."""
    known = catalogue()[key]
    prediction = predict(count(architecture("vgg6"), 64, training=True), known)
    assert 0 < prediction.watts.low <= prediction.watts.value <= prediction.watts.high <= known.cap_watts.value * 1.001


def test_products_are_off_one_by_one_and_a_step_as_a_whole():
    one, many = cost_of(gemm(4000, 4000, 4000)), cost_of(*(gemm(4000, 4000, side) for side in range(3900, 4000)))

    def width(cost, known, library):
        seconds = predict(cost, known, library=library).seconds
        return np.log(seconds.high / seconds.low) / (2 * 1.645)

    spread = device(product_spread=0.2)
    assert width(one, spread, EXACT) == pytest.approx(0.2, rel=0.15)
    assert width(many, spread, EXACT) < 0.05
    assert width(many, device(), EXACT._replace(spread=0.3)) == pytest.approx(0.3, rel=0.15)


def test_what_an_operation_takes_to_start_is_counted_or_said_to_be_unknown():
    product = cost_of(gemm(10, 10, 10))
    known, unknown = predict(product, device(launch_us=5.0)), predict(product, device())
    assert known.seconds.value == pytest.approx(unknown.seconds.value + 5e-6)
    said = "the time to start an operation is unknown and not counted"
    assert said in unknown.remarks
    assert said not in known.remarks
    beside = predict(product, device(launch_us=5.0), host=device())
    assert f"By hand: {said}" in beside.remarks


def test_a_device_of_which_too_little_is_known_is_refused():
    with pytest.raises(UsageError, match=r"sgemm_gflops, stream_gbs unknown; .* for example mine = \{kind"):
        predict(cost_of(gemm(1, 1, 1)), catalogue()["tesla-k20"])


def test_without_a_half_side_that_of_the_kind_is_taken_and_counts_as_unverified():
    known = replace(device(), half_side=None)
    prediction = predict(cost_of(gemm(100, 100, 100)), known)
    assert prediction.seconds.value == pytest.approx(2e6 / 100e9 * (1 + HALF_SIDE["cpu"].value * 3 / 100))
    assert prediction.unverified == ["hand.half_side"]


def test_the_rate_and_half_side_of_products_are_found_again():
    sizes = [Sizes(m, n, k) for m in (64, 1024) for n in (16, 50, 500) for k in (25, 500, 2000)]
    measured = [(each, each.flops / 50e9 * (1 + 30 * sum(1 / n for n in each))) for each in sizes]
    assert fit_products(measured) == pytest.approx((50e9, 30, 0), abs=1e-6, rel=1e-6)


def test_disturbed_products_still_have_a_rate():
    sizes = [Sizes(64, n, k) for n in (16, 64) for k in (25, 500)]
    # The larger a product, the more it was disturbed: no peak fits.
    measured = [(each, each.flops**1.3 / 5e11) for each in sizes]
    rate, half, error = fit_products(measured)
    fastest = max(each.flops / seconds for each, seconds in measured)
    assert fastest <= rate * (1 + 1e-9)
    assert rate <= 2 * fastest
    assert half >= 0
    assert error > 0.1


def planted(sizes, work):
    """A machine's time: overhead, and a rate that grows with the filters and falls with the traffic."""
    _, _, filters, _, traffic, _ = sizes
    return 1e-5 + work / (2e9 * filters**0.7) * traffic**0.1


@pytest.fixture
def law():
    rng = np.random.default_rng(1)
    points = []
    for _ in range(80):
        sizes = (*(int(2**n) for n in rng.uniform((3, 4, 4, 0, 20), (14, 8, 8, 1, 30))), 100)
        work = 2 * prod(sizes[:3])
        points.append(Point(sizes, work, planted(sizes, work)))
    return Law(1e-5, tuple(points))


def test_a_law_predicts_sizes_between_those_measured(law):
    for sizes in [(500, 40, 50, 1, 10**8, 100), (3000, 100, 33, 1, 10**7, 100), (50, 64, 128, 1, 10**8, 100)]:
        work = 2 * prod(sizes[:3])
        seconds, deviation = law.seconds(sizes, work)
        assert seconds == pytest.approx(planted(sizes, work), rel=0.15)
        assert 0 < deviation < 0.5
    assert law.error < 0.15


def calibration(law, **more):
    known = {"Linear, classification": law, "Linear, forward": law, "Linear, gradients": law}
    return Calibration("numpy", "lib", 1, "cpu", "2000-01-01", 1e11, 0.1, 10, 1e10, 1e-6, (), known, **more)


def test_a_calibrated_machine_takes_laws_and_names_what_has_none(law):
    cost = count(architecture("mlp"), 64, training=False)
    prediction = predict_calibrated(cost, calibration(law))
    stage = next(each for each in prediction.stages if each.stage.layer == "linear2")
    sizes = (*stage.stage.extent, cost.bytes, 100)
    assert stage.seconds.value == pytest.approx(law.seconds(sizes, stage.stage.gemm_flops)[0])
    assert prediction.seconds.value == pytest.approx(sum(each.seconds.value for each in prediction.stages))
    assert any("input, classification" in remark for remark in prediction.remarks)
    assert prediction.joules is None
    watts = predict_calibrated(cost, calibration(law, idle_watts=10.0, busy_watts=30.0)).watts
    assert 10 < watts.value <= 30


def test_the_cornell_curves_stand_beside_the_models():
    points = cornell_curves(architecture("lenet5"), catalogue())
    first = points[0]
    assert (first.threads, first.published, first.model.value) == (1, 1, pytest.approx(1))
    host = [point.model.value for point in points if point.device == first.device]
    assert host == sorted(host)
