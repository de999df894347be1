"""No changed detector file loads as something else, or raises what is not ours."""

import os

from fuzz.detector_files import run

N = int(os.environ.get("SKANOMALY_FUZZ", 2000))


def test_changed_detector_files():
    counts = run(N, seed=0)
    assert counts.total() == N
    for (change, result), count in counts.items():
        # A hostile author may sign another description; it is then loaded as what it says.
        may_load = change == "change_description" and result == "loaded"
        assert result in ("refused", "the same") or may_load, (change, result, count)
    assert counts["change_bytes", "refused"] > 0.4 * N
    assert counts["change_description", "refused"] > 0.1 * N
