"""im2col and col2im of a whole batch by compiled kernels, for backends that do not call products from kernels."""

from cnn.arrays import Array, Buffers
from cnn.backend import Backend
from cnn.compiled import geometry, im2col
from cnn.compiled.parts import flat, parts_for
from cnn.convolution import Window


class CompiledLowering(Backend):
    """Overrides im2col and col2im for contiguous float32 arrays; all else goes to the base class."""

    def im2col(self, x: Array, window: Window, out: Array, scratch: Buffers) -> None:
        vectors = flat(x, out)
        if vectors is None:
            super().im2col(x, window, out, scratch)
        else:
            images, columns = vectors
            rows = len(x) * window.out[0]
            im2col.lower(images, geometry.of_window(window, x.shape[3]), rows, columns, parts_for(out.size))

    def col2im(self, columns: Array, window: Window, out: Array) -> None:
        vectors = flat(columns, out)
        if vectors is None:
            super().col2im(columns, window, out)
        else:
            rows, images = vectors
            numbers = geometry.of_window(window, out.shape[3])
            im2col.restore(rows, numbers, len(out), images, parts_for(columns.size))
