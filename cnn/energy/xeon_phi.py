"""The power of Xeon Phi coprocessors (Knights Corner): on the card from its own file, on the host from `micsmc`."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

from cnn.energy.reader import Integral, MeterUnavailable, Reader, meter_text, whole
from cnn.system.machine import Part

TOTAL = re.compile(r"Total Power:[ .]+([\d.]+) Watts")
CARD = re.compile(r"^\s*(.+) \(freq\):", re.MULTILINE)


class Micras(Reader):
    """`/sys/class/micras/power` on the card itself: its first number, tot0, is the board's microwatts.

    Lines: tot0 and tot1 (total over two windows), inst, imax, pcie, c2x3, c2x4 (the connectors), then vccp, vddg and
    vddq (cores, uncore, memory), each with power, current and voltage. Source: Intel, forum thread 499748; in the three
    published readings known, pcie + c2x3 + c2x4 = inst. The card samples every 50 ms (PAPI, component micpower).
    """

    name: ClassVar[str] = "micras"
    part: ClassVar[Part] = "processor"
    period: ClassVar[float | None] = 0.1

    def __init__(self, root: Path = Path("/")) -> None:
        self._path = root / "sys/class/micras/power"
        if not self._path.exists():
            raise MeterUnavailable(f"there is no {self._path}, which a Xeon Phi coprocessor's own Linux has")
        self._integral = Integral(self._watts)
        self.covers = "the card's board"

    def _watts(self) -> float:
        text = meter_text(self._path, "ask the card's administrator for permission")
        return whole(self._path, text.partition("\n")[0]) / 1e6

    def joules(self) -> float:
        return self._integral.joules()

    def sample(self) -> None:
        self._integral.sample()


class Micsmc(Reader):
    """`Total Power` of all cards in the output of `micsmc -f`, a command of MPSS: tot0 of each (micsmc's source).

    The command wakes idle cards and is slow: its period limits the energy that it adds, and a run of only a few periods
    is measured only roughly.
    """

    name: ClassVar[str] = "micsmc"
    part: ClassVar[Part] = "coprocessor"
    period: ClassVar[float | None] = 2.0

    def __init__(self, root: Path = Path("/")) -> None:
        command = shutil.which("micsmc", path=None if root == Path("/") else str(root / "usr/bin"))
        if command is None:
            raise MeterUnavailable("there is no command micsmc; install MPSS, the software of the Xeon Phi coprocessor")
        self._command = command
        self._cards: list[str] = []
        self._integral = Integral(self._watts)
        self.covers = ", ".join(self._cards)

    def _watts(self) -> float:
        try:
            done = subprocess.run(
                [self._command, "-f"], capture_output=True, text=True, errors="replace", timeout=30, check=True
            )
        except subprocess.CalledProcessError as error:
            said = (error.stderr.strip() or error.stdout.strip())[-200:]
            raise MeterUnavailable(f"`micsmc -f` failed with exit code {error.returncode}: {said}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MeterUnavailable(f"`micsmc -f` failed: {error}") from error
        cards, watts = CARD.findall(done.stdout), TOTAL.findall(done.stdout)
        # A card that is lost or being reset has a heading without figures.
        if not watts or len(cards) != len(watts) or cards != (self._cards or cards):
            raise MeterUnavailable(f"`micsmc -f` showed the power of {len(watts)} cards of {cards or self._cards}")
        self._cards = cards
        return sum(map(float, watts))

    def joules(self) -> float:
        return self._integral.joules()

    def sample(self) -> None:
        self._integral.sample()
