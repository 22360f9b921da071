"""Counts FLOP and bytes of a step by layer and phase, from shapes alone, as im2col + GEMM executes them.

Bytes are those of the arrays that each operation reads and writes, including column buffers; intensity is FLOP per
byte. In bfloat16, operands of products and most activations between layers have two bytes, as where the processor
multiplies it.
"""

import argparse
from typing import Any

from cnn.commands import _common
from cnn.cost import Cost, count
from cnn.model.modelfile import architecture_of
from cnn.precision import FLOAT32, chosen
from cnn.terminal.printing import print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options."""
    _common.add_workload_options(parser)
    _common.add_precision_option(parser)
    _common.add_json_option(parser)
    _common.add_wide_option(parser)


def run(options: argparse.Namespace) -> None:
    """Prints the table."""
    training, precision = options.mode == "train", chosen()
    cost = count(architecture_of(options.model), options.batch_size, training=training, precision=precision)
    if options.json:
        print_json(to_dict(cost) | {"precision": precision})
        return
    print(f"{cost.net}, batch {cost.batch}, {options.mode}{'' if precision == FLOAT32 else f', {precision}'}")
    rows = [
        [
            stage.layer,
            stage.phase,
            " + ".join(dict.fromkeys(each.kind for each in stage.operations)),
            *_numbers(stage.gemm_flops, stage.flops, stage.bytes),
        ]
        for stage in cost.stages
        if stage.operations
    ]
    rows.append(["all", "", "", *_numbers(cost.gemm_flops, cost.flops, cost.bytes)])
    head = ["layer", "phase", "operations", "GEMM MFLOP", "MFLOP", "MB", "FLOP/byte"]
    print_table(head, rows, extra=["operations"], wide=options.wide)


def to_dict(cost: Cost) -> dict[str, Any]:
    """The table as JSON values."""
    return {
        "model": cost.net,
        "batch_size": cost.batch,
        "mode": "train" if cost.training else "infer",
        "flops": cost.flops,
        "gemm_flops": cost.gemm_flops,
        "bytes": cost.bytes,
        "intensity": cost.flops / cost.bytes,
        "stages": [
            {
                "layer": stage.layer,
                "phase": stage.phase,
                "flops": stage.flops,
                "gemm_flops": stage.gemm_flops,
                "bytes": stage.bytes,
                "intensity": stage.intensity,
                "operations": [
                    {"kind": each.kind, "flops": each.flops, "bytes": each.bytes}
                    | ({} if each.sizes is None else each.sizes._asdict())
                    for each in stage.operations
                ],
            }
            for stage in cost.stages
        ],
    }


def _numbers(gemm_flops: int, flops: int, count: int) -> list[str]:
    return [f"{gemm_flops / 1e6:,.2f}", f"{flops / 1e6:,.2f}", f"{count / 1e6:,.3f}", f"{flops / count:.1f}"]
