"""Shows a network's layers with their output shapes, parameters, operations and memory."""

import argparse
from typing import Any

from cnn.commands import _common
from cnn.model.modelfile import architecture_of, is_saved, load_model
from cnn.model.sequential import Sequential
from cnn.terminal.arguments import whole_number
from cnn.terminal.printing import print_json, print_table
from cnn.words import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options."""
    _common.add_model_argument(parser)
    parser.add_argument(
        "--batch-size", type=whole_number, default=64, metavar="N", help="images per batch, for the memory figures"
    )
    _common.add_resource_options(parser)
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Prints the table."""
    with _common.resources(options) as resources:
        if is_saved(options.model):
            model = load_model(options.model, backend=resources.backend)
        else:
            model = architecture_of(options.model).build(backend=resources.backend)
    table = summarise(model, options.batch_size)
    if options.json:
        print_json(table)
        return
    shape = "x".join(map(str, model.input_shape))
    print(f"{model.name} on images {shape}, {counted(len(model.classes), 'class')}")
    head = ["layer", "output", "parameters", "MAC", "activations"]
    rows = [
        [
            layer["name"],
            "x".join(map(str, layer["output"])),
            f"{layer['parameters']:,}",
            f"{layer['macs']:,}",
            f"{layer['activation_bytes'] / 1024:,.1f} KiB",
        ]
        for layer in table["layers"]
    ]
    inputs = [layer["inputs"] for layer in table["layers"]]
    chain = ["input", *(layer["name"] for layer in table["layers"][:-1])]
    reads = ["" if names == [before] else ", ".join(names) for names, before in zip(inputs, chain, strict=True)]
    if any(reads):  # A chain needs no column of what each layer reads.
        head, rows = [*head, "reads"], [[*row, names] for row, names in zip(rows, reads, strict=True)]
    print_table(head, rows)
    print(f"{table['parameters']:,} parameters, {table['macs']:,} MAC per image forward (1 MAC = 2 FLOP)")
    print(
        f"memory at batch {options.batch_size}: {_mebibytes(table['inference_bytes'])} to classify, "
        f"{_mebibytes(table['training_bytes'])} to train, not counting optimizer state and the BLAS library's own"
    )


def summarise(model: Sequential, batch: int) -> dict[str, Any]:
    """The table as JSON values; activations per image, memory for `batch` images in bytes."""
    itemsize = model.dtype.itemsize
    return {
        "name": model.name,
        "input": list(model.input_shape),
        "batch_size": batch,
        "layers": [
            {
                "name": node.name,
                "type": type(node.layer).__name__,
                "inputs": model.network.input_names(node),
                "output": list(node.output_shape),
                "parameters": node.parameter_count,
                "macs": node.macs,
                "activation_bytes": node.activations * itemsize,
            }
            for node in model.network.nodes
        ],
        "parameters": model.parameter_count(),
        "macs": model.macs(),
        "inference_bytes": model.memory(batch, training=False),
        "training_bytes": model.memory(batch, training=True),
    }


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
