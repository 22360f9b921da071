"""Classifies image files, or all pictures in a folder, with a saved model, after the same preprocessing as in training.

Images of another size are resized, as the training images were, and colour is converted to grey or grey to colour as
the network needs. After the header and an empty line it prints one line per image, and a note where an image's border
is unlike those of the training images; scripts should use --json. In a folder, pictures that are damaged are named,
and the others classified.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.commands import _common
from cnn.data.border import border_levels, border_note
from cnn.data.images import RESIZES, SUFFIXES, WHITE, read_image
from cnn.data.pixels import WHITE as WHITES
from cnn.errors import DataError
from cnn.model.modelfile import load_model
from cnn.model.sequential import EVALUATED, Sequential
from cnn.paths import reading
from cnn.terminal.arguments import expanded, whole_number
from cnn.terminal.printing import print_json, print_lines, print_note, tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, IMAGE... and the options."""
    _common.add_saved_model_argument(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=expanded, help="image files, or folders of them")
    parser.add_argument("--top", type=whole_number, default=3, metavar="N", help="classes to show per image")
    parser.add_argument("--invert", action="store_true", help="swap dark and light; MNIST's digits are white on black")
    parser.add_argument(
        "--background", choices=("white", "black"), default="white", help="what is behind transparent pixels"
    )
    parser.add_argument(
        "--resize", choices=RESIZES, help="how other proportions are made to fit (default: as in training)"
    )
    _common.add_resource_options(parser)
    _common.add_precision_option(parser, "that of the model")
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the likeliest classes of each image; returns 1 if one in a folder is damaged."""
    results, damaged = list[dict[str, Any]](), False
    with _common.resources(options) as resources:
        model = load_model(options.model, backend=resources.backend)
        height, width, channels = model.input_shape
        deep = model.preprocessing.pixels in ("uint16", "unit")
        read = partial(
            read_image,
            size=(height, width),
            channels=channels,
            background=WHITE if options.background == "white" else 0,
            resize=options.resize or model.resize or "stretch",
            deep=deep,
        )
        files = [each for named in options.images for each in _pictures(named)]
        if not options.json:
            print_lines(resources.describe(model))
            print()
        for start in range(0, len(files), EVALUATED):
            paths, pixels, failures = _read(files[start : start + EVALUATED], read)
            for failure in failures:
                damaged = True
                tell(f"cnn: {failure}")
            if paths:
                classified = _classified(model, paths, pixels, invert=options.invert)
                if options.json:
                    results += classified
                else:
                    _print(classified, options.top)
    if options.json:
        print_json(results)
    return int(damaged)


def _pictures(folder: Path) -> list[tuple[Path, bool]]:
    """The pictures in a folder and the folders in it, sorted, or the file itself; and whether it was named itself.

    Raises DataError if there are none.
    """
    if not folder.is_dir():
        return [(folder, True)]
    with reading(folder, "folder", DataError):
        found = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
    if not found:
        raise DataError(f"{folder} has no pictures in it; name a folder that has, or image files.")
    return [(path, False) for path in found]


def _read(
    files: Sequence[tuple[Path, bool]], read: Callable[[Path], npt.NDArray[Any]]
) -> tuple[list[Path], list[npt.NDArray[Any]], list[DataError]]:
    """The pictures that can be read, and the errors of the others; raises that of one that was named itself."""
    kept, pixels, failures = [], [], list[DataError]()
    for path, named in files:
        try:
            pixels.append(read(path))
            kept.append(path)
        except DataError as error:
            if named:
                raise
            failures.append(error)
    return kept, pixels, failures


def _classified(
    model: Sequential, paths: Sequence[Path], images: list[npt.NDArray[Any]], *, invert: bool
) -> list[dict[str, Any]]:
    pixels = np.stack(images)
    white = float(np.iinfo(pixels.dtype).max)
    if invert:
        pixels = np.iinfo(pixels.dtype).max - pixels
    probabilities = model.predict(pixels)
    known = model.border is not None and WHITES[model.preprocessing.pixels] is not None
    results = []
    for path, row, level in zip(paths, probabilities, border_levels(pixels, white), strict=True):
        order = np.argsort(-row, kind="stable")
        results.append(
            {
                "image": str(path),
                "class": model.classes[order[0]],
                "probabilities": {model.classes[k]: float(row[k]) for k in order},
                "note": border_note(float(level), model.border) if known and model.border else None,
            }
        )
    return results


def _print(results: list[dict[str, Any]], top: int) -> None:
    for result in results:
        likeliest = list(result["probabilities"].items())[:top]
        print(f"{result['image']}: " + ", ".join(f"{name} {value:.2%}" for name, value in likeliest))
        if result["note"]:
            print_note(result["note"])
