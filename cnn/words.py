"""Words that messages have in common: a count with its noun, and a name that does not exist with the nearest one."""

from collections.abc import Iterable

from cnn.errors import UsageError


def counted(count: int, noun: str) -> str:
    """The count and the noun, in the plural except for 1: "1 epoch", "1,000 images"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {_plural(noun)}"


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "tch")) else "s")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` is most probably a slip for, whatever its case; None if there is none so close."""
    # Needed after a mistake only.
    from difflib import get_close_matches

    lowered = {each.lower(): each for each in known}
    found = get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.65)
    return lowered[found[0]] if found else None


def unknown(statement: str, name: str, known: Iterable[str], besides: str = "") -> UsageError:
    """The error for a name that does not exist: "STATEMENT 'mk1'; did you mean 'mkl'? Known are: mkl, numpy."

    `besides` says what else may be given, after the known names.
    """
    names = list(known)
    close = nearest(name, names)
    hint = "known are: " if close is None else f"did you mean {close!r}? Known are: "
    return UsageError(f"{statement} {name!r}; {hint}{', '.join(names) or 'none'}{besides}.")
