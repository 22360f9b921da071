"""The options of a command in a TOML file: `--config FILE` reads one, `cnn tune` writes one."""

import argparse
import inspect
import json
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from cnn.config import check_values
from cnn.errors import UsageError
from cnn.system.storage import write_atomically
from cnn.terminal.arguments import expanded_text
from cnn.toml import read_toml

BACKEND, BACKEND_OPTIONS, MODEL = "backend", "backend_options", "model"
TABLES = (BACKEND_OPTIONS, "recipe")
"""Options that are collected in a table."""


class _Kind(NamedTuple):
    type: Any


def add_config_option(parser: ArgumentParser) -> None:
    """--config."""
    parser.add_argument(
        "--config",
        type=expanded_text,
        metavar="FILE",
        help="TOML file with values for these options, such as `cnn tune` writes; the command line takes precedence",
    )


def apply_config(parser: ArgumentParser, options: argparse.Namespace, commands: Collection[str]) -> None:
    """Makes the values in the file `options.config` the defaults of a command's parser.

    Its keys are long options, with _ for -, `model` also where it is no option, and `backend_options`, a table; a
    table named after one of the `commands` applies to that command only. Raises FileFormatError for a file
    that is missing or is not TOML, UsageError for an option that the command does not have or a value that the option
    does not take.
    """
    table = read_toml(Path(options.config))
    owner = f"{parser.prog} --config {options.config}"
    # A command and an option may share a name, as `model` does.
    sections = {name: table.pop(name) for name in commands if isinstance(table.get(name), dict)}
    values = table | sections.get(parser.prog.rpartition(" ")[2], {})
    values = converted(parser, owner, values)
    if BACKEND in values and getattr(options, BACKEND) not in (None, values[BACKEND]):
        # The command line names another backend, which would not know the options of this one.
        values.pop(BACKEND_OPTIONS, None)
    parser.set_defaults(**values)


def converted(
    parser: ArgumentParser, owner: str, values: Mapping[str, Any], positional: Collection[str] = ()
) -> dict[str, Any]:
    """The values as the command line would give them, of long options and of the arguments named `positional`.

    Raises UsageError for an option that the command does not have or a value that the option does not take.
    """
    actions = {action.dest: action for action in parser._actions if _in_file(action) or action.dest in positional}
    check_values(owner, values, {name: _Kind(_kind(action)) for name, action in actions.items()})
    found = {}
    for name, value in values.items():
        try:
            found[name] = _converted(actions[name], value)
        except ArgumentTypeError as error:
            raise UsageError(f"{owner}: {name}: {error}.") from error
    return found


def write_config(path: Path, remarks: list[str], values: Mapping[str, Any]) -> None:
    """Writes what `apply_config` reads, after the remarks as comments; a mapping among the values becomes a table.

    Raises CnnError if the file cannot be written.
    """
    lines = [f"# {remark}" for remark in remarks]
    lines += [f"{name} = {json.dumps(value)}" for name, value in values.items() if not isinstance(value, Mapping)]
    for name, table in values.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def _in_file(action: argparse.Action) -> bool:
    """Whether an argument may be in a file: a long option, or a MODEL that need not be given."""
    if action.dest == MODEL and action.nargs == argparse.OPTIONAL:
        return True
    return any(each.startswith("--") for each in action.option_strings) and action.dest not in ("help", "config")


def _kind(action: argparse.Action) -> Any:
    """The type of an option's values; where a list is expected, a single value will do."""
    if action.dest in TABLES:
        return dict
    if action.nargs == 0:
        return bool
    if action.choices is not None:
        return Literal[tuple(action.choices)]
    if action.type is None:
        return str
    kind = inspect.signature(action.type).return_annotation  # type: ignore[arg-type]
    return get_args(kind)[0] | kind if get_origin(kind) is list else kind


def _converted(action: argparse.Action, value: Any) -> Any:
    """The value as the command line would give it. Raises ArgumentTypeError."""
    if action.type is None:
        return value
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return action.type(text)  # type: ignore[operator]
