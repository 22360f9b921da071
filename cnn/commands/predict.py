"""Classifies image files with a saved model, after the same preprocessing as in training.

Images of another size are resized, and colour is converted to grey or grey to colour as the network needs. After the
header and an empty line it prints one line per image, and a note where an image's border is unlike those of the
training images; scripts should use --json.
"""

import argparse
from functools import partial

import numpy as np

from cnn.commands import _common
from cnn.data.border import border_levels, border_note
from cnn.data.images import WHITE, read_image
from cnn.model.modelfile import load_model
from cnn.terminal.arguments import expanded, whole_number
from cnn.terminal.printing import print_json, print_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, IMAGE... and the options."""
    _common.add_saved_model_argument(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=expanded, help="image files")
    parser.add_argument("--top", type=whole_number, default=3, metavar="N", help="classes to show per image")
    parser.add_argument("--invert", action="store_true", help="swap dark and light; MNIST's digits are white on black")
    parser.add_argument(
        "--background", choices=("white", "black"), default="white", help="what is behind transparent pixels"
    )
    _common.add_resource_options(parser)
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Prints the likeliest classes of each image."""
    with _common.resources(options) as resources:
        if not options.json:
            print_lines(resources.describe())
            print()
        model = load_model(options.model, backend=resources.backend)
        height, width, channels = model.input_shape
        read = partial(
            read_image,
            size=(height, width),
            channels=channels,
            background=WHITE if options.background == "white" else 0,
        )
        pixels = np.stack([read(path) for path in options.images])
        if options.invert:
            pixels = 255 - pixels
        probabilities = model.predict(pixels)
    results = []
    for path, row, level in zip(options.images, probabilities, border_levels(pixels), strict=True):
        order = np.argsort(-row, kind="stable")
        results.append(
            {
                "image": str(path),
                "class": model.classes[order[0]],
                "probabilities": {model.classes[k]: float(row[k]) for k in order},
                "note": None if model.border is None else border_note(float(level), model.border),
            }
        )
    if options.json:
        print_json(results)
        return
    for result in results:
        likeliest = list(result["probabilities"].items())[: options.top]
        print(f"{result['image']}: " + ", ".join(f"{name} {value:.2%}" for name, value in likeliest))
        if result["note"]:
            print(f"note: {result['note']}")
