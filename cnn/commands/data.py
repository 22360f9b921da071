"""Lists the known data sets and where they are, or downloads one.

cnn data list       every data set, present or not
cnn data get NAME   download it, checked by SHA-256, to --data-dir or the cache
"""

import argparse
from dataclasses import asdict

from cnn.commands import _common
from cnn.data.dataset import download_dataset, list_datasets
from cnn.terminal.arguments import expanded_text
from cnn.terminal.printing import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """list and get."""
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


def run(options: argparse.Namespace) -> None:
    """Runs the action."""
    options.action(options)


def _list(options: argparse.Namespace) -> None:
    found = list_datasets(data_dir=options.data_dir)
    if options.json:
        print_json([asdict(each) for each in found])
        return
    for each in found:
        print(f"{each.name}: {each.summary} (licence: {each.licence})")
        print(f"    {each.where if each.present else 'absent: ' + each.reason}")


def _get(options: argparse.Namespace) -> None:
    print(f"{options.name} is in {download_dataset(options.name, data_dir=options.data_dir)}")
