"""What a measurement was made with, and reading an earlier one back to compare with it."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import cnn
from cnn.errors import FileFormatError, UsageError
from cnn.paths import check_file, parsed_json, shown
from cnn.system.machine import this_machine


def made_with() -> dict[str, Any]:
    """Version, time and machine, for JSON."""
    return {
        "version": cnn.__version__,
        "date": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "machine": this_machine().to_dict(),
    }


def read_results(path: Path, command: str, keys: Mapping[str, type]) -> dict[str, Any]:
    """An earlier output of `cnn COMMAND --json` with these keys. Raises FileFormatError if it is not one."""
    check_file(path, "earlier measurement")
    try:
        found = parsed_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{shown(path)} cannot be read as JSON ({error}); give what {command} wrote.") from error
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in keys.items()):
        raise FileFormatError(f"{shown(path)} is not an output of {command} of this release; measure again.")
    return found


def times_of(entry: Any, path: Path) -> list[float]:
    """The seconds of each run in an entry. Raises FileFormatError for anything else than numbers above 0."""
    times = entry.get("times") if isinstance(entry, dict) else None
    if not (isinstance(times, list) and times and all(type(each) in (int, float) and each > 0 for each in times)):
        raise FileFormatError(f"{shown(path)} has no times of the single runs; measure again with this release.")
    return times


def same(old: Mapping[str, Any], new: Mapping[str, Any], names: tuple[str, ...], path: Path) -> None:
    """Raises UsageError where the two measurements are not of the same thing."""
    for name in names:
        if old.get(name) != new.get(name):
            raise UsageError(
                f"{shown(path)} has {name.replace('_', ' ')} {old.get(name)}, this measurement {new.get(name)}; "
                "only the same work can be compared."
            )


def then_and_now(old: Mapping[str, Any], new: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """What else differs between two measurements, in words, by name."""
    found = {}
    for name in names:
        before, after = _text(old.get(name)), _text(new.get(name))
        if before != after:
            found[name] = f"{before} then, {after} now"
    return found


def _text(value: Any) -> str:
    return str(value.get("cpu") or "unknown") if isinstance(value, dict) else str(value)
