"""The table of a model: its layers with output shapes, parameters, operations and memory."""

from html import escape
from typing import TYPE_CHECKING, Any

from cnn.words import counted

if TYPE_CHECKING:
    from cnn.model.sequential import Sequential


def summarise(model: "Sequential", batch: int) -> dict[str, Any]:
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


def rows_of(table: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the layers as texts; what a layer reads only if the network is no chain."""
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
    if any(reads):
        head, rows = [*head, "reads"], [[*row, names] for row, names in zip(rows, reads, strict=True)]
    return head, rows


def title(model: "Sequential") -> str:
    """The line above the table."""
    shape = "x".join(map(str, model.input_shape))
    return f"{model.name} on images {shape}, {counted(len(model.classes), 'class')}"


def totals(table: dict[str, Any]) -> list[str]:
    """The lines below the table."""
    return [
        f"{table['parameters']:,} parameters, {table['macs']:,} MAC per image forward (1 MAC = 2 FLOP)",
        f"memory at batch {table['batch_size']}: {_mebibytes(table['inference_bytes'])} to classify, "
        f"{_mebibytes(table['training_bytes'])} to train, not counting optimizer state and the BLAS library's own",
    ]


def summary_lines(model: "Sequential", batch: int) -> list[str]:
    """The whole summary as lines of text."""
    table = summarise(model, batch)
    head, rows = rows_of(table)
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]
    return [title(model), *lines, *totals(table)]


def summary_html(model: "Sequential", batch: int) -> str:
    """The whole summary as HTML."""
    table = summarise(model, batch)
    head, rows = rows_of(table)
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    below = "".join(f"<p>{escape(line)}</p>" for line in totals(table))
    return (
        f"<table><caption>{escape(title(model))}</caption><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
        f"{below}"
    )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
