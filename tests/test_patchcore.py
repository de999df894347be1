"""PatchCore against the paper's equations, written out."""

import numpy as np
import pytest
from oracles_features import locally_aware_patches, patchcore_scores

from skanomaly import FeatureMaps, PatchCore
from skanomaly.embedding import local_mean


def features(n=7, seed=0):
    rng = np.random.default_rng(seed)
    return FeatureMaps(
        {
            "fine": rng.normal(size=(n, 7, 5, 6)).astype(np.float32),
            "coarse": rng.normal(size=(n, 4, 3, 9)).astype(np.float32),
        }
    )


def patches_of(X, size=3):
    """(n, p, D) by the slow way."""
    arrays = X.arrays()
    images = [{k: v[i] for k, v in arrays.items()} for i in range(len(X))]
    return np.stack([locally_aware_patches(image, size).reshape(35, 15) for image in images])


@pytest.mark.parametrize("size", [1, 3, 5])
def test_patches_are_locally_aware_and_joined(size):
    X = features()
    got = PatchCore(patch_size=size)._patches(X)
    np.testing.assert_allclose(got.reshape(7, 35, 15), patches_of(X, size), atol=1e-5)


def test_a_local_mean_wider_than_the_map():
    maps = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    np.testing.assert_allclose(local_mean(maps, 7), np.full((1, 2, 3, 1), 15 / 49), rtol=1e-6)


@pytest.mark.parametrize("n_neighbors", [1, 3])
@pytest.mark.parametrize("n_reweight", [0, 1, 9])
@pytest.mark.parametrize("ratio", [0.15, 1.0])
def test_scores_follow_equations_6_and_7(n_neighbors, n_reweight, ratio):
    detector = PatchCore(
        coreset_ratio=ratio, n_neighbors=n_neighbors, n_reweight=n_reweight, sigma=0, random_state=0
    ).fit(features())
    X = features(4, seed=1)
    maps, scores = detector.score_map(X), -detector.score_samples(X)
    for i, patches in enumerate(patches_of(X)):
        expected_map, expected = patchcore_scores(
            patches, detector.memory_bank_.astype(np.float64), n_neighbors, n_reweight
        )
        np.testing.assert_allclose(maps[i].ravel(), expected_map, rtol=1e-4)
        np.testing.assert_allclose(scores[i], expected, rtol=1e-4)


def test_the_bank_holds_patches_of_the_good_images_in_greedy_order():
    X = features()
    patches = patches_of(X).reshape(-1, 15)
    bank = PatchCore(coreset_ratio=0.2, random_state=0).fit(X).memory_bank_
    assert bank.shape == (49, 15)
    gaps = np.linalg.norm(patches[:, None] - bank[None].astype(np.float64), axis=2)  # (245, 49)
    np.testing.assert_allclose(gaps.min(axis=0), 0, atol=1e-4)
    # Greedy: each row is the patch farthest from the rows before it (no projection at 15 columns).
    for i in (1, 2, 17, 48):
        nearest = gaps[:, :i].min(axis=1)
        np.testing.assert_allclose(nearest[gaps[:, i].argmin()], nearest.max(), rtol=1e-4)


def test_a_smaller_bank_is_the_beginning_of_a_larger_one():
    small, large = (
        PatchCore(coreset_ratio=ratio, random_state=0).fit(features()).memory_bank_
        for ratio in (0.1, 0.5)
    )
    assert np.array_equal(large[: len(small)], small)


def test_an_image_of_the_bank_itself_scores_nothing():
    X = features()
    scores = PatchCore(coreset_ratio=1.0, random_state=0).fit(X).score_samples(X)
    np.testing.assert_allclose(scores, 0, atol=1e-5)


def test_a_rare_neighbour_weighs_more():
    """Eq. 7 by hand, one patch an image: far from a lonely bank row, and from a crowded one."""
    crowd = np.zeros((9, 2)) + np.arange(9)[:, None] * 1e-3
    bank = np.vstack([crowd, [[100.0, 0.0]]])
    detector = PatchCore(coreset_ratio=1.0, n_reweight=3, random_state=0).fit(bank)
    crowded, lonely = -detector.score_samples(np.array([[0.0, -2.0], [100.0, -2.0]]))
    np.testing.assert_allclose(crowded, 2 * (1 - 1 / 3), rtol=1e-2)
    np.testing.assert_allclose(lonely, 2, rtol=1e-6)


def test_more_neighbours_than_the_bank_has_rows():
    with pytest.raises(ValueError, match="n_neighbors"):
        PatchCore(coreset_ratio=0.01, n_neighbors=50).fit(features())


def test_approximate_neighbours_are_close_to_exact_ones():
    X = FeatureMaps({"only": np.random.default_rng(0).normal(size=(60, 4, 4, 3)) * [9, 3, 1]})
    train, test = X[:50], X[50:]
    exact, approximate = (
        PatchCore(coreset_ratio=1.0, neighbors=kind, sigma=0, patch_size=1, random_state=0)
        .fit(train)
        .score_map(test)
        for kind in ("exact", "pynndescent")
    )
    assert (approximate >= exact).all()  # it finds no nearer rows than there are
    assert (approximate == exact).mean() > 0.95


def test_working_memory_does_not_change_the_answer():
    X = features(6, seed=1)
    scores = [
        PatchCore(memory_limit=limit, random_state=0).fit(features()).score_samples(X)
        for limit in (None, "200KB")
    ]
    np.testing.assert_allclose(*scores, rtol=1e-6)


@pytest.mark.parametrize(
    "parameters",
    [{"patch_size": 4}, {"coreset_ratio": 0}, {"coreset_ratio": 1.5}, {"neighbors": "faiss"}],
    ids=str,
)
def test_bad_parameters_are_refused(parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        PatchCore(**parameters).fit(features())
