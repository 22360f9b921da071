"""Shows what a run would use here, and why anything is not available.

It lists backends with their options, libraries, threads, processor, energy meters and data sets, and ends in verdicts:
what to look at, each with its cure.
"""

import argparse
from dataclasses import asdict
from typing import Any

import cnn
import cnn.energy.meters as meters
import cnn.system.threads as threads
from cnn import registry
from cnn.commands import _common
from cnn.commands._verdicts import fastest, verdicts
from cnn.data.dataset import list_datasets
from cnn.errors import CnnError
from cnn.system.machine import this_machine
from cnn.terminal.arguments import expanded_text
from cnn.terminal.printing import print_json, print_text
from cnn.words import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    _common.add_resource_options(parser)
    parser.add_argument("--data-dir", type=expanded_text, metavar="DIR", help="folder to search for data sets first")
    parser.add_argument("--measure", action="store_true", help="also time each backend, which takes some seconds")
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Prints all of it."""
    found = registry.statuses()
    current = None
    try:
        chosen, why = registry.choose(options.backend, options.backend_options)
        in_force, current = f"{chosen.name} ({why})", chosen.name
    except CnnError as error:
        in_force = f"none: {error}"
    budget = threads.budget(options.threads)
    machine = this_machine()
    with threads.limit_threads(budget.count):
        libraries = threads.libraries()
        measured = [fastest(found, current, budget.count)] if options.measure else []
    readers = meters.available()
    data = list_datasets(data_dir=options.data_dir)
    warning = threads.openmp_warning(libraries)
    concluded = [*verdicts(found, budget, libraries, readers, data), *measured]
    if options.json:
        result: dict[str, Any] = {
            "version": cnn.__version__,
            "backend": in_force,
            "backends": [each.to_dict() for each in found],
            "libraries": [asdict(each) for each in libraries],
            "openmp_warning": warning,
            "threads": asdict(budget),
            "machine": machine.to_dict(),
            "meters": [each.to_dict() for each in readers],
            "datasets": [asdict(each) for each in data],
            "verdicts": [asdict(each) for each in concluded],
        }
        print_json(result)
        return
    print(f"cnn-blas {cnn.__version__}\n")
    print_text(f"backend in force: {in_force}")
    for each in found:
        print_text(str(each), "  ")
        for option in each.options:
            print_text(f"option {option}", "    ")
    print()
    print_text(f"threads: {budget.describe()}")
    print("libraries loaded:")
    for library in libraries:
        facts = [library.api, library.version, library.threading_layer, library.architecture]
        own = counted(library.threads, "thread") if library.threads else None
        print_text(f"{library.filepath}: {', '.join(str(fact) for fact in [*facts, own] if fact)}", "  ")
    if warning:
        print_text(f"  warning: {warning}", style="warning")
    print()
    for line in machine.describe():
        print_text(line)
    print("\nenergy meters:")
    for meter in readers:
        state = f"ready, {meter.covers}" if meter.covers else f"not ready: {meter.reason}"
        print_text(f"{meter.name} ({meter.part}): {state}", "  ")
    print("\ndata sets:")
    for item in data:
        print_text(f"{item.name}: {item.where if item.present else 'absent: ' + item.reason}", "  ")
    print("\nverdicts:")
    for verdict in concluded:
        print_text(str(verdict), "  ", None if verdict.fine else "warning")
