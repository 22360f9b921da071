"""What a layer computes, as operations with FLOP and bytes: layers describe their work in them, `cnn.cost` counts them.

An operation's bytes are those of the arrays it reads and writes, each counted once: the least memory traffic if the
arrays do not fit the caches. Convolutions are counted as im2col + GEMM executes them, a GEMM for each group, except
depthwise ones, which need neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

FLOAT = 4
"""Bytes per element: everything is counted in float32."""


class Sizes(NamedTuple):
    """A matrix product (M, K) @ (K, N)."""

    m: int
    n: int
    k: int

    @property
    def flops(self) -> int:
        """2 M N K."""
        return 2 * self.m * self.n * self.k

    @property
    def operands(self) -> tuple[int, int]:
        """Bytes of both operands, and of the result."""
        return FLOAT * self.k * (self.m + self.n), FLOAT * self.m * self.n


@dataclass(frozen=True)
class Operation:
    """One pass over arrays: `kind` is "gemm", "depthwise", "im2col", "col2im" or "elementwise".

    Only a "gemm" has `sizes`. `integers` are those of the bytes that are no numbers of the network.
    """

    kind: str
    flops: int
    bytes: int
    sizes: Sizes | None = None
    integers: int = 0

    def with_numbers_of(self, size: int) -> "Operation":
        """The same with numbers of `size` bytes instead of FLOAT."""
        return replace(self, bytes=(self.bytes - self.integers) * size // FLOAT + self.integers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a product or a depthwise convolution, 0 for all else."""
        return self.flops // 2 if self.kind in ("gemm", "depthwise") else 0


@dataclass(frozen=True)
class Work:
    """The operations of one layer on a batch, by phase.

    The gradient of a fused activation belongs to the phase in which it is computed. `taps` is the number of kernel
    elements of a layer that slides a window. `activation` names the layer that a fused activation runs as, if that is
    a separate pass.
    """

    forward: Sequence[Operation]
    weight_gradient: Sequence[Operation] = ()
    data_gradient: Sequence[Operation] = ()
    taps: int = 1
    activation: str | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the forward products and depthwise convolutions; 1 MAC is 2 FLOP."""
        return sum(each.macs for each in self.forward)


@dataclass(frozen=True)
class Footprint:
    """Elements per image that a layer needs besides its output and the gradients of its inputs.

    `kept` is memory of its own, `scratch` temporary space by name, which all layers share. Both are those of NumPy
    lowering; compiled kernels need less of the latter.
    """

    kept: int = 0
    scratch: Mapping[str, int] = field(default_factory=dict)


def product(m: int, n: int, k: int) -> Operation:
    """(M, K) @ (K, N)."""
    sizes = Sizes(m, n, k)
    return Operation("gemm", sizes.flops, sum(sizes.operands), sizes)


def sliding(macs: int, elements: int) -> Operation:
    """A depthwise convolution or one of its gradients: `elements` read and written in total, `macs` between them."""
    return Operation("depthwise", 2 * macs, FLOAT * elements)


def elementwise(flops: int, elements: int) -> Operation:
    """A pass that reads and writes `elements` in total."""
    return Operation("elementwise", flops, FLOAT * elements)


def move(kind: str, elements: int, flops: int = 0) -> Operation:
    """An im2col or col2im that reads and writes `elements` in total."""
    return Operation(kind, flops, FLOAT * elements)
