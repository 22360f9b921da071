"""Measures images per second of this library and of PyTorch on the same networks, in turns within one run.

    python bench/versus.py --net lenet --mode train --threads 2
    python bench/versus.py --all --json > results.json
    python bench/versus.py --large
    python bench/versus.py --net vgg6 --precision bfloat16

Both get the same random images (uint8) and labels, in memory in the layout that is best for each, and the same weights.
Timed on both sides:

- train: pixels to floats by the recipe's preprocessing, forward, loss, backward, and the update by SGD with the
  recipe's momentum, weight decay and multipliers. Each returns the loss as a Python number; this library also counts
  correct answers, PyTorch does not. The learning rate is 0, which costs the same and keeps the work the same.
  Dropout is on while it is timed and off while numbers are compared, because neither side can draw the other's.
- infer: the same preprocessing, forward, and the loss's probabilities as a NumPy array: `predict` of a model's copy
  `for_inference` here, `torch.inference_mode` there.

PyTorch runs in four settings, and the ratio is to the fastest: NCHW and channels_last, each in eager mode and through
torch.compile (with the option `freezing` for inference). ReLU works in place and SGD is fused, which are the
fastest variants. The connection table of lenet5 masks a dense convolution's weights on both sides.

--precision is that of both sides: PyTorch's bfloat16 is torch.autocast. Both are timed in the other precision, too, and
the last column is the ratio of this library's best to PyTorch's best of both: what a user gains who takes whatever is
faster. Inference is also timed in ONNX Runtime and OpenVINO (float32, and bfloat16 by OpenVINO's hint), where they are
installed: they read the model's ONNX file, which takes pixels and gives probabilities.

A setting is timed only after it has reproduced this library's float32 numbers for the same batch: scores, loss and
probabilities within 1e-3, every gradient within 5e-2 of its norm, and two updates within 1e-3. In bfloat16 scores, loss
and probabilities may be off by 0.1 and gradients by 0.9 of their norm, which is less than if they were zero: the same
network has passed the narrow bounds in float32. A setting that does not reproduce them, does not compile, or is not
installed is reported on standard error and left out.

Each library has its own process. In one process there would be Intel's OpenMP runtime (MKL) and GNU's (PyTorch), each
with its own pool of threads. The processes take turns: each waits on a pipe until it is called. Threads of an OpenMP
runtime spin for a while after their last work (Intel's for 200 ms), so a pause separates the turns; neither runtime's
settings are changed. A turn runs its step for --seconds, after a tenth of that without measuring; figures are medians
over --rounds turns.

Memory is the peak of what a process of its own has resident, libraries included, over three calls of the work; of
PyTorch only in its fastest setting.

The peak is the highest speed of several products in the precision in any round, by this backend or by torch.mm. The
fraction of it counts the products of im2col + GEMM: two FLOP per multiply-accumulate, three products per layer in
training without the first layer's data gradient, one in inference.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from statistics import median
from typing import Any, NamedTuple

from versus_deployed import RUNTIMES, DeployedSide
from versus_torch import SETTINGS, TorchSide
from versus_workers import PEAK_SHAPES, Evidence, OurSide, Work, Worker, WorkerError, worker

import cnn.system.threads as threads
from cnn.errors import CnnError, UsageError
from cnn.measure.benchmark import busy
from cnn.measure.other_work import OtherWork
from cnn.model.zoo import ZOO
from cnn.precision import BFLOAT16, FLOAT32
from cnn.system.machine import this_machine
from cnn.terminal.arguments import number, whole_number
from cnn.terminal.printing import print_json, print_table

MODES = ("train", "infer")
SMALL = [(net, mode, 64) for net in ("lenet", "lenet5", "cifar10_quick", "vgg6", "resnet20") for mode in MODES]
SMALL += [(net, "infer", 1) for net in ("lenet", "vgg6", "resnet20")]
LARGE = [(net, "infer", batch) for net in ("mobilenet", "resnet18", "resnet50") for batch in (1, 16)]
LARGE += [("googlenet", "infer", 16), ("mobilenet", "train", 16), ("alexnet", "train", 32)]
SETS = {"all": SMALL, "large": LARGE}
"""Network, mode and batch of what --all and --large measure."""

PAUSE = 0.25
"""Seconds between turns: Intel's OpenMP threads spin for 0.2."""


class Side(NamedTuple):
    """A process to time: what it is asked for by the name of each result, and whether its products are timed."""

    worker: Worker
    ways: Mapping[str, tuple[str, ...]]
    multiplies: bool = False


def main() -> int:
    """Measures what the command line requests; returns the exit code."""
    options = _parser().parse_args()
    try:
        results = [compare(work, options) for work in _works(options)]
    except UsageError as error:
        print(f"versus: {error}", file=sys.stderr)
        return 2
    except (CnnError, WorkerError) as error:
        print(f"versus: {error}", file=sys.stderr)
        return 1
    if options.json:
        print_json(results if options.set else results[0])
    else:
        _print(results)
    return 0


def compare(work: Work, options: argparse.Namespace) -> dict[str, Any]:
    """Times one network in one mode on all sides. Raises WorkerError if this library fails."""
    say(f"{work.net}, {work.mode}, batch {work.batch}, {work.precision}, {work.threads} threads")
    other = FLOAT32 if work.precision == BFLOAT16 else BFLOAT16
    with ExitStack() as running:
        ours, theirs = (
            running.enter_context(worker(side, work, *given))
            for side, given in ((OurSide, (options.backend,)), (TorchSide, ()))
        )
        described = ours.call("describe")
        version, runtimes = _version_of_torch(theirs), _runtimes(work, options.deployed)
        sides = [Side(ours, {"ours": ()}, multiplies=True)]
        found: dict[str, str] = {}
        evidence: Evidence | None = None
        if version or runtimes:
            second = running.enter_context(worker(OurSide, replace(work, precision=other), options.backend))
            sides.append(Side(second, {f"ours {other}": ()}))
            exact = ours if work.precision == FLOAT32 else second
            evidence = exact.call("evidence")
            if version:
                found = _ready_peers(theirs, version, evidence, options.compile)
                sides.append(Side(theirs, {name: (setting,) for name, setting in found.items()}, multiplies=True))
            for runtime in runtimes:
                side = running.enter_context(worker(DeployedSide, work, runtime))
                sides.append(Side(side, _ready_precisions(side, runtime, evidence, exact)))
        with OtherWork() as others:
            rates, peaks = measure(sides, options.rounds, options.seconds)
    medians = {name: median(series) for name, series in rates.items()}
    peers, others_peers = (
        {name: medians[name] for name, setting in found.items() if SETTINGS[setting].precision == precision}
        for precision in (work.precision, other)
    )
    own = {name: rate for name, rate in medians.items() if name.split()[0] == "ours"}
    deployed = {name: rate for name, rate in medians.items() if name.split()[0] in RUNTIMES}
    # Other work on the machine only lowers a figure, so the highest is nearest to the real peak.
    peak = max(peaks)
    best = _fastest(peers)
    say(f"  peak {peak / 1e9:.1f} GFLOP/s")
    memory = {"ours": _memory(OurSide, work, options.backend)}
    if best:
        memory[best] = _memory(TorchSide, work, calls=(found[best], evidence))
    disturbed = busy(rates, others.share)
    if disturbed:
        say(f"  {disturbed}")
    return {
        "net": work.net,
        "mode": work.mode,
        "threads": work.threads,
        "batch": work.batch,
        "precision": work.precision,
        "ours": medians["ours"],
        "peers": peers,
        "best_peer": best,
        "ratio_to_best_peer": medians["ours"] / peers[best] if best else None,
        "other_precision": {"ours": medians.get(f"ours {other}"), "peers": others_peers},
        "ratio_to_best_of_any_precision": _ratio(own, peers | others_peers),
        "deployed": deployed,
        "ratio_to_best_deployed": _ratio(own, deployed),
        "fraction_of_peak": medians["ours"] * described["flops"] / peak,
        "peak_memory": memory,
        "library": described["library"],
        "backend": described["backend"],
        "cpu": this_machine().cpu,
        "rounds": options.rounds,
        "spread": {name: [min(series), max(series)] for name, series in rates.items()},
    }


def _fastest(rates: Mapping[str, float]) -> str | None:
    return max(rates, key=lambda name: rates[name], default=None)


def _ratio(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float | None:
    """The best of ours to the best of theirs, None if there are none."""
    return max(ours.values()) / max(theirs.values()) if theirs else None


def measure(sides: Sequence[Side], rounds: int, seconds: float) -> tuple[dict[str, list[float]], list[float]]:
    """(images per second by name in each round, FLOP per second of every product timed)."""
    rates: dict[str, list[float]] = {name: [] for side in sides for name in side.ways}
    peaks: list[float] = []
    # Not counted: our first passes are recorded and checked.
    for side in sides:
        for name, way in side.ways.items():
            if name.startswith("ours"):
                side.worker.call("rate", *way, seconds)
    for _ in range(rounds):
        for side in sides:
            if not side.ways:
                continue
            time.sleep(PAUSE)
            for name, way in side.ways.items():
                rates[name].append(side.worker.call("rate", *way, seconds))
            if side.multiplies:
                peaks += [side.worker.call("gemm", shape, seconds / 4) for shape in PEAK_SHAPES]
    return rates, peaks


def _memory(side: type, work: Work, *arguments: object, calls: tuple[object, ...] = ()) -> int | None:
    """Peak of the memory, in bytes, of a process of its own."""
    with worker(side, work, *arguments) as alone:
        bytes_in_use: int | None = alone.call("memory", *calls)
        return bytes_in_use


def _version_of_torch(theirs: Worker) -> str | None:
    """PyTorch's version; None, after a report, without PyTorch."""
    try:
        return str(theirs.call("version"))
    except WorkerError as error:
        missing = error.kind in ("ModuleNotFoundError", "ImportError")
        say(f"  skipped: PyTorch is not installed ({error.text})" if missing else f"  skipped: PyTorch: {error}")
        return None


def _ready_peers(theirs: Worker, version: str, evidence: Evidence, compile_too: bool) -> dict[str, str]:
    """The settings of PyTorch that reproduce this library's numbers, by name; reports which do not, and why."""
    peers = {}
    for setting, how in SETTINGS.items():
        name = f"PyTorch {version} {setting}"
        if (not how.compiled or compile_too) and _added(theirs, name, setting, evidence):
            peers[name] = setting
    return peers


def _runtimes(work: Work, wanted: bool) -> list[str]:
    """The runtimes that can be timed; reports those that are not installed."""
    if work.mode != "infer" or not wanted:
        return []
    there = [name for name in RUNTIMES if find_spec(name) and find_spec("onnx")]
    for name in RUNTIMES:
        if name not in there:
            say(f"  skipped: {name} is not installed, or onnx, by which it gets the network")
    return there


def _ready_precisions(side: Worker, runtime: str, evidence: Evidence, exact: Worker) -> dict[str, tuple[str, ...]]:
    """The precisions in which a runtime reproduces this library's numbers, by name; reports the others."""
    try:
        version, content = side.call("version"), exact.call("exported")
    except WorkerError as error:
        say(f"  skipped: {runtime}: {(str(error).splitlines() or ['no message'])[0]}")
        return {}
    names = {f"{runtime} {version} {precision}": precision for precision in RUNTIMES[runtime]}
    return {name: (way,) for name, way in names.items() if _added(side, name, way, evidence, content)}


def _added(side: Worker, name: str, *arguments: object) -> bool:
    """Whether a side has made ready what the arguments say; reports why not."""
    try:
        side.call("add", *arguments)
    except WorkerError as error:
        say(f"  skipped: {name}: {(str(error).splitlines() or ['no message'])[0]}")
        return False
    return True


def say(text: str) -> None:
    """Prints a line of progress, on standard error, apart from the results."""
    print(text, file=sys.stderr, flush=True)


def _works(options: argparse.Namespace) -> list[Work]:
    """What to measure. Raises UsageError for more threads than this process may use."""
    count = threads.budget().count if options.threads is None else threads.measurable(options.threads)
    chosen = SETS.get(options.set, [(options.net, options.mode, options.batch)])
    return [Work(net, mode, batch, count, options.precision) for net, mode, batch in chosen]


def _print(results: list[dict[str, Any]]) -> None:
    """One line for this library and one per peer, for every network and mode."""
    rows = []
    for result in results:
        peers, best = result["peers"], result["best_peer"]
        second = result["other_precision"]
        title = f"{result['net']} {result['mode']}, batch {result['batch']}"
        rows.append([title, f"cnn, {result['backend']} {result['precision']}", *_rates(result, "ours", result["ours"])])
        rows[-1] += [_text(result["ratio_to_best_peer"]), f"{result['fraction_of_peak']:.0%}"]
        rows[-1] += [_megabytes(result, "ours"), _text(result["ratio_to_best_of_any_precision"])]
        for name in result["spread"]:
            if name != "ours":
                rate = (
                    second["ours"] if name.startswith("ours") else (peers | second["peers"] | result["deployed"])[name]
                )
                shown = name.replace("ours", f"cnn, {result['backend']}") + " *" * (name == best)
                rows.append(["", shown, *_rates(result, name, rate), "", "", _megabytes(result, name), ""])
    print(f"{results[0]['library']}, {results[0]['threads']} threads, medians of {results[0]['rounds']} rounds")
    print_table(["", "", "images/s", "lowest", "highest", "to best", "of peak", "memory", "any precision"], rows)


def _text(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _megabytes(result: dict[str, Any], name: str) -> str:
    """The peak of a side's memory, if it was measured."""
    peak = result["peak_memory"].get(name)
    return f"{peak / 1e6:,.0f} MB" if peak else ""


def _rates(result: dict[str, Any], name: str, rate: float) -> list[str]:
    return [f"{value:,.0f}" for value in (rate, *result["spread"][name])]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Images per second of this library and of PyTorch, in turns.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--net", choices=[net for net in ZOO if net not in ("cifar10_full", "resnet8")], help="network")
    for name, rows in SETS.items():
        nets = ", ".join(dict.fromkeys(net for net, _, _ in rows))
        what.add_argument(f"--{name}", dest="set", action="store_const", const=name, help=f"{len(rows)} rows of {nets}")
    parser.add_argument("--mode", choices=MODES, default="train", help="default: train")
    parser.add_argument("--threads", type=whole_number, metavar="N", help="default: all this process may use")
    parser.add_argument("--batch", type=whole_number, default=64, metavar="N", help="images per step (default: 64)")
    parser.add_argument(
        "--backend", metavar="NAME", help="this library's backend (default: CNN_BACKEND, else the best)"
    )
    parser.add_argument(
        "--precision", choices=(FLOAT32, BFLOAT16), default=FLOAT32, help="of both sides (default: float32)"
    )
    parser.add_argument("--rounds", type=whole_number, default=7, metavar="N", help="turns of each side (default: 7)")
    parser.add_argument("--seconds", type=number, default=0.3, metavar="S", help="seconds of each turn (default: 0.3)")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="skip torch.compile")
    parser.add_argument(
        "--no-deployed", dest="deployed", action="store_false", help="skip ONNX Runtime and OpenVINO in inference"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: an object, or with --all a list")
    return parser


if __name__ == "__main__":
    sys.exit(main())
