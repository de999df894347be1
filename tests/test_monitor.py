"""ScoreMonitor: the stated rate of false alarms, the delay to detect a drift, and defects."""

import copy

import numpy as np
import pytest
from scipy.stats import binom, norm
from sklearn.exceptions import NotFittedError

import skanomaly
from skanomaly.model_selection import ScoreMonitor


@pytest.fixture(scope="module")
def monitor():
    return ScoreMonitor(false_alarm_rate=0.05).fit(np.random.default_rng(0).normal(size=40))


def started(monitor, reference):
    """The same monitor with other held-out scores, of which the limit does not depend."""
    fresh = copy.deepcopy(monitor)
    fresh.reference_ = np.sort(reference)
    return fresh


def plain_alarms(reference, scores, allowance, limit, sides=(1, -1)):
    """Page's test on ranks, as the textbook has it."""
    statistic, alarms = dict.fromkeys(sides, 0.0), []
    for i, score in enumerate(scores, start=1):
        n_higher = sum((r > score) + 0.5 * (r == score) for r in reference)
        rank = (2 * n_higher + 1) / (len(reference) + 1) - 1
        for sign in sides:
            statistic[sign] = max(0.0, statistic[sign] + sign * rank - allowance)
        worst = max(sides, key=statistic.get)
        if statistic[worst] >= limit:
            alarms.append((i, "lower" if worst == 1 else "higher"))
            statistic = dict.fromkeys(sides, 0.0)
    return alarms, statistic


@pytest.mark.parametrize("decimals", [12, 0])  # with and without ties
def test_alarms_are_those_of_a_plain_loop(monitor, decimals):
    rng = np.random.default_rng(1)
    reference = np.round(2 * rng.normal(size=40), decimals)
    scores = np.round(2 * rng.normal(size=300), decimals)
    scores[100:150] -= 3
    scores[200:250] += 3
    fresh = started(monitor, reference)
    n_alarms = sum(fresh.update(part) for part in np.split(scores, [0, 7, 120, 122, 290]))
    expected, statistic = plain_alarms(reference, scores, fresh.allowance_, fresh.limit_)
    assert fresh.alarms_ == expected
    assert {direction for _, direction in expected} == {"lower", "higher"}
    assert 1 < n_alarms <= len(expected) and fresh.n_seen_ == 300
    np.testing.assert_allclose(fresh.statistic_, [statistic[1], statistic[-1]], atol=1e-9)


@pytest.mark.parametrize(("defect_rate", "share"), [(0, 0), (0.05, 0.05), (0.05, 0)])
def test_false_alarms_are_as_rare_as_stated(defect_rate, share):
    """Over sets of held-out scores and of 1,000 further ones, up to the stated share of defects."""
    rng, n_runs, rate = np.random.default_rng(2), 1500, 0.05
    one = ScoreMonitor(false_alarm_rate=rate, defect_rate=defect_rate)
    one.fit(rng.normal(size=40))
    n_alarms = 0
    for _ in range(n_runs):
        scores = rng.normal(size=1000)
        scores[rng.uniform(size=1000) < share] = -50
        n_alarms += started(one, rng.normal(size=40)).update(scores)
    low, high = binom(n_runs, rate).interval(0.999)
    assert n_alarms <= high
    if share == defect_rate:  # with fewer defects than are allowed for, alarms are rarer
        assert n_alarms >= low


def test_drifts_are_found_in_both_directions_and_soon(monitor):
    rng = np.random.default_rng(3)
    reference = norm.ppf(np.arange(1, 41) / 41)
    for shift, direction in ((-1.5, "lower"), (1.5, "higher")):
        delays = []
        for _ in range(50):
            fresh = started(monitor, reference)
            assert fresh.update(shift + rng.normal(size=300))
            assert fresh.alarms_[0][1] == direction
            delays.append(fresh.alarms_[0][0])
        assert monitor.min_delay_ <= np.median(delays) < 30
    less = ScoreMonitor(alternative="less").fit(reference)
    assert not less.update(5 + rng.normal(size=500))
    assert less.update(rng.normal(size=500) - 5) and len(less.alarms_) > 1


def test_a_few_defects_are_no_drift_however_strange(monitor):
    scores = np.random.default_rng(4).normal(size=2000)
    scores[::25] = -1e9
    assert not started(monitor, norm.ppf(np.arange(1, 41) / 41)).update(scores)


def test_no_alarm_comes_before_the_least_delay(monitor):
    fresh = copy.deepcopy(monitor)
    assert not fresh.update(np.full(fresh.min_delay_ - 1, -1e9))
    assert fresh.update([-1e9])


def test_a_file_keeps_the_state(monitor, tmp_path):
    scores = np.random.default_rng(5).normal(size=400) - 0.7
    fresh = copy.deepcopy(monitor)
    fresh.update(scores[:33])
    skanomaly.dump(fresh, tmp_path / "monitor.skanomaly")
    again = skanomaly.load(tmp_path / "monitor.skanomaly")
    assert fresh.update(scores[33:]) and again.update(scores[33:])
    assert again.alarms_ == fresh.alarms_ and again.n_seen_ == 400
    np.testing.assert_array_equal(again.statistic_, fresh.statistic_)


def test_the_same_scores_give_the_same_limit(monitor):
    again = ScoreMonitor(false_alarm_rate=0.05).fit(np.arange(40)[::-1])
    assert (again.limit_, again.allowance_) == (monitor.limit_, monitor.allowance_)


def test_bad_input(monitor):
    with pytest.raises(ValueError, match="at least 10 good images, got 9"):
        ScoreMonitor().fit(np.arange(9))
    with pytest.raises(ValueError, match="NaN"):
        ScoreMonitor().fit([np.nan] * 10)
    with pytest.raises(ValueError, match="false_alarm_rate"):
        ScoreMonitor(false_alarm_rate=0).fit(np.arange(20))
    with pytest.raises(ValueError, match="expected a defect_rate that a drift can be told from"):
        ScoreMonitor(defect_rate=0.49).fit(np.arange(20))
    with pytest.raises(NotFittedError):
        ScoreMonitor().update([1])
    fresh = copy.deepcopy(monitor)
    with pytest.raises(ValueError, match="infinity"):
        fresh.update([0.0, np.inf])
    assert fresh.n_seen_ == 0 and not fresh.update([])
