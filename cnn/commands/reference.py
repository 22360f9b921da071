"""Explains layers, optimizers, schedules, losses, initialisers, augmentation and the recipe, with every setting.

Without a name it lists all of them in a line each. Settings are written as in a network's TOML file; all of this comes
from the docstrings of the classes.
"""

import argparse
import ast
import re
from dataclasses import MISSING, Field, fields
from functools import cache
from inspect import cleandoc, getsource
from itertools import pairwise
from textwrap import dedent
from typing import Any

from cnn import initializers, losses, optimizers, schedules
from cnn.commands import _common
from cnn.config import Configurable, kind_text
from cnn.data.augmentation import Augmentation
from cnn.layers import Layer
from cnn.model.architecture import Recipe
from cnn.terminal.printing import print_json, print_text
from cnn.words import unknown

FAMILIES: dict[str, type[Configurable]] = {
    "layers": Layer,
    "optimizers": optimizers.Optimizer,
    "schedules": schedules.Schedule,
    "slow weights": optimizers.SlowWeights,
    "losses": losses.Loss,
    "initialisers": initializers.Initializer,
}
COMMON = ("name", "inputs")
"""Settings of every layer."""
REQUIRED = "must be given"
OTHERS = {"augmentation": Augmentation, "multipliers": optimizers.Multiplier, "recipe": Recipe}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="a class, such as Conv2D, SGD or Recipe")
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Prints one class or all."""
    found = reference()
    if options.name is None:
        if options.json:
            print_json(found)
            return
        for family in dict.fromkeys(each["family"] for each in found.values()):
            print(f"{family}:")
            for name, each in found.items():
                if each["family"] == family:
                    names = [setting["name"] for setting in each["settings"] if setting["name"] not in COMMON]
                    settings = ", ".join(names)
                    print_text(
                        f"{name}: {each['text'].splitlines()[0]}" + (f" Settings: {settings}." if settings else ""),
                        "  ",
                    )
        print("\n`cnn reference NAME` explains one with its settings.")
        return
    lowered = {name.lower(): name for name in found}
    if options.name.lower() not in lowered:
        raise unknown("There is nothing called", options.name, found)
    name = lowered[options.name.lower()]
    entry = found[name]
    if options.json:
        print_json({name: entry})
        return
    print(f"{name} ({entry['family']})")
    for paragraph in entry["text"].split("\n\n"):
        print_text(" ".join(paragraph.split()))
    if entry["settings"]:
        print("\nsettings:")
        for each in entry["settings"]:
            default = each["default"] if each["default"] == REQUIRED else f"default {each['default']}"
            print_text(f"{each['name']}: {each['text']} ({each['kind']}; {default})", "  ")


def reference() -> dict[str, dict[str, Any]]:
    """Every class that a network's file may name: its family, what its docstrings say, and its settings."""
    found = {}
    for family, base in FAMILIES.items():
        for name, kind in sorted(base.members().items()):
            found[name] = _entry(family, kind)
    return found | {kind.__name__: _entry(family, kind) for family, kind in OTHERS.items()}


def _entry(family: str, kind: Any) -> dict[str, Any]:
    text = cleandoc(kind.__doc__ or "")
    settings = [_setting(each, kind) for each in sorted(fields(kind), key=lambda each: bool(each.kw_only)) if each.init]
    return {"family": family, "text": text, "settings": settings}


def _setting(setting: "Field[Any]", kind: Any) -> dict[str, str]:
    default = setting.default
    if setting.default_factory is not MISSING:
        default = setting.default_factory()
    return {
        "name": setting.name,
        "kind": kind_text(setting.type),
        "default": REQUIRED if default is MISSING else _written(default),
        "text": _said_of(setting.name, kind),
    }


def _written(value: Any) -> str:
    """A value as in a TOML file; the nothing that stands where a setting is left out is a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Configurable):
        return type(value).__name__
    return f"{value:g}" if isinstance(value, float) else repr(value).replace("'", '"')


def _said_of(name: str, kind: Any) -> str:
    """What is said of a setting below it in its class, else by a sentence of a docstring that is about it."""
    for each in kind.__mro__:
        below = _attribute_docstrings(each).get(name) if each is not object else None
        if below:
            return below
    for each in kind.__mro__:
        text = " ".join(cleandoc(vars(each).get("__doc__") or "").split())
        for sentence in re.split(r"(?<=[.;])(?<! al\.)\s+", text):
            if re.match(rf"(With |Without )?`?{re.escape(name)}`?(?![\w(])", sentence) or f"`{name}`" in sentence:
                return sentence.rstrip(".;")
    return ""


@cache
def _attribute_docstrings(kind: type) -> dict[str, str]:
    """The texts that stand below the fields of a class in its source."""
    try:
        [tree] = ast.parse(dedent(getsource(kind))).body
    except (OSError, SyntaxError, TypeError, ValueError):  # a class without a source
        return {}
    found = {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for statement, following in pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            found[statement.target.id] = " ".join(str(following.value.value).split()).rstrip(".")
    return found
