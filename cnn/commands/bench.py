"""Compares layers and training steps across backends and numbers of threads, the backends in adjacent rows.

Every job is run three times to warm up, and then in turns with the others; times are medians. GFLOP/s count the
products of the layer, at 2 FLOP per multiply-accumulate; the backward pass of a layer has two products. Efficiency is
the speed-up over the fewest threads measured, divided by the ratio of the numbers of threads.

With --data it measures how fast images of a data set, or own pictures, are decoded and loaded into batches instead.

With --ranks it starts mpiexec for each number of ranks. It shows strong and weak scaling of the training step, how much
of the communication is hidden behind computing, and how far the model of scaling is off.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnn import registry
from cnn.commands import _common
from cnn.commands._bench_data import bench_data
from cnn.commands._config_file import add_config_option
from cnn.commands._ranks import bench_ranks
from cnn.config import require
from cnn.errors import UsageError
from cnn.measure.benchmark import STEP, Job, busy, layer_jobs, samples, spread, step_job
from cnn.measure.change import change
from cnn.measure.other_work import OtherWork
from cnn.measure.results_file import made_with, read_results, same, then_and_now, times_of
from cnn.model.architecture import Architecture
from cnn.model.modelfile import architecture_of
from cnn.paths import shown
from cnn.report.table import number_text
from cnn.system.storage import write_atomically
from cnn.system.threads import in_words, limit_threads
from cnn.system.timing import Times
from cnn.terminal.arguments import expanded, expanded_text, output_file, whole_number, whole_numbers
from cnn.terminal.printing import print_json, print_lines, print_table, print_text
from cnn.words import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options."""
    _common.add_model_argument(parser, several=True)
    parser.add_argument(
        "--backend", metavar="NAMES", help="backends, separated by commas (default: all ready ones except reference)"
    )
    _common.add_backend_option(parser)
    _common.add_precision_option(parser)
    parser.add_argument(
        "--threads",
        type=whole_numbers,
        metavar="COUNTS",
        help=f"numbers of threads, separated by commas (default: {_common.THREADS_DEFAULT})",
    )
    parser.add_argument("--batch-size", type=whole_number, default=64, metavar="N", help="images per step")
    parser.add_argument("--rounds", type=whole_number, default=7, metavar="N", help="timed runs of each job")
    parser.add_argument(
        "--ranks",
        type=whole_numbers,
        metavar="COUNTS",
        help="measure training steps on these numbers of ranks, separated by commas. --batch-size is then the batch of "
        "each rank (weak scaling) and of all ranks together (strong scaling); --threads is the number of threads of "
        "each rank (default: CNN_NUM_THREADS, else CPUs / ranks)",
    )
    parser.add_argument(
        "--mpiexec",
        metavar="COMMAND",
        help="launcher of the ranks, with its options up to -n, such as 'mpiexec -hosts a,b' (default: mpiexec)",
    )
    parser.add_argument(
        "--data",
        type=expanded_text,
        metavar="DATASET",
        help="measure how fast images of this data set, or folder of pictures, are decoded and loaded into batches",
    )
    _common.add_picture_options(parser)
    parser.add_argument("--steps-only", action="store_true", help="measure only whole training steps, no single layers")
    parser.add_argument(
        "--against",
        type=expanded,
        metavar="FILE",
        help="an earlier output of cnn bench --json: print each job's change since then, and how well it is known",
    )
    parser.add_argument(
        "--history", type=expanded, metavar="DIR", help="keep the results, with machine and version, in a file there"
    )
    parser.add_argument(
        "--html", type=output_file, metavar="FILE", help="write an HTML page, with the --history if there is one"
    )
    add_config_option(parser)
    _common.add_json_option(parser)
    _common.add_wide_option(parser)


def run(options: argparse.Namespace) -> None:
    """Measures and prints the table."""
    if options.data is not None:
        bench_data(options)
        return
    if options.ranks is not None:
        for name in ("against", "html", "history"):
            require(getattr(options, name) is None, f"--{name} is not for --ranks; leave one of them out.")
        bench_ranks(options)
        return
    if options.history is not None and options.history.exists() and not options.history.is_dir():
        raise UsageError(f"{shown(options.history)} is a file; give --history a folder.")
    old = None
    if options.against:
        kinds: dict[str, type] = {"results": list, "batch_size": int}
        old = read_results(options.against, "cnn bench --json", kinds)
    chosen = [
        registry.create(name, **(options.backend_options or {})) for name in _common.backend_names(options.backend)
    ]
    counts = _common.thread_counts(options.threads)
    results, rates = list[dict[str, Any]](), dict[str, list[float]]()
    networks = _networks(options.model.split(","))
    with OtherWork() as others:
        for network in networks:
            for count in counts:
                with limit_threads(count):
                    jobs: list[Job] = []
                    for backend in chosen:
                        if not options.steps_only:
                            jobs += layer_jobs(network, backend, options.batch_size)
                        jobs.append(step_job(network, backend, options.batch_size))
                    measured = samples(jobs, options.rounds)
                results += [_result(network.name, job, count, times) for job, times in zip(jobs, measured, strict=True)]
                for job, times in zip(jobs, measured, strict=True):
                    if job.group.endswith(STEP):
                        name = f"{job.group} on {job.backend} with {in_words(count)}"
                        rates[name] = [1 / seconds for seconds in times]
    disturbed = busy(rates, others.share)
    _add_efficiency(results)
    order = {group: place for place, group in enumerate(dict.fromkeys(result["group"] for result in results))}
    results.sort(key=lambda result: order[result["group"]])
    table = {
        **made_with(),
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "libraries": {backend.name: str(backend.library) for backend in chosen},
        "busy": disturbed,
        "results": [{name: value for name, value in each.items() if name != "network"} for each in results],
    }
    if old is not None:
        same(old, table, ("batch_size",), options.against)
        table["changes"] = _changes(old, table, options.against)
    if options.history:
        _keep(table, options.history)
    if options.html:
        from cnn.report.bench_page import bench_page, read_history

        history = read_history(options.history) if options.history else []
        write_atomically(options.html, bench_page(table, history, str(options.against or "")).encode())
    if options.json:
        print_json(table)
        return
    print_lines({backend.name: str(backend.library) for backend in chosen})
    for network in networks:
        print(f"\n{network.name}, batch {options.batch_size}, medians of {counted(options.rounds, 'round')}")
        _print([result for result in results if result["network"] == network.name], options.wide)
    if old is not None:
        _print_changes(old, table, options)
    if disturbed:
        print_text(disturbed, style="warning")


def _keep(table: dict[str, Any], folder: Path) -> None:
    """Writes the results into a file of their own in the folder, named after the time."""
    name = re.sub(r"[:.]", "", table["date"][:23]).replace("T", "-")
    path, number = folder / f"{name}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}.json"
    write_atomically(path, json.dumps(table, indent=1).encode())


def _changes(old: dict[str, Any], table: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """The change of each job that both benchmarks have, on the same backend and number of threads."""
    names = ("group", "backend", "threads")
    before = {tuple(each.get(name) for name in names): each for each in old["results"] if isinstance(each, dict)}
    disturbed = bool(old.get("busy") or table["busy"])
    found = []
    for each in table["results"]:
        key = tuple(each[name] for name in names)
        if key not in before:
            continue
        then = times_of(before[key], path)
        changed = change(then, each["times"])
        found.append(
            {
                **dict(zip(names, key, strict=True)),
                "seconds_before": Times(then).median,
                "seconds": each["seconds"],
                "ratio": changed.ratio,
                "ratio_low": changed.low,
                "ratio_high": changed.high,
                "verdict": None if disturbed else changed.verdict,
            }
        )
    if not found:
        raise UsageError(f"{shown(path)} has none of the jobs measured now; give a benchmark of the same network.")
    return found


def _print_changes(old: dict[str, Any], table: dict[str, Any], options: argparse.Namespace) -> None:
    print(f"\nagainst {shown(options.against)}, measured {old.get('date')}")
    differing = then_and_now(old, table, ("version", "machine"))
    before = old.get("libraries")
    if isinstance(before, dict):
        differing |= then_and_now(before, table["libraries"], tuple(table["libraries"]))
    if differing:
        print_lines(differing)
    rows = [
        [
            each["group"],
            each["backend"],
            str(each["threads"]),
            number_text(each["seconds_before"] * 1e3),
            number_text(each["seconds"] * 1e3),
            f"{(each['ratio'] - 1) * 100:+.1f}",
            f"{(each['ratio_low'] - 1) * 100:+.1f} to {(each['ratio_high'] - 1) * 100:+.1f}",
            each["verdict"] or "",
        ]
        for each in table["changes"]
    ]
    head = ["", "backend", "threads", "ms then", "ms now", "%", "95 % certain", "verdict"]
    print_table(head, rows, extra=["threads", "ms then"], wide=options.wide)
    if table["changes"][0]["verdict"] is None:
        print_text("no verdict, as the machine was busy in one of the two measurements", style="warning")


def _networks(names: Sequence[str]) -> list[Architecture]:
    """The architectures; those that share a name are told apart by what was typed."""
    found = [architecture_of(name) for name in names]
    count = Counter(each.name for each in found)
    return [replace(each, name=name) if count[each.name] > 1 else each for each, name in zip(found, names, strict=True)]


def _print(results: list[dict[str, Any]], wide: bool) -> None:
    """The table of one network, with the fastest backend and number of threads of each job in colour."""
    fastest = {result["group"]: min(_seconds(results, result["group"])) for result in reversed(results)}
    rows, best, group = [], set[int](), None
    counts = {result["threads"] for result in results}
    for place, result in enumerate(results):
        several = len(_seconds(results, result["group"])) > 1
        if several and result["seconds"] == fastest[result["group"]]:
            best.add(place)
        rows.append(
            [
                result["group"].removeprefix(f"{result['network']} ") if result["group"] != group else "",
                result["backend"],
                str(result["threads"]),
                number_text(result["seconds"] * 1e3),
                f"{number_text(result['seconds_low'] * 1e3)}-{number_text(result['seconds_high'] * 1e3)}",
                f"{result['images_per_second']:,.0f}",
                f"{result['gflops']:.1f}" if result["gflops"] else "-",
                *([f"{result['efficiency']:.0%}"] if len(counts) > 1 else []),
            ]
        )
        group = result["group"]
    head = ["", "backend", "threads", "ms", "middle 90 %", "images/s", "GFLOP/s"]
    head += ["efficiency"] if len(counts) > 1 else []
    print_table(head, rows, extra=["GFLOP/s", "middle 90 %"], wide=wide, best=best)


def _seconds(results: list[dict[str, Any]], group: str) -> list[float]:
    return [result["seconds"] for result in results if result["group"] == group]


def _result(network: str, job: Job, count: int, times: Times) -> dict[str, Any]:
    seconds, (low, high) = times.median, spread(times)
    return {
        "network": network,
        "group": job.group,
        "backend": job.backend,
        "threads": count,
        "seconds": seconds,
        "seconds_low": low,
        "seconds_high": high,
        "gflops": job.flops / seconds / 1e9,
        "images_per_second": job.images / seconds,
        "times": list(times),
    }


def _add_efficiency(results: list[dict[str, Any]]) -> None:
    """The speed-up over the fewest threads measured, divided by the ratio of the threads: 1 is perfect scaling."""
    fewest = min(result["threads"] for result in results)
    base = {(each["group"], each["backend"]): each["seconds"] for each in results if each["threads"] == fewest}
    for result in results:
        speed_up = base[result["group"], result["backend"]] / result["seconds"]
        result["efficiency"] = speed_up * fewest / result["threads"]
