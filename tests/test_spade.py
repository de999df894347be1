"""SPADE against its definition, written out."""

import numpy as np
import pytest
from oracles_features import locally_aware_patches, stretch
from oracles_spade import layer_scores, nearest_images

from skanomaly import SPADE, FeatureExtractor, FeatureMaps, Pipeline, estimate_memory
from skanomaly.datasets import make_textures

SHAPES = {"fine": (7, 5, 6), "middle": (4, 3, 9), "deep": (2, 1, 11)}


def features(n=13, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    return FeatureMaps(
        {
            name: (offset + rng.normal(size=(n, *shape))).astype(np.float32)
            for name, shape in SHAPES.items()
        }
    )


def local_means(maps, size):
    return locally_aware_patches({"one": maps}, size)


def expected_scores(good, X, names, pooled_name, n_neighbors, n_gallery, size=1):
    """Maps (b, h, w) and image scores (b,) by the oracle."""
    good = {name: maps.astype(np.float64) for name, maps in good.arrays().items()}
    X = {name: maps.astype(np.float64) for name, maps in X.arrays().items()}
    all_maps, scores = [], []
    for i in range(len(X["fine"])):
        distances, images = nearest_images(
            X[pooled_name][i].mean((0, 1)), good[pooled_name].mean((1, 2)), n_neighbors
        )
        scores.append(distances.mean())
        grid = (max(len(X[n][i]) for n in names), max(X[n][i].shape[1] for n in names))
        layers = []
        for name in names:
            gallery = np.stack([local_means(good[name][j], size) for j in images])
            one = layer_scores(local_means(X[name][i], size), gallery, n_gallery)
            layers.append(stretch(stretch(one, grid[0], axis=0), grid[1], axis=1))
        all_maps.append(np.mean(layers, axis=0))
    return np.stack(all_maps), np.array(scores)


PAPER = {"image_score": "paper", "balance_layers": False}


@pytest.mark.parametrize("n_neighbors", [1, 5, 13])
@pytest.mark.parametrize("n_gallery_neighbors", [1, 2])
@pytest.mark.parametrize("offset", [0, 100])
def test_maps_and_scores_follow_the_definition(n_neighbors, n_gallery_neighbors, offset):
    good, X = features(offset=offset), features(4, seed=1, offset=offset)
    detector = SPADE(
        n_neighbors=n_neighbors, n_gallery_neighbors=n_gallery_neighbors, sigma=0, **PAPER
    )
    scores, maps = detector.fit(good).score_samples_and_map(X)
    expected = expected_scores(good, X, SHAPES, "deep", n_neighbors, n_gallery_neighbors)
    np.testing.assert_allclose(maps, expected[0], rtol=1e-5)
    np.testing.assert_allclose(-scores, expected[1], rtol=1e-5)
    np.testing.assert_array_equal(scores, detector.score_samples(X))


def test_layers_and_patch_size_are_chosen():
    good, X = features(), features(3, seed=1)
    detector = SPADE(
        n_neighbors=4, layers=["fine", "middle"], image_layer="fine", patch_size=3, sigma=0, **PAPER
    ).fit(good)
    expected = expected_scores(good, X, ["fine", "middle"], "fine", 4, 1, size=3)
    np.testing.assert_allclose(detector.score_map(X), expected[0], rtol=1e-5)
    np.testing.assert_allclose(-detector.score_samples(X), expected[1], rtol=1e-5)
    assert list(detector.memory_) == ["fine", "middle"]


def test_half_the_memory_changes_scores_by_its_rounding_alone():
    good, X = features(), features(3, seed=1)
    full = SPADE(n_neighbors=5, **PAPER).fit(good)
    half = SPADE(n_neighbors=5, memory_dtype="float16", **PAPER).fit(good)
    assert {m.dtype for m in half.memory_.values()} == {np.dtype(np.float16)}
    np.testing.assert_allclose(half.score_map(X), full.score_map(X), rtol=2e-3)
    assert not np.array_equal(half.score_map(X), full.score_map(X))
    np.testing.assert_array_equal(half.score_samples(X), full.score_samples(X))  # pooled: float32


def test_balanced_layers_count_alike_whatever_their_units():
    good, X = features(), features(3, seed=1)
    arrays = good.arrays()
    roots = {name: np.sqrt(maps.var(axis=(0, 1, 2)).mean()) for name, maps in arrays.items()}

    def scaled(maps, factors):
        return FeatureMaps({name: one * factors[name] for name, one in maps.arrays().items()})

    by_hand = {name: roots["fine"] / root for name, root in roots.items()}
    plain = SPADE(n_neighbors=5, balance_layers=False).fit(scaled(good, by_hand))
    units = {name: 10.0**i for i, name in enumerate(arrays)}
    balanced = SPADE(n_neighbors=5).fit(scaled(good, units))
    # The nearest images are found by one layer, whose units do not change their order.
    expected = plain.score_map(scaled(X, by_hand))
    np.testing.assert_allclose(balanced.score_map(scaled(X, units)), expected, rtol=1e-4)


def test_a_good_patch_in_the_gallery_is_found_wherever_it_lies():
    good = features()
    found = SPADE(n_neighbors=13, layers=["fine"], sigma=0).fit(good)
    shifted = {name: maps[::-1, ::-1, ::-1] for name, maps in good.arrays().items()}
    assert np.abs(found.score_map(FeatureMaps(shifted))).max() == 0


def test_the_threshold_on_maps_leaves_each_image_out_of_its_own_gallery():
    good = features(12)
    options = {"n_neighbors": 4, "image_score": "map_max", "balance_layers": False}
    detector = SPADE(contamination=0.25, **options).fit(good)
    left_out = []
    for i in range(12):
        others = np.delete(np.arange(12), i)
        alone = SPADE(**options).fit(good[others])
        left_out.append(alone.score_samples(good[i])[0])
    assert detector.offset_ == pytest.approx(np.percentile(left_out, 25), rel=1e-6)
    assert detector.predict(features(8, seed=5)).mean() > 0  # new good images are mostly good


def test_a_threshold_on_maps_where_all_images_are_asked_for_or_alike():
    same = FeatureMaps({name: np.repeat(m[:1], 4, 0) for name, m in features().arrays().items()})
    assert SPADE(n_neighbors=2, image_score="map_max").fit(same).offset_ == 0
    good = features(3)
    detector = SPADE(
        n_neighbors=3, image_score="map_max", contamination=0.5, balance_layers=False
    ).fit(good)
    expected = [
        SPADE(n_neighbors=2, image_score="map_max", balance_layers=False)
        .fit(good[np.delete(np.arange(3), i)])
        .score_samples(good[i])[0]
        for i in range(3)
    ]
    assert detector.offset_ == pytest.approx(np.median(expected), rel=1e-6)
    assert SPADE(n_neighbors=1, image_score="map_max").fit(good[0]).offset_ == 0


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({}, r"at least n_neighbors=50 good images to choose from, got n_samples=13"),
        ({"n_neighbors": 3, "layers": ["fine", "coarse"]}, r"got \['coarse'\]"),
        ({"n_neighbors": 3, "layers": []}, "got none"),
        ({"n_neighbors": 3, "image_layer": "last"}, r"\['fine', 'middle', 'deep'\], got \['last'"),
        (
            {"n_neighbors": 3, "n_gallery_neighbors": 7},
            "at most 6, the positions of the coarsest layer, 2, in all",
        ),
        (
            {"n_neighbors": 13, "n_gallery_neighbors": 25, "image_score": "map_max"},
            "at most 24",
        ),
        ({"n_neighbors": 3, "patch_size": 2}, "patch_size must be odd"),
        ({"n_neighbors": 3, "memory_limit": "1kB"}, "more than memory_limit='1kB'"),
        ({"n_neighbors": 3, "memory_dtype": "int8"}, "memory_dtype"),
    ],
)
def test_what_cannot_be_fitted_is_refused(parameters, named):
    with pytest.raises(ValueError, match=named):
        SPADE(**parameters).fit(features())


def test_features_of_other_layers_are_refused():
    detector = SPADE(n_neighbors=3).fit(features())
    other = FeatureMaps({"fine": features(2).arrays()["fine"]})
    with pytest.raises(ValueError, match="as in fit"):
        detector.predict(other)


def test_behind_a_backbone_with_a_forecast():
    good = make_textures(8, size=(96, 64), random_state=0)
    extractor = FeatureExtractor(
        "squeezenet1_1", layers=["features.4", "features.7", "features.12"], weights=None,
        image_size=64, random_state=0,
    )  # fmt: skip
    detector = SPADE(n_neighbors=3, layers=["features.4", "features.7"], image_layer="features.12")
    pipe = Pipeline([("features", extractor), ("detector", detector)]).fit(good)
    assert pipe.score_map(good[:2]).shape == (2, 96, 64)
    needs = estimate_memory(pipe, good)
    held = sum(rows.nbytes for rows in pipe[-1].memory_.values())
    assert needs["memory"] == held
