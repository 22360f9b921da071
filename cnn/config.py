"""Objects that can be written as a table of plain values, in a model file or a user's TOML, and read back."""

from dataclasses import MISSING, Field, fields
from typing import Any, ClassVar, Self, cast

from cnn.errors import UsageError


class Configurable:
    """Base of a family (layers, optimizers, ...) whose members are dataclasses named by their class.

    A direct subclass starts a family; each class below it joins under its own name, a user's own included.
    """

    _members: ClassVar[dict[str, type]]
    _family: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if Configurable in cls.__bases__:
            cls._members, cls._family = {}, cls.__name__.lower()
        else:
            cls._members[cls.__name__] = cls

    def config(self) -> dict[str, Any]:
        """{"type": class name, field: value} with every field that differs from its default."""
        table: dict[str, Any] = {"type": type(self).__name__}
        for field in fields(cast(Any, self)):
            value = getattr(self, field.name)
            if field.init and value != _default(field):
                table[field.name] = value.config() if isinstance(value, Configurable) else value
        return table

    @classmethod
    def from_config(cls, table: Any) -> Self:
        """The member a table, or a bare class name, describes; an object of the family is returned as it is.

        Raises UsageError for an unknown type or field, a missing field, or a value the class refuses.
        """
        if isinstance(table, cls):
            return table
        if isinstance(table, str):
            table = {"type": table}
        if not isinstance(table, dict) or not isinstance(table.get("type"), str):
            raise UsageError(f"A {cls._family} is described by a table with a `type`, not by {table!r}.")
        known = cls._members.get(table["type"])
        if known is None:
            raise UsageError(
                f"There is no {cls._family} {table['type']!r}; known are: {', '.join(sorted(cls._members))}."
            )
        allowed = {field.name: field for field in fields(cast(Any, known)) if field.init}
        values = {key: value for key, value in table.items() if key != "type"}
        for key in values:
            if key not in allowed:
                raise UsageError(f"{table['type']} has no setting {key!r}; known are: {', '.join(allowed) or 'none'}.")
        missing = [name for name, field in allowed.items() if _default(field) is MISSING and name not in values]
        if missing:
            raise UsageError(f"{table['type']} needs {', '.join(missing)}.")
        try:
            return cast(Self, known(**values))
        except TypeError as error:
            raise UsageError(f"{table['type']} cannot be made of {values}: {error}.") from error


def _default(field: "Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def require(condition: bool, message: str) -> None:
    """Raises UsageError with `message` unless the condition holds; used by constructors to check their settings."""
    if not condition:
        raise UsageError(message)
