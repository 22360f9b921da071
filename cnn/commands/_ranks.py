"""`cnn bench --ranks`: measures training steps on each number of ranks, and compares them with the model's."""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cnn import registry
from cnn.cost import gradient_bytes
from cnn.distributed.steps import MARK, Request, Timed, TimedSteps
from cnn.energy.devices import Quantity
from cnn.energy.links import Link
from cnn.energy.prediction import DRAWS
from cnn.energy.scaling import OPERANDS, StepTime, scaled
from cnn.errors import CnnError, UsageError
from cnn.measure.benchmark import busy, spread
from cnn.measure.other_work import OtherWork
from cnn.model.modelfile import architecture_of
from cnn.system.affinity import inherited
from cnn.system.threads import in_words
from cnn.terminal.printing import print_json, print_table, print_text
from cnn.words import counted

HEAD = [
    *("ranks", "threads", "batch", "images/s", "efficiency", "ms", "middle 90 %"),
    *("computing", "sums", "exposed", "model ms", "error"),
]
EXTRA = ["sums", "computing", "model ms", "exposed", "middle 90 %"]
"""Columns that a narrow terminal does not show."""


def bench_ranks(options: argparse.Namespace) -> None:
    """Launches, compares and prints. Raises UsageError or CnnError if nothing can be launched."""
    models, counts, images = options.model.split(","), options.ranks, options.batch_size
    gradients = {model: gradient_bytes(architecture_of(model)) for model in models}
    if options.threads and len(options.threads) > 1:
        raise UsageError("--ranks takes one number for --threads, the threads of each rank.")
    if max(counts) > images:
        raise UsageError(
            f"A batch of {counted(images, 'image')} is too small for {max(counts)} ranks; give a larger one."
        )
    launcher = _launcher(options.mpiexec)
    chosen, _ = registry.choose(options.backend, options.backend_options)
    launches, others, shares = {}, OtherWork(), list[float | None]()
    for ranks in counts:
        request = Request(
            nets=models,
            # Weak scaling, then strong.
            batches=sorted({images * ranks, images}, reverse=True),
            rounds=options.rounds,
            backend=chosen.name,
            backend_options=options.backend_options or {},
            threads=options.threads[0] if options.threads else None,
        )
        with others:
            launches[ranks] = _launch([*launcher, "-n", str(ranks)], request)
        shares.append(others.share)
    link = next((_link(timed) for timed in launches.values() if timed.latency is not None), None)
    rows = []
    for model in models:
        for scaling in ("weak", "strong"):
            group = [
                _row(model, gradients[model], timed, images * timed.ranks if scaling == "weak" else images, link)
                for timed in launches.values()
            ]
            for row in group:
                row |= {"scaling": scaling, "efficiency": _per_thread(row) / _per_thread(group[0])}
            rows += group
    disturbed = _busy(launches.values(), shares)
    if options.json:
        print_json(
            {
                "rounds": options.rounds,
                "backend": chosen.name,
                "library": str(chosen.library),
                "busy": disturbed,
                "link": None if link is None else {name: asdict(each) for name, each in link.quantities().items()},
                "launches": {ranks: timed.world for ranks, timed in launches.items()},
                "results": rows,
            }
        )
    else:
        _print(rows, launches, link, options)
        if disturbed:
            print_text(disturbed, style="warning")


def _busy(launches: Iterable[Timed], shares: list[float | None]) -> str | None:
    """The sentence to print if other work disturbed a launch, else None."""
    rates = {
        f"{each.net} of {counted(timed.ranks, 'rank')}, batch {each.batch}": [1 / seconds for seconds in each.rounds]
        for timed in launches
        for each in timed.steps
    }
    return busy(rates, max((share for share in shares if share is not None), default=None))


def _launcher(given: str | None) -> list[str]:
    """The words of the launcher, up to -n."""
    if find_spec("mpi4py") is None:
        raise CnnError("--ranks needs mpi4py, which is missing: pip install 'cnn-blas[mpi]'.")
    words = shlex.split(given) if given else ["mpiexec"]
    # First the launcher of this environment, which fits its mpi4py.
    found = shutil.which(words[0], path=str(Path(sys.executable).parent)) if not given else None
    found = found or shutil.which(words[0])
    if found is None:
        raise CnnError(
            f"--ranks starts {words[0]}, which was not found: pip install 'cnn-blas[mpi]', or name another (--mpiexec)."
        )
    return [found, *words[1:]]


def _launch(words: list[str], request: Request) -> Timed:
    with inherited():
        done = subprocess.run(
            [*words, sys.executable, "-m", "cnn.distributed.steps", json.dumps(asdict(request))],
            capture_output=True,
            text=True,
        )
    found = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not found:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["it printed nothing"]
        reason = next((line for line in said if line.startswith("cnn: ")), said[-1])
        raise CnnError(f"{shlex.join(words)} failed with exit code {done.returncode}: {reason.removeprefix('cnn: ')}")
    table = json.loads(found[-1].removeprefix(MARK))
    return Timed(**(table | {"steps": [TimedSteps(**each) for each in table["steps"]]}))


def _link(timed: Timed) -> Link:
    """The link between the ranks, as measured; on one host the cores do the copying."""
    assert timed.latency is not None
    assert timed.byte is not None
    source = f"exchanges between the first and the last of {timed.ranks} ranks"
    return Link(
        key="measured",
        name="shared memory" if timed.hosts == 1 else "network",
        latency_us=Quantity.of(timed.latency * 1e6, "measured", source),
        gbs=Quantity.of(1e-9 / timed.byte, "measured", source),
        overlap=Quantity(0, 0, 0, "derived", "the cores copy") if timed.hosts == 1 else None,
    )


def _row(model: str, gradients: dict[str, int], timed: Timed, batch: int, link: Link | None) -> dict[str, Any]:
    """A row: the measured step, and the one predicted from ranks that compute side by side without sums."""
    steps = next(each for each in timed.steps if (each.net, each.batch) == (model, batch))
    layers = tuple((gradients.get(name, 0), np.full(1 + DRAWS, seconds)) for name, seconds in steps.layers.items())
    none = np.zeros(1 + DRAWS)
    step = StepTime(none, layers, none + steps.update, none + OPERANDS / timed.add)
    predicted = None
    if link is not None and timed.ranks > 1:
        predicted = scaled(step, link, timed.ranks, batch).seconds
    low, high = spread(steps.rounds)
    return {
        "model": model,
        "ranks": timed.ranks,
        "threads": timed.threads,
        "batch_size": batch,
        "seconds": steps.seconds,
        "seconds_low": low,
        "seconds_high": high,
        "images_per_second": batch / steps.seconds,
        "compute": steps.seconds - steps.exposed,
        "communication": steps.communication,
        "hidden": steps.communication - steps.exposed,
        "exposed": steps.exposed,
        "predicted": predicted and predicted._asdict(),
        "error": predicted and predicted.value / steps.seconds - 1,
    }


def _per_thread(row: dict[str, Any]) -> float:
    return float(row["images_per_second"] / (row["ranks"] * row["threads"]))


def _print(
    rows: list[dict[str, Any]], launches: dict[int, Timed], link: Link | None, options: argparse.Namespace
) -> None:
    for ranks, timed in launches.items():
        each = f"{in_words(timed.threads)} each"
        print_text(f"{counted(ranks, 'rank')}: " + "; ".join(timed.world.values() or [each]))
    print_text(f"{timed.library}; medians of {counted(options.rounds, 'round')}, times in ms per step")
    if link is not None:
        texts = (f"{name} = {each.value:.3g}" for name, each in link.quantities().items())
        print_text(f"{link.name}: " + ", ".join(texts))
    for title in dict.fromkeys((row["model"], row["scaling"]) for row in rows):
        print("\n{}, {} scaling".format(*title))
        group = [row for row in rows if (row["model"], row["scaling"]) == title]
        print_table(HEAD, [_cells(row) for row in group], extra=EXTRA, wide=options.wide)
    print()
    print_text("efficiency: images per second and thread, relative to the first row")
    print_text(
        "error: of the model, which adds the computing time measured on as many ranks without sums, and the sums "
        "predicted from the link's latency and rate"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    def milliseconds(name: str) -> str:
        return f"{row[name] * 1e3:.2f}"

    return [
        *(str(row[name]) for name in ("ranks", "threads", "batch_size")),
        f"{row['images_per_second']:,.0f}",
        f"{row['efficiency']:.0%}",
        milliseconds("seconds"),
        f"{milliseconds('seconds_low')}-{milliseconds('seconds_high')}",
        *map(milliseconds, ("compute", "communication", "exposed")),
        f"{row['predicted']['value'] * 1e3:.2f}" if row["predicted"] else "-",
        f"{row['error']:+.0%}" if row["predicted"] else "-",
    ]
