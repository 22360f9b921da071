"""Runs code in a new interpreter, where nothing is loaded or chosen yet."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def python(code: str, *paths: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a new interpreter with warnings as errors; only the given CNN_ and MKL_ variables are set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CNN_", "MKL_"))}
    if paths:
        kept["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def printed(code: str, *paths: Path, **environment: str) -> str:
    """The output of the code, which must succeed."""
    result = python(code, *paths, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout
