"""Where a matrix product ran, for backends that have more than one place for it."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ProductReport:
    """One product (M, N, K) and what the library itself reports of it; bytes and seconds are 0 where it reports none.

    `where` and `why` are words. `card_seconds` are those of the slowest card, `host_seconds` those of the whole call.
    """

    m: int
    n: int
    k: int
    transpose_a: bool
    transpose_b: bool
    where: str
    why: str
    bytes_to_card: int
    bytes_from_card: int
    card_seconds: float
    host_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)
