"""The curves of one run, and of several laid over one another."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from cnn.report.chart import COLOURS, Chart, Series

Row = dict[str, Any]
"""An epoch, as in metrics.jsonl."""

CURVES = (
    ("training loss", "train_loss", False),
    ("validation loss", "val_loss", False),
    ("validation accuracy", "val_accuracy", True),
    ("images per second", "images_per_second", False),
)
"""Of several runs: title, column, and whether it is a share."""


FIRST = 10
"""Steps of a range test that show where its losses begin."""


def run_charts(epochs: Sequence[Row], best: int | None) -> list[Chart]:
    """Loss, accuracy, learning rate, images per second and, where they are known, joules, over two epochs or more."""
    if len(epochs) < 2:
        return []
    mark = None if best is None else (float(best), f"lowest validation loss: epoch {best}")
    rates = [row["learning_rate"] for row in epochs]
    return [
        Chart("loss", "epoch", "loss", (_series(epochs, "train_loss", "training"), *_validation(epochs, "loss")), mark),
        Chart(
            "accuracy",
            "epoch",
            "accuracy",
            (_series(epochs, "train_accuracy", "training"), *_validation(epochs, "accuracy")),
            mark,
            percent=True,
        ),
        Chart(
            "learning rate",
            "epoch",
            "rate",
            (_series(epochs, "learning_rate", "", "purple"),),
            y_log=min(rates) > 0 and max(rates) > 20 * min(rates),
        ),
        Chart("images per second", "epoch", "images/s", (_series(epochs, "images_per_second", "", "green"),)),
        Chart("joules of the epoch", "epoch", "joules", (_series(epochs, "joules", "", "teal"),)),
    ]


def step_chart(steps: Sequence[tuple[float, float]]) -> Chart:
    """The running loss within epochs, over epochs as fractions: what moves while a run is trained."""
    x, y = (tuple(each) for each in zip(*steps, strict=True)) if steps else ((), ())
    return Chart("loss of the steps", "epochs done", "loss", (Series("", x, y, "blue"),))


def rate_chart(rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggested: float) -> Chart:
    """The losses of a learning-rate range test; those far above the first ones, of its end, are left out."""
    most = 1.5 * max(smoothed[:FIRST])
    raw, mean = (tuple(loss if loss <= most else None for loss in each) for each in (losses, smoothed))
    return Chart(
        "loss at growing learning rates",
        "learning rate",
        "loss",
        (
            Series("smoothed", tuple(rates), mean, "blue"),
            Series("of each step", tuple(rates), raw, "muted", "points", sizes=(8.0,) * len(raw)),
        ),
        (suggested, f"suggested: {suggested:.2g}"),
        x_log=True,
    )


def calibration_chart(bins: Sequence[Row]) -> Chart:
    """Accuracy over the probability of the answer: on the diagonal a model is as sure as it is right."""
    most = max((each["images"] for each in bins), default=1)
    return Chart(
        "calibration",
        "probability of the answer",
        "accuracy",
        (
            Series("as sure as right", (0.0, 1.0), (0.0, 1.0), "muted", dashed=True),
            Series(
                "images in a bin",
                tuple(each["probability"] for each in bins),
                tuple(each["accuracy"] for each in bins),
                "blue",
                "points",
                sizes=tuple(30 + 300 * each["images"] / most for each in bins),
            ),
        ),
        percent=True,
    )


def runs_charts(runs: Sequence[Row]) -> list[Chart]:
    """Accuracy against seconds and against joules, each with its frontier, and the curves over each other."""
    charts = [
        _frontier_chart(runs, "seconds", "seconds of training"),
        _frontier_chart(runs, "joules", "joules of training"),
    ]
    for title, column, share in CURVES:
        series = tuple(_series(run["epochs"], column, run["label"], *_look(place)) for place, run in enumerate(runs))
        charts.append(Chart(title, "epoch", title, series, percent=share))
    charts += [
        _over(runs, "accuracy over seconds", "seconds of training", lambda row: row["seconds"]),
        _over(runs, "accuracy over joules", "joules of training", lambda row: row["joules"]),
    ]
    return charts


def frontier(runs: Sequence[Row], cost: str) -> list[str]:
    """The labels of the runs that no other run beats: none is at least as accurate and as cheap, and better in one."""
    known = [run for run in runs if run[cost] is not None and run["accuracy"] is not None]

    def beats(one: Row, other: Row) -> bool:
        better = one["accuracy"] > other["accuracy"] or one[cost] < other[cost]
        return bool(one["accuracy"] >= other["accuracy"] and one[cost] <= other[cost] and better)

    found = [run for run in known if not any(beats(each, run) for each in known)]
    return [run["label"] for run in sorted(found, key=lambda run: run[cost])]


def _frontier_chart(runs: Sequence[Row], cost: str, label: str) -> Chart:
    known = [run for run in runs if run[cost] is not None and run["accuracy"] is not None]
    best = [run for name in frontier(runs, cost) for run in known if run["label"] == name]
    line = Series(
        "frontier", tuple(run[cost] for run in best), tuple(run["accuracy"] for run in best), "muted", dashed=True
    )
    dots = Series(
        "run",
        tuple(run[cost] for run in known),
        tuple(run["accuracy"] for run in known),
        "blue",
        "points",
        texts=tuple(run["label"] for run in known),
    )
    costs = [run[cost] for run in known]
    wide = bool(costs) and min(costs) > 0 and max(costs) > 20 * min(costs)
    return Chart(f"accuracy against {cost}", label, "accuracy", (line, dots), x_log=wide, percent=True)


def _over(runs: Sequence[Row], title: str, label: str, cost: Callable[[Row], float | None]) -> Chart:
    series = []
    for place, run in enumerate(runs):
        costs = [cost(row) for row in run["epochs"]]
        if None in costs:
            continue
        column = "val_accuracy" if run["epochs"][0]["val_accuracy"] is not None else "train_accuracy"
        spent = tuple(accumulate(each or 0.0 for each in costs))
        colour, dashed = _look(place)
        values = tuple(row[column] for row in run["epochs"])
        series.append(Series(run["label"], spent, values, colour, dashed=dashed))
    return Chart(title, label, "accuracy", tuple(series), percent=True)


def _look(place: int) -> tuple[str, bool]:
    return COLOURS[place % len(COLOURS)], place >= len(COLOURS)


def _series(epochs: Sequence[Row], column: str, label: str, colour: str = "blue", dashed: bool = False) -> Series:
    x = tuple(float(row["epoch"]) for row in epochs)
    return Series(label, x, tuple(row[column] for row in epochs), colour, dashed=dashed)


def _validation(epochs: Sequence[Row], what: str) -> tuple[Series, ...]:
    if all(row[f"val_{what}"] is None for row in epochs):
        return ()
    return (_series(epochs, f"val_{what}", "validation", "orange"),)
