"""Files of all released formats load, and give the scores that they gave when they were written."""

import numpy as np
import pytest
from kept_files import DATA, detectors

import skanomaly
from skanomaly.io import FORMAT

FILES = sorted(DATA.glob("format_*/*.skanomaly"))


def test_files_of_the_present_format_are_kept():
    kept = {path.stem for path in FILES if path.parent.name == f"format_{FORMAT}"}
    assert kept == set(detectors())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_file_of_a_released_format(path):
    stored = np.load(path.parent / "scores.npz")
    # Other processors and libraries sum in another order.
    scores = skanomaly.load(path).score_samples(stored["images"])
    np.testing.assert_allclose(scores, stored[path.stem], rtol=1e-4)
