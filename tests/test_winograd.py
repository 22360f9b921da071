"""Winograd convolution: the matrices against the definition, every result against float64 within the stated bound."""

import numpy as np
import pytest

from cnn.arrays import Buffers
from cnn.compiled.transforms import data_matrix, kernel_matrix, result_matrix
from cnn.compiled.vectors import WIDTH
from cnn.compiled.winograd import (
    amplification,
    tiles,
    winograd_data_gradient,
    winograd_forward,
    winograd_weight_gradient,
)
from cnn.convolution import Convolution, Window

UNIT = 2.0**-24
# Terms of second order, and losses below the smallest normal number.
SLACK, TINY = 1.01, 1e-37

# images, window, channels, filters: whole and partial tiles, single tiles, padding of every size, odd vectors
SHAPES = [
    (2, Window((8, 8), (3, 3), padding=(1, 1, 1, 1)), WIDTH, WIDTH),
    (3, Window((7, 9), (3, 3)), WIDTH + 4, 2 * WIDTH + 1),
    (2, Window((5, 6), (3, 3), padding=(2, 1, 0, 2)), WIDTH + 1, 40),
    (1, Window((3, 3), (3, 3)), WIDTH, WIDTH + 3),
    (1, Window((1, 1), (3, 3), padding=(1, 1, 1, 1)), WIDTH, WIDTH),
    (1, Window((4, 3), (3, 3), padding=(4, 3, 3, 5)), WIDTH, WIDTH),
    (14, Window((9, 8), (3, 3), padding=(1, 1, 1, 1)), WIDTH, 3 * WIDTH),
    (2, Window((12, 12), (5, 5)), 20, 50),
    (2, Window((8, 8), (5, 5), padding=(2, 2, 2, 2)), 32, 64),
    (2, Window((7, 9), (5, 5), padding=(0, 1, 3, 4)), WIDTH + 1, WIDTH),
    (1, Window((5, 5), (5, 5)), WIDTH, WIDTH + 3),
    (1, Window((1, 2), (5, 5), padding=(4, 4, 4, 4)), WIDTH, WIDTH),
    (1, Window((6, 4), (5, 5), padding=(6, 5, 1, 7)), WIDTH + 5, WIDTH),
    (9, Window((13, 11), (5, 5), padding=(2, 1, 1, 2)), WIDTH, 3 * WIDTH),
]
# Each with every tile that applies.
CASES = [(*shape, tile) for shape in SHAPES for tile in tiles(Convolution(*shape[1:]))]
# Sides of the tiles and of the kernels.
SCHEMES = [(2, 3), (4, 3), (2, 5)]


def normal(rng, shape):
    return rng.standard_normal(shape)


def far_from_zero(rng, shape):
    """Sums that cancel after they have grown large."""
    return 1000 + rng.standard_normal(shape)


def of_all_sizes(rng, shape):
    return rng.standard_normal(shape) * 10 ** rng.uniform(-4, 4, shape)


def with_giants(rng, shape):
    """A few elements that outweigh all others of their tiles."""
    return rng.standard_normal(shape) * np.where(rng.random(shape) < 0.002, 1e6, 1)


MAKERS = [normal, far_from_zero, of_all_sizes, with_giants]


def sgemm_of(backend):
    """The address of the product that the kernels call, which only they and these tests use."""
    return backend._sgemm


def tiles_of(x, shift, plane, tile, side):
    """(N, rows, columns, side, side, C): pixels (i, j) from `shift` before the tile's first result, zero outside."""
    grid = [-(-size // tile) for size in plane]
    result = np.zeros((len(x), *grid, side, side, x.shape[3]))
    for i in range(grid[0]):
        for j in range(grid[1]):
            for a in range(side):
                for b in range(side):
                    h, w = i * tile + a - shift[0], j * tile + b - shift[1]
                    if 0 <= h < x.shape[1] and 0 <= w < x.shape[2]:
                        result[:, i, j, a, b] = x[:, h, w]
    return result


def both(matrix, values):
    """matrix @ tile @ matrix^T over the first two of the last three axes."""
    return np.einsum("ia,jb,...abc->...ijc", matrix, matrix, values, optimize=True)


def forward_bound(x, w, shift, plane, tile):
    """The docstring's bound on y, without bias: shift as for `tiles_of`, w (R, R, C, K)."""
    span = len(w)
    data, kernel, result = (np.abs(make(tile, span)) for make in (data_matrix, kernel_matrix, result_matrix))
    v = both(data, np.abs(tiles_of(x, shift, plane, tile, tile + span - 1)))
    u = np.einsum("ia,jb,abck->ijck", kernel, kernel, np.abs(w), optimize=True)
    y = both(result, np.einsum("nrsijc,ijck->nrsijk", v, u, optimize=True))
    n, rows, columns, _, _, filters = y.shape
    y = y.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows * tile, columns * tile, filters)
    return SLACK * (x.shape[3] + span**2 + 19) * UNIT * y[:, : plane[0], : plane[1]] + TINY


def weight_bound(x, dy, shift, tile, span, threads):
    """The docstring's bound on dw."""
    data, kernel, result = (np.abs(make(tile, span)) for make in (data_matrix, kernel_matrix, result_matrix))
    plane = dy.shape[1:3]
    v = both(data, np.abs(tiles_of(x, shift, plane, tile, tile + span - 1)))
    d = both(result.T, np.abs(tiles_of(dy, (0, 0), plane, tile, tile)))
    terms = v.shape[0] * v.shape[1] * v.shape[2]
    gradient = np.einsum("nrsijc,nrsijk->ijck", v, d, optimize=True)
    direct = np.einsum("ia,jb,ijck->abck", kernel, kernel, gradient, optimize=True)
    return SLACK * (terms + (tile + span - 1) ** 2 * threads + 17) * UNIT * direct + TINY


def correlated(x, w, shift, plane):
    """y (N, *plane, K) in float64, by the definition."""
    y = np.zeros((len(x), *plane, w.shape[3]))
    for r in range(w.shape[0]):
        for s in range(w.shape[1]):
            y += tiles_of(x, (shift[0] - r, shift[1] - s), plane, 1, 1)[:, :, :, 0, 0] @ w[r, s].astype(float)
    return y


def weight_gradient(x, dy, shift, span):
    """dw (span, span, C, K) in float64, by the definition."""
    dw = np.zeros((span, span, x.shape[3], dy.shape[3]))
    for r in range(span):
        for s in range(span):
            seen = tiles_of(x, (shift[0] - r, shift[1] - s), dy.shape[1:3], 1, 1)[:, :, :, 0, 0]
            dw[r, s] = np.einsum("npqc,npqk->ck", seen, dy.astype(float), optimize=True)
    return dw


def exchanged(w):
    return np.ascontiguousarray(w.transpose(0, 1, 3, 2))


def drawn(make, *shapes):
    rng = np.random.default_rng(7)
    return [make(rng, shape).astype(np.float32) for shape in shapes]


def guarded(shape):
    """An array of NaN for a result, and the memory around it."""
    size, edge = int(np.prod(shape)), 64
    memory = np.full(size + 2 * edge, np.nan, np.float32)
    return memory[edge : edge + size].reshape(shape), (memory[:edge], memory[edge + size :])


def shift_of(window):
    return window.padding[0], window.padding[2]


def used_scratch(backend, n, window, channels, filters, tile):
    """Buffers in which a larger convolution of NaN was computed."""
    scratch = Buffers(backend)
    x = np.full((n + 1, *window.size, channels), np.nan, np.float32)
    y = np.full((n + 1, *window.out, filters), np.nan, np.float32)
    w = np.full((*window.kernel, channels, filters), np.nan, np.float32)
    convolution, sizes = Convolution(window, channels, filters), {"tile": tile, "threads": 3}
    winograd_forward(sgemm_of(backend), x, w, None, convolution, y.copy(), scratch, relu=False, **sizes)
    winograd_weight_gradient(sgemm_of(backend), x, y, convolution, w.copy(), scratch, **sizes)
    winograd_data_gradient(sgemm_of(backend), y, exchanged(w), convolution, x.copy(), scratch, **sizes)
    return scratch


@pytest.mark.parametrize(("tile", "span"), SCHEMES)
def test_matrices_convolve_exactly(tile, span):
    rng = np.random.default_rng(0)
    d, g, y = (rng.standard_normal(size) for size in (tile + span - 1, span, tile))
    data, kernel, result = (make(tile, span) for make in (data_matrix, kernel_matrix, result_matrix))
    np.testing.assert_allclose(result @ ((kernel @ g) * (data @ d)), np.correlate(d, g), rtol=1e-12)
    np.testing.assert_allclose(kernel.T @ ((data @ d) * (result.T @ y)), np.correlate(d, y), rtol=1e-12)


@pytest.mark.parametrize(("tile", "span"), SCHEMES)
def test_transforms_of_tiles_are_exact_in_float32(tile, span):
    for matrix in (data_matrix(tile, span), result_matrix(tile, span)):
        np.testing.assert_array_equal(matrix, matrix.astype(np.float32))


def test_amplification_of_small_tiles_is_that_counted_by_hand():
    # Rows of |B^T| sum to 2, of |G| to 1, 1.5, 1.5, 1: products 2, 3, 3, 2, of which a result takes three, 8.
    assert amplification(2, 3, "data") == 64
    # Rows of |A| sum to 1, 2, 2, 1: products 2, 4, 4, 2, of which an element of the kernel takes 2 + 4/2 + 4/2.
    assert amplification(2, 3, "weight") == 36


def test_amplification_of_large_tiles_is_a_quarter_of_that_of_whole_points():
    # The matrices of Lavin and Gray 2016, section 4.3.
    data = np.array([10, 10, 10, 6, 6, 10])
    kernel = np.array([1 / 4, 3 / 6, 3 / 6, 7 / 24, 7 / 24, 1])
    published = (np.array([[1, 1, 1, 1, 1, 0], [0, 1, 1, 8, 8, 1]]) @ (data * kernel)).max() ** 2
    assert amplification(4, 3, "data") < published / 4


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("n", "window", "channels", "filters", "tile"), CASES)
def test_forward_is_within_the_bound(backend, n, window, channels, filters, tile, make):
    shapes = (n, *window.size, channels), (*window.kernel, channels, filters), (filters,)
    x, w, bias = drawn(make, *shapes)
    scratch = used_scratch(backend, n, window, channels, filters, tile)
    expected = correlated(x, w, shift_of(window), window.out)
    bound = forward_bound(x, w, shift_of(window), window.out, tile)
    for threads, shift, relu in ((1, bias, True), (2, None, False), (3, bias, False), (2, None, True)):
        out, around = guarded((n, *window.out, filters))
        arrays = x, w, shift, Convolution(window, channels, filters), out, scratch
        winograd_forward(sgemm_of(backend), *arrays, relu=relu, tile=tile, threads=threads)
        right = expected if shift is None else expected + shift
        right = np.maximum(right, 0) if relu else right
        allowed = bound if shift is None else bound + UNIT * np.abs(shift)
        assert (np.abs(out - right) <= allowed).all()
        assert np.isnan(around).all()


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("n", "window", "channels", "filters", "tile"), CASES)
def test_data_gradient_is_within_the_bound(backend, n, window, channels, filters, tile, make):
    dy, w = drawn(make, (n, *window.out, filters), (*window.kernel, channels, filters))
    scratch = used_scratch(backend, n, window, channels, filters, tile)
    turned = w[::-1, ::-1].transpose(0, 1, 3, 2)
    shift = window.kernel[0] - 1 - window.padding[0], window.kernel[1] - 1 - window.padding[2]
    expected = correlated(dy, turned, shift, window.size)
    bound = forward_bound(dy, turned, shift, window.size, tile)
    for threads in (1, 2):
        out, around = guarded((n, *window.size, channels))
        arrays = dy, exchanged(w), Convolution(window, channels, filters), out, scratch
        winograd_data_gradient(sgemm_of(backend), *arrays, tile=tile, threads=threads)
        assert (np.abs(out - expected) <= bound).all()
        assert np.isnan(around).all()


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("n", "window", "channels", "filters", "tile"), CASES)
def test_weight_gradient_is_within_the_bound(backend, n, window, channels, filters, tile, make):
    x, dy = drawn(make, (n, *window.size, channels), (n, *window.out, filters))
    scratch = used_scratch(backend, n, window, channels, filters, tile)
    span = window.kernel[0]
    expected = weight_gradient(x, dy, shift_of(window), span)
    for threads in (1, 2, 3):
        out, around = guarded((*window.kernel, channels, filters))
        arrays = x, dy, Convolution(window, channels, filters), out, scratch
        winograd_weight_gradient(sgemm_of(backend), *arrays, tile=tile, threads=threads)
        assert (np.abs(out - expected) <= weight_bound(x, dy, shift_of(window), tile, span, threads)).all()
        assert np.isnan(around).all()


@pytest.mark.parametrize(("tile", "span"), SCHEMES)
def test_simple_bound_holds_where_all_elements_are_alike(backend, tile, span):
    """|error| <= roundings u amplification C max|d| max|g|: which can be computed by hand."""
    window = Window((12, 12), (span, span), padding=(1, 1, 1, 1))
    x, w = drawn(normal, (4, 12, 12, 64), (span, span, 64, 32))
    out = np.empty((4, *window.out, 32), np.float32)
    arrays = x, w, None, Convolution(window, 64, 32), out, Buffers(backend)
    winograd_forward(sgemm_of(backend), *arrays, relu=False, tile=tile, threads=2)
    error = np.abs(out - correlated(x, w, (1, 1), window.out)).max()
    factor = (64 + span**2 + 19) * UNIT * amplification(tile, span, "data")
    assert 0 < error <= factor * 64 * np.abs(x).max() * np.abs(w).max()


def large(span):
    """Arrays x, w and dy of a convolution of many tiles, itself, and arrays for the results in the same order."""
    window = Window((9, 8) if span == 3 else (13, 11), (span, span), padding=(1, 1, 1, 1))
    convolution = Convolution(window, WIDTH, 3 * WIDTH)
    shapes = (14, *convolution.input_shape), convolution.weights_shape, (14, *convolution.output_shape)
    arrays = drawn(normal, *shapes)
    return arrays, convolution, [np.empty_like(array) for array in arrays]


@pytest.mark.parametrize(("tile", "span"), SCHEMES)
def test_products_in_pieces_are_within_the_bound(backend, tile, span):
    (x, w, dy), convolution, (dx, dw, y) = large(span)
    scratch, sizes, window = Buffers(backend), {"tile": tile, "threads": 2, "largest": 1}, convolution.window
    winograd_forward(sgemm_of(backend), x, w, None, convolution, y, scratch, relu=False, **sizes)
    winograd_data_gradient(sgemm_of(backend), dy, exchanged(w), convolution, dx, scratch, **sizes)
    winograd_weight_gradient(sgemm_of(backend), x, dy, convolution, dw, scratch, **sizes)
    assert (np.abs(y - correlated(x, w, (1, 1), window.out)) <= forward_bound(x, w, (1, 1), window.out, tile)).all()
    turned, shift = w[::-1, ::-1].transpose(0, 1, 3, 2), (span - 2, span - 2)
    expected, bound = correlated(dy, turned, shift, window.size), forward_bound(dy, turned, shift, window.size, tile)
    assert (np.abs(dx - expected) <= bound).all()
    expected, bound = weight_gradient(x, dy, (1, 1), span), weight_bound(x, dy, (1, 1), tile, span, 2)
    assert (np.abs(dw - expected) <= bound).all()


@pytest.mark.parametrize(("tile", "span"), SCHEMES)
def test_same_threads_give_the_same_bytes(backend, tile, span):
    (x, w, dy), convolution, results = large(span)
    dx, dw, y = results
    for threads in (1, 2, 3):
        seen = set()
        for _ in range(3):
            scratch, sizes = Buffers(backend), {"tile": tile, "threads": threads}
            winograd_forward(sgemm_of(backend), x, w, None, convolution, y, scratch, relu=True, **sizes)
            winograd_data_gradient(sgemm_of(backend), dy, exchanged(w), convolution, dx, scratch, **sizes)
            winograd_weight_gradient(sgemm_of(backend), x, dy, convolution, dw, scratch, **sizes)
            seen.add(b"".join(result.tobytes() for result in results))
        assert len(seen) == 1


@pytest.mark.parametrize(("tile", "span"), SCHEMES)
@pytest.mark.parametrize("relu", [False, True])
def test_nan_is_not_lost(backend, tile, span, relu):
    edge = span // 2
    window = Window((8, 8), (span, span), padding=(edge, edge, edge, edge))
    x, w = drawn(normal, (1, 8, 8, WIDTH), (span, span, WIDTH, WIDTH))
    x[0, 3, 3, 0] = np.nan
    out = np.zeros((1, 8, 8, WIDTH), np.float32)
    arrays = x, w, None, Convolution(window, WIDTH, WIDTH), out, Buffers(backend)
    winograd_forward(sgemm_of(backend), *arrays, relu=relu, tile=tile, threads=1)
    assert np.isnan(out[0, 3 - edge : 4 + edge, 3 - edge : 4 + edge]).all()
    assert not np.isnan(out[0, 7]).any()


def test_tiles_are_for_3x3_and_5x5_kernels_of_stride_1_and_a_vector_of_channels():
    assert tiles(Convolution(Window((8, 8), (3, 3)), WIDTH, WIDTH)) == (2, 4)
    assert tiles(Convolution(Window((8, 8), (5, 5)), WIDTH, WIDTH)) == (2,)
    assert tiles(Convolution(Window((8, 8), (3, 3)), WIDTH - 1, WIDTH)) == ()
    assert tiles(Convolution(Window((8, 8), (5, 5)), WIDTH, WIDTH - 1)) == ()
    assert tiles(Convolution(Window((8, 8), (3, 5)), WIDTH, WIDTH)) == ()
    assert tiles(Convolution(Window((8, 8), (3, 3), (1, 2)), WIDTH, WIDTH)) == ()
    assert tiles(Convolution(Window((8, 8), (5, 5), (2, 2)), WIDTH, WIDTH)) == ()
    assert tiles(Convolution(Window((8, 8), (3, 3), dilation=(2, 2)), WIDTH, WIDTH)) == ()
    assert tiles(Convolution(Window((8, 8), (3, 3)), 2 * WIDTH, 2 * WIDTH, groups=2)) == ()
