"""Runs products through MKL's automatic offload in a separate process, and reads MKL's report of each.

As a program, it is that process: argument 1 is the folder with the operands, where it also puts the results.
"""

import ctypes
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROW_MAJOR, NO, YES = 101, 111, 112
MARK = "== product"


class Product(NamedTuple):
    """out = op(a) @ op(b), plus `start` if it is given."""

    a: np.ndarray
    b: np.ndarray
    transpose_a: bool = False
    transpose_b: bool = False
    start: np.ndarray | None = None

    def sizes(self) -> tuple[int, int, int]:
        """(M, N, K)."""
        a, b = self.operands()
        return len(a), b.shape[1], len(b)

    def operands(self) -> tuple[np.ndarray, np.ndarray]:
        """op(a) and op(b)."""
        return self.a.T if self.transpose_a else self.a, self.b.T if self.transpose_b else self.b

    def wrong(self, out: np.ndarray) -> np.ndarray:
        """Where |error| > 4 sqrt(K) 2**-24 (|A| @ |B| + |start|), or `out` is not a number.

        Rounding errors are assumed to be independent (Higham and Mary 2019, theorem 3.1): the bound that always holds
        grows with K and would accept results that are plainly wrong.
        """
        a, b = (x.astype(np.float64) for x in self.operands())
        start = 0.0 if self.start is None else self.start.astype(np.float64)
        allowed = 4 * len(b) ** 0.5 * 2.0**-24 * (abs(a) @ abs(b) + abs(start))
        return ~(abs(out - (a @ b + start)) <= allowed)


@dataclass(frozen=True)
class Card:
    """MKL's report of a card's part of a product: seconds (-1 if it died), bytes to the card and from it."""

    seconds: float
    sent: int
    received: int


@dataclass(frozen=True)
class Outcome:
    """A product's result, MKL's status, and MKL's report: the shares of host and cards, and each card's part."""

    out: np.ndarray
    status: int
    division: list[float] = field(default_factory=list)
    cards: dict[int, Card] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """The results of a process: the cards it saw, its products, and its standard error."""

    devices: int
    outcomes: list[Outcome]
    stderr: str


def run(folder: Path, products: list[Product], environment: dict[str, str]) -> Finished:
    """Multiplies in a new process, with this environment updated by `environment`."""
    process = start(folder, products, environment)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    devices, *reports = output.split(MARK)
    outcomes = [_outcome(np.load(folder / f"out{i}.npy"), report) for i, report in enumerate(reports)]
    assert len(outcomes) == len(products)
    return Finished(int(devices), outcomes, errors)


def start(folder: Path, products: list[Product], environment: dict[str, str]) -> subprocess.Popen[str]:
    """Starts the process."""
    folder.mkdir(exist_ok=True)
    for i, product in enumerate(products):
        values = {name: value for name, value in product._asdict().items() if value is not None}
        np.savez(folder / f"in{i}.npz", **values)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MKL_", "MIC_", "OFFLOAD_"))}
    # The thresholds let small products go to a card. With fewer threads than cards plus host, MKL may divide by zero,
    # and unless it is forbidden to, it uses fewer threads than it is told.
    threads = int(environment.get("STANDIN_CARDS", 1)) + 1
    settings = {"MKL_NUM_THREADS": str(threads), "MKL_DYNAMIC": "FALSE"}
    settings |= {"MKL_MIC_THRESHOLDS_SGEMM": "0,0,0", "OFFLOAD_REPORT": "2"}
    return subprocess.Popen(
        [sys.executable, __file__, str(folder)],
        env=inherited | settings | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _outcome(out: np.ndarray, report: str) -> Outcome:
    status = re.search(r"^status (-?\d+)$", report, re.MULTILINE)
    assert status is not None, report
    division = re.search(r"Workdivision\] ([\d. ]+)", report)

    def values(what: str) -> dict[int, str]:
        found = re.findall(rf"\[MIC (\d+)\] \[AO SGEMM {what}\] (-?[\d.]+)", report)
        return {int(card): value for card, value in found}

    sent, received = values("CPU->MIC Data"), values("MIC->CPU Data")
    cards = {card: Card(float(s), int(sent[card]), int(received[card])) for card, s in values("MIC Time").items()}
    return Outcome(out, int(status[1]), [float(x) for x in division[1].split()] if division else [], cards)


def main(folder: Path) -> None:
    """Multiplies the operands in the folder with the MKL that the loader finds; prints MKL's reports between marks."""
    mkl, libc = ctypes.CDLL("libmkl_rt.so"), ctypes.CDLL(None)

    def say(text: str) -> None:
        # MKL's report is in C's buffer, the output of print in Python's.
        libc.fflush(None)
        os.write(1, text.encode())

    mkl.MKL_MIC_Enable()
    say(str(mkl.MKL_MIC_Get_Device_Count()))
    for i in range(len(list(folder.glob("in*.npz")))):
        with np.load(folder / f"in{i}.npz") as values:
            product = Product(**values)
        m, n, k = product.sizes()
        out = np.full((m, n), np.nan, np.float32) if product.start is None else product.start.copy()
        orders = [YES if flag else NO for flag in (product.transpose_a, product.transpose_b)]
        a, b, c = ((ctypes.c_void_p(x.ctypes.data), x.shape[1]) for x in (product.a, product.b, out))
        beta = ctypes.c_float(product.start is not None)
        say(f"\n{MARK}\n")
        mkl.cblas_sgemm(ROW_MAJOR, *orders, m, n, k, ctypes.c_float(1), *a, *b, beta, *c)
        say(f"\nstatus {mkl.MKL_MIC_Get_Status()}\n")
        np.save(folder / f"out{i}.npy", out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
