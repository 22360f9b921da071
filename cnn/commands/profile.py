"""Shows where the time of a training step goes: each layer forward and backward, in im2col, GEMM and the rest.

Times are medians over the repeats, with each layer run by itself. GFLOP/s are those of the GEMM alone, at 2 FLOP per
multiply-accumulate of im2col, even where Winograd needs fewer. A layer without GEMM, such as a depthwise convolution,
is as fast as the memory: for it stands how many GB/s of input and output it reads and writes, and what share that is of
the STREAM triad here. It is above 100 % where the caches still hold the arrays. Below the table stand:

- a whole step, and how much of it is spent outside compiled kernels;
- the time of each algorithm, where a convolution has a choice;
- for a backend that can send products elsewhere, where those of one more step ran and why, as its library reports.
"""

import argparse

import cnn.model.zoo as zoo
from cnn.commands import _common
from cnn.commands._config_file import add_config_option
from cnn.compiled.stream import triad_bytes_per_second
from cnn.measure.profiler import LayerProduct, Line, profile_step, reported_products, whole_step
from cnn.terminal.arguments import whole_number
from cnn.terminal.printing import print_json, print_lines, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--model", default="lenet", metavar="NAME", help="a network's name or a .toml file")
    parser.add_argument("--batch-size", type=whole_number, default=64, metavar="N", help="images per step")
    parser.add_argument("--repeats", type=whole_number, default=20, metavar="N", help="timed steps")
    _common.add_resource_options(parser)
    add_config_option(parser)
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Prints the table."""
    with _common.resources(options) as resources:
        architecture, backend, batch = zoo.architecture(options.model), resources.backend, options.batch_size
        lines = profile_step(architecture, backend, batch, repeats=options.repeats)
        step, python = whole_step(architecture, backend, batch, repeats=options.repeats)
        products = reported_products(architecture, backend, batch)
        memory = triad_bytes_per_second()
        algorithms = backend.instruments.algorithm_times()
        header = resources.describe()
        described = resources.to_dict()
    total = sum(line.seconds for line in lines)
    if options.json:
        print_json(
            {
                "model": architecture.name,
                "batch_size": batch,
                **described,
                "seconds": total,
                "step_seconds": step,
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
    print_lines({"network": f"{architecture.name}, batch {batch}", **header})
    rows = [_row(line, total, memory) for line in lines]
    overall = Line(
        "all",
        "",
        total,
        sum(line.im2col for line in lines),
        sum(line.gemm for line in lines),
        sum(line.flops for line in lines),
        0,
    )
    head = ["layer", "direction", "ms", "share", "im2col ms", "GEMM ms", "rest ms", "GEMM GFLOP/s", "GB/s", "of triad"]
    print_table(head, [*rows, _row(overall, total, memory)])
    outside = "" if python is None else f"; {python * 1e3:.2f} ms, {python / step:.1%}, in Python between the kernels"
    print(f"a whole step: {step * 1e3:.2f} ms, {batch / step:,.0f} images/s{outside}")
    for shape, times in algorithms.items():
        fastest = min(times, key=times.__getitem__)
        tried = ", ".join(f"{name} {seconds * 1e3:.2f} ms" for name, seconds in times.items())
        print(f"{shape}: {fastest} ({tried})")
    if products:
        print("\nproducts of a step, as reported by the library that ran them")
        head = ["layer", "direction", "M", "N", "K", "ran on", "why", "MB to card", "MB back", "card ms", "host ms"]
        print_table(head, [_product_row(product) for product in products])


def _product_row(product: LayerProduct) -> list[str]:
    report, sizes = product.report, product.report.product
    return [
        product.layer,
        product.direction,
        *map(str, (sizes.m, sizes.n, sizes.k)),
        *(report.where, report.why),
        *(f"{count / 1e6:.3f}" for count in (report.bytes_to_card, report.bytes_from_card)),
        *(f"{seconds * 1e3:.2f}" for seconds in (report.card_seconds, report.host_seconds)),
    ]


def _row(line: Line, total: float, memory: float) -> list[str]:
    rate, moved = _gflops(line), line.bytes / line.seconds if line.bytes and line.seconds else None
    return [
        line.layer,
        line.direction,
        *(f"{line.seconds * 1e3:.2f}", f"{line.seconds / total:.1%}"),
        *(f"{each * 1e3:.2f}" for each in (line.im2col, line.gemm, line.rest)),
        "-" if rate is None else f"{rate:.0f}",
        *(("-", "-") if moved is None else (f"{moved / 1e9:.1f}", f"{moved / memory:.0%}")),
    ]


def _gflops(line: Line) -> float | None:
    return line.flops / line.gemm / 1e9 if line.gemm else None
