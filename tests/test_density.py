"""PositionwiseGaussian against loops over positions, in both forms, in pieces and at once."""

import copy
import io
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose
from oracles_density import distances, gaussians

from skanomaly.density import PositionwiseGaussian

GRID = (5, 3)


def vectors(n, d, seed=0, grid=GRID):
    """(n, h, w, d) float32: correlated numbers of various size, of another kind at each place."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(*grid, d, d)) / np.sqrt(d)
    scale = np.geomspace(0.3, 3, d)
    maps = np.einsum("nhwd,hwde->nhwe", rng.normal(size=(n, *grid, d)), mixing) * scale
    return (maps + np.linspace(-2, 5, d)).astype(np.float32)


def in_pieces(gaussian, maps, edges):
    for piece in np.split(maps, edges):
        gaussian.partial_fit(piece)
    return gaussian


def test_three_points_in_the_plane():
    # At the left the points (0, 0), (2, 0), (1, 3): mean (1, 1), variances 1 and 3, no covariance.
    # At the right the same, ten times larger.
    points = np.array([[0, 0], [2, 0], [1, 3]], np.float32)
    maps = np.stack([points, 10 * points], axis=1)[:, None]  # (3, 1, 2, 2)
    gaussian = PositionwiseGaussian(epsilon=1).fit(maps)
    assert_allclose(gaussian.mean_, [[[1, 1], [10, 10]]])
    assert_allclose(gaussian.covariance(0, 0), [[2, 0], [0, 4]], atol=1e-6)
    assert_allclose(gaussian.covariance(0, 1), [[101, 0], [0, 301]], atol=1e-4)
    query = np.array([[[[3, 5], [10, 10]]]])
    assert_allclose(gaussian.mahalanobis(query), [[[np.sqrt(4 / 2 + 16 / 4), 0]]], rtol=1e-6)


@pytest.mark.parametrize("shrinkage", [None, "ledoit_wolf"])
@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize(("n", "d"), [(50, 37), (11, 70), (23, 1), (2, 5)])
def test_both_forms_are_those_of_the_loops(n, d, low_rank, shrinkage):
    maps, queries = vectors(n, d), vectors(7, d, seed=1)
    means, covariances = gaussians(maps, 0.01, shrinkage)
    gaussian = PositionwiseGaussian(shrinkage=shrinkage, low_rank=low_rank).fit(maps)
    assert gaussian.form_ == ("low_rank" if low_rank else "dense")
    assert_allclose(gaussian.mean_, means, rtol=1e-5, atol=1e-6)
    for place in np.ndindex(GRID):
        expected = covariances[place]
        difference = np.linalg.norm(gaussian.covariance(*place) - expected)
        assert difference <= 1e-5 * np.linalg.norm(expected)
    for asked in (queries, maps):
        expected = distances(asked, means, covariances)
        assert_allclose(gaussian.mahalanobis(asked), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shrinkage", [None, "ledoit_wolf"])
@pytest.mark.parametrize("low_rank", ["auto", False, True])
@pytest.mark.parametrize("d", [9, 40, 200])  # auto: dense from the first, later, never
def test_pieces_make_the_whole(d, low_rank, shrinkage):
    maps, queries = vectors(47, d), vectors(6, d, seed=1)
    parameters = {"shrinkage": shrinkage, "low_rank": low_rank}
    once = PositionwiseGaussian(**parameters).fit(maps)
    pieces = in_pieces(PositionwiseGaussian(**parameters), maps, [1, 14, 19, 40])
    assert pieces.n_samples_seen_ == once.n_samples_seen_ == 47
    assert pieces.form_ == once.form_
    assert_allclose(pieces.mean_, once.mean_, rtol=1e-6, atol=1e-6)
    assert_allclose(pieces.mahalanobis(queries), once.mahalanobis(queries), rtol=1e-6)


@pytest.mark.parametrize("d", [9, 40, 200])
def test_learning_goes_on_after_distances_were_asked_for(d):
    maps, queries = vectors(47, d), vectors(6, d, seed=1)
    gaussian = PositionwiseGaussian()
    for piece in np.split(maps, [5, 14, 30]):
        gaussian.partial_fit(piece).mahalanobis(queries)
    once = PositionwiseGaussian().fit(maps)
    assert_allclose(gaussian.mahalanobis(queries), once.mahalanobis(queries), rtol=2e-6)


def test_a_far_first_batch_does_no_harm():
    maps, queries = vectors(60, 8), vectors(6, 8, seed=1)
    maps[:3] += 1000
    expected = distances(queries, *gaussians(maps, 0.01))
    gaussian = in_pieces(PositionwiseGaussian(), maps, [3, 30])
    assert_allclose(gaussian.mahalanobis(queries), expected, rtol=1e-5)


def test_the_form_is_chosen_by_the_number_of_vectors():
    maps, queries = vectors(30, 40), vectors(4, 40, seed=1)
    gaussian = PositionwiseGaussian().partial_fit(maps[:20])
    assert gaussian.form_ == "low_rank"
    dense = PositionwiseGaussian(low_rank=False).fit(maps[:20])
    assert_allclose(gaussian.mahalanobis(queries), dense.mahalanobis(queries), rtol=1e-4)
    gaussian.partial_fit(maps[20:])
    assert gaussian.form_ == "dense"
    dense.partial_fit(maps[20:])
    assert_allclose(gaussian.mahalanobis(queries), dense.mahalanobis(queries), rtol=1e-6)


def test_low_rank_holds_under_strong_directions():
    """A variance of 1e5 beside an epsilon of 0.01: what a difference would lose, a sum keeps."""
    maps, queries = vectors(15, 60), vectors(5, 60, seed=1)
    strong = np.random.default_rng(5).normal(size=(20, *GRID, 1)).astype(np.float32)
    maps[..., :1] += 300 * strong[:15]
    queries[..., :1] += 300 * strong[15:]
    expected = distances(queries, *gaussians(maps, 0.01))
    gaussian = PositionwiseGaussian().fit(maps)
    assert gaussian.form_ == "low_rank"
    assert_allclose(gaussian.mahalanobis(queries), expected, rtol=1e-4)


def test_low_rank_is_small():
    """44 vectors of 448 numbers: at most 15 % of one covariance in float32 per position."""
    d, maps = 448, vectors(44, 448, grid=(2, 1))
    low, dense = (PositionwiseGaussian(low_rank=form).fit(maps) for form in ("auto", False))
    queries = vectors(3, d, seed=1, grid=(2, 1))
    assert_allclose(low.mahalanobis(queries), dense.mahalanobis(queries), rtol=1e-4)
    assert low.form_ == "low_rank"
    assert len(pickle.dumps(low)) < 0.15 * 2 * d * d * 4 < 0.15 * len(pickle.dumps(dense))


def test_memory_does_not_grow_with_the_number_of_maps():
    few, many = (PositionwiseGaussian().fit(vectors(n, 20)) for n in (30, 300))
    queries = vectors(2, 20, seed=1)
    few.mahalanobis(queries)
    many.mahalanobis(queries)
    assert abs(len(pickle.dumps(few)) - len(pickle.dumps(many))) < 100


def test_epsilon_can_be_raised_after_a_refusal():
    maps = vectors(6, 20)
    maps[:, 4] = 1  # positions without variance, which shrinkage cannot mend
    for low_rank in (True, False):
        gaussian = PositionwiseGaussian(epsilon=0, shrinkage="ledoit_wolf", low_rank=low_rank)
        with pytest.raises(ValueError, match="epsilon > 0"):
            gaussian.fit(maps).mahalanobis(maps)
        gaussian.epsilon = 0.01
        expected = distances(maps, *gaussians(maps, 0.01, "ledoit_wolf"))
        assert_allclose(gaussian.mahalanobis(maps), expected, rtol=1e-5, atol=1e-6)


def test_ledoit_and_wolf_need_no_epsilon():
    maps, queries = vectors(6, 10), vectors(4, 10, seed=1)
    expected = distances(queries, *gaussians(maps, 0, "ledoit_wolf"))
    for low_rank in (True, False):
        gaussian = PositionwiseGaussian(epsilon=0, shrinkage="ledoit_wolf", low_rank=low_rank)
        assert_allclose(gaussian.fit(maps).mahalanobis(queries), expected, rtol=1e-5)


def test_shrunk_to_the_identity_alone():
    """Two vectors: Ledoit and Wolf may leave nothing of the scatter."""
    maps = np.array([[0.0, 0, 0, 3], [0, 4, 0, 0]], np.float32).reshape(2, 1, 1, 4)
    expected = distances(3 * maps, *gaussians(maps, 0.01, "ledoit_wolf"))
    for low_rank in (True, False):
        gaussian = PositionwiseGaussian(shrinkage="ledoit_wolf", low_rank=low_rank).fit(maps)
        assert_allclose(gaussian.mahalanobis(3 * maps), expected, rtol=1e-5)


@pytest.mark.parametrize("d", [7, 40, 131])
def test_a_map_does_not_depend_on_the_others_in_the_call(d):
    gaussian = PositionwiseGaussian().fit(vectors(30, d))
    maps = vectors(9, d, seed=1)
    together = gaussian.mahalanobis(maps)
    alone = np.concatenate([gaussian.mahalanobis(one[None]) for one in maps])
    assert np.array_equal(alone, together)


def test_positions_that_never_vary():
    maps = vectors(12, 5)
    maps[:, 1] = 3
    expected = distances(maps + 1, *gaussians(maps, 0.01))
    assert_allclose(PositionwiseGaussian().fit(maps).mahalanobis(maps + 1), expected, rtol=1e-5)


def test_any_layout_is_taken_and_left_alone():
    maps = vectors(30, 6)
    expected = PositionwiseGaussian().fit(maps).mahalanobis(maps)
    other = np.asfortranarray(maps.astype(np.float64))
    other.flags.writeable = False
    gaussian = PositionwiseGaussian().fit(other)
    assert_allclose(gaussian.mahalanobis(other), expected, rtol=1e-6)
    low, rows = PositionwiseGaussian(low_rank=True), maps.copy()
    low.fit(rows).mahalanobis(rows)
    assert np.array_equal(rows, maps)


@pytest.mark.parametrize("d", [6, 90])
def test_what_cannot_be_updated_is_smaller_and_says_so(d):
    maps = vectors(30, d)
    whole, closed = (PositionwiseGaussian(updatable=u).fit(maps) for u in (True, False))
    assert np.array_equal(whole.mahalanobis(maps), closed.mahalanobis(maps))
    if closed.form_ == "dense":
        assert len(pickle.dumps(closed)) < 0.6 * len(pickle.dumps(whole))
    with pytest.raises(ValueError, match="updatable=True"):
        closed.partial_fit(maps)
    other = vectors(30, d, seed=3)
    assert np.array_equal(
        closed.fit(other).mahalanobis(maps),
        PositionwiseGaussian().fit(other).mahalanobis(maps),
    )


def test_fit_forgets():
    maps = vectors(30, 6)
    gaussian = PositionwiseGaussian().fit(vectors(20, 9, grid=(2, 2)))
    expected = PositionwiseGaussian().fit(maps).mahalanobis(maps)
    assert np.array_equal(gaussian.fit(maps).mahalanobis(maps), expected)


def test_a_gaussian_is_pickled():
    maps = vectors(30, 70)
    for low_rank in (True, False):
        gaussian = PositionwiseGaussian(low_rank=low_rank).fit(maps)
        again = pickle.loads(pickle.dumps(gaussian))
        assert np.array_equal(again.mahalanobis(maps), gaussian.mahalanobis(maps))


def as_file(state):
    """The state as read from a file: copies, numbers as arrays."""
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    return dict(np.load(file, allow_pickle=False))


@pytest.mark.parametrize("updatable", [True, False])
@pytest.mark.parametrize("low_rank", ["auto", True, False])
@pytest.mark.parametrize("shrinkage", [None, "ledoit_wolf"])
@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize("d", [7, 70])  # auto: dense, low-rank
def test_state_restores_a_gaussian_exactly(d, is_finished, shrinkage, low_rank, updatable):
    maps, queries = vectors(30, d), vectors(5, d, seed=1)
    gaussian = in_pieces(
        PositionwiseGaussian(
            epsilon=0.02, shrinkage=shrinkage, low_rank=low_rank, updatable=updatable
        ),
        maps,
        [4, 13],
    )
    if is_finished:
        gaussian.finish()
    state = gaussian.get_state()
    assert all(isinstance(value, np.ndarray | float | int) for value in state.values())
    restored = PositionwiseGaussian.from_state(as_file(state))
    assert vars(restored).keys() == vars(gaussian).keys()
    for name in ("epsilon", "shrinkage", "low_rank", "updatable", "n_samples_seen_", "form_"):
        assert getattr(restored, name) == getattr(gaussian, name)
    if not is_finished or updatable:
        further = vectors(9, d, seed=2)
        learned_on = [copy.deepcopy(g).partial_fit(further) for g in (restored, gaussian)]
        np.testing.assert_array_equal(*(g.mahalanobis(queries) for g in learned_on))
        np.testing.assert_array_equal(*(g.covariance(2, 1) for g in learned_on))
    np.testing.assert_array_equal(restored.mahalanobis(queries), gaussian.mahalanobis(queries))
    np.testing.assert_array_equal(restored.mean_, gaussian.mean_)
    if not updatable:
        with pytest.raises(ValueError, match="updatable=True"):
            restored.partial_fit(maps)


def test_an_incomplete_state_is_refused():
    state = PositionwiseGaussian().fit(vectors(9, 3)).get_state()
    for name in ("epsilon", "origin", "n", "shape"):
        with pytest.raises(ValueError, match=f"without '{name}'"):
            PositionwiseGaussian.from_state({key: state[key] for key in state if key != name})
    with pytest.raises(ValueError, match="call fit or partial_fit"):
        PositionwiseGaussian().get_state()


@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize(
    "bad",
    [vectors(4, 8), vectors(4, 9)[:, 1:], vectors(4, 9)[0], np.full((4, *GRID, 9), np.nan)],
    ids=["channels", "grid", "one map", "nan"],
)
def test_a_refused_fit_changes_nothing(bad, low_rank):
    maps = vectors(20, 9)
    gaussian = PositionwiseGaussian(low_rank=low_rank).fit(maps)
    for _ in range(2):  # before the factors are computed, and after
        before = copy.deepcopy(gaussian.get_state())
        with pytest.raises(ValueError):
            gaussian.partial_fit(bad)
        if bad.ndim < 4 or np.isnan(bad).any():
            with pytest.raises(ValueError):
                gaussian.fit(bad)
        gaussian.epsilon = -1
        for call in (gaussian.fit, gaussian.partial_fit):
            with pytest.raises(ValueError, match="epsilon"):
                call(maps)
        gaussian.epsilon = 0.01
        np.testing.assert_equal(gaussian.get_state(), before)
        gaussian.finish()


@pytest.mark.parametrize("low_rank", [True, False])
def test_a_closed_gaussian_that_is_asked_to_learn_is_unharmed(low_rank):
    maps = vectors(20, 9)
    gaussian = PositionwiseGaussian(low_rank=low_rank, updatable=False).fit(maps).finish()
    before = copy.deepcopy(gaussian.get_state())
    with pytest.raises(ValueError, match="updatable=True"):
        gaussian.partial_fit(maps)
    np.testing.assert_equal(gaussian.get_state(), before)


def test_fitted_state_ends_in_an_underscore():
    gaussian = PositionwiseGaussian()
    parameters = set(vars(gaussian))
    gaussian.fit(vectors(9, 3)).mahalanobis(vectors(9, 3))
    assert set(vars(gaussian)) - parameters == {"covariances_", "shape_"}


@pytest.mark.parametrize(
    ("parameters", "maps", "message"),
    [
        ({"epsilon": -1}, vectors(9, 3), "epsilon"),
        ({"epsilon": np.nan}, vectors(9, 3), "epsilon"),
        ({"shrinkage": "oas"}, vectors(9, 3), "shrinkage"),
        ({"low_rank": "no"}, vectors(9, 3), "low_rank"),
        ({}, vectors(9, 3)[0], r"\(b, h, w, d\), got shape \(5, 3, 3\)"),
        ({}, vectors(9, 3)[:0], "got shape"),
        ({}, np.full((4, 2, 2, 3), np.nan), "NaN"),
        ({}, vectors(1, 3), "at least 2 vectors per position"),
        ({"epsilon": 0}, vectors(3, 8), "epsilon > 0"),
        ({"epsilon": 0, "low_rank": False}, vectors(8, 8), "epsilon > 0"),
        ({"epsilon": 0}, np.ones((9, 2, 2, 3)), "epsilon > 0"),
    ],
)
def test_what_makes_no_gaussian_is_refused(parameters, maps, message):
    with pytest.raises(ValueError, match=message):
        PositionwiseGaussian(**parameters).fit(maps).mahalanobis(maps)


def test_maps_of_another_kind_are_refused():
    gaussian = PositionwiseGaussian()
    with pytest.raises(ValueError, match="call fit or partial_fit"):
        gaussian.mahalanobis(vectors(2, 3))
    gaussian.fit(vectors(9, 3))
    for call in (gaussian.partial_fit, gaussian.mahalanobis):
        with pytest.raises(ValueError, match=r"\(5, 3, 3\).*got \(2, 5, 3, 4\)"):
            call(vectors(2, 4))
        with pytest.raises(ValueError, match="NaN"):
            call(np.full((2, *GRID, 3), np.inf))
    expected = PositionwiseGaussian().fit(vectors(9, 3)).mahalanobis(vectors(9, 3))
    assert np.array_equal(gaussian.mahalanobis(vectors(9, 3)), expected)  # unharmed
