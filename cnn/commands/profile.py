"""Shows where the time of a step goes: each layer forward and backward, in im2col, GEMM and the rest.

Times are medians over the repeats, with each layer run by itself. GFLOP/s are those of the GEMM alone, at 2 FLOP per
multiply-accumulate of im2col, even where Winograd needs fewer. A layer without GEMM, such as a depthwise convolution,
is as fast as the memory: for it stands how many GB/s of input and output it reads and writes, and what share that is of
the STREAM triad here. It is above 100 % where the caches still hold the arrays. Joules are modelled by the calibration
or from --watts, or measured by repeating each layer with --measure-energy. Below the table stand:

- a whole step, and how much of it is spent outside compiled kernels;
- the time of each algorithm, once per shape, where a convolution has a choice (the table names the chosen one);
- the processor's counters, where the kernel lets them be read;
- for a backend that can send products elsewhere, where those of one more step ran and why, as its library reports.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cnn.commands import _common
from cnn.commands._config_file import add_config_option
from cnn.compiled.stream import triad_bytes_per_second
from cnn.cost import moved_precision
from cnn.measure.benchmark import busy, gemm_flops_per_second, spread
from cnn.measure.change import change
from cnn.measure.other_work import OtherWork
from cnn.measure.profiler import (
    ConvolutionChoice,
    LayerPass,
    LayerProduct,
    Line,
    algorithms_by_layer,
    layer_counts,
    profile_step,
    reported_products,
    whole_step,
)
from cnn.measure.results_file import made_with, read_results, same, then_and_now, times_of
from cnn.model.architecture import Architecture
from cnn.model.modelfile import architecture_of
from cnn.precision import chosen
from cnn.report.layer_energy import LayerEnergy, layer_energy
from cnn.report.table import number_text
from cnn.system.perf_events import Counters, CountersUnavailable
from cnn.system.storage import write_atomically
from cnn.system.timing import Times
from cnn.terminal.arguments import expanded, number, output_file, whole_number
from cnn.terminal.printing import print_json, print_lines, print_table, print_text

SAME = ("model", "batch_size", "mode", "precision")
"""What two profiles must have in common to be compared."""
DIFFERING = ("version", "machine", "backend", "library", "threads")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options."""
    _common.add_workload_options(parser)
    _common.add_precision_option(parser)
    parser.add_argument("--repeats", type=whole_number, default=20, metavar="N", help="timed steps")
    parser.add_argument(
        "--against",
        type=expanded,
        metavar="FILE",
        help="an earlier output of cnn profile --json: print each layer's change since then, and how well it is known",
    )
    parser.add_argument(
        "--trace",
        type=output_file,
        metavar="FILE",
        help="write a step with its phases, layers, kernels and threads for Perfetto (ui.perfetto.dev)",
    )
    parser.add_argument(
        "--roofline", type=output_file, metavar="FILE", help="write the layers under this machine's roofline as SVG"
    )
    parser.add_argument("--watts", type=number, metavar="W", help="power of this machine under load, for the joules")
    parser.add_argument(
        "--measure-energy", action="store_true", help="measure the joules of each layer, if there is a meter"
    )
    _common.add_resource_options(parser)
    add_config_option(parser)
    _common.add_json_option(parser)
    _common.add_wide_option(parser)


@dataclass(frozen=True)
class Profile:
    """All that was measured of a step; `counts` by layer, or `no_counts` says why there are none."""

    lines: list[Line]
    step: Times
    python: float | None
    products: list[LayerProduct]
    memory: float
    peak: float
    algorithms: dict[LayerPass, list[ConvolutionChoice]]
    energy: LayerEnergy
    counts: dict[LayerPass, dict[str, float]]
    no_counts: dict[str, str]
    busy: str | None

    @property
    def total(self) -> float:
        """Seconds of all layers."""
        return sum(line.seconds for line in self.lines)


def run(options: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    old = None
    if options.against:
        kinds: dict[str, type] = {"lines": list, "step_times": list, "model": str}
        old = read_results(options.against, "cnn profile --json", kinds)
    architecture = replace(architecture_of(options.model), precision=chosen())
    with _common.resources(options) as resources:
        profile = _measure(architecture, resources, options)
        table = _table(profile, architecture, resources, options)
        if old is not None:
            same(old, table, SAME, options.against)
            table["changes"] = _changes(old, table, options.against)
        if options.trace:
            trace = _trace(architecture, resources, options, table)
    if options.roofline:
        write_atomically(options.roofline, _roofline(profile, architecture, resources, options).encode())
    if options.json:
        print_json(table)
        return
    _print(profile, architecture, resources, options)
    if old is not None:
        _print_changes(old, table, options)
    if options.trace:
        print_text(trace)


def _measure(architecture: Architecture, resources: _common.Resources, options: argparse.Namespace) -> Profile:
    backend, batch, repeats = resources.backend, options.batch_size, options.repeats
    training = options.mode == "train"
    with OtherWork() as others:
        lines = profile_step(architecture, backend, batch, repeats=repeats, training=training)
        times, python = whole_step(architecture, backend, batch, repeats=repeats, training=training)
        products = reported_products(architecture, backend, batch, training=training)
        memory = triad_bytes_per_second()
        peak = gemm_flops_per_second(backend, chosen())
        algorithms = algorithms_by_layer(architecture, batch, resources.budget.count, backend.instruments.algorithms())
    counts, missing = dict[LayerPass, dict[str, float]](), dict[str, str]()
    try:
        with Counters() as counters:
            missing = counters.missing
            counts = layer_counts(architecture, backend, batch, counters, repeats=repeats, training=training)
    except CountersUnavailable as error:
        missing = error.missing
    seconds = {(line.layer, line.direction): line.seconds for line in lines}
    energy = layer_energy(
        architecture,
        backend,
        batch,
        resources.budget.count,
        seconds,
        training=training,
        watts=options.watts,
        measure=options.measure_energy,
    )
    disturbed = busy({"the whole step": [1 / each for each in times]}, others.share)
    return Profile(lines, times, python, products, memory, peak, algorithms, energy, counts, missing, disturbed)


def _table(
    profile: Profile, architecture: Architecture, resources: _common.Resources, options: argparse.Namespace
) -> dict[str, Any]:
    """Everything as JSON values."""
    low, high = spread(profile.step)
    return {
        **made_with(),
        "model": architecture.name,
        "batch_size": options.batch_size,
        "mode": options.mode,
        "precision": chosen(),
        **resources.to_dict(),
        "seconds": profile.total,
        "step_seconds": profile.step.median,
        "step_seconds_low": low,
        "step_seconds_high": high,
        "step_times": list(profile.step),
        "busy": profile.busy,
        "images_per_second": options.batch_size / profile.step.median,
        "python_seconds": profile.python,
        "triad_bytes_per_second": profile.memory,
        "gemm_flops_per_second": profile.peak,
        "algorithms": {
            choice.source: choice.seconds
            for made in profile.algorithms.values()
            for _, _, choice in made
            if choice.seconds
        },
        "energy": profile.energy.kind,
        "energy_source": profile.energy.source,
        "no_counts": profile.no_counts,
        "lines": [
            {
                "layer": line.layer,
                "direction": line.direction,
                "algorithm": _algorithm(profile.algorithms.get((line.layer, line.direction), [])),
                "seconds": line.seconds,
                "times": list(line.times),
                "im2col_seconds": line.im2col,
                "gemm_seconds": line.gemm,
                "rest_seconds": line.rest,
                "gemm_flops": line.flops,
                "gemm_gflops": _gflops(line),
                "bytes": line.bytes,
                "joules": profile.energy.joules.get((line.layer, line.direction)),
                "counts": profile.counts.get((line.layer, line.direction)),
            }
            for line in profile.lines
        ],
        "products": [
            {"layer": product.layer, "direction": product.direction, **product.report.to_dict()}
            for product in profile.products
        ],
    }


def _print(
    profile: Profile, architecture: Architecture, resources: _common.Resources, options: argparse.Namespace
) -> None:
    batch, total = options.batch_size, profile.total
    what = f"{architecture.name}, batch {batch}, {options.mode}, {chosen()}, times in ms"
    print_lines({"network": what, **resources.describe()})
    rows = []
    for line in profile.lines:
        place = line.layer, line.direction
        rows.append(
            _row(line, total, profile.memory, profile.algorithms.get(place, []), profile.energy.joules.get(place))
        )
    overall = Line(
        "all",
        "",
        total,
        sum(line.im2col for line in profile.lines),
        sum(line.gemm for line in profile.lines),
        sum(line.flops for line in profile.lines),
        0,
    )
    head = ["layer", "ms", "share", "im2col", "GEMM", "rest", "GFLOP/s", "GB/s", "of triad", "mJ", "algorithm"]
    joules = sum(profile.energy.joules.values()) if profile.energy.joules else None
    rows.append(_row(overall, total, profile.memory, [], joules))
    # No column stands for nothing: not every network has layers without GEMM, or choices of an algorithm.
    columns = [place for place in range(len(head)) if place < 7 or any(row[place] not in ("", "-") for row in rows)]
    head, rows = [head[place] for place in columns], [[row[place] for place in columns] for row in rows]
    optional = [name for name in ("rest", "im2col", "GB/s", "of triad") if name in head]
    print_table(head, rows, extra=optional, wide=options.wide)
    step, (low, high), python = profile.step.median, spread(profile.step), profile.python
    outside = "" if python is None else f"; {python * 1e3:.2f} ms, {python / step:.1%}, in Python between the kernels"
    bounds = f"(middle 90 %: {low * 1e3:.2f}-{high * 1e3:.2f})"
    print_text(f"a whole step: {step * 1e3:.2f} ms {bounds}, {batch / step:,.0f} images/s{outside}")
    print_text(f"joules: {profile.energy.kind}: {profile.energy.source}")
    _print_algorithms(profile, batch, wide=options.wide)
    _print_counts(profile)
    if profile.busy:
        print_text(profile.busy, style="warning")
    if profile.products:
        print("\nproducts of a step, as reported by the library that ran them")
        head = ["layer and direction", "M", "N", "K", "ran on", "why", "MB to card", "MB back", "card ms", "host ms"]
        extra = ["MB back", "MB to card", "host ms", "card ms"]
        print_table(head, [_product_row(product) for product in profile.products], extra=extra, wide=options.wide)


def _print_algorithms(profile: Profile, batch: int, *, wide: bool) -> None:
    """The times of each algorithm, once for all layers of one shape."""
    shapes: dict[str, tuple[list[str], ConvolutionChoice]] = {}
    for (layer, _), made in profile.algorithms.items():
        for each in made:
            if each.choice.seconds:
                shapes.setdefault(each.choice.source, ([], each))[0].append(layer)
    if not shapes:
        return
    names = dict.fromkeys(name for _, each in shapes.values() for name in each.choice.seconds)
    rows = []
    for layers, each in shapes.values():
        others = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
        seconds = each.choice.seconds
        times = (f"{seconds[name] * 1e3:.2f}" if name in seconds else "-" for name in names)
        rows.append([f"{layers[0]}{others}", each.direction, *times])
    # Batches of similar sizes share their times.
    measured = sorted({each.images for _, each in shapes.values()})
    of = "" if measured == [batch] else f", of {' or '.join(map(str, measured))} images"
    print(f"\ntimes in ms by which the algorithms were chosen{of}")
    print_table(["layers of one shape", "", *names], rows, wide=wide)


def _print_counts(profile: Profile) -> None:
    """The processor's counters by layer, and which of them are not there, each reason once."""
    reasons: dict[str, list[str]] = {}
    for name, reason in profile.no_counts.items():
        reasons.setdefault(reason, []).append(name)
    if profile.counts:
        names = list(next(iter(profile.counts.values())))
        print("\ncounted by the processor in one step")
        rows = [
            [f"{layer} {direction}".rstrip(), *(number_text(counts[name] / 1e6) for name in names)]
            for (layer, direction), counts in profile.counts.items()
        ]
        print_table(["layer", *(f"10^6 {name.replace('_', ' ')}" for name in names)], rows)
    for reason, without in reasons.items():
        print_text(f"{', '.join(without).replace('_', ' ')}: unavailable, because {reason}")


def _changes(old: dict[str, Any], table: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """The change of the whole step and of each layer that both profiles have."""
    before = {(line.get("layer"), line.get("direction")): line for line in old["lines"] if isinstance(line, dict)}
    pairs = [("a whole step", "", {"times": old["step_times"]}, {"times": table["step_times"]})]
    pairs += [
        (line["layer"], line["direction"], before[line["layer"], line["direction"]], line)
        for line in table["lines"]
        if (line["layer"], line["direction"]) in before
    ]
    # On a busy machine the runs of one sitting may all be slow.
    disturbed = bool(old.get("busy") or table["busy"])
    found = []
    for layer, direction, then, now in pairs:
        old_times, new_times = times_of(then, path), times_of(now, path)
        each = change(old_times, new_times)
        found.append(
            {
                "layer": layer,
                "direction": direction,
                "seconds_before": Times(old_times).median,
                "seconds": Times(new_times).median,
                "ratio": each.ratio,
                "ratio_low": each.low,
                "ratio_high": each.high,
                "verdict": None if disturbed else each.verdict,
            }
        )
    return found


def _print_changes(old: dict[str, Any], table: dict[str, Any], options: argparse.Namespace) -> None:
    print(f"\nagainst {options.against}, measured {old.get('date')}")
    differing = then_and_now(old, table, DIFFERING)
    if differing:
        print_lines(differing)
    rows = [
        [
            f"{each['layer']} {each['direction']}".rstrip(),
            number_text(each["seconds_before"] * 1e3),
            number_text(each["seconds"] * 1e3),
            f"{(each['ratio'] - 1) * 100:+.1f}",
            f"{(each['ratio_low'] - 1) * 100:+.1f} to {(each['ratio_high'] - 1) * 100:+.1f}",
            each["verdict"] or "",
        ]
        for each in table["changes"]
    ]
    print_table(["layer", "ms then", "ms now", "%", "95 % certain", ""], rows, wide=options.wide)
    if table["changes"][0]["verdict"] is None:
        print_text("no verdict, as the machine was busy in one of the two measurements", style="warning")
    print_text("The interval covers the spread of the runs, not what differs between two sittings, such as other work.")


def _trace(
    architecture: Architecture, resources: _common.Resources, options: argparse.Namespace, table: dict[str, Any]
) -> str:
    """Writes the trace; returns what to say of it."""
    from cnn.measure.trace import LAYERS, trace_step

    trace = trace_step(architecture, resources.backend, options.batch_size, training=options.mode == "train")
    names = ("version", "date", "model", "batch_size", "mode", "precision", "backend", "library", "threads")
    about = {name: table[name] for name in names}
    write_atomically(options.trace, json.dumps(trace.to_dict(about)).encode())
    whole = trace.step.end - trace.step.begin
    share = trace.seconds(LAYERS) / whole
    return (
        f"traced into {options.trace}: a step of {whole * 1e3:.2f} ms, whose layers add up to {share:.1%}; there every "
        f"kernel is called from Python, while the step above ({table['step_seconds'] * 1e3:.2f} ms) repeats recordings"
    )


def _roofline(
    profile: Profile, architecture: Architecture, resources: _common.Resources, options: argparse.Namespace
) -> str:
    from cnn.report.chart_svg import standalone
    from cnn.report.profile_chart import profile_roofline

    chart = profile_roofline(
        architecture,
        options.batch_size,
        {(line.layer, line.direction): line.seconds for line in profile.lines},
        training=options.mode == "train",
        peak=profile.peak,
        bandwidth=profile.memory,
        title=f"{architecture.name}, batch {options.batch_size}, {options.mode}, {resources.backend.name}",
        precision=moved_precision(chosen(), resources.backend),
    )
    return standalone(chart)


def _product_row(product: LayerProduct) -> list[str]:
    report, sizes = product.report, product.report.product
    return [
        f"{product.layer} {product.direction}",
        *map(str, (sizes.m, sizes.n, sizes.k)),
        *(report.where, report.why),
        *(f"{count / 1e6:.3f}" for count in (report.bytes_to_card, report.bytes_from_card)),
        *(f"{seconds * 1e3:.2f}" for seconds in (report.card_seconds, report.host_seconds)),
    ]


def _row(
    line: Line, total: float, memory: float, algorithms: list[ConvolutionChoice], joules: float | None
) -> list[str]:
    rate, moved = _gflops(line), line.bytes / line.seconds if line.bytes and line.seconds else None
    return [
        f"{line.layer} {line.direction}".rstrip(),
        *(f"{line.seconds * 1e3:.2f}", f"{line.seconds / total:.1%}"),
        *(f"{each * 1e3:.2f}" for each in (line.im2col, line.gemm, line.rest)),
        "-" if rate is None else f"{rate:.0f}",
        *(("-", "-") if moved is None else (f"{moved / 1e9:.1f}", f"{moved / memory:.0%}")),
        "-" if joules is None else number_text(joules * 1e3),
        _algorithm(algorithms) or "",
    ]


def _algorithm(algorithms: list[ConvolutionChoice]) -> str | None:
    """The algorithm of each product of a layer and direction, None where the backend has only one."""
    return " + ".join(each.choice.name for each in algorithms) or None


def _gflops(line: Line) -> float | None:
    return line.flops / line.gemm / 1e9 if line.gemm else None
