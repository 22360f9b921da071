"""The former name of `cnn backends get mkl-phi`, kept for one more version.

cnn phi get
"""

import argparse
import sys

from cnn import registry

BACKEND = "mkl-phi"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """get."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    getting = actions.add_parser("get", help=f"the same as cnn backends get {BACKEND}")
    getting.set_defaults(action=_get)


def run(options: argparse.Namespace) -> None:
    """Runs the action."""
    options.action(options)


def _get(options: argparse.Namespace) -> None:
    print(f"cnn: `cnn phi get` is called `cnn backends get {BACKEND}` now", file=sys.stderr)
    print(registry.download(BACKEND))
