"""The options of a backend: the annotated keyword arguments of its constructor."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from cnn.config import check_values, kind_text
from cnn.errors import FileFormatError, UsageError
from cnn.toml import parse_toml


@dataclass(frozen=True)
class Option:
    """A setting of a backend: its name, type, default and meaning."""

    name: str
    type: Any
    default: Any
    meaning: str

    def __str__(self) -> str:
        default = "" if self.default is None else f" (default: {self.default})"
        return f"{self.name}: {self.meaning}{default}"

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "name": self.name,
            "type": kind_text(self.type),
            "default": self.default,
            "meaning": self.meaning,
        }


def options_of(plugin: Any) -> dict[str, Option]:
    """The options of a backend's class by name: keyword-only, `NAME: Annotated[TYPE, MEANING] = DEFAULT`."""
    found = {}
    for name, parameter in inspect.signature(plugin, eval_str=True).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and get_origin(parameter.annotation) is Annotated:
            kind, meaning = get_args(parameter.annotation)[:2]
            found[name] = Option(name, kind, parameter.default, meaning)
    return found


def check_options(backend: str, plugin: Any, values: Mapping[str, Any]) -> None:
    """Raises UsageError for an option that the backend does not have, or a value of the wrong type."""
    if values:
        check_values(f"Backend {backend!r}", values, options_of(plugin))


def parse_option(text: str) -> tuple[str, Any]:
    """NAME=VALUE as name and value. VALUE is as in TOML, but strings need no quotes and lists no brackets.

    Raises UsageError if the name or the value is missing, or the value is a number that is not finite or too large.
    """
    name, _, value = text.partition("=")
    name, value = name.strip().replace("-", "_"), value.strip()
    if not name or not value:
        raise UsageError(f"An option is given as NAME=VALUE, not as {text!r}.")
    for form in (value, f"[{value}]" if "," in value else value):
        try:
            table = parse_toml(f"value = {form}", text)
        except FileFormatError:
            continue
        if len(table) == 1:  # and not a second line with another value
            return name, table["value"]
    return name, value
