"""Finds backends, data sets and layers by entry point; the package's own have no special treatment."""

import os
import sys
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from cnn.errors import CnnError
from cnn.words import unknown

BACKENDS = "cnn.backends"
DATASETS = "cnn.datasets"
LAYERS = "cnn.layers"


def _registered(group: str) -> dict[str, EntryPoint]:
    """The entry points of `group` by name. Raises CnnError if two distributions claim the same name."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise CnnError(
                f"Two plug-ins of {group} are called {point.name!r}: {other.value} and {point.value}; "
                "uninstall one of them."
            )
    return found


def names(group: str) -> list[str]:
    """The sorted names registered in `group`; loads nothing."""
    return sorted(_registered(group))


def load(group: str, name: str) -> Any:
    """The object registered as `name` in `group`.

    Raises UsageError if the name is not registered and CnnError if its module cannot be imported.
    """
    found = _registered(group)
    if not isinstance(name, str) or name not in found:
        kind = {BACKENDS: "backend", DATASETS: "data set", LAYERS: "layer"}[group]
        raise unknown(f"There is no {kind}", name, sorted(found))
    try:
        return found[name].load()
    except (ImportError, AttributeError) as error:
        raise CnnError(
            f"Plug-in {name!r} of {group} cannot be loaded from {found[name].value}: {error}; install it again "
            "(`pip install -e .` where `cnn` is imported from its source folder) or remove it."
        ) from error


def import_modules(names: str) -> None:
    """Imports modules, separated by commas, also from the working folder, so that their layers are known.

    Raises CnnError, with the cause, if one cannot be imported.
    """
    here = os.getcwd()
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        for name in filter(None, map(str.strip, names.split(","))):
            try:
                import_module(name)
            except (Exception, SystemExit) as error:
                # The module is the user's own: it may raise anything, or be a program that ends.
                raise CnnError(
                    f"The module {name!r} cannot be imported ({type(error).__name__}: {error}); give --import the name "
                    "of a module that is installed or lies in this folder, as in `import NAME`."
                ) from error
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
