"""Reads what MKL prints about an offloaded product with OFFLOAD_REPORT=2."""

import re
from typing import NamedTuple

LINE = re.compile(r"\[MIC (\d+)\] *\[AO [SD]GEMM (CPU Time|MIC Time|CPU->MIC Data|MIC->CPU Data)\] *(-?[\d.]+)")
DIVISION = re.compile(r"\[AO [SD]GEMM Workdivision\]((?: +[\d.]+)+)")


class CardPart(NamedTuple):
    """A card's share of a product, its seconds (-1 if it failed), the host's seconds, bytes to the card and back."""

    share: float
    seconds: float
    host_seconds: float
    sent: int
    received: int

    @property
    def computed(self) -> bool:
        """Whether any of the result came from the card; a card that failed returned nothing."""
        return self.received > 0


def read_report(text: str) -> dict[int, CardPart]:
    """The parts of a product by card; empty for a product that MKL kept on the host."""
    division = DIVISION.search(text)
    # The first share is the host's.
    shares = [float(share) for share in division[1].split()[1:]] if division else []
    found: dict[int, dict[str, float]] = {}
    for card, quantity, value in LINE.findall(text):
        found.setdefault(int(card), {})[quantity] = float(value)
    return {
        card: CardPart(
            shares[card] if card < len(shares) else 0.0,
            values.get("MIC Time", 0.0),
            values.get("CPU Time", 0.0),
            int(values.get("CPU->MIC Data", 0)),
            int(values.get("MIC->CPU Data", 0)),
        )
        for card, values in found.items()
    }
