"""Greedy coreset: the order of the plain loop, whatever the data, the threads and the batches."""

import subprocess
import sys
import threading

import numba
import numpy as np
import pytest
from oracles_coreset import covering_radius, sequential_greedy, sequential_greedy_float64
from sklearn.random_projection import GaussianRandomProjection

from skanomaly.coreset import (
    RandomProjection,
    _bounds,
    _greedy_kernels,
    greedy_coreset,
    greedy_order,
)
from skanomaly.coreset._greedy_torch import greedy_order_torch


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def short_rounds(monkeypatch):
    """Many rounds on few rows."""
    monkeypatch.setattr(_bounds, "_ROUND_ROWS", 50)
    monkeypatch.setattr(_bounds, "_ROUND_PICKS", 7)


def _clusters(rng):
    centers = 10 * rng.normal(size=(7, 1, 40))
    return (centers + rng.normal(size=(7, 89, 40))).reshape(-1, 40)


DATA = {
    "clusters": _clusters,
    "gaussian": lambda rng: rng.normal(size=(601, 130)),
    "integer grid with ties": lambda rng: rng.integers(0, 3, size=(613, 4)),
    "all equal": lambda rng: np.full((307, 5), 0.3),
    "every row four times": lambda rng: np.repeat(rng.normal(size=(151, 24)), 4, axis=0),
    "offset 1e3": lambda rng: 1e3 + rng.normal(size=(601, 30)),
    "offset 1e4": lambda rng: 1e4 + _clusters(rng),
    "one far outlier": lambda rng: np.vstack([rng.normal(size=(500, 30)), np.full((1, 30), 1e6)]),
    "a tiny cluster far out": lambda rng: np.vstack(
        [rng.normal(size=(300, 30)), 50 + 1e-4 * rng.normal(size=(301, 30))]
    ),
    "large unit": lambda rng: 1e14 * rng.normal(size=(301, 30)),
    "small unit": lambda rng: 1e-14 * rng.normal(size=(301, 30)),
    "fewer than a block": lambda rng: rng.normal(size=(13, 30)),
    "one row": lambda rng: np.ones((1, 7)),
    "one column": lambda rng: rng.normal(size=(501, 1)),
    "as many axes as columns": lambda rng: rng.normal(size=(501, _greedy_kernels.N_SHORT - 1)),
}


@pytest.fixture(params=DATA)
def rows(request, rng):
    return DATA[request.param](rng).astype(np.float32)


@pytest.mark.parametrize("part", [0.3, 1.0])
def test_order_is_that_of_the_plain_loop(rows, part, short_rounds):
    start = len(rows) // 2
    picks = greedy_order(rows, part, start)
    assert picks.dtype == np.int64
    np.testing.assert_array_equal(picks, sequential_greedy(rows, len(picks), start))


def test_order_in_long_rounds(rng):
    """With the real round size, which the other tests make small."""
    rows = rng.normal(size=(_bounds._ROUND_ROWS + 501, 9)).astype(np.float32)
    picks = greedy_order(rows, 300, 5)
    np.testing.assert_array_equal(picks, sequential_greedy_float64(rows, 300, 5))


def test_worked_by_hand():
    rows = [[0.0, 0.0], [3.0, 4.0], [6.0, 8.0], [1.0, 0.0], [6.0, 8.0]]
    assert greedy_coreset(rows, 1.0, start=0).tolist() == [0, 2, 1, 3, 4]


def test_duplicates_follow_by_index():
    picks = greedy_coreset(np.zeros((20, 3)), 20, start=7)
    assert picks.tolist() == [7, *(p for p in range(20) if p != 7)]


@pytest.mark.parametrize("offset", [0, 1e3, 1e4, 1e7])
@pytest.mark.parametrize("n_projections", [None, 16])
def test_an_offset_does_not_cost_digits(rng, offset, n_projections):
    X = np.round(rng.normal(size=(301, 40)), 6)  # float64
    settings = {"n_projections": n_projections, "random_state": 0}
    expected = greedy_coreset(X, 60, **settings)
    np.testing.assert_array_equal(greedy_coreset(X + offset, 60, **settings), expected)


@pytest.mark.parametrize("n_jobs", [1, 2, 3, None])
def test_threads_do_not_change_the_picks(rng, n_jobs, short_rounds):
    X = _clusters(rng)
    before = numba.get_num_threads()
    picks = greedy_coreset(X, 200, random_state=0, n_jobs=n_jobs)
    np.testing.assert_array_equal(picks, greedy_coreset(X, 200, random_state=0, n_jobs=1))
    assert numba.get_num_threads() == before


@pytest.mark.parametrize("n_projections", [None, 8, 40, 128])
def test_prefix_is_the_coreset_of_a_smaller_size(rng, n_projections):
    X = _clusters(rng)
    settings = {"n_projections": n_projections, "random_state": 3}
    picks = greedy_coreset(X, len(X), **settings)
    assert sorted(picks) == list(range(len(X)))
    for n_samples in (1, 2, 101, 300):
        np.testing.assert_array_equal(greedy_coreset(X, n_samples, **settings), picks[:n_samples])


def test_ratio_or_size(rng):
    X = rng.normal(size=(203, 5))
    assert len(greedy_coreset(X, 0.1)) == 20
    assert len(greedy_coreset(X, 1e-9)) == 1
    assert len(greedy_coreset(X, 1)) == len(greedy_coreset(X, np.int32(1))) == 1
    assert len(greedy_coreset(X, 1.0)) == len(greedy_coreset(X, np.float32(1))) == 203


def test_random_state_decides_projection_and_start(rng):
    X = rng.normal(size=(203, 50))
    first = greedy_coreset(X, 20, n_projections=10, random_state=0)
    again = greedy_coreset(X, 20, n_projections=10, random_state=np.random.RandomState(0))
    np.testing.assert_array_equal(first, again)
    starts = {greedy_coreset(X, 1, random_state=seed)[0] for seed in range(10)}
    assert len(starts) > 5


@pytest.mark.parametrize("radius", [0, 1.5, 4.0, 1e30])
def test_radius(rng, radius, short_rounds):
    rows = np.repeat(rng.normal(size=(101, 6)), 2, axis=0).astype(np.float32)
    picks = greedy_order(rows, 1.0, 0, radius=radius)
    np.testing.assert_array_equal(picks, sequential_greedy(rows, len(rows), 0, radius=radius))
    assert covering_radius(rows, picks) <= radius * (1 + 1e-6)
    assert len(picks) == 1 or covering_radius(rows, picks[:-1]) > radius


def test_radius_or_size_whichever_comes_first(rng):
    rows = rng.normal(size=(101, 6))
    assert len(greedy_order(rows, 5, 0, radius=1e-3)) == 5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [1, 7, 300, 601])
def test_projection_in_a_stream(rng, batch, dtype):
    X = (1e3 + rng.normal(size=(601, 60))).astype(dtype)
    seeds = np.random.RandomState(0)
    projection = RandomProjection(16, random_state=seeds).fit(60, origin=X[0])
    Z = np.vstack([projection.transform(X[i : i + batch]) for i in range(0, len(X), batch)])
    np.testing.assert_array_equal(Z, projection.transform(X))
    picks = greedy_order(Z, 100, random_state=seeds)
    expected = greedy_coreset(X, 100, n_projections=16, random_state=0)
    np.testing.assert_array_equal(picks, expected)


def test_projection_is_that_of_sklearn(rng):
    X = rng.normal(size=(50, 200))
    Z = RandomProjection(20, random_state=5).fit(200).transform(X)
    assert Z.dtype == np.float32
    expected = GaussianRandomProjection(20, random_state=5).fit_transform(X)
    np.testing.assert_allclose(Z, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_projections", [None, 9, 128])
def test_few_columns_are_not_projected(rng, n_projections):
    X = rng.normal(size=(50, 9)).astype(np.float32)
    projection = RandomProjection(n_projections).fit(9)
    assert projection.components_ is None
    np.testing.assert_array_equal(projection.transform(X), X)


def test_projection_keeps_distances(rng):
    X = rng.normal(size=(30, 2000))
    Z = RandomProjection(512, random_state=0).fit(2000).transform(X)
    ratio = np.linalg.norm(Z[1:] - Z[:-1], axis=1) / np.linalg.norm(X[1:] - X[:-1], axis=1)
    assert 0.9 < ratio.min() and ratio.max() < 1.1


@pytest.mark.parametrize("radius", [None, 9.0])
def test_torch_takes_the_same_rows(rng, radius):
    rows = _clusters(rng).astype(np.float32)
    floor = 0 if radius is None else radius**2
    reports = []
    picks, _ = greedy_order_torch(rows, 401, 3, floor, "cpu", reports.append)
    np.testing.assert_array_equal(picks, greedy_order(rows, 401, 3, radius=radius))
    assert reports[0] == 256


def test_device_without_a_gpu(rng, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    X = rng.normal(size=(101, 4))
    expected = greedy_coreset(X, 20, random_state=0)
    picks = greedy_coreset(X, 20, random_state=0, device="auto")
    np.testing.assert_array_equal(picks, expected)
    with pytest.raises(ValueError, match='take "auto" or "cpu"'):
        greedy_coreset(X, 20, device="cuda")


def test_torch_stops_at_duplicates():
    rows = np.repeat(np.arange(5, dtype=np.float32), 4)[:, None]
    picks, _ = greedy_order_torch(rows, 20, 0, 0, "cpu", lambda n_picks: None)
    assert rows[picks, 0].tolist() == [0, 4, 2, 1, 3]


def test_interrupted_between_rounds(rng, monkeypatch, short_rounds):
    X = _clusters(rng)
    expected = greedy_coreset(X, 200, random_state=0, n_jobs=2)
    threads = threading.active_count()
    candidates = _bounds.BoundedSelection.candidates

    def press_ctrl_c(selection, floor):
        if selection.n_picks > 50:
            raise KeyboardInterrupt
        return candidates(selection, floor)

    with monkeypatch.context() as patch:
        patch.setattr(_bounds.BoundedSelection, "candidates", press_ctrl_c)
        for _ in range(10):
            with pytest.raises(KeyboardInterrupt):
                greedy_coreset(X, 200, random_state=0, n_jobs=2)
    assert threading.active_count() <= threads + 1  # one that helps lasts
    np.testing.assert_array_equal(greedy_coreset(X, 200, random_state=0, n_jobs=2), expected)


def test_progress_goes_to_stderr_when_asked(rng, capsys):
    X = rng.normal(size=(50, 4))
    greedy_coreset(X, 20, random_state=0)
    assert capsys.readouterr().err == ""
    greedy_coreset(X, 20, random_state=0, verbose=1)
    assert "20/20" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("X", "settings", "message"),
    [
        (np.ones(5), {}, "Expected 2D array"),
        (np.ones((0, 5)), {}, "0 sample"),
        (np.array([[1.0, np.nan]]), {}, "NaN"),
        (np.array([[1.0, np.inf]]), {}, "infinity"),
        (np.array([["a"]]), {}, "could not convert"),
        (np.array([[1e20], [0.0]]), {}, "Scale the rows"),
        (np.array([[1e-20], [0.0]]), {}, "Scale the rows"),
        (np.ones((5, 2)), {"n_samples": 0}, "between 1 and the number of rows, 5"),
        (np.ones((5, 2)), {"n_samples": 6}, "got 6"),
        (np.ones((5, 2)), {"n_samples": 0.0}, "got 0.0"),
        (np.ones((5, 2)), {"n_samples": 1.5}, "got 1.5"),
        (np.ones((5, 2)), {"n_samples": True}, "got True"),
        (np.ones((5, 2)), {"n_samples": None}, "got None"),
        (np.ones((5, 2)), {"n_projections": 0}, "n_projections must be"),
        (np.ones((5, 2)), {"radius": -1}, "radius must be"),
        (np.ones((5, 2)), {"radius": np.nan}, "radius must be"),
        (np.ones((5, 2)), {"start": 5}, "row from 0 to 4, got 5"),
        (np.ones((5, 2)), {"start": -1}, "row from 0 to 4, got -1"),
        (np.ones((5, 2)), {"n_jobs": 0}, "n_jobs must be"),
        (np.ones((5, 2)), {"device": "tpu"}, "device must be"),
    ],
)
def test_errors(X, settings, message):
    with pytest.raises(ValueError, match=message):
        greedy_coreset(X, **{"n_samples": 1, **settings})


def test_projection_refuses_other_columns():
    with pytest.raises(ValueError, match="rows of 5 columns, got 4"):
        RandomProjection(2).fit(5).transform(np.ones((3, 4)))
    with pytest.raises(ValueError, match="n_features must be"):
        RandomProjection(2).fit(0)


def test_package_loads_without_numba():
    code = "import sys, skanomaly; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
