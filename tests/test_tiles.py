"""AMX: its algorithms on emulated tiles, wherever the tests run, and the machine code that a processor with AMX gets.

Where the processor has AMX, everything runs on that, too.
"""

import ast
import re
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from helpers.bf16 import (
    CONVOLUTIONS,
    HARD,
    IN_BFLOAT16,
    check_convolution,
    check_nan,
    check_stale_padding,
    compiled_with_amx,
    rounded,
    widened,
)
from helpers.ready_backends import ready
from llvmlite import ir
from numba import cfunc, njit, types
from numba.core.extending import intrinsic

from cnn import registry
from cnn.arrays import Buffers
from cnn.compiled import amx, bfloat16, direct_tiles, rounding, tileproduct, tiles
from cnn.compiled.kernels import RARE
from cnn.compiled.parts import limited, thread_count
from cnn.compiled.tileproduct import SIDE, SPACE, TERMS, configured, emulated, multiply, released
from cnn.convolution import Convolution, Window
from cnn.layers import Conv2D, Flatten, Linear
from cnn.model.sequential import Sequential
from cnn.precision import BFLOAT16, shortened
from cnn.testing import check_case

ENGINES = {"emulated": emulated} | ({} if amx.trouble() else {"amx": tileproduct.engine})
TINY = np.finfo(np.float32).tiny


@pytest.fixture(params=ENGINES)
def microkernel(request):
    return ENGINES[request.param]()


@pytest.fixture
def in_tiles(microkernel, monkeypatch):
    """A backend that takes every product it can to tiles."""
    backend = type(ready("openblas"))()
    monkeypatch.setattr(bfloat16, "engine", lambda: microkernel)
    monkeypatch.setattr(bfloat16, "in_pairs", lambda: False)
    monkeypatch.setenv("CNN_ALGORITHM", "amx")
    return backend


@njit
def run(microkernel, sizes, a, table, steps, b, start, start_row, floor, out, space, ready, narrow=0):
    own = configured(microkernel, space) if ready else np.intp(space.ctypes.data)
    multiply(
        *(microkernel, own, sizes[0], sizes[1], a.ctypes.data, a.strides[0]),
        *(table.ctypes.data, len(table) // 2, steps, b.ctypes.data, b.strides[0]),
        *(start.ctypes.data, start_row, np.float32(floor), out.ctypes.data, out.strides[0], narrow),
    )
    released(microkernel, own)


def product(microkernel, a, b, ready=True):
    """a (rows, terms) @ b (terms, columns) in one piece; both are bfloat16 in float32, with whole tiles of terms."""
    (rows, terms), columns = a.shape, b.shape[1]
    left = np.full((SIDE, terms), 0x7FC0, np.uint16)  # NaN in the rows beyond those asked for
    left[:rows] = a.view(np.uint32) >> 16
    right = np.full((terms // 2, SIDE, 2), 0x7FC0, np.uint16)
    right[:, :columns] = (b.view(np.uint32) >> 16).reshape(terms // 2, 2, columns).transpose(0, 2, 1)
    out, space = np.full((rows, columns), 7, np.float32), np.zeros(SPACE // 4, np.uint32)
    run(
        *(microkernel, np.array([rows, columns]), left, np.zeros(2, np.int64), terms // TERMS),
        *(right.view(np.uint32)[..., 0], np.zeros(columns, np.float32), 0, -np.inf, out, space, ready),
    )
    return out


def flushed(x):
    return np.where(np.abs(x) < TINY, np.copysign(np.float32(0), x), x).astype(np.float32)


def by_the_manual(a, b):
    """The operation of TDPBF16PS, with each multiply-add exact in float64 before its rounding."""
    sums = np.zeros((len(a), b.shape[1]), np.float32)
    for first in range(0, a.shape[1], TERMS):
        halves = []
        for number in range(2):
            half = np.zeros_like(sums)
            for term in range(first + number, first + TERMS, 2):
                exact = np.outer(flushed(a[:, term]).astype(float), flushed(b[term]).astype(float)) + half
                half = flushed(exact.astype(np.float32))
            halves.append(half)
        sums = flushed(sums + flushed(halves[0] + halves[1]))
    return sums


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (16, 17), (17, 16), (SIDE, SIDE)])
def test_the_order_and_the_roundings_of_a_product_of_tiles_are_those_of_the_manual(microkernel, rows, columns):
    """Bit by bit; the numbers are of similar sizes, so that no sum needs more digits than float64 has."""
    rng = np.random.default_rng(0)
    a, b = (rounded(rng.standard_normal(shape).astype(np.float32)) for shape in ((rows, 96), (96, columns)))
    expected = by_the_manual(a, b)
    assert expected.tobytes() == product(microkernel, a, b).tobytes()
    assert not np.array_equal(expected, rounded(expected))
    other = np.zeros_like(expected)
    for term in range(96):
        other += np.outer(a[:, term], b[term])
    assert columns == 1 or not np.array_equal(expected, other)  # the order matters


def test_numbers_below_the_smallest_normal_one_are_zero(microkernel):
    a, b = np.zeros((4, TERMS), np.float32), np.zeros((TERMS, 2), np.float32)
    a[:, 0], b[0] = [1e-39, 2.0**-70, -(2.0**-70), 1], [1, 2.0**-70]
    expected = [[0, 0], [2.0**-70, 0], [-(2.0**-70), 0], [1, 2.0**-70]]
    np.testing.assert_array_equal(product(microkernel, rounded(a), rounded(b)), np.array(expected, np.float32))


def test_nan_and_infinity_stay_in_their_rows_and_columns(microkernel):
    a, b = np.ones((20, TERMS), np.float32), np.ones((TERMS, 20), np.float32)
    a[3, 5], a[18, 2], b[7, 11] = np.nan, np.inf, -np.inf
    expected = np.full((20, 20), TERMS, np.float32)
    expected[:, 11], expected[18], expected[3] = -np.inf, np.inf, np.nan
    expected[18, 11] = np.nan
    np.testing.assert_array_equal(product(microkernel, a, b), expected)


def test_tiles_without_a_configuration_give_nan():
    ones = np.ones((SIDE, SIDE), np.float32)
    assert np.isnan(product(emulated(), ones, ones, ready=False)).all()
    assert (product(emulated(), ones, ones) == SIDE).all()


@pytest.mark.parametrize("rows", [1, 16, 17, SIDE])
@pytest.mark.parametrize("columns", [1, 15, 16, 17, 31, SIDE])
def test_microkernel(microkernel, rows, columns):
    """Pieces from anywhere, on top of what was there; nothing is written beyond the results, in either type."""
    rng, pieces, steps = np.random.default_rng(rows), 3, 2
    terms = steps * TERMS
    a = np.full((SIDE, pieces * terms), np.nan, np.float32)
    a[:rows] = rounded(rng.standard_normal((rows, pieces * terms)).astype(np.float32))
    b = np.full((pieces * terms // 2, 2, SIDE), np.nan, np.float32)
    b[:, :, :columns] = rounded(rng.standard_normal((pieces * terms // 2, 2, columns)).astype(np.float32))
    left = np.ascontiguousarray((a.view(np.uint32) >> 16).astype(np.uint16))
    right = np.ascontiguousarray((b.transpose(0, 2, 1).copy().view(np.uint32) >> 16).astype(np.uint16))
    orders = [2, 0, 1], [1, 2, 0]
    table = np.array([(2 * terms * i, terms // 2 * SIDE * 4 * j) for i, j in zip(*orders, strict=True)]).reshape(-1)
    start = rng.standard_normal((rows, columns), np.float32)
    out = np.full((rows + 1, SIDE + 1), 7, np.float32)
    run(
        *(microkernel, np.array([rows, columns]), left, table, steps, right.view(np.uint32)[..., 0]),
        *(start, start.strides[0], -2, out, np.zeros(SPACE // 4, np.uint32), True),
    )
    exact = start.astype(float)
    whole_b = b.reshape(pieces, terms, SIDE)[:, :, :columns].astype(float)
    for i, j in zip(*orders, strict=True):
        exact += a[:rows].reshape(rows, pieces, terms)[:, i].astype(float) @ whole_b[j]
    np.testing.assert_allclose(out[:rows, :columns], np.maximum(exact, -2), rtol=1e-5, atol=1e-5)
    short = np.full(out.shape, 7, np.uint16)
    run(
        *(microkernel, np.array([rows, columns]), left, table, steps, right.view(np.uint32)[..., 0]),
        *(start, start.strides[0], -2, short, np.zeros(SPACE // 4, np.uint32), True, 1),
    )
    np.testing.assert_array_equal(short[:rows, :columns], shortened(out[:rows, :columns]))
    for each in (out, short):
        assert (each[rows] == 7).all()
        assert (each[:, columns:] == 7).all()


@pytest.mark.parametrize(("terms", "width"), [(5, 7), (32, 16), (33, 17), (97, 50), (64, 200)])
def test_rows_are_turned_in_pairs_with_zeros_behind_them(terms, width):
    """In blocks, and the rest around them, of either type."""
    x = np.random.default_rng(0).standard_normal((terms, width)).astype(np.float32)
    x[: len(HARD), 0] = HARD[:terms]
    pairs = direct_tiles.whole(terms) // 2 + TERMS // 2
    expected = np.zeros((width, 2 * pairs), np.float32)
    expected[:, :terms] = rounded(x).T
    for numbers in (x, shortened(x)):
        out = np.full((width, pairs), 7, np.uint32)
        rounding.turned_rows(numbers.reshape(-1), terms, width, out, 2)
        np.testing.assert_array_equal(widened(out.view(np.uint16)), expected)


@pytest.mark.parametrize(("run", "width"), [(5, 7), (32, 16), (33, 49), (70, 100)])
def test_turned_panels_are_panels_of_the_transpose_with_whole_tiles_of_terms(run, width):
    x = np.random.default_rng(0).standard_normal((run, width)).astype(np.float32)
    shape = -(-width // SIDE), direct_tiles.whole(run) // 2 * SIDE
    panels = np.full(shape, 7, np.uint32)
    rounding.panels(x.reshape(-1), 1, run, width, SIDE, panels, 2)
    for numbers in (x, shortened(x)):
        turned, again = np.full(shape, 8, np.uint32), np.full(shape, 9, np.uint32)
        rounding.turned_panels(np.ascontiguousarray(numbers.T).reshape(-1), width, run, SIDE, turned, 2)
        rounding.panels(numbers.reshape(-1), 1, run, width, SIDE, again, 2)
        np.testing.assert_array_equal(turned, panels)
        np.testing.assert_array_equal(again, panels)


TILES = bfloat16.Direct(bfloat16.forward_in_tiles, bfloat16.weight_gradient_in_tiles)
PIXELS = [
    Convolution(Window((6, 30), (3, 3), padding=(1, 1, 1, 1)), 32, 40),
    Convolution(Window((5, 57), (4, 2), stride=(2, 1), padding=(2, 1, 0, 0)), 60, 33),
    Convolution(Window((4, 26), (1, 3)), 30, 3),
]
"""Convolutions whose cells are pixels."""
WHOLE_WINDOWS = [
    Convolution(Window((5, 5), (5, 5)), 3, 16),
    Convolution(Window((9, 40), (3, 2), padding=(2, 0, 1, 0)), 1, 50),
    Convolution(Window((6, 6), (2, 2), stride=(3, 3)), 2, 64),
    Convolution(Window((4, 4), (3, 3), padding=(5, 4, 3, 6)), 3, 3),
    Convolution(Window((28, 28), (5, 5)), 1, 20),
    Convolution(Window((7, 9), (4, 1), stride=(2, 1), padding=(1, 0, 0, 2)), 16, 5),
    Convolution(Window((11, 8), (2, 8), stride=(2, 1), padding=(0, 1, 3, 3)), 1, 33),
]
"""Convolutions whose cells are whole windows."""
EVERY = list(dict.fromkeys([*CONVOLUTIONS, *PIXELS, *WHOLE_WINDOWS]))


@pytest.mark.parametrize(("m", "n", "k"), [(300, 40, 1100), (40, 300, 1100), (257, 33, 513)])
@pytest.mark.parametrize("accumulate", [False, True])
def test_long_products_in_pieces(in_tiles, m, n, k, accumulate):
    rng = np.random.default_rng(0)
    a, b, out = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n), (m, n)))
    expected = rounded(a).astype(float) @ rounded(b).astype(float) + (out if accumulate else 0)
    in_tiles.in_precision(BFLOAT16).product(a, b, out=out, scratch=Buffers(in_tiles), accumulate=accumulate)
    np.testing.assert_allclose(out, expected, atol=1e-6 * k)


@pytest.mark.parametrize("convolution", EVERY, ids=str)
def test_convolutions_are_those_of_rounded_operands(in_tiles, convolution):
    kind = direct_tiles.cells_of(convolution)
    assert (kind == direct_tiles.PIXELS) == (convolution in PIXELS)
    assert (kind == direct_tiles.WINDOWS) == (convolution in WHOLE_WINDOWS)
    check_convolution(TILES, convolution)


@pytest.fixture
def small_blocks(monkeypatch):
    """A few output rows of an image are already too much for the weight gradient to take at a time."""
    monkeypatch.setattr(direct_tiles, "BLOCK_BYTES", 1 << 13)
    caches = direct_tiles.blocks, direct_tiles.weight_table
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()


@pytest.mark.parametrize("convolution", [*CONVOLUTIONS, *PIXELS], ids=str)
def test_images_are_taken_in_blocks_of_rows(in_tiles, small_blocks, convolution):
    rows = convolution.out[0]
    assert direct_tiles.blocks(convolution).height < rows or rows < 5
    check_convolution(TILES, convolution)


def test_nan_stays_in_the_windows_that_hold_it(in_tiles):
    check_nan(TILES)


@pytest.mark.parametrize("kind", [np.float32, np.uint16])
def test_what_lies_behind_a_whole_window_is_not_in_its_sum(in_tiles, kind):
    """Each pixel is NaN in turn, on an image whose cells are copied with what follows them."""
    convolution = Convolution(Window((5, 6), (2, 3)), 1, 2)
    assert direct_tiles.cells_of(convolution) == direct_tiles.WINDOWS
    w, scratch = np.ones(convolution.weights_shape, np.float32), Buffers(in_tiles)
    for row, column in np.ndindex(5, 6):
        x, y = np.ones((2, 5, 6, 1), np.float32), np.empty((2, *convolution.output_shape), np.float32)
        x[0, row, column] = np.nan
        images = x if kind == np.float32 else shortened(x)
        bfloat16.forward_in_tiles(images, w, None, convolution, y, scratch, relu=False)
        holds = [[row - 2 < p <= row and column - 3 < q <= column for q in range(4)] for p in range(4)]
        assert np.isnan(y[0]).all(axis=2).tolist() == holds
        assert (y[~np.isnan(y)] == 6).all()


def test_the_contract_holds_in_tiles(in_tiles):
    """Every convolution and product of the contract, with all buffers full of NaN before each run."""
    for case in IN_BFLOAT16:
        check_case(in_tiles, case, np.float32)
    choices = in_tiles.in_precision(BFLOAT16).algorithms()
    # No single convolution is the gradient of the data where there is a stride, or more padding than kernel.
    other = [problem for problem, each in choices.items() if each.name != "amx"]
    assert not [problem for problem in other if not re.search("data gradient|dilation|groups", problem)]
    assert sum("data gradient" in problem for problem in {*choices} - {*other}) > 10


def test_stale_padding_is_found(in_tiles, monkeypatch):
    check_stale_padding(in_tiles, monkeypatch)


def test_a_network_takes_the_same_steps_in_tiles(in_tiles, monkeypatch):
    """Recorded passes included; the passes over batches of one image and of a larger one before share buffers."""
    shape, rng = (9, 9, 3), np.random.default_rng(0)
    nets = []
    for backend in (in_tiles, "numpy"):
        layers = [Conv2D(20, 3, padding=1, activation="relu"), Conv2D(37, 1), Flatten(), Linear(50), Linear(4)]
        nets.append(Sequential(layers, shape, backend=backend, precision=BFLOAT16, seed=0))
    for count in (40, 1, 1, 1, 1):
        images, labels = rng.integers(0, 256, (count, *shape), np.uint8), rng.integers(0, 4, count)
        for net in nets:
            net.train_step(images, labels)
        for own, other in zip(nets[0].parameters, nets[1].parameters, strict=True):
            off = np.linalg.norm(own.gradient - other.gradient)
            assert off <= 0.01 * np.linalg.norm(other.gradient) + 1e-6, (count, own.name)


@intrinsic
def count_up(typing_context, address):
    def generate(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        builder.store(builder.add(builder.load(place), ir.IntType(64)(1)), place)
        return context.get_dummy_value()

    return types.void(types.int64), generate


def counting(
    what, space, m, n, a, a_row, table, pieces, steps, b, b_row, start, start_row, floor, out, out_row, narrow
):
    """In place of a microkernel: counts in the space of a thread what it is asked for."""
    count_up(space + 8 * what)


def test_each_part_of_a_kernel_configures_its_tiles_once_and_releases_them(monkeypatch):
    counter = cfunc(types.void(*tileproduct.ARGUMENTS))(counting)
    monkeypatch.setattr(bfloat16, "engine", lambda: np.uintp(counter.address))
    convolution = Convolution(Window((9, 9), (3, 3), padding=(1, 1, 1, 1)), 32, 40)
    scratch = Buffers(registry.create("numpy"))
    x, w = np.ones((4, *convolution.input_shape), np.float32), np.ones(convolution.weights_shape, np.float32)
    y, a = np.ones((4, *convolution.output_shape), np.float32), np.ones((90, 80), np.float32)
    for run_kernel, products in (
        (lambda: bfloat16.forward_in_tiles(x, w, None, convolution, y, scratch, relu=False), 4 * 2 * 3),
        (lambda: bfloat16.weight_gradient_in_tiles(x, y, convolution, w, scratch), 3 * 3 * 2),
        (lambda: bfloat16.product(a, a, out=np.empty((80, 80), np.float32), scratch=scratch, transpose_a=True), 9),
    ):
        with limited(2):
            spaces = scratch.get("tile spaces", (thread_count(), SPACE // 4), np.uint32).view(np.int64)
            spaces[:] = 0
            run_kernel()
        assert (spaces[:, tileproduct.CONFIGURE] == 1).all()
        assert (spaces[:, tileproduct.RELEASE] == 1).all()
        done = spaces[:, tileproduct.MULTIPLY]
        assert done.sum() == products or (done == products).all()


@pytest.fixture(scope="module")
def code():
    """The assembly of the microkernel with the instructions of AMX, for such a processor of x86-64."""
    features = "+avx512f,+avx512bw,+avx512vl,+avx512bf16,+amx-tile,+amx-bf16"
    module, machine = compiled_with_amx("x86_64-unknown-linux-gnu", features)
    return machine.emit_assembly(module)


def test_machine_code_of_amx_multiplies_tiles(code):
    """Configured and released in one place each, apart from the products; 0 to 3 are sums, 4 to 7 factors."""
    found = re.findall(r"^\t(ldtilecfg|tile\w+|tdp\w+)\t?(.*)$", code, re.MULTILINE)
    names = [name for name, _ in found]
    assert names.count("ldtilecfg") == names.count("tilerelease") == 1
    assert set(names) == {"ldtilecfg", "tilerelease", "tilezero", "tileloadd", "tilestored", "tdpbf16ps"}
    for name, operands in found:
        registers = re.findall(r"%tmm(\d)", operands)
        if name == "tdpbf16ps":
            right, left, sums = map(int, registers)
            assert (left in (4, 5), right in (6, 7), sums) == (True, True, 2 * (left - 4) + right - 6)
        elif name != "ldtilecfg" and registers:
            assert (int(registers[0]) < 4) == (name in ("tilezero", "tilestored"))


def test_every_product_follows_the_tiles_that_it_multiplies(code):
    """In each stretch of machine code without jumps: both factors are loaded anew between products with the same."""
    blocks = re.split(r"^\.L\w+:|^\tj\w+\t.*$", code, flags=re.MULTILINE)
    products = 0
    for block in blocks:
        loaded = {}
        for number, (name, operands) in enumerate(re.findall(r"^\t(tile\w+|tdp\w+)\t(.*)$", block, re.MULTILINE)):
            registers = [int(each) for each in re.findall(r"%tmm(\d)", operands)]
            if name == "tileloadd":
                loaded[registers[0]] = number
            elif name == "tdpbf16ps":
                right, left, sums = registers
                assert {left, right} <= set(loaded)
                assert (sums, loaded[left], loaded[right]) not in loaded.values()
                loaded[sums, left, right] = (sums, loaded[left], loaded[right])
                products += 1
    assert products >= 1 + 2 + 2 + 4


def test_the_configuration_makes_all_tiles_whole(code):
    numbers = np.frombuffer(tiles.CONFIGURATION, np.uint8)
    assert (numbers[0], numbers[1:16].any(), len(numbers)) == (1, False, 64)
    assert numbers[16:32].view("<u2").tolist() == [64] * 8
    assert numbers[48:56].tolist() == [16] * 8
    assert not numbers[32:48].any()
    assert not numbers[56:].any()
    escaped = re.search(r'tile_configuration:\n\t\.asci[iz]\t"(.*)"', code)[1]
    assert ast.literal_eval(f'b"{escaped}"').ljust(64, b"\0") == tiles.CONFIGURATION


def test_float32_networks_compile_no_kernel_of_tiles():
    rare = {kernel.compiled.py_func for kernel in RARE}
    assert {"amx_product", "emulated_product", "turned_rows"} <= {function.__name__ for function in rare}
    assert direct_tiles.__name__ in {function.__module__ for function in rare if function.__name__ == "forward"}


class TestPermission:
    @pytest.fixture(autouse=True)
    def anew(self):
        amx.trouble.cache_clear()
        tileproduct.engine.cache_clear()
        yield
        amx.trouble.cache_clear()
        tileproduct.engine.cache_clear()

    def test_a_processor_without_amx_is_not_asked(self, monkeypatch):
        monkeypatch.setattr(amx, "features", lambda: ["avx512f", "amx-tile", "amx-int8"])
        monkeypatch.setattr(amx, "_refusal", lambda: pytest.fail("asked"))
        assert amx.trouble() == "the processor has no AMX for bfloat16"
        assert tileproduct.engine() is None

    def test_the_system_is_asked_once(self, monkeypatch):
        asked = []
        monkeypatch.setattr(amx, "features", lambda: [*amx.NEEDED])
        monkeypatch.setattr(amx, "_refusal", lambda: asked.append(1))
        assert [amx.trouble() for _ in range(3)] == [None] * 3
        assert len(asked) == 1

    def test_a_refusal_is_told_and_something_else_is_used(self, monkeypatch):
        monkeypatch.setattr(amx, "features", lambda: [*amx.NEEDED])
        monkeypatch.setattr(amx, "_refusal", lambda: "Operation not supported")
        monkeypatch.setattr(bfloat16, "in_pairs", lambda: True)
        assert tileproduct.engine() is None
        backend = registry.create("openblas").in_precision(BFLOAT16)
        assert backend.bfloat16_by == ("bfloat16 by AVX512_BF16 (the system refuses AMX: Operation not supported)")
        assert set(bfloat16.algorithms(PIXELS[0])) == {"direct"}

    def test_linux_answers(self):
        """Whatever it says; a kernel that knows no such state gives a reason."""
        refusal = amx._refusal()
        assert refusal is None or refusal
        assert refusal or "amx_tile" in Path("/proc/cpuinfo").read_text().split()

    def test_features_are_those_of_this_processor(self):
        assert set(amx.features()) >= {name for name, has in llvm.get_host_cpu_features().items() if has}

    def test_amx_is_named_and_the_default_where_it_is_allowed(self, in_tiles):
        assert in_tiles.in_precision(BFLOAT16).bfloat16_by == "bfloat16 by AMX"
        assert [*bfloat16.algorithms(PIXELS[0])][-1] == "amx"
