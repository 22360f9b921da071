"""Shows where the time of a training step goes: each layer forward and backward, in im2col, GEMM and the rest.

Times are medians over the repeats, with each layer run by itself. GFLOP/s are those of the GEMM alone, at 2 FLOP per
multiply-accumulate of im2col, even where Winograd needs fewer. A layer without GEMM, such as a depthwise convolution,
is as fast as the memory: for it stands how many GB/s of input and output it reads and writes, and what share that is of
the STREAM triad here. It is above 100 % where the caches still hold the arrays. Below the table stand:

- a whole step, and how much of it is spent outside compiled kernels;
- the time of each algorithm, where a convolution has a choice (the table names the fastest);
- for a backend that can send products elsewhere, where those of one more step ran and why, as its library reports.
"""

import argparse

from cnn.commands import _common
from cnn.commands._config_file import add_config_option
from cnn.compiled.stream import triad_bytes_per_second
from cnn.measure.benchmark import busy, spread
from cnn.measure.other_work import OtherWork
from cnn.measure.profiler import (
    LayerProduct,
    Line,
    algorithms_by_layer,
    profile_step,
    reported_products,
    whole_step,
)
from cnn.model.modelfile import architecture_of
from cnn.terminal.arguments import whole_number
from cnn.terminal.printing import print_json, print_lines, print_table, print_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options."""
    _common.add_model_argument(parser)
    parser.add_argument("--batch-size", type=whole_number, default=64, metavar="N", help="images per step")
    parser.add_argument("--repeats", type=whole_number, default=20, metavar="N", help="timed steps")
    _common.add_resource_options(parser)
    add_config_option(parser)
    _common.add_json_option(parser)
    _common.add_wide_option(parser)


def run(options: argparse.Namespace) -> None:
    """Prints the table."""
    with _common.resources(options) as resources, OtherWork() as others:
        architecture, backend, batch = architecture_of(options.model), resources.backend, options.batch_size
        lines = profile_step(architecture, backend, batch, repeats=options.repeats)
        times, python = whole_step(architecture, backend, batch, repeats=options.repeats)
        products = reported_products(architecture, backend, batch)
        memory = triad_bytes_per_second()
        algorithms = backend.instruments.algorithm_times()
        header = resources.describe()
        described = resources.to_dict()
    disturbed = busy({"the whole step": [1 / seconds for seconds in times]}, others.share)
    step, (low, high) = times.median, spread(times)
    total = sum(line.seconds for line in lines)
    if options.json:
        print_json(
            {
                "model": architecture.name,
                "batch_size": batch,
                **described,
                "seconds": total,
                "step_seconds": step,
                "step_seconds_low": low,
                "step_seconds_high": high,
                "busy": disturbed,
                "images_per_second": batch / step,
                "python_seconds": python,
                "triad_bytes_per_second": memory,
                "algorithms": algorithms,
                "lines": [
                    {
                        "layer": line.layer,
                        "direction": line.direction,
                        "seconds": line.seconds,
                        "im2col_seconds": line.im2col,
                        "gemm_seconds": line.gemm,
                        "rest_seconds": line.rest,
                        "gemm_flops": line.flops,
                        "gemm_gflops": _gflops(line),
                        "bytes": line.bytes,
                    }
                    for line in lines
                ],
                "products": [
                    {"layer": product.layer, "direction": product.direction, **product.report.to_dict()}
                    for product in products
                ],
            }
        )
        return
    print_lines({"network": f"{architecture.name}, batch {batch}, times in ms", **header})
    chosen = algorithms_by_layer(architecture, batch, resources.budget.count, algorithms)
    rows = [_row(line, total, memory, chosen.get((line.layer, line.direction), {})) for line in lines]
    overall = Line(
        "all",
        "",
        total,
        sum(line.im2col for line in lines),
        sum(line.gemm for line in lines),
        sum(line.flops for line in lines),
        0,
    )
    head = ["layer", "ms", "share", "im2col", "GEMM", "rest", "GFLOP/s", "GB/s", "of triad", "algorithm"]
    rows.append(_row(overall, total, memory, {}))
    # No column stands for nothing: not every network has layers without GEMM, or choices of an algorithm.
    columns = [place for place in range(len(head)) if place < 7 or any(row[place] not in ("", "-") for row in rows)]
    head, rows = [head[place] for place in columns], [[row[place] for place in columns] for row in rows]
    optional = [name for name in ("rest", "im2col", "GB/s", "of triad") if name in head]
    print_table(head, rows, extra=optional, wide=options.wide)
    outside = "" if python is None else f"; {python * 1e3:.2f} ms, {python / step:.1%}, in Python between the kernels"
    bounds = f"(middle 90 %: {low * 1e3:.2f}-{high * 1e3:.2f})"
    print_text(f"a whole step: {step * 1e3:.2f} ms {bounds}, {batch / step:,.0f} images/s{outside}")
    for (layer, _), directions in chosen.items():
        for direction, tried in directions.items():
            texts = (f"{name} {tried[name] * 1e3:.2f}" for name in sorted(tried, key=tried.__getitem__))
            print_text(f"{layer} {direction}: {', '.join(texts)}")
    if disturbed:
        print_text(disturbed, style="warning")
    if products:
        print("\nproducts of a step, as reported by the library that ran them")
        head = ["layer and direction", "M", "N", "K", "ran on", "why", "MB to card", "MB back", "card ms", "host ms"]
        extra = ["MB back", "MB to card", "host ms", "card ms"]
        print_table(head, [_product_row(product) for product in products], extra=extra, wide=options.wide)


def _product_row(product: LayerProduct) -> list[str]:
    report, sizes = product.report, product.report.product
    return [
        f"{product.layer} {product.direction}",
        *map(str, (sizes.m, sizes.n, sizes.k)),
        *(report.where, report.why),
        *(f"{count / 1e6:.3f}" for count in (report.bytes_to_card, report.bytes_from_card)),
        *(f"{seconds * 1e3:.2f}" for seconds in (report.card_seconds, report.host_seconds)),
    ]


def _row(line: Line, total: float, memory: float, algorithms: dict[str, dict[str, float]]) -> list[str]:
    rate, moved = _gflops(line), line.bytes / line.seconds if line.bytes and line.seconds else None
    return [
        f"{line.layer} {line.direction}".rstrip(),
        *(f"{line.seconds * 1e3:.2f}", f"{line.seconds / total:.1%}"),
        *(f"{each * 1e3:.2f}" for each in (line.im2col, line.gemm, line.rest)),
        "-" if rate is None else f"{rate:.0f}",
        *(("-", "-") if moved is None else (f"{moved / 1e9:.1f}", f"{moved / memory:.0%}")),
        " + ".join(min(times, key=times.__getitem__) for times in algorithms.values()),
    ]


def _gflops(line: Line) -> float | None:
    return line.flops / line.gemm / 1e9 if line.gemm else None
