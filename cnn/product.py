"""A matrix product, and where it ran, for backends that have more than one place for it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Product:
    """One call of gemm: out (M, N) = or += op(a) (M, K) @ op(b) (K, N)."""

    m: int
    n: int
    k: int
    transpose_a: bool
    transpose_b: bool
    accumulate: bool
    dtype: np.dtype[Any]

    @property
    def flops(self) -> int:
        """2 M N K."""
        return 2 * self.m * self.n * self.k

    def __str__(self) -> str:
        return f"{self.m} x {self.n} x {self.k}"


@dataclass(frozen=True)
class ProductReport:
    """What the library itself reports about one product, in words, bytes and seconds.

    `card_seconds` are those of the slowest card, `host_seconds` those of the whole call. A product that the library
    does not report ran on the host: its bytes are 0, and its seconds are measured around the call.
    """

    product: Product
    where: str
    why: str
    bytes_to_card: int
    bytes_from_card: int
    card_seconds: float
    host_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Sizes and report by name, ready for JSON."""
        report = asdict(self)
        del report["product"]
        return {"m": self.product.m, "n": self.product.n, "k": self.product.k, **report}
