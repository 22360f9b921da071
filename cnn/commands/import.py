"""Reads a network from an ONNX file, or PyTorch's weights from a safetensors file, and saves it as a model.

The scores of the model are compared with those that ONNX Runtime computes from the file. If there are nodes that no
layer stands for, all of them are listed and nothing is written. Weights without a network are brought onto the
architecture that --model names, array by array.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnn.commands import _common
from cnn.data.preprocessing import Preprocessing
from cnn.errors import UsageError
from cnn.model.foreign import import_weights
from cnn.model.modelfile import save_model
from cnn.model.sequential import Sequential
from cnn.model.zoo import ZOO
from cnn.onnx.importer import import_onnx
from cnn.onnx.pixels import GUESSED
from cnn.onnx.reader import NotUnderstood, Problem
from cnn.paths import check_output
from cnn.terminal.arguments import expanded_text, number, numbers, whole_numbers
from cnn.terminal.printing import print_json, print_lines, print_note, print_table, print_text
from cnn.words import counted

MOST_PROBLEMS = 50
"""Nodes that are listed of those that cannot be imported."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE and the options."""
    parser.add_argument("file", metavar="FILE", type=expanded_text, help="an ONNX file, or with --model safetensors")
    parser.add_argument(
        "--out", metavar="MODEL", type=expanded_text, help="model to write (default: FILE with the ending .safetensors)"
    )
    parser.add_argument(
        "--model", type=expanded_text, metavar="NAME", help=f"architecture of the weights: {', '.join(ZOO)} or .toml"
    )
    parser.add_argument("--output", metavar="NAME", help="the output to import, where the file has several")
    parser.add_argument(
        "--shape", type=whole_numbers, metavar="H,W,C", help="size of the images, where the file leaves it open"
    )
    group = parser.add_argument_group("preprocessing, where the file has none: (pixels * scale - mean) / std")
    group.add_argument("--scale", type=number, metavar="X", help="factor of pixels from 0 to 255 (default: 1/255)")
    group.add_argument("--mean", type=numbers, metavar="X,...", help="one number per channel")
    group.add_argument("--std", type=numbers, metavar="X,...", help="one number per channel")
    _common.add_resource_options(parser)
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Imports, prints what was found, and saves the model."""
    out = _out(options)
    if options.shape is not None and len(options.shape) != 3:
        raise UsageError(f"--shape takes three numbers, height, width and channels, not {len(options.shape)}.")
    preprocessing = _preprocessing(options)
    with _common.resources(options) as resources:
        if options.model is not None:
            weights = import_weights(
                options.file, options.model, backend=resources.backend, preprocessing=preprocessing
            )
            model, lines = weights.model, {}
            details: dict[str, Any] = {"arrays": [each._asdict() for each in weights.matches]}
            notes: Sequence[str] = () if preprocessing else (GUESSED,)
            if not options.json:
                rows = [(each.name, _by(each.shape), each.source, _by(each.source_shape)) for each in weights.matches]
                print_table(["array", "shape", "from", "shape there"], rows)
        else:
            try:
                found = import_onnx(
                    options.file,
                    backend=resources.backend,
                    preprocessing=preprocessing,
                    output=options.output,
                    input_shape=tuple(options.shape) if options.shape else None,
                )
            except NotUnderstood as error:
                _list(error.problems, json=options.json)
                raise
            model, notes, check = found.model, found.notes, found.comparison
            details = {"images": check.images, "largest_difference": check.difference}
            lines = {
                "check": f"ONNX Runtime on {counted(check.images, 'random image')}: largest difference "
                f"{check.difference:.1e} of the largest score"
            }
        save_model(model, out)
    if options.json:
        print_json(_described(model, out) | {"notes": list(notes)} | details)
        return
    print_lines(
        {
            "network": f"{model.name}: {counted(len(model.layers), 'layer')}, {model.parameter_count():,} parameters, "
            f"{model.macs() / 1e6:,.2f} million MAC per image",
            "images": f"{_by(model.input_shape)}, {counted(len(model.classes), 'class')}",
            **lines,
            "saved": str(out),
        }
    )
    for note in notes:
        print_note(note)


def _out(options: argparse.Namespace) -> Path:
    """Where the model is written; never over the file that is read, or by default over another."""
    out = Path(options.out or Path(options.file).with_suffix(".safetensors"))
    if out.exists() and (options.out is None or out.samefile(options.file)):
        raise UsageError(f"{out} exists already; name the model to write by --out.")
    check_output(out)
    return out


def _preprocessing(options: argparse.Namespace) -> Preprocessing | None:
    """What the options say, None if they say nothing."""
    if options.scale is None and options.mean is None and options.std is None:
        return None
    return Preprocessing(options.scale or 1 / 255, options.mean, options.std)


def _described(model: Sequential, out: Path) -> dict[str, Any]:
    return {
        "file": str(out),
        "model": model.name,
        "input": list(model.input_shape),
        "layers": len(model.layers),
        "parameters": model.parameter_count(),
        "macs": model.macs(),
        "classes": list(model.classes),
    }


def _list(problems: Sequence[Problem], *, json: bool) -> None:
    """Prints the nodes that no layer stands for."""
    if json:
        print_json({"problems": [each._asdict() for each in problems]})
        return
    for each in problems[:MOST_PROBLEMS]:
        print_text(f"{each.node} ({each.operator}): {each.reason}")
    if len(problems) > MOST_PROBLEMS:
        print(f"and {counted(len(problems) - MOST_PROBLEMS, 'node')} more (--json lists all)")


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
