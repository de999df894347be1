"""Every example runs, in an interpreter of its own, without a display."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("plot_*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_example_runs(path, tmp_path):
    environment = {"MPLBACKEND": "Agg", "PATH": "", "HOME": str(tmp_path)}
    answer = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:skanomaly", path],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
