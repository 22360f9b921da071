"""Runs that differ in their seeds only, averaged, beside what was published for their networks."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any

from cnn.data.views import NONE, VIEWS
from cnn.model.architecture import Published
from cnn.model.modelfile import KIND
from cnn.model.zoo import ZOO, architecture
from cnn.report.numbers import percent
from cnn.report.run import Run, command
from cnn.report.run_report import differences
from cnn.system.storage import read_arrays
from cnn.words import counted

UNLIKE = ("seed", "started", "command", "version")
"""Settings that may differ among runs that are averaged."""
HEAD = ("network", "data", "views", "published", "measured here", "time", "command")
"""The columns of the table in Markdown."""

LISTED = 10
"""How many seeds are named one by one."""


def averaged(runs: Sequence[Run], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Rows with mean and spread over seeds, one for each kind of test-time augmentation of each group of runs.

    Runs are of one group if everything that is recorded of them is the same, but for seed and release. `defaults` are
    options that need not be in a command. Runs that have not ended, or repeat a seed, are told and not averaged.
    """
    groups: dict[str, list[Run]] = {}
    left_out = []
    for run in runs:
        if run.result.get("test_accuracy") is None:
            left_out.append({"run": run.label, "reason": "the run has not ended"})
            continue
        group = groups.setdefault(repr(sorted(_alike(run).items())), [])
        same = next((each for each in group if _seed(each) == _seed(run)), None)
        if same is not None:
            left_out.append({"run": run.label, "reason": f"it has the settings and the seed of {same.label}"})
        else:
            group.append(run)
    rows = [row for group in groups.values() for row in _rows(group, defaults)]
    for row in rows:
        others = [each for each in rows if (each["model"], each["dataset"]) == (row["model"], row["dataset"])]
        unlike = differences([{"settings": each["settings"]} for each in [row, *others]])
        row["apart"] = {each["setting"]: each["values"][0] for each in unlike}
    for row in rows:
        del row["settings"]
    return {"rows": rows, "left_out": left_out, "verdicts": [_verdict(row) for row in rows if row["published"]]}


def _rows(group: Sequence[Run], defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    first = group[0]
    precision = _precision(first)
    options = {name: value for name, value in first.options.items() if value != defaults.get(name)}
    if precision is not None:
        options |= {"precision": precision}
    if len(group) > 1:
        options.pop("seed", None)
    ttas = [(NONE, "test_accuracy")]
    tta = first.result.get("tta")
    if isinstance(tta, str) and tta in VIEWS and tta != NONE and all(map(_seen_in_views, group)):
        ttas.append((tta, "tta_test_accuracy"))
    rows = []
    for name, key in ttas:
        reached = [float(run.result[key]) for run in group]
        rows.append(
            {
                "model": first.model,
                "dataset": first.dataset,
                "tta": name,
                "views": VIEWS[name],
                "published": _published(first, name),
                "accuracy": fmean(reached),
                "deviation": stdev(reached) if len(reached) > 1 else None,
                "least": min(reached),
                "most": max(reached),
                "seeds": [_seed(run) for run in group],
                "runs": [run.label for run in group],
                "seconds": median(run.seconds for run in group),
                "precision": precision,
                "backend": first.settings.get("backend") or first.result.get("backend"),
                "threads": first.settings.get("threads") or first.result.get("threads"),
                "machine": first.settings.get("machine"),
                "command": command(options) if first.options else None,
                "settings": _alike(first),
            }
        )
    return rows


def _seen_in_views(run: Run) -> bool:
    return run.result.get("tta_test_accuracy") is not None


def _published(run: Run, tta: str) -> dict[str, Any] | None:
    """What was published for a run's network and data with this test-time augmentation."""
    found: Published | None = architecture(run.model).published if run.model in ZOO else None
    if found is None or (found.dataset, found.tta) != (run.dataset, tta):
        return None
    return {"accuracy": found.accuracy, "source": found.source}


def _verdict(row: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the mean reaches the published accuracy."""
    short = row["published"]["accuracy"] - row["accuracy"]
    of = f"the mean of {counted(len(row['seeds']), 'seed')}" if len(row["seeds"]) > 1 else f"seed {row['seeds'][0]}"
    text = f"{row['model']} on {row['dataset']}: {of}, {percent(row['accuracy'])}, "
    against = f"the published {percent(row['published']['accuracy'])} ({row['published']['source']})"
    verb = f"misses {against} by {100 * short:.2f} points" if short > 0 else f"reaches {against}"
    return {"reached": short <= 0, "text": text + verb}


def markdown(found: Mapping[str, Any]) -> str:
    """The rows as a table in Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    for row in found["rows"]:
        published = row["published"]
        source = f"{percent(published['accuracy'])} ({published['source']})" if published else ""
        cells = (
            *(f"`{row['model']}`", f"`{row['dataset']}`", str(row["views"]), source),
            f"{measured(row)}, {seeds(row)}",
            minutes(row["seconds"]),
            f"`{row['command']}`" if row["command"] else "",
        )
        lines.append(f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def measured(row: Mapping[str, Any]) -> str:
    """The mean of a row, with the least and the most where there are several seeds."""
    mean = percent(row["accuracy"])
    return mean if len(row["seeds"]) == 1 else f"{mean} ({100 * row['least']:.2f} to {100 * row['most']:.2f})"


def seeds(row: Mapping[str, Any]) -> str:
    """The seeds of a row in words; many are counted."""
    if len(row["seeds"]) > LISTED:
        return f"{len(row['seeds'])} seeds"
    numbers = ", ".join(map(str, row["seeds"]))
    return f"seeds {numbers}" if len(row["seeds"]) > 1 else f"seed {numbers}"


def minutes(seconds: float) -> str:
    """Seconds as whole minutes, or as seconds where these are few."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _alike(run: Run) -> dict[str, Any]:
    """All that must be the same for runs to be averaged; of a library its name without the place where it lies."""
    table = {name: value for name, value in run.settings.items() if name not in UNLIKE}
    table |= {"model": run.model, "dataset": run.dataset, "precision": _precision(run), "tta": run.result.get("tta")}
    return table | {"library": str(table.get("library") or run.result.get("library")).partition(" (")[0]}


def _seed(run: Run) -> Any:
    return run.settings.get("seed", run.result.get("seed"))


def _precision(run: Run) -> str | None:
    """What a run computed in; an older release wrote it into the model only. None if it is not known."""
    found = run.settings.get("precision")
    if found is None and run.model_file is not None:
        found = read_arrays(run.model_file, KIND)[1].get("precision")
    return None if found is None else str(found)
