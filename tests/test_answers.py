"""Scores, score maps and picks on real images are those of version 0.1.0."""

import numpy as np
import pytest
from answers import CASES, TRAINED, rounds_alike, stored_answers, tolerance


@pytest.fixture(scope="module")
def stored():
    """Answers of version 0.1.0, {case: {name: array}}."""
    return stored_answers()


def test_every_case_is_stored(stored):
    assert list(stored) == [*CASES, "rounding"]


@pytest.mark.parametrize("case", CASES)
def test_answers_are_those_of_version_0_1_0(case, real_data, stored):
    if case in TRAINED and not rounds_alike(stored["rounding"]):
        pytest.skip("numbers are rounded differently here than where the answers were stored")
    answers = CASES[case](real_data)
    assert list(answers) == list(stored[case])
    for name, expected in stored[case].items():
        assert answers[name].shape == expected.shape, name
        np.testing.assert_allclose(answers[name], expected, err_msg=name, **tolerance(expected))
