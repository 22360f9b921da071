"""A run, or several, as text for a terminal: a sentence, a short table and a small plot."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnn.report.chart_text import chart_lines
from cnn.report.numbers import count_text, duration, joules_text, number_text, percent, rate_text
from cnn.report.run_charts import run_charts, runs_charts
from cnn.terminal.printing import print_lines, print_table, print_text, shown, terminal_width

MOST_ROWS = 12
"""Epochs of the short table."""
MOST_WIDTH = 100
"""Columns of a plot."""


def print_run(run: Mapping[str, Any], *, wide: bool = False) -> None:
    """Prints one run; `wide` shows all epochs and columns."""
    print_text(run["sentence"])
    print()
    epochs = run["epochs"]
    chosen = epochs if wide else _spread(epochs, run["best_epoch"])
    best = {place for place, row in enumerate(chosen) if row["epoch"] == run["best_epoch"]}
    rows = [
        [
            str(row["epoch"]) + "*" * (place in best),
            f"{row['train_loss']:.4f}",
            percent(row["train_accuracy"]),
            "-" if row["val_loss"] is None else f"{row['val_loss']:.4f}",
            percent(row["val_accuracy"]),
            f"{row['learning_rate']:.3g}",
            count_text(row["images_per_second"]),
            number_text(row["seconds"]),
            joules_text(row["joules"]),
        ]
        for place, row in enumerate(chosen)
    ]
    head = ["epoch", "loss", "accuracy", "val. loss", "accuracy", "rate", "images/s", "s", "energy"]
    if all(row["joules"] is None for row in epochs):
        head, rows = head[:-1], [row[:-1] for row in rows]
    print_table(head, rows, extra=["rate", "s", "images/s"], wide=wide, best=best)
    left = len(epochs) - len(chosen)
    notes = [*run["notes"], *[f"{left} epochs are not shown (--wide)"] * bool(left)]
    notes += [f"* epoch {run['best_epoch']} had the lowest validation loss"] * bool(best)
    if run["joules"] is None:
        notes.append(f"no energy: {run['energy_source']}")
    for note in notes:
        print_text(note)
    _plots(run_charts(epochs, None)[:2])
    print()
    made = {"machine": run["machine"], "backend": f"{run['backend']}, {run['library']}", "threads": run["threads"]}
    made |= {"seed": run["seed"], "command": run["command"], "again": run["again"]}
    print_lines({title: str(text) for title, text in made.items() if text is not None})
    test = run["test"]
    if test is not None:
        print()
        wrong = f"{test['wrong']:,} of {test['images']:,} test images are answered wrongly"
        print_text(f"{wrong}; the expected calibration error is {percent(test['calibration_error'])}")
        print_table(
            ["class", "images", "precision", "recall"],
            [
                [each["name"], count_text(each["images"]), percent(each["precision"], 1), percent(each["recall"], 1)]
                for each in test["classes"]
            ],
        )


def print_runs(report: Mapping[str, Any], *, wide: bool = False) -> None:
    """Prints several runs side by side."""
    runs = report["runs"]
    print_text(report["sentence"])
    print()
    rows = [
        [
            run["label"],
            percent(run["accuracy"]),
            run["accuracy_of"],
            str(len(run["epochs"])),
            duration(run["seconds"]),
            rate_text(run["images_per_second"]).removesuffix(" images/s"),
            joules_text(run["joules"]),
            ", ".join(cost for cost, names in report["frontier"].items() if run["label"] in names),
        ]
        for run in runs
    ]
    head = ["run", "accuracy", "of", "epochs", "time", "images/s", "energy", "frontier"]
    print_table(head, rows, extra=["images/s", "epochs", "of"], wide=wide)
    _plots(runs_charts(runs)[-2:-1])
    if report["differences"]:
        print("\nsettings that differ")
        columns = [f"[{place}]" for place in range(1, len(runs) + 1)]
        for name, run in zip(columns, runs, strict=True):
            print(f"  {name} {shown(run['label'])}")
        table = [[each["setting"], *map(_value, each["values"])] for each in report["differences"]]
        print_table(["setting", *columns], table, extra=columns[:0:-1], wide=wide)


def _value(value: Any) -> str:
    return "-" if value is None else str(value)


def _spread(epochs: Sequence[Mapping[str, Any]], best: int | None) -> list[Mapping[str, Any]]:
    """Some epochs from the first to the last, the best among them."""
    last = len(epochs) - 1
    if last < MOST_ROWS:
        return list(epochs)
    chosen = {round(k * last / (MOST_ROWS - 1)) for k in range(MOST_ROWS)} | ({best - 1} if best else set())
    return [epochs[place] for place in sorted(chosen)]


def _plots(charts: Sequence[Any]) -> None:
    for chart in charts:
        print()
        for line in chart_lines(chart, min(MOST_WIDTH, terminal_width())):
            print(shown(line))
