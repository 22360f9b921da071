"""Objects that can be written as tables of plain values, in a model file or a user's TOML file, and read back."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from operator import index
from reprlib import repr as shorten
from types import UnionType
from typing import Any, ClassVar, Literal, Protocol, Self, Union, cast, get_args, get_origin

import numpy as np

from cnn.errors import UsageError
from cnn.words import unknown


class Configurable:
    """Base of a family (layers, optimizers, ...) whose members are dataclasses known by their class names.

    A direct subclass starts a family; each class below it, including a user's own, joins under its class name. When an
    object is made, its settings are settled (see `settle`) before its own `__post_init__` runs.
    """

    _members: ClassVar[dict[str, type]]
    _family: ClassVar[str]
    _besides: ClassVar[str] = ""
    """What to say after the known names."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if Configurable in cls.__bases__:
            cls._members, cls._family = {}, _in_words(cls.__name__)
            if cls.__module__.startswith("cnn.") and not cls._besides:
                cls._besides = " (`cnn reference` says what they are)"
        else:
            cls._members[cls.__name__] = cls
        if "__post_init__" in vars(cls):
            cls.__post_init__ = _settled(cls.__post_init__)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        settle(self)

    def config(self) -> dict[str, Any]:
        """{"type": class name, field: value, ...} with every field that differs from its default."""
        table: dict[str, Any] = {"type": type(self).__name__}
        for field in fields(cast(Any, self)):
            value = getattr(self, field.name)
            if field.init and value != _default(field):
                table[field.name] = value.config() if isinstance(value, Configurable) else value
        return table

    @classmethod
    def members(cls) -> dict[str, type]:
        """The classes of the family by name, without bases that have no settings of their own."""
        return {name: member for name, member in cls._members.items() if _is_member(member)}

    @classmethod
    def from_config(cls, table: Any) -> Self:
        """The member that a table or a bare class name describes; an object of the family is returned unchanged.

        Raises UsageError for an unknown type or field, a missing field, or a value that the class refuses.
        """
        if isinstance(table, cls):
            return table
        if isinstance(table, str):
            table = {"type": table}
        if not isinstance(table, dict) or not isinstance(table.get("type"), str):
            raise UsageError(f"A {cls._family} is described by a table with a `type`, not by {table!r}.")
        members = cls.members()
        known = members.get(table["type"])
        if known is None:
            raise unknown(f"There is no {cls._family}", table["type"], sorted(members), cls._besides)
        settings = sorted(fields(cast(Any, known)), key=lambda field: field.kw_only is True)
        allowed = {field.name: field for field in settings if field.init}
        values = {key: value for key, value in table.items() if key != "type"}
        besides = cls._besides and f" (`cnn reference {table['type']}` says what they are)"
        check_values(table["type"], values, allowed, besides)
        missing = [name for name, field in allowed.items() if _default(field) is MISSING and name not in values]
        if missing:
            raise UsageError(f"{table['type']} needs a value for {', '.join(missing)}.")
        try:
            return cast(Self, known(**values))
        except TypeError as error:
            raise UsageError(f"{table['type']} cannot be made of {values}: {error}.") from error


def _in_words(name: str) -> str:
    """The name of a class in small letters, with a space before each word but the first."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()


def _settled(check: Callable[..., None]) -> Callable[..., None]:
    @wraps(check)
    def run(self: Configurable, *arguments: Any) -> None:
        settle(self)
        check(self, *arguments)

    return run


def settle(thing: Any) -> None:
    """Turns NumPy's numbers, texts and arrays among the fields of a dataclass into Python's, which a file can hold.

    Raises UsageError for a value of another type than its field has, unless it is the default.
    """
    for each in fields(thing):
        given = value = getattr(thing, each.name, None)
        value = plain(value)
        if isinstance(value, np.ndarray) and value.ndim <= 2 and not _fits(value, each.type):
            value = value.tolist()
        if value is not given:
            object.__setattr__(thing, each.name, value)
        if each.init and value is not _default(each) and not _fits(value, each.type):
            raise UsageError(
                f"{type(thing).__name__}: {each.name} must be {kind_text(each.type)}, not {shorten(value)}."
            )


def plain(value: Any) -> Any:
    """A NumPy number or text as Python's, also inside lists and tuples; anything else unchanged."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple) and any(plain(each) is not each for each in value):
        return type(value)(map(plain, value))
    return value


def whole(value: Any, what: str, least: int = 1) -> int:
    """`value` as an int. Raises UsageError naming `what` unless it is a whole number of at least `least`."""
    try:
        number = None if isinstance(value, bool | np.bool_) else index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise UsageError(f"{what} must be a whole number of at least {least}, not {value!r}.")
    return number


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The table with values added or replaced; tables within it are merged, too, unless their `type` is another.

    A name stands for a table with that type and nothing else.
    """
    found = dict(table)
    for name, value in changes.items():
        before = found.get(name)
        if isinstance(before, Configurable):
            before = before.config()
        if isinstance(before, str) and isinstance(value, dict):
            before = {"type": before}
        if isinstance(before, dict) and isinstance(value, dict) and value.get("type") in (None, before.get("type")):
            found[name] = merged(before, value)
        else:
            found[name] = value
    return found


class Typed(Protocol):
    """A field of a dataclass, or an option of a backend."""

    @property
    def type(self) -> Any: ...


def check_values(owner: str, values: Mapping[str, Any], allowed: Mapping[str, Typed], besides: str = "") -> None:
    """Raises UsageError unless every key is allowed and every value has the right type.

    A list may stand for a tuple, a whole number for a float, and a table or a name for an object. `besides` is said
    after the allowed keys.
    """
    for key, value in values.items():
        if key not in allowed:
            raise unknown(f"{owner} has no setting", key, allowed, besides)
        kind = allowed[key].type
        if not _fits(value, kind):
            raise UsageError(f"{owner}: {key} must be {kind_text(kind)}, not {value!r}.")


def check_table(owner: str, table: Any, kind: type) -> None:
    """Raises UsageError unless `table` has the fields of the dataclass `kind`, with values of their types.

    Fields with a default may be missing.
    """
    require(isinstance(table, dict), f"{owner} must be a table, not {str(table)[:40]!r}.")
    allowed = {field.name: field for field in fields(cast(Any, kind))}
    check_values(owner, table, allowed)
    missing = [name for name, field in allowed.items() if _default(field) is MISSING and name not in table]
    require(not missing, f"{owner} lacks {', '.join(missing)}.")


def kind_text(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(map(kind_text, get_args(kind)))
    if get_origin(kind) is Literal:
        return " | ".join(map(repr, get_args(kind)))
    if kind is type(None):
        return "None"
    if kind is dict or get_origin(kind) is dict:
        return "a table"
    if get_origin(kind) is Callable:
        return "a function"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _fits(value: Any, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in args)
    if origin is Literal:
        return value in args
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            return False
        kinds = args[:1] * len(value) if origin is list or args[-1] is Ellipsis else args
        return len(value) == len(kinds) and all(_fits(*each) for each in zip(value, kinds, strict=True))
    if origin is dict:
        return isinstance(value, dict)
    if kind is Any:
        return True
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    if kind in (bool, str, dict, type(None)):
        return isinstance(value, kind)
    if not isinstance(kind, type):
        return True
    # An object that a table or a name describes checks its own values when it is made.
    described = (dict, str) if issubclass(kind, Configurable) else (dict,) if is_dataclass(kind) else ()
    return isinstance(value, (kind, *described))


def _is_member(kind: type) -> bool:
    """Whether it is a dataclass of its family; a class that adds no settings to it is a common base, such as Pool2D."""
    return any("__dataclass_fields__" in vars(each) and Configurable not in each.__bases__ for each in kind.__mro__)


def _default(field: "Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def require(condition: bool, message: str) -> None:
    """Raises UsageError with `message` unless the condition holds; used by constructors to check their settings."""
    if not condition:
        raise UsageError(message)
