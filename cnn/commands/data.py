"""Lists the known data sets and where they are, downloads one, or draws some of its images.

cnn data list           every data set, present or not
cnn data get NAME       download it, checked by SHA-256, to --data-dir or the cache
cnn data show DATASET   draw training images with their labels, changed as in training
"""

import argparse
import io
from dataclasses import asdict

import numpy as np

from cnn.commands import _common
from cnn.data.dataset import download_dataset, list_datasets
from cnn.errors import UsageError
from cnn.system.storage import write_atomically
from cnn.terminal.arguments import expanded_text, output_file, share, whole_number, whole_number_or_zero
from cnn.terminal.printing import print_json, print_note, print_text

MOST_SHOWN = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """list, get and show."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="show every data set and where it is")
    listing.add_argument("--data-dir", type=expanded_text, metavar="DIR", help="folder to search first")
    _common.add_json_option(listing)
    listing.set_defaults(action=_list)
    getting = actions.add_parser("get", help="download a data set")
    getting.add_argument("name", metavar="NAME", help="see `cnn data list`")
    getting.add_argument(
        "--data-dir", type=expanded_text, metavar="DIR", help="folder to download into (default: the cache)"
    )
    getting.set_defaults(action=_get)
    showing = actions.add_parser("show", help="draw training images with their labels")
    showing.add_argument("dataset", metavar="DATASET", help="a name, a folder of pictures or a CSV file")
    showing.add_argument("--out", type=output_file, metavar="FILE", required=True, help="the picture, such as grid.png")
    showing.add_argument("--count", type=whole_number, default=40, metavar="N", help="images to draw")
    showing.add_argument(
        "--model", type=expanded_text, metavar="NAME", help="change them as this network's recipe does"
    )
    showing.add_argument("--flip", action=argparse.BooleanOptionalAction, help="mirror half of them")
    showing.add_argument("--pad-crop", type=whole_number_or_zero, metavar="N", help="shift them by up to N pixels")
    showing.add_argument("--random-crop", type=share, metavar="X", help="cut out parts of at least this share")
    showing.add_argument(
        "--seed", type=whole_number_or_zero, default=0, metavar="N", help="which images, and how changed"
    )
    _common.add_data_options(showing)
    showing.set_defaults(action=_show)


def run(options: argparse.Namespace) -> None:
    """Runs the action."""
    options.action(options)


def _list(options: argparse.Namespace) -> None:
    found = list_datasets(data_dir=options.data_dir)
    if options.json:
        print_json([asdict(each) for each in found])
        return
    for each in found:
        print_text(f"{each.name}: {each.summary} (licence: {each.licence})")
        print_text(f"  {each.where if each.present else 'absent: ' + each.reason}", "  ")


def _get(options: argparse.Namespace) -> None:
    print(f"{options.name} is in {download_dataset(options.name, data_dir=options.data_dir)}")


def _show(options: argparse.Namespace) -> None:
    from cnn.data.grid import grid

    if options.count > MOST_SHOWN:
        raise UsageError(f"--count {options.count} is more than a picture can show; give at most {MOST_SHOWN}.")
    data = _common.dataset_of(options)
    rng = np.random.default_rng(options.seed)
    chosen = rng.permutation(len(data.train))[: options.count]
    split = data.train.take(np.sort(chosen))
    augmentation = _common.augmentation_of(options, _common.fitting_architecture(options.model, data).recipe)
    images = augmentation.apply(split.images[:], rng)
    picture, content = grid(images, [data.classes[label] for label in split.labels]), io.BytesIO()
    try:
        picture.save(content, format=options.out.suffix.lstrip(".").replace("jpg", "jpeg") or "png")
    except (KeyError, ValueError) as error:
        raise UsageError(f"{options.out} has a suffix that is no picture's; end it in .png or .jpg.") from error
    write_atomically(options.out, content.getvalue())
    counts = np.bincount(data.train.labels, minlength=len(data.classes))
    print_text(f"{options.out}: {len(images)} of {len(data.train):,} training images, {augmentation}")
    print_text("training images by class: " + ", ".join(map("{} {:,}".format, data.classes, counts)))
    for note in data.notes:
        print_note(note)
