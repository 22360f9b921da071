"""The `mkl-offload` backend: automatic offload (AO) to Xeon Phi coprocessors, which MKL had up to 2018.0.0."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from cnn.backend import Backend
from cnn.config import require
from cnn.errors import BackendUnavailable
from cnn.instruments import Around, Instruments, private
from cnn.product import Product, ProductReport
from cnn.system.machine import Part
from cnn.worker.process import Worker

from ._mkl_root import VARIABLE, VERSION  # noqa: TID251
from ._mkl_worker import MklWorker  # noqa: TID251
from ._offload_report import CardPart, read_report  # noqa: TID251 - relative, as it should be

CARD = 2
"""The target type of a coprocessor in MKL's calls (mkl_service.h of 2018: MKL_TARGET_MIC)."""

THRESHOLDS = (2048, 2048, 256)
"""M, N and K that a product must exceed for MKL to consider a card, by default."""

NO_CARD = "no coprocessor: every product ran on the host"


class MklOffloadBackend(MklWorker):
    """cblas_?gemm of an MKL with AO: MKL decides for each product, and its own report says what it decided."""

    name: ClassVar[str] = "mkl-offload"
    powered: ClassVar[tuple[Part, ...]] = ("processor", "coprocessor")

    def __init__(
        self,
        *,
        work_division: Annotated[
            tuple[float, ...] | float | None,
            "share of a product for each card, the host takes the rest; if not given, MKL divides the work itself",
        ] = None,
        devices: Annotated[tuple[int, ...] | int | None, "numbers of the cards to use; all if not given"] = None,
        max_memory: Annotated[int | None, "MiB that MKL may take of each card's memory"] = None,
        thresholds: Annotated[
            tuple[int, int, int] | None,
            "M, N and K that a product must exceed to go to a card; 2048, 2048, 256 if not given",
        ] = None,
        offload_report: Annotated[
            Literal[0, 1, 2], "prints MKL's own report of each product: 1 division and times, 2 also bytes"
        ] = 0,
    ) -> None:
        """Starts MKL in a worker. Raises UsageError for options out of range, BackendUnavailable without AO."""
        self._shares = _several(work_division)
        self._devices = _several(devices)
        self._max_memory = max_memory
        self._thresholds = THRESHOLDS if thresholds is None else tuple(thresholds)
        self._level = offload_report
        require(
            min(self._shares, default=0) >= 0 and sum(self._shares) <= 1,
            f"work_division is {self._shares}; give shares of at least 0 that add up to at most 1.",
        )
        require(min(self._devices, default=0) >= 0, f"devices is {self._devices}; give numbers from 0 up.")
        require(max_memory is None or max_memory > 0, f"max_memory is {max_memory} MiB; give at least 1.")
        require(min(self._thresholds) >= 0, f"thresholds is {self._thresholds}; give numbers of at least 0.")
        self.cards = 0
        """The number of cards that MKL may use."""
        super().__init__()

    @property
    def instruments(self) -> Instruments:
        return OffloadInstruments(self)

    def environment(self) -> dict[str, str]:
        variables = super().environment()
        # With it, MKL leaves results unwritten or ends the process where it could have computed on the host.
        variables.pop("MKL_MIC_DISABLE_HOST_FALLBACK", None)
        # MKL sees column-major products, where M and N change places.
        m, n, k = self._thresholds
        variables |= {f"MKL_MIC_THRESHOLDS_{letter}GEMM": f"{n},{m},{k}" for letter in "SD"}
        variables["OFFLOAD_REPORT"] = "2"
        if self._max_memory is not None:
            # MKL_MIC_Set_Max_Memory of MKL 2018.0.0 takes KiB, although its documentation says MiB.
            variables["MKL_MIC_MAX_MEMORY"] = f"{self._max_memory}M"
        if self._devices:
            variables["OFFLOAD_DEVICES"] = ",".join(map(str, self._devices))
        return variables

    def threads(self) -> int:
        # With fewer than one thread per card and one more, MKL divides by zero.
        return max(super().threads(), self.cards + 1)

    def ready(self, worker: Worker) -> None:
        super().ready(worker)
        try:
            enabled = worker.call("MKL_MIC_Enable")[0] == 0
        except AttributeError:
            enabled = False
        if not enabled:
            raise BackendUnavailable(
                f"Backend 'mkl-offload': {self.library} has no automatic offload, which ended with MKL {VERSION}; "
                f"`cnn backends get mkl-offload` downloads that version, or set {VARIABLE} to a folder that has it."
            )
        self.cards = max(0, worker.call("MKL_MIC_Get_Device_Count")[0])
        remark = NO_CARD
        if self.cards:
            self._divide(worker)
            noun = "coprocessors" if self.cards > 1 else "coprocessor"
            cards = ", ".join(self._describe_card(worker, card) for card in range(self.cards))
            remark = f"{self.cards} {noun}: {cards}"
        self.library = replace(self.library, remark=remark)
        # An error that ends MKL's process at its first product shows here.
        self.first_product(worker)

    def _divide(self, worker: Worker) -> None:
        require(
            len(self._shares) in (0, self.cards),
            f"work_division gives {len(self._shares)} shares; there are {self.cards} cards.",
        )
        for card, share in enumerate(self._shares):
            (status,) = worker.call("MKL_MIC_Set_Workdivision", CARD, card, float(share))
            if status:
                raise BackendUnavailable(
                    f"Backend 'mkl-offload': MKL refuses the work division {self._shares} (status {status}); "
                    "give other shares, or leave it to MKL."
                )

    def _describe_card(self, worker: Worker, card: int) -> str:
        _, cores, threads, hertz = worker.call("MKL_MIC_Get_Cpuinfo", CARD, card, "int*", "int*", "double*")
        _, total, _ = worker.call("MKL_MIC_Get_Meminfo", CARD, card, "int*", "int*")
        size = f"{hertz / 1e9:.2f} GHz, {total / 2**20:.1f} GiB"
        return f"card {self._name(card)} ({cores} cores, {threads} threads, {size})"

    def _name(self, card: int) -> int:
        """The number of a card that MKL calls `card`, because it counts only those it may use."""
        return self._devices[card] if self._devices else card

    def finished(self, product: Product, seconds: float, printed: str) -> None:
        super().finished(product, seconds, printed)
        if self._level:
            wanted = (line for line in printed.splitlines(keepends=True) if self._level > 1 or "Data]" not in line)
            sys.stderr.write("".join(wanted))

    def report(self, product: Product, seconds: float, printed: str) -> ProductReport:
        """Where a product ran, from what MKL printed about it."""
        cards = read_report(printed)
        return ProductReport(
            product,
            where=self._where(cards),
            why=self._why(product, cards),
            bytes_to_card=sum(part.sent for part in cards.values()),
            bytes_from_card=sum(part.received for part in cards.values()),
            card_seconds=max((part.seconds for part in cards.values() if part.computed), default=0.0),
            host_seconds=max((part.host_seconds for part in cards.values()), default=seconds),
        )

    def _where(self, cards: dict[int, CardPart]) -> str:
        """The places with their shares of a product; the host has what the cards left."""
        shares = {f"card {self._name(card)}": part.share for card, part in cards.items() if part.computed}
        left = 1 - sum(shares.values())
        # Shares are printed with two decimals.
        shares |= {"host": left} if left > 0.005 else {}
        return ", ".join(f"{place} {share:.0%}" for place, share in shares.items()) if len(shares) > 1 else min(shares)

    def _why(self, product: Product, cards: dict[int, CardPart]) -> str:
        failed = [f"card {self._name(card)} failed" for card, part in cards.items() if not part.computed]
        if failed:
            return ", ".join(failed)
        if cards:
            return "above thresholds"
        if not self.cards:
            return "no card"
        sizes = (product.m, product.n, product.k)
        above = all(size > least for size, least in zip(sizes, self._thresholds, strict=True))
        return "MKL kept it" if above else "threshold"


class OffloadInstruments(Instruments):
    """With option candidates for the available cards, and MKL's own report of each product."""

    backend: MklOffloadBackend

    def option_candidates(self) -> dict[str, Sequence[Any]]:
        cards = self.backend.cards
        if not cards:
            return {}
        # M is the number of the batch's pixels. A card's work per byte sent to it grows with the smaller of N and K.
        thresholds = [(m, least, least) for least in (0, 31, 63) for m in (0, 1024, 8192)]
        divisions = [(share / cards,) * cards for share in (0.25, 0.5, 0.75, 1.0)]
        # The division matters only once the thresholds let a product go to a card.
        return {"thresholds": thresholds, "work_division": [None, *divisions]}

    def reporting(self, hear: Callable[[ProductReport], None]) -> Backend:
        def finished(method: Around, product: Product, seconds: float, printed: str) -> None:
            method(product, seconds, printed)
            hear(self.backend.report(product, seconds, printed))

        return private(self.backend, finished=finished)


def _several(value: Any) -> tuple[Any, ...]:
    """An option that is None, one number or several."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)
