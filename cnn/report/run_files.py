"""The report that a run leaves in its own folder: the page, and beside it every number of the page."""

import json
from pathlib import Path

from cnn.backend import Backend
from cnn.report.run import read_run
from cnn.report.run_page import run_page
from cnn.report.run_report import describe_run, describe_runs, examine_run
from cnn.system.storage import write_atomically

PAGE, NUMBERS = "report.html", "report.json"


def write_report(folder: Path, backend: Backend, threads: int, data_dir: str | None = None) -> Path:
    """Writes both files of the finished run in `folder`; returns the page. Raises CnnError."""
    run = read_run(folder)
    found = describe_run(run)
    seen = examine_run(found, run, backend, threads, data_dir=data_dir)
    report = describe_runs([found])
    write_atomically(folder / NUMBERS, json.dumps(report, indent=2, allow_nan=False).encode())
    write_atomically(folder / PAGE, run_page(report, seen, NUMBERS).encode())
    return folder / PAGE
