"""Writes a saved model as an ONNX file, after ONNX Runtime has computed the model's scores from it.

Preprocessing, probabilities, class names and the figures of the training run are in the file. A file whose scores are
not the model's is not written.
"""

import argparse
from pathlib import Path
from typing import Any

from cnn.commands import _common
from cnn.commands._run_folder import SUMMARY, read_summary
from cnn.data.dataset import load_dataset
from cnn.model.modelfile import load_model
from cnn.onnx.export import INPUTS, OPSET, export_onnx
from cnn.precision import FLOAT32
from cnn.terminal.arguments import expanded_text, whole_number
from cnn.terminal.printing import print_json, print_lines, print_note
from cnn.words import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, FILE and the options."""
    _common.add_saved_model_argument(parser)
    parser.add_argument("file", metavar="FILE", type=expanded_text, help="the ONNX file to write")
    parser.add_argument("--opset", type=whole_number, default=OPSET, metavar="N", help="version of ONNX's operators")
    parser.add_argument(
        "--input",
        choices=tuple(INPUTS),
        default="nchw",
        help="; ".join(f"{key}: {text}" for key, text in INPUTS.items()),
    )
    parser.add_argument(
        "--fold", action="store_true", help="multiply batch normalisations into the products before them"
    )
    parser.add_argument("--check", metavar="DATASET", help="compare on this data set's test images, not on random ones")
    _common.add_resource_options(parser)
    _common.add_data_options(parser)
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Exports, and prints what was written and how far its scores are from the model's."""
    images = None
    if options.check is not None:
        images = load_dataset(options.check, data_dir=options.data_dir, download=options.download).test.images[:]
    with _common.resources(options) as resources:
        model = load_model(options.model, backend=resources.backend, precision=FLOAT32)
        found = export_onnx(
            model,
            options.file,
            opset=options.opset,
            input=options.input,
            fold=options.fold,
            images=images,
            training=_training(Path(options.model)),
        )
    check = found.comparison
    if options.json:
        table: dict[str, Any] = {
            "file": options.file,
            "bytes": found.size,
            "opset": found.opset,
            "ir_version": found.ir_version,
            "input": options.input,
            "images": check.images,
            "largest_difference": check.difference,
            "same_answers": check.same_answers,
            "notes": list(found.notes),
        }
        print_json(table)
        return
    kind = "random images" if options.check is None else f"test images of {options.check}"
    print_lines(
        {
            "written": f"{options.file}, {found.size:,} bytes, opset {found.opset}, IR {found.ir_version}",
            "input": INPUTS[options.input],
            "check": f"ONNX Runtime on {check.images:,} {kind}: largest difference {check.difference:.1e} of the "
            f"largest score, the same class for {counted(check.same_answers, 'image')}",
        }
    )
    for note in found.notes:
        print_note(note)


def _training(model: Path) -> dict[str, Any] | None:
    """The summary of the run that the model was saved by, if it lies beside it."""
    folder = model if model.is_dir() else model.parent
    return read_summary(folder) if (folder / SUMMARY).is_file() else None
