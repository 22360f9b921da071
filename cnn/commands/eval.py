"""Measures a saved model on the test or training images of a data set: loss, accuracy and confusion matrix."""

import argparse

import numpy as np

from cnn.commands import _common
from cnn.commands._config_file import add_config_option
from cnn.errors import UsageError
from cnn.model.modelfile import load_model
from cnn.terminal.arguments import whole_number
from cnn.terminal.printing import print_json, print_lines, print_note, print_table, print_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, DATASET and the options."""
    _common.add_saved_model_argument(parser)
    parser.add_argument("dataset", metavar="DATASET", help="see `cnn data list`")
    parser.add_argument("--split", choices=("test", "train"), default="test", help="images to evaluate on")
    parser.add_argument("--batch-size", type=whole_number, default=64, metavar="N", help="images per batch")
    _common.add_resource_options(parser)
    _common.add_precision_option(parser, "that of the model")
    add_config_option(parser)
    _common.add_data_options(parser)
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Prints accuracy and confusion matrix."""
    with _common.resources(options) as resources:
        model = load_model(options.model, backend=resources.backend)
        if not options.json:
            print_lines(resources.describe(model))
        data = _common.dataset_of(options, model)
        split = data.test if options.split == "test" else data.train
        try:
            split = model.with_own_labels(split)
        except UsageError as error:
            raise UsageError(f"{options.model} cannot be evaluated on {data.name}: {error}") from error
        loss, accuracy = model.evaluate(split, batch_size=options.batch_size)
        guesses = model.predict(split.images, batch_size=options.batch_size).argmax(axis=1)
        described = resources.to_dict() | {"precision": model.precision}
    confusion = np.zeros((len(model.classes), len(model.classes)), np.int64)
    np.add.at(confusion, (split.labels, guesses), 1)
    if options.json:
        print_json(
            {
                "model": options.model,
                "dataset": data.name,
                "split": options.split,
                "images": len(split),
                "accuracy": accuracy,
                "loss": loss,
                "classes": list(model.classes),
                "confusion": confusion.tolist(),
                **described,
            }
        )
        return
    for note in data.notes:
        print_note(note)
    print_text(f"accuracy {accuracy:.2%}, loss {loss:.4f} on {len(split):,} {options.split} images of {data.name}")
    print("rows: true class, columns: predicted")
    absent = [name for name, row in zip(model.classes, confusion, strict=True) if not row.any()]
    if absent:
        print_text(f"no images of: {', '.join(absent)}")
    names = list(model.classes)
    print_table(
        ["", *names, "correct"],
        [
            [name, *map(str, row), f"{row[k] / row.sum():.1%}"]
            for k, (name, row) in enumerate(zip(names, confusion, strict=True))
            if row.any()
        ],
    )
