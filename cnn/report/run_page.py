"""The page of one run, and of several."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import cnn
from cnn.report.html import render
from cnn.report.run_charts import calibration_chart, run_charts, runs_charts
from cnn.report.run_report import Seen


def made_now() -> str:
    """The time of day, for a page."""
    return datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")


def run_page(report: Mapping[str, Any], seen: Seen | None = None, others: str = "") -> str:
    """The page of what `describe_runs` found; `seen` are the pictures of the only run, `others` files beside it."""
    about = {"made": made_now(), "version": cnn.__version__, "others": others}
    runs = report["runs"]
    if len(runs) > 1:
        without: dict[str, list[str]] = {}
        for run in runs:
            if run["joules"] is None:
                without.setdefault(run["energy_source"], []).append(run["label"])
        reasons = [f"No joules are known of {', '.join(names)}: {reason}." for reason, names in without.items()]
        return render(
            "runs", title=f"{len(runs)} runs", report=report, charts=runs_charts(runs), reasons=reasons, **about
        )
    (run,) = runs
    calibration = calibration_chart(run["test"]["calibration"]) if run["test"] else None
    return render(
        "run",
        title=f"{run['model']} on {run['dataset']}",
        run=run,
        seen=seen or Seen(),
        charts=run_charts(run["epochs"], run["best_epoch"]),
        calibration=calibration,
        **about,
    )
