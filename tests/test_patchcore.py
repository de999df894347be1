"""PatchCore against the paper's equations, written out."""

import pickle

import numpy as np
import pytest
from oracles_features import locally_aware_patches, patchcore_scores

from skanomaly import FeatureMaps, PatchCore
from skanomaly.detectors._memory_bank import bank_size
from skanomaly.embedding import local_mean


def features(n=7, seed=0):
    rng = np.random.default_rng(seed)
    return FeatureMaps(
        {
            "fine": rng.normal(size=(n, 7, 5, 6)).astype(np.float32),
            "coarse": rng.normal(size=(n, 4, 3, 9)).astype(np.float32),
        }
    )


PAPER = {"image_score": "paper", "balance_layers": False}


def patches_of(X, size=3):
    """(n, p, D) by the slow way."""
    arrays = X.arrays()
    images = [{k: v[i] for k, v in arrays.items()} for i in range(len(X))]
    return np.stack([locally_aware_patches(image, size).reshape(35, 15) for image in images])


@pytest.mark.parametrize("size", [1, 3, 5])
def test_patches_are_locally_aware_and_joined(size):
    X = features()
    got = PatchCore(patch_size=size, **PAPER).fit(X)._patches(X)
    np.testing.assert_allclose(got.reshape(7, 35, 15), patches_of(X, size), atol=1e-5)


def test_a_local_mean_wider_than_the_map():
    maps = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    np.testing.assert_allclose(local_mean(maps, 7), np.full((1, 2, 3, 1), 15 / 49), rtol=1e-6)


@pytest.mark.parametrize("n_neighbors", [1, 3])
@pytest.mark.parametrize("n_reweight", [0, 1, 9])
@pytest.mark.parametrize("ratio", [0.15, 1.0])
def test_scores_follow_equations_6_and_7(n_neighbors, n_reweight, ratio):
    detector = PatchCore(
        coreset_ratio=ratio,
        n_neighbors=n_neighbors,
        n_reweight=n_reweight,
        sigma=0,
        random_state=0,
        **PAPER,
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
    bank = PatchCore(coreset_ratio=0.2, random_state=0, **PAPER).fit(X).memory_bank_
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
    detector = PatchCore(coreset_ratio=1.0, n_reweight=3, random_state=0, **PAPER).fit(bank)
    crowded, lonely = -detector.score_samples(np.array([[0.0, -2.0], [100.0, -2.0]]))
    np.testing.assert_allclose(crowded, 2 * (1 - 1 / 3), rtol=1e-2)
    np.testing.assert_allclose(lonely, 2, rtol=1e-6)


def test_balanced_layers_have_one_mean_variance():
    """The scores are those of features that were scaled by hand, whatever their units."""
    X, test = features(), features(4, seed=1)
    arrays = X.arrays()
    roots = {name: np.sqrt(maps.var(axis=(0, 1, 2)).mean()) for name, maps in arrays.items()}
    first = next(iter(roots.values()))
    by_hand = {name: first / root for name, root in roots.items()}

    def scaled(maps, factors):
        layers = {name: one * factors[name] for name, one in maps.arrays().items()}
        return FeatureMaps(layers, maps.frames, maps.image_fit)

    options = {"coreset_ratio": 0.5, "sigma": 0, "random_state": 0}
    expected = PatchCore(balance_layers=False, **options).fit(scaled(X, by_hand))
    expected = expected.score_map(scaled(test, by_hand))
    units = {name: 10.0**i for i, name in enumerate(arrays)}
    found = PatchCore(**options).fit(scaled(X, units)).score_map(scaled(test, units))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_constant_layer_keeps_its_scale():
    maps = np.random.default_rng(0).normal(size=(5, 4, 4, 3))
    X = FeatureMaps({"one": maps, "constant": np.ones((5, 2, 2, 2))})
    assert PatchCore(random_state=0).fit(X).layer_scales_ == {"one": 1.0, "constant": 1.0}


@pytest.mark.parametrize(
    ("ratio", "n_patches", "n_rows"),
    [("auto", 784, 78), ("auto", 50_000, 5_000), ("auto", 10**6, 5_000), ("auto", 3, 1),
     (0.02, 10**6, 20_000), (1.0, 10, 10), (0.001, 10, 1)],
)  # fmt: skip
def test_rows_of_a_bank(ratio, n_patches, n_rows):
    assert bank_size(ratio, n_patches) == n_rows


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


@pytest.mark.parametrize("image_score", ["paper", "map_max"])
def test_a_bank_in_half_precision_has_the_same_rows_rounded(image_score):
    X = np.random.default_rng(0).normal(size=(12, 5, 4, 8)).astype(np.float32)
    settings = {"coreset_ratio": 0.3, "image_score": image_score, "random_state": 0}
    whole = PatchCore(**settings).fit(X[:9])
    half = PatchCore(memory_dtype="float16", **settings).fit(X[:9])
    assert half.memory_bank_.dtype == np.float16
    np.testing.assert_array_equal(half.memory_bank_, whole.memory_bank_.astype(np.float16))
    np.testing.assert_array_equal(half.memory_origin_, whole.memory_origin_)
    np.testing.assert_allclose(half.score_samples(X), whole.score_samples(X), rtol=2e-3, atol=2e-3)
    n_saved = len(pickle.dumps(whole)) - len(pickle.dumps(half))
    assert n_saved == pytest.approx(half.memory_bank_.nbytes, abs=30)  # names of dtypes
    n_rows = len(half.memory_bank_)
    half.partial_fit(X[9:])
    assert half.memory_bank_.dtype == np.float16 and len(half.memory_bank_) > n_rows


def test_features_beyond_half_precision_are_refused():
    X = 1e5 * np.random.default_rng(0).normal(size=(4, 3, 3, 2)).astype(np.float32)
    with pytest.raises(ValueError, match=r"that float16 can hold, up to 65504.*float32"):
        PatchCore(memory_dtype="float16", random_state=0).fit(X)
