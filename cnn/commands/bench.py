"""Compares layers and training steps across backends and numbers of threads, the backends in adjacent rows.

Every job is run three times to warm up, and then in turns with the others; times are medians. GFLOP/s count the
products of the layer, at 2 FLOP per multiply-accumulate; the backward pass of a layer has two products. Efficiency is
the speed-up over the fewest threads measured, divided by the ratio of the numbers of threads.

With --ranks it starts mpiexec for each number of ranks. It shows strong and weak scaling of the training step, how much
of the communication is hidden behind computing, and how far the model of scaling is off.
"""

import argparse
from typing import Any

from cnn import registry
from cnn.commands import _common
from cnn.commands._config_file import add_config_option
from cnn.commands._ranks import bench_ranks
from cnn.measure.benchmark import Job, layer_jobs, measure, step_job
from cnn.model.modelfile import architecture_of
from cnn.system.threads import limit_threads
from cnn.terminal.arguments import whole_number, whole_numbers
from cnn.terminal.printing import print_json, print_table
from cnn.words import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options."""
    _common.add_model_argument(parser, several=True)
    parser.add_argument(
        "--backend", metavar="NAMES", help="backends, separated by commas (default: all ready ones except reference)"
    )
    _common.add_backend_option(parser)
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
    parser.add_argument("--steps-only", action="store_true", help="measure only whole training steps, no single layers")
    add_config_option(parser)
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Measures and prints the table."""
    if options.ranks is not None:
        bench_ranks(options)
        return
    names = _common.backend_names(options.backend)
    chosen = [registry.create(name, **(options.backend_options or {})) for name in names]
    counts = _common.thread_counts(options.threads)
    results: list[dict[str, Any]] = []
    for name in options.model.split(","):
        for count in counts:
            with limit_threads(count):
                jobs: list[Job] = []
                for backend in chosen:
                    if not options.steps_only:
                        jobs += layer_jobs(architecture_of(name), backend, options.batch_size)
                    jobs.append(step_job(architecture_of(name), backend, options.batch_size))
                seconds = measure(jobs, options.rounds)
            results += [_result(job, count, time) for job, time in zip(jobs, seconds, strict=True)]
    _add_efficiency(results)
    order = {group: place for place, group in enumerate(dict.fromkeys(result["group"] for result in results))}
    results.sort(key=lambda result: order[result["group"]])
    if options.json:
        print_json(
            {
                "batch_size": options.batch_size,
                "rounds": options.rounds,
                "libraries": {backend.name: str(backend.library) for backend in chosen},
                "results": results,
            }
        )
        return
    for backend in chosen:
        print(f"{backend.name}: {backend.library}")
    print(f"batch {options.batch_size}, medians of {counted(options.rounds, 'round')}")
    rows, group = [], None
    for result in results:
        rows.append(
            [
                result["group"] if result["group"] != group else "",
                result["backend"],
                str(result["threads"]),
                f"{result['seconds'] * 1e3:.3f}",
                f"{result['gflops']:.1f}" if result["gflops"] else "-",
                f"{result['images_per_second']:,.0f}",
                f"{result['efficiency']:.0%}",
            ]
        )
        group = result["group"]
    print_table(["", "backend", "threads", "ms", "GFLOP/s", "images/s", "efficiency"], rows)


def _result(job: Job, count: int, seconds: float) -> dict[str, Any]:
    return {
        "group": job.group,
        "backend": job.backend,
        "threads": count,
        "seconds": seconds,
        "gflops": job.flops / seconds / 1e9,
        "images_per_second": job.images / seconds,
    }


def _add_efficiency(results: list[dict[str, Any]]) -> None:
    """The speed-up over the fewest threads measured, divided by the ratio of the threads: 1 is perfect scaling."""
    fewest = min(result["threads"] for result in results)
    base = {(each["group"], each["backend"]): each["seconds"] for each in results if each["threads"] == fewest}
    for result in results:
        speed_up = base[result["group"], result["backend"]] / result["seconds"]
        result["efficiency"] = speed_up * fewest / result["threads"]
