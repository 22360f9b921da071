"""Windows, im2col, col2im and convolutions: sizes counted by hand, and every element compared with plain loops."""

import numpy as np
import pytest

from cnn.arrays import Buffers
from cnn.convolution import Convolution, Window, col2im, im2col, pad, padded_size, pair, resolve_padding
from cnn.errors import ShapeError
from cnn.registry import create

# size, kernel, stride, (before, after), outputs rounding down, outputs rounding up
SIZES = [
    (28, 5, 1, (0, 0), 24, 24),
    (28, 5, 1, (2, 2), 28, 28),
    (24, 2, 2, (0, 0), 12, 12),
    (32, 3, 2, (0, 0), 15, 16),
    (7, 3, 2, (0, 0), 3, 3),
    (8, 3, 2, (0, 0), 3, 4),
    (5, 5, 3, (0, 0), 1, 1),
    (6, 2, 3, (1, 0), 2, 3),
    # Caffe's clip: with padding 1 the third window would start at row 4 + 1, past image and padding before.
    (4, 2, 3, (1, 1), 2, 2),
    # The third window would start at 6, past an image of 5: it would see no pixel at all.
    (5, 1, 3, (0, 0), 2, 2),
    (6, 1, 3, (0, 0), 2, 2),
    (7, 1, 3, (0, 0), 3, 3),
    # The last window starts at row 2 of the padded 3, the last pixel: it stays.
    (2, 2, 2, (1, 1), 2, 2),
    (3, 2, 2, (1, 0), 2, 2),
    (3, 2, 2, (1, 1), 2, 2),
    (4, 2, 2, (1, 0), 2, 3),
]

WINDOWS = [
    Window((5, 6), (3, 2)),
    Window((5, 6), (3, 3), padding=(1, 1, 1, 1)),
    Window((7, 5), (3, 2), (2, 3), (1, 0, 0, 2)),
    Window((6, 7), (1, 1), (2, 2)),
    Window((4, 4), (1, 1)),
    Window((4, 5), (4, 5)),
    Window((8, 3), (1, 1), (20, 1), (5, 0, 0, 0)),
    Window((6, 6), (2, 2), (3, 3)),
    Window((7, 9), (3, 2), (1, 2), (1, 0, 2, 1), dilation=(2, 3)),
    Window((2, 3), (3, 3), padding=(3, 3, 3, 2), dilation=(3, 2)),
]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "floor", "ceil"), SIZES)
def test_output_sizes_are_those_counted_by_hand(size, kernel, stride, padding, floor, ceil):
    for rounded_up, expected in ((False, floor), (True, ceil)):
        rows = Window((size, 9), (kernel, 1), (stride, 1), (*padding, 0, 0), rounded_up)
        columns = Window((9, size), (1, kernel), (1, stride), (0, 0, *padding), rounded_up)
        assert rows.out == (expected, 9)
        assert columns.out == (9, expected)


@pytest.mark.parametrize("ceil", [False, True])
def test_every_window_sees_at_least_one_pixel_when_padding_is_below_the_kernel(ceil):
    for size in range(1, 9):
        for kernel in range(1, size + 1 + 3 * ceil):
            for stride in range(max(1, kernel - size + 1), 5):
                for before in range(kernel):
                    window = Window((size, 1), (kernel, 1), (stride, 1), (before, before, 0, 0), ceil)
                    starts = [p * stride - before for p in range(window.out[0])]
                    assert all(start < size and start + kernel > 0 for start in starts), window


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        ("valid", (0, 0, 0, 0)),
        ("same", (1, 1, 1, 2)),
        (2, (2, 2, 2, 2)),
        ((1, 2), (1, 1, 2, 2)),
        ([1, 2], (1, 1, 2, 2)),
        ((1, 2, 3, 4), (1, 2, 3, 4)),
    ],
)
def test_padding_is_resolved_to_four_sides(padding, expected):
    assert resolve_padding(padding, (8, 8), (3, 4), (1, 1)) == expected


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "sides", "outputs"),
    [(7, 3, 2, (1, 1), 4), (8, 3, 2, (0, 1), 4), (5, 1, 2, (0, 0), 3), (28, 5, 1, (2, 2), 28), (3, 2, 5, (0, 0), 1)],
)
def test_same_padding_gives_size_over_stride_rounded_up(size, kernel, stride, sides, outputs):
    padding = resolve_padding("same", (size, size), (kernel, kernel), (stride, stride))
    assert padding == (*sides, *sides)
    assert Window((size, size), (kernel, kernel), (stride, stride), padding).out == (outputs, outputs)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_im2col_copies_what_loops_copy(window):
    x = np.random.default_rng(1).normal(size=(2, *window.size, 3))
    expected = columns_by_loops(x, window)
    padded = np.full((2, *padded_size(window), 3), np.nan)
    pad(x, window, padded)
    got = np.full(expected.shape, np.nan)
    im2col(padded, window, got)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_the_backend_pads_with_zeros_whatever_its_buffers_held(window):
    backend = create("numpy")
    x = np.random.default_rng(2).normal(size=(2, *window.size, 3))
    scratch = Buffers(backend, np.float64)
    scratch.get("padded", (10_000,)).fill(np.nan)
    expected = columns_by_loops(x, window)
    got = np.full(expected.shape, np.nan)
    backend.im2col(x, window, got, scratch)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_col2im_adds_what_loops_add(window):
    rng = np.random.default_rng(3)
    columns = rng.integers(-9, 10, (2 * window.out[0] * window.out[1], window.taps * 3)).astype(float)
    got = np.full((2, *window.size, 3), np.nan)
    col2im(columns, window, got)
    np.testing.assert_array_equal(got, image_by_loops(columns, window, got.shape))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_col2im_is_the_adjoint_of_im2col(window):
    backend, rng = create("numpy"), np.random.default_rng(4)
    x = rng.integers(-9, 10, (2, *window.size, 3)).astype(float)
    c = rng.integers(-9, 10, (2 * window.out[0] * window.out[1], window.taps * 3)).astype(float)
    columns, image = np.empty_like(c), np.empty_like(x)
    backend.im2col(x, window, columns, Buffers(backend, np.float64))
    backend.col2im(c, window, image)
    assert np.vdot(columns, c) == np.vdot(x, image)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
def test_taps_meet_exactly_the_pixels_that_loops_meet(ceil, dilation):
    window = Window((5, 4), (3, 2), (2, 3), (1, 1, 1, 1), ceil, dilation)
    met = set()
    for r, s, p, q, h, w in window.each_tap():
        rows = zip(range(9)[p], range(5)[h], strict=True)
        pairs = list(zip(range(9)[q], range(4)[w], strict=True))
        met |= {(r, s, a, b, c, d) for a, c in rows for b, d in pairs}
    expected = set()
    for r, s, p, q in np.ndindex(3, 2, *window.out):
        h, w = 2 * p - 1 + dilation[0] * r, 3 * q - 1 + dilation[1] * s
        if 0 <= h < 5 and 0 <= w < 4:
            expected.add((r, s, p, q, h, w))
    assert met == expected


def test_taps_and_copyless_windows():
    assert Window((9, 9), (3, 5)).taps == 15
    assert Window((9, 9), (1, 1)).copyless
    assert Window((9, 7), (9, 7), stride=(2, 1)).copyless
    for other in ({"stride": (1, 2)}, {"padding": (0, 0, 0, 1)}, {"kernel": (1, 2)}, {"kernel": (9, 8)}):
        assert not Window(**({"size": (9, 9), "kernel": (1, 1)} | other)).copyless
    assert not Window((9, 9), (9, 9), padding=(1, 0, 0, 0)).copyless


@pytest.mark.parametrize(
    ("make", "numbers"),
    [
        (lambda: Window((4, 4), (5, 5)), ["(5, 5)", "(4, 4)", "(0, 0, 0, 0)"]),
        (lambda: Window((4, 4), (6, 6), (2, 2), ceil=True), ["(6, 6)", "(4, 4)"]),
        (lambda: Window((4, 4), (5, 5), ceil=True), ["(5, 5)", "(4, 4)"]),
        (lambda: Window((4, 4), (0, 1)), ["(0, 1)", "at least 1"]),
        (lambda: Window((4, 4), (1, 1), (1, 0)), ["(1, 0)", "at least 1"]),
        (lambda: Window((4, 4), (1, 1), padding=(0, 0, -1, 0)), ["(0, 0, -1, 0)", "at least 0"]),
        (lambda: Window((4, 4), (1, 1), dilation=(0, 1)), ["Dilation (0, 1)", "at least 1"]),
        (lambda: Window((4, 4), (2, 2), dilation=(1, 4)), ["(2, 2) with dilation (1, 4)", "(4, 4)"]),
        (lambda: Convolution(Window((4, 4), (1, 1)), 0, 2), ["0 channels, 2 filters and 1 groups"]),
        (lambda: Convolution(Window((4, 4), (1, 1)), 6, 4, 3), ["3 groups", "6 channels and 4 filters"]),
        (lambda: Convolution(Window((4, 4), (1, 1)), 4, 6, 3), ["3 groups", "4 channels and 6 filters"]),
        (lambda: pair((1, 2, 3), "stride"), ["stride", "(1, 2, 3)"]),
        (lambda: pair((1, 2.5), "kernel"), ["kernel", "(1, 2.5)"]),
        (lambda: resolve_padding("some", (4, 4), (1, 1), (1, 1)), ["'some'"]),
        (lambda: resolve_padding((1, 2, 3), (4, 4), (1, 1), (1, 1)), ["padding", "(1, 2, 3)"]),
    ],
)
def test_errors_say_the_numbers(make, numbers):
    with pytest.raises(ShapeError) as caught:
        make()
    assert all(number in str(caught.value) for number in numbers)


CONVOLUTIONS = [
    Convolution(Window((5, 6), (3, 2), (1, 2), (1, 0, 0, 1)), 4, 6, groups=2),
    Convolution(Window((5, 6), (3, 2), padding=(2, 2, 1, 2), dilation=(2, 3)), 3, 2),
    Convolution(Window((7, 6), (3, 3), (2, 1), (1, 1, 1, 1), dilation=(2, 2)), 4, 8, groups=4),
    Convolution(Window((4, 5), (4, 5)), 4, 2, groups=2),
    Convolution(Window((4, 5), (1, 1)), 6, 3, groups=3),
]


def whole_numbers(*shapes):
    """Arrays whose products and sums float32 holds exactly."""
    rng = np.random.default_rng(5)
    return [rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes]


def test_sizes_of_a_convolution_counted_by_hand():
    convolution = Convolution(Window((7, 9), (3, 3), padding=(2, 2, 2, 2), dilation=(2, 2)), 6, 4, groups=2)
    assert convolution.input_shape == (7, 9, 6)
    assert convolution.weights_shape == (3, 3, 3, 4)
    assert convolution.output_shape == (7, 9, 4)
    assert convolution.depth == 27
    assert convolution.macs == 7 * 9 * 4 * 27
    assert convolution.group == Convolution(convolution.window, 3, 2)
    assert Convolution(Window((7, 9), (1, 1)), 6, 4).copyless
    assert not Convolution(Window((7, 9), (1, 1)), 6, 4, groups=2).copyless


@pytest.mark.parametrize("backend", ["numpy", "reference", "openblas"])
@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=str)
def test_dilation_spreads_kernels_and_groups_leave_weights_out(convolution, backend):
    """The same numbers as without either: kernels with zeros between their elements and for other groups' channels."""
    window, group = convolution.window, convolution.group
    x, w, bias = whole_numbers((2, *convolution.input_shape), convolution.weights_shape, (convolution.filters,))
    spread = np.zeros((*window.extent, convolution.channels, convolution.filters), np.float32)
    for number in range(convolution.groups):
        channels = slice(number * group.channels, (number + 1) * group.channels)
        filters = slice(number * group.filters, (number + 1) * group.filters)
        spread[:: window.dilation[0], :: window.dilation[1], channels, filters] = w[..., filters]
    plain = Window(window.size, window.extent, window.stride, window.padding)
    got, expected = np.full((2, 2, *convolution.output_shape), np.nan, np.float32)
    chosen = create(backend)
    chosen.conv2d(x, w, bias, convolution, None, got, Buffers(chosen))
    whole = Convolution(plain, convolution.channels, convolution.filters)
    chosen.conv2d(x, spread, bias, whole, None, expected, Buffers(chosen))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("backend", ["numpy", "reference", "openblas"])
@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=str)
def test_gradients_are_the_adjoints_of_a_convolution(convolution, backend):
    shapes = (2, *convolution.input_shape), convolution.weights_shape, (2, *convolution.output_shape)
    x, w, dy = whole_numbers(*shapes)
    dx, dw, y = (np.full(shape, np.nan, np.float32) for shape in shapes)
    chosen = create(backend)
    chosen.conv2d(x, w, None, convolution, None, y, Buffers(chosen))
    chosen.conv2d_data_gradient(dy, w, convolution, dx, Buffers(chosen))
    chosen.conv2d_weight_gradient(x, dy, convolution, dw, Buffers(chosen))
    assert np.vdot(y, dy) == np.vdot(x, dx) == np.vdot(w, dw)


@pytest.mark.parametrize("convolution", [each for each in CONVOLUTIONS if each.turned], ids=str)
def test_the_turned_convolution_gives_the_gradient_of_x(convolution):
    backend = create("reference")
    dy, w = whole_numbers((2, *convolution.output_shape), convolution.weights_shape)
    expected, got = np.full((2, 2, *convolution.input_shape), np.nan, np.float32)
    backend.conv2d_data_gradient(dy, w, convolution, expected, Buffers(backend))
    parts = np.split(w[::-1, ::-1], convolution.groups, axis=3)
    exchanged = np.concatenate([part.transpose(0, 1, 3, 2) for part in parts], axis=3)
    backend.conv2d(dy, exchanged, None, convolution.turned, None, got, Buffers(backend))
    np.testing.assert_array_equal(got, expected)


def pixel(window, p, q, r, s):
    """The row and column that kernel element (r, s) of window (p, q) lies over."""
    return tuple(
        at * step - before + element * gap
        for at, step, before, element, gap in zip(
            (p, q), window.stride, window.padding[::2], (r, s), window.dilation, strict=True
        )
    )


def columns_by_loops(x, window):
    """The rows of im2col, one element at a time."""
    rows = []
    for n, p, q in np.ndindex(len(x), *window.out):
        row = []
        for r, s, c in np.ndindex(*window.kernel, x.shape[3]):
            h, w = pixel(window, p, q, r, s)
            inside = 0 <= h < window.size[0] and 0 <= w < window.size[1]
            row.append(x[n, h, w, c] if inside else 0.0)
        rows.append(row)
    return np.array(rows)


def image_by_loops(columns, window, shape):
    """What col2im gives, one element at a time."""
    image = np.zeros(shape)
    cells = columns.reshape(shape[0], *window.out, *window.kernel, shape[3])
    for n, p, q, r, s, c in np.ndindex(cells.shape):
        h, w = pixel(window, p, q, r, s)
        if 0 <= h < window.size[0] and 0 <= w < window.size[1]:
            image[n, h, w, c] += cells[n, p, q, r, s, c]
    return image
