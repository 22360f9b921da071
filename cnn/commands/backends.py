"""Lists the known backends and whether they run here, or fetches the library of one.

cnn backends list       show each backend: ready or why not, options, downloads
cnn backends get NAME   download its library, to --root or where it is looked for
"""

import argparse

from cnn import registry
from cnn.commands import _common
from cnn.terminal.arguments import expanded
from cnn.terminal.printing import print_json, print_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """list and get."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="show every backend and whether it is ready")
    _common.add_json_option(listing)
    listing.set_defaults(action=_list)
    getting = actions.add_parser("get", help="fetch the library of a backend")
    getting.add_argument("name", metavar="NAME", help="see `cnn backends list`")
    getting.add_argument("--root", type=expanded, metavar="DIR", help="folder to fetch into (default: in the cache)")
    getting.set_defaults(action=_get)


def run(options: argparse.Namespace) -> None:
    """Runs the action."""
    options.action(options)


def _list(options: argparse.Namespace) -> None:
    found = registry.statuses()
    if options.json:
        print_json([each.to_dict() for each in found])
        return
    for each in found:
        print_text(str(each))
        for option in each.options:
            print_text(f"option {option}", "  ")
        if each.fetches is not None:
            print_text(f"`cnn backends get {each.name}` fetches {each.fetches}", "  ")


def _get(options: argparse.Namespace) -> None:
    print(registry.download(options.name, options.root))
