"""Fetches the Intel MKL that the backends for the Xeon Phi run on.

cnn phi get   download MKL 2018.0.0 (220 MB) by pip, checked by SHA-256, and unpack it into the cache (460 MB)

MKL is Intel's, under the licence that is put beside it. CNN_MKL_ROOT names another copy instead.
"""

import argparse

from cnn.mkl_fetch import fetch_mkl
from cnn.mkl_root import VERSION


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """get."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    getting = actions.add_parser("get", help=f"download Intel MKL {VERSION}")
    getting.set_defaults(action=_get)


def run(options: argparse.Namespace) -> None:
    """Runs the action."""
    options.action(options)


def _get(options: argparse.Namespace) -> None:
    root = fetch_mkl()
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    print(f"Intel MKL {VERSION} is in {root} ({size / 1e6:.0f} MB)")
