"""The transforms of Winograd convolution, F(2x2, 3x3), F(4x4, 3x3) and F(2x2, 5x5): matrices and compiled code.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4: with kernel g (r, r), tile of
data d (s, s), s = t + r - 1, and tile of results y (t, t), y = A^T ((G g G^T) * (B^T d B)) A. The transposed algorithm
gives the kernel's gradient, G^T ((B^T d B) * (A dy A^T)) G. B depends on s alone.

Where s = 6, the points are 0, +-5/8, +-3/2 and infinity instead of that paper's 0, +-1, +-2. With them the matrices,
A and B exact in float32, amplify rounding errors four times less in the worst case for 3x3 and about half as much in
the usual case. (On points of either sign and reciprocal size: Barabasz et al., Error Analysis and Improving the
Accuracy of Winograd Convolution for Deep Neural Networks, ACM TOMS 46(4), 2020, section 5.) With multiply-add they cost
as many instructions.

The compiled functions below process one vector of channels, `offset` bytes after each address. They take a tile of
pixels as the address of a table of the pixels' addresses, row by row, so that pixels outside the image can lie
anywhere, and a transformed tile as the address of its first element, with the next ones `stride` bytes apart.
"""

import numpy as np
from numba import njit

from cnn.arrays import Array
from cnn.compiled.vectors import add, at_least, entry, load, multiply_add, scale, store, subtract

_S, _L = 0.625, 1.5
# The functions are compiled for float32 only; a Python constant would be float64.
_S1, _S2, _S3 = np.float32(_S), np.float32(_S**2), np.float32(_S**3)
_L1, _L2, _L3 = np.float32(_L), np.float32(_L**2), np.float32(_L**3)
_PRODUCT, _SUM = np.float32(_S**2 * _L**2), np.float32(_S**2 + _L**2)


_POINTS = (0, _S, -_S, _L, -_L)


def data_matrix(tile: int, span: int) -> Array:
    """B^T (s, s) in float64, for tiles of t results and kernels of span r."""
    if tile + span == 5:
        return np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]], float)
    s, t = _S**2, _L**2
    rows = [[s * t, 0, -s - t, 0, 1, 0]]
    rows += [[0, -point * other, -other, point, 1, 0] for point, other in ((_S, t), (-_S, t), (_L, s), (-_L, s))]
    return np.array([*rows, [0, s * t, 0, -s - t, 0, 1]])


def kernel_matrix(tile: int, span: int) -> Array:
    """G (s, r) in float64."""
    if tile + span == 5:
        return np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    scales = [np.prod([p - q for q in _POINTS if q != p]) for p in _POINTS]
    rows = [[p**i / n for i in range(span)] for p, n in zip(_POINTS, scales, strict=True)]
    return np.array([*rows, [i == span - 1 for i in range(span)]], float)


def result_matrix(tile: int, span: int) -> Array:
    """A^T (t, s) in float64."""
    if tile + span == 5:
        return np.array([[1, 1, 1, 0], [0, 1, -1, 1]], float)
    return np.array([[p**i for p in _POINTS] + [i == tile - 1] for i in range(tile)], float)


@njit(forceinline=True)
def _data_4(a, b, c, d):
    """B^T times (4,)."""
    return subtract(a, c), add(b, c), subtract(c, b), subtract(d, b)


@njit(forceinline=True)
def _result_4_2(a, b, c, d):
    """A^T (2, 4) times (4,)."""
    return add(a, add(b, c)), add(d, subtract(b, c))


@njit(forceinline=True)
def _gradient_2_4(a, b):
    """A (4, 2) times (2,)."""
    return a, add(a, b), subtract(a, b), b


@njit(forceinline=True)
def _data_6(a, b, c, d, e, f):
    """B^T times (6,)."""
    even_s, odd_s = multiply_add(c, -_L2, e), multiply_add(b, -_L2, d)
    even_l, odd_l = multiply_add(c, -_S2, e), multiply_add(b, -_S2, d)
    return (
        multiply_add(a, _PRODUCT, multiply_add(c, -_SUM, e)),
        multiply_add(odd_s, _S1, even_s),
        multiply_add(odd_s, -_S1, even_s),
        multiply_add(odd_l, _L1, even_l),
        multiply_add(odd_l, -_L1, even_l),
        multiply_add(b, _PRODUCT, multiply_add(d, -_SUM, f)),
    )


@njit(forceinline=True)
def _result_6_4(a, b, c, d, e, f):
    """A^T (4, 6) times (6,)."""
    even_s, odd_s, even_l, odd_l = add(b, c), subtract(b, c), add(d, e), subtract(d, e)
    return (
        add(a, add(even_s, even_l)),
        multiply_add(odd_s, _S1, scale(odd_l, _L1)),
        multiply_add(even_s, _S2, scale(even_l, _L2)),
        multiply_add(odd_s, _S3, multiply_add(odd_l, _L3, f)),
    )


@njit(forceinline=True)
def _result_6_2(a, b, c, d, e, f):
    """A^T (2, 6) times (6,)."""
    even, odd_s, odd_l = add(add(b, c), add(d, e)), subtract(b, c), subtract(d, e)
    return add(a, even), multiply_add(odd_s, _S1, multiply_add(odd_l, _L1, f))


@njit(forceinline=True)
def _gradient_2_6(a, b):
    """A (6, 2) times (2,)."""
    return (
        a,
        multiply_add(b, _S1, a),
        multiply_add(b, -_S1, a),
        multiply_add(b, _L1, a),
        multiply_add(b, -_L1, a),
        b,
    )


@njit(forceinline=True)
def _gradient_4_6(a, b, c, d):
    """A (6, 4) times (4,)."""
    even_s, odd_s = multiply_add(c, _S2, a), multiply_add(d, _S2, b)
    even_l, odd_l = multiply_add(c, _L2, a), multiply_add(d, _L2, b)
    return (
        a,
        multiply_add(odd_s, _S1, even_s),
        multiply_add(odd_s, -_S1, even_s),
        multiply_add(odd_l, _L1, even_l),
        multiply_add(odd_l, -_L1, even_l),
        d,
    )


@njit(forceinline=True)
def _load_2(pixels, step, offset):
    """Two pixels of a column, `step` bytes of the table apart."""
    return load(entry(pixels) + offset), load(entry(pixels + step) + offset)


@njit(forceinline=True)
def _load_4(pixels, step, offset):
    """Four pixels of a column."""
    a, b = _load_2(pixels, step, offset)
    c, d = _load_2(pixels + 2 * step, step, offset)
    return a, b, c, d


@njit(forceinline=True)
def _load_6(pixels, step, offset):
    """Six pixels of a column."""
    a, b, c, d = _load_4(pixels, step, offset)
    e, f = _load_2(pixels + 4 * step, step, offset)
    return a, b, c, d, e, f


@njit(forceinline=True)
def _fetch_4(source, stride):
    """Four elements, `stride` bytes apart."""
    a, b = load(source), load(source + stride)
    return a, b, load(source + 2 * stride), load(source + 3 * stride)


@njit(forceinline=True)
def _fetch_6(source, stride):
    """Six elements, `stride` bytes apart."""
    a, b, c, d = _fetch_4(source, stride)
    return a, b, c, d, load(source + 4 * stride), load(source + 5 * stride)


@njit(forceinline=True)
def _put_4(target, stride, values):
    """Stores four elements, `stride` bytes apart."""
    store(target, values[0])
    store(target + stride, values[1])
    store(target + 2 * stride, values[2])
    store(target + 3 * stride, values[3])


@njit(forceinline=True)
def _put_6(target, stride, values):
    """Stores six elements, `stride` bytes apart."""
    _put_4(target, stride, values)
    store(target + 4 * stride, values[4])
    store(target + 5 * stride, values[5])


@njit
def data_4(pixels, offset, target, stride):
    """B^T d B of 4x4 pixels into 16 elements."""
    a, b = _data_4(*_load_4(pixels, 32, offset)), _data_4(*_load_4(pixels + 8, 32, offset))
    c, d = _data_4(*_load_4(pixels + 16, 32, offset)), _data_4(*_load_4(pixels + 24, 32, offset))
    _put_4(target, stride, _data_4(a[0], b[0], c[0], d[0]))
    _put_4(target + 4 * stride, stride, _data_4(a[1], b[1], c[1], d[1]))
    _put_4(target + 8 * stride, stride, _data_4(a[2], b[2], c[2], d[2]))
    _put_4(target + 12 * stride, stride, _data_4(a[3], b[3], c[3], d[3]))


@njit
def data_6(pixels, offset, target, stride):
    """B^T d B of 6x6 pixels into 36 elements."""
    a, b = _data_6(*_load_6(pixels, 48, offset)), _data_6(*_load_6(pixels + 8, 48, offset))
    c, d = _data_6(*_load_6(pixels + 16, 48, offset)), _data_6(*_load_6(pixels + 24, 48, offset))
    e, f = _data_6(*_load_6(pixels + 32, 48, offset)), _data_6(*_load_6(pixels + 40, 48, offset))
    _put_6(target, stride, _data_6(a[0], b[0], c[0], d[0], e[0], f[0]))
    _put_6(target + 6 * stride, stride, _data_6(a[1], b[1], c[1], d[1], e[1], f[1]))
    _put_6(target + 12 * stride, stride, _data_6(a[2], b[2], c[2], d[2], e[2], f[2]))
    _put_6(target + 18 * stride, stride, _data_6(a[3], b[3], c[3], d[3], e[3], f[3]))
    _put_6(target + 24 * stride, stride, _data_6(a[4], b[4], c[4], d[4], e[4], f[4]))
    _put_6(target + 30 * stride, stride, _data_6(a[5], b[5], c[5], d[5], e[5], f[5]))


@njit
def gradient_2_4(pixels, offset, target, stride):
    """A dy A^T of 2x2 pixels into 16 elements."""
    a, b = _gradient_2_4(*_load_2(pixels, 16, offset)), _gradient_2_4(*_load_2(pixels + 8, 16, offset))
    _put_4(target, stride, _gradient_2_4(a[0], b[0]))
    _put_4(target + 4 * stride, stride, _gradient_2_4(a[1], b[1]))
    _put_4(target + 8 * stride, stride, _gradient_2_4(a[2], b[2]))
    _put_4(target + 12 * stride, stride, _gradient_2_4(a[3], b[3]))


@njit
def gradient_2_6(pixels, offset, target, stride):
    """A dy A^T of 2x2 pixels into 36 elements."""
    a, b = _gradient_2_6(*_load_2(pixels, 16, offset)), _gradient_2_6(*_load_2(pixels + 8, 16, offset))
    _put_6(target, stride, _gradient_2_6(a[0], b[0]))
    _put_6(target + 6 * stride, stride, _gradient_2_6(a[1], b[1]))
    _put_6(target + 12 * stride, stride, _gradient_2_6(a[2], b[2]))
    _put_6(target + 18 * stride, stride, _gradient_2_6(a[3], b[3]))
    _put_6(target + 24 * stride, stride, _gradient_2_6(a[4], b[4]))
    _put_6(target + 30 * stride, stride, _gradient_2_6(a[5], b[5]))


@njit
def gradient_4_6(pixels, offset, target, stride):
    """A dy A^T of 4x4 pixels into 36 elements."""
    a, b = _gradient_4_6(*_load_4(pixels, 32, offset)), _gradient_4_6(*_load_4(pixels + 8, 32, offset))
    c, d = _gradient_4_6(*_load_4(pixels + 16, 32, offset)), _gradient_4_6(*_load_4(pixels + 24, 32, offset))
    _put_6(target, stride, _gradient_4_6(a[0], b[0], c[0], d[0]))
    _put_6(target + 6 * stride, stride, _gradient_4_6(a[1], b[1], c[1], d[1]))
    _put_6(target + 12 * stride, stride, _gradient_4_6(a[2], b[2], c[2], d[2]))
    _put_6(target + 18 * stride, stride, _gradient_4_6(a[3], b[3], c[3], d[3]))
    _put_6(target + 24 * stride, stride, _gradient_4_6(a[4], b[4], c[4], d[4]))
    _put_6(target + 30 * stride, stride, _gradient_4_6(a[5], b[5], c[5], d[5]))


@njit(forceinline=True)
def _finish(pixel, offset, value, bias, floor):
    """Stores one result: value + bias, at least `floor`."""
    store(entry(pixel) + offset, at_least(add(value, bias), floor))


@njit(forceinline=True)
def _finish_2(pixels, offset, values, bias, floor):
    """Stores a row of two results."""
    _finish(pixels, offset, values[0], bias, floor)
    _finish(pixels + 8, offset, values[1], bias, floor)


@njit
def result_4_2(source, stride, pixels, offset, bias, floor):
    """A^T m A of 16 elements, plus the bias at an address, at least `floor`, into 2x2 pixels."""
    shift = load(bias + offset)
    a, b = _result_4_2(*_fetch_4(source, 4 * stride)), _result_4_2(*_fetch_4(source + stride, 4 * stride))
    c, d = (
        _result_4_2(*_fetch_4(source + 2 * stride, 4 * stride)),
        _result_4_2(*_fetch_4(source + 3 * stride, 4 * stride)),
    )
    upper, lower = _result_4_2(a[0], b[0], c[0], d[0]), _result_4_2(a[1], b[1], c[1], d[1])
    _finish_2(pixels, offset, upper, shift, floor)
    _finish_2(pixels + 16, offset, lower, shift, floor)


@njit
def result_6_2(source, stride, pixels, offset, bias, floor):
    """A^T m A of 36 elements, plus the bias at an address, at least `floor`, into 2x2 pixels."""
    shift, row = load(bias + offset), 6 * stride
    a, b = _result_6_2(*_fetch_6(source, row)), _result_6_2(*_fetch_6(source + stride, row))
    c, d = _result_6_2(*_fetch_6(source + 2 * stride, row)), _result_6_2(*_fetch_6(source + 3 * stride, row))
    e, f = _result_6_2(*_fetch_6(source + 4 * stride, row)), _result_6_2(*_fetch_6(source + 5 * stride, row))
    _finish_2(pixels, offset, _result_6_2(a[0], b[0], c[0], d[0], e[0], f[0]), shift, floor)
    _finish_2(pixels + 16, offset, _result_6_2(a[1], b[1], c[1], d[1], e[1], f[1]), shift, floor)


@njit(forceinline=True)
def _finish_4(pixels, offset, values, bias, floor):
    """Stores a row of four results."""
    _finish(pixels, offset, values[0], bias, floor)
    _finish(pixels + 8, offset, values[1], bias, floor)
    _finish(pixels + 16, offset, values[2], bias, floor)
    _finish(pixels + 24, offset, values[3], bias, floor)


@njit
def result_6_4(source, stride, pixels, offset, bias, floor):
    """A^T m A of 36 elements, plus the bias at an address, at least `floor`, into 4x4 pixels."""
    shift, row = load(bias + offset), 6 * stride
    a, b = _result_6_4(*_fetch_6(source, row)), _result_6_4(*_fetch_6(source + stride, row))
    c, d = _result_6_4(*_fetch_6(source + 2 * stride, row)), _result_6_4(*_fetch_6(source + 3 * stride, row))
    e, f = _result_6_4(*_fetch_6(source + 4 * stride, row)), _result_6_4(*_fetch_6(source + 5 * stride, row))
    _finish_4(pixels, offset, _result_6_4(a[0], b[0], c[0], d[0], e[0], f[0]), shift, floor)
    _finish_4(pixels + 32, offset, _result_6_4(a[1], b[1], c[1], d[1], e[1], f[1]), shift, floor)
    _finish_4(pixels + 64, offset, _result_6_4(a[2], b[2], c[2], d[2], e[2], f[2]), shift, floor)
    _finish_4(pixels + 96, offset, _result_6_4(a[3], b[3], c[3], d[3], e[3], f[3]), shift, floor)
