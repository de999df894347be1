"""Extractors side by side in scikit-learn's FeatureUnion, against arrays joined by hand."""

import pickle
from functools import partial

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer

import skanomaly
from skanomaly import (
    SPADE,
    FeatureMaps,
    FilterBank,
    PaDiM,
    PatchCore,
    Pipeline,
    estimate_memory,
    nearest_good,
    score_map,
)
from skanomaly.datasets import make_defects, make_textures
from skanomaly.feature_maps import side_by_side
from skanomaly.images import ImageFit
from skanomaly.model_selection import GoodOnlyKFold, HeldOutThreshold, scorers

bank = partial(FilterBank, n_filters=4, image_size=64, random_state=0)
DETECTORS = [PatchCore(random_state=0), PaDiM(random_state=0), SPADE(n_neighbors=3)]


@pytest.fixture(scope="module")
def images():
    return list(make_textures(10, size=(70, 80), random_state=0))


def union(coarse=None, fine=None, **parameters):
    parts = [("coarse", coarse or bank()), ("fine", fine or bank(n_filters=8, image_size=96))]
    return FeatureUnion(parts, **parameters)


def by_hand(parts, images, weights=None):
    """The features that a union of extractors should return, stored, from each one's arrays."""
    weights = weights or [1] * len(parts)
    maps = [part.fit_transform(images) for part in parts]
    layers = {
        f"{i}.{name}": array * np.float32(weight)
        for i, (one, weight) in enumerate(zip(maps, weights, strict=True))
        for name, array in one.arrays().items()
    }
    return FeatureMaps(layers, maps[0].store().frames, maps[0].image_fit)


def assert_same(found, expected):
    assert found.shape == expected.shape and found.layer_shapes == expected.layer_shapes
    assert found.image_fit == expected.image_fit
    assert np.array_equal(found.store().frames, expected.frames)
    for name, maps in found.arrays().items():
        np.testing.assert_array_equal(maps, expected.arrays()[name])
    assert len({*found.arrays()} ^ {*expected.arrays()}) == 0


# --- what comes out ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_union_has_the_layers_of_all_parts(images, n_jobs):
    parts = [bank(), bank(n_filters=8, image_size=96)]
    with joblib.parallel_config("threading"):
        found = union(n_jobs=n_jobs).fit_transform(images)
    assert list(found.layer_shapes) == ["0.energies", "1.energies"] and found.is_stored
    assert_same(found, by_hand(parts, images))
    assert_same(found[[4, 1]], by_hand(parts, images)[[4, 1]])
    assert found[2:5].nbytes == found[2:5].store().nbytes > 0


def test_unions_nest_and_parts_may_be_dropped(images):
    inner = make_union(bank(), bank(n_filters=6))
    found = FeatureUnion([("a", inner), ("b", "drop"), ("c", bank(n_filters=8))])
    found = found.fit_transform(images)
    assert list(found.layer_shapes) == ["0.0.energies", "0.1.energies", "1.energies"]
    parts = [bank(), bank(n_filters=6), bank(n_filters=8)]
    expected = by_hand(parts, images)
    assert all(map(np.array_equal, found.arrays().values(), expected.arrays().values()))
    alone = FeatureUnion([("a", bank()), ("b", "drop")]).fit_transform(images)
    assert_same(alone, by_hand([bank()], images))


@pytest.mark.parametrize("how", ["stored", "streamed", "cached"])
def test_weights_multiply_features(images, tmp_path, how):
    one = {"stored": {}, "streamed": {"memory_limit": 1}, "cached": {"cache": tmp_path}}[how]
    both = union(fine=bank(n_filters=8, **one), transformer_weights={"fine": 0.3})
    assert_same(both.fit_transform(images), by_hand([bank(), bank(n_filters=8)], images, [1, 0.3]))


@pytest.mark.parametrize("streams", [(True, True), (True, False), (False, True)])
def test_streamed_parts_give_the_same_features(images, streams):
    limits = [1 if one else None for one in streams]
    both = union(
        bank(memory_limit=limits[0]), bank(n_filters=8, image_size=96, memory_limit=limits[1])
    )
    found = both.fit_transform(images)
    assert not found.is_stored and (found.frames is None) == all(streams)
    expected = by_hand([bank(), bank(n_filters=8, image_size=96)], images)
    assert_same(found, expected)
    chosen = np.array([7, 0, 3])
    again = pickle.loads(pickle.dumps(found[chosen]))
    assert_same(again, expected[chosen])
    assert [len(piece) for piece in found.batches(4)] == [4, 4, 2]
    assert all(piece.is_stored for piece in found.batches(4))


def test_a_pickle_carries_the_chosen_images_only(images):
    for limit in (None, 1):
        both = union(bank(memory_limit=limit)).fit_transform(images * 3)
        assert len(pickle.dumps(both[:1])) < len(pickle.dumps(both)) / 3


def test_images_of_several_sizes(images):
    mixed = [images[0], images[1][:, :40], images[2][:30]]
    pipe = Pipeline([("features", union()), ("detector", PatchCore(random_state=0))])
    maps = pipe.fit(images).score_map(mixed)
    assert [one.shape for one in maps] == [image.shape[:2] for image in mixed]


def test_numpy_stacks_features_as_releases_of_scikit_learn_ask_it_to():
    X, Y = maps_of(), maps_of(grid=(2, 2))
    for joined in (np.hstack((X, Y)), np.concatenate([X, Y], axis=1), np.concatenate([X, Y], -1)):
        assert joined.layer_shapes == {"0.a": (4, 4, 3), "1.a": (2, 2, 3)} and len(joined) == 2


# --- detectors --------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("limit", [None, 1])
def test_detectors_see_one_extractor(images, detector, limit):
    features = union(bank(memory_limit=limit))
    pipe = Pipeline([("features", features), ("detector", clone(detector))]).fit(images)
    alone = clone(detector).fit(by_hand([bank(), bank(n_filters=8, image_size=96)], images))
    bad = make_defects(images[:4], random_state=0)[0]
    transformed = pipe[:-1].transform(bad)
    X = FeatureMaps(transformed.arrays(), transformed.store().frames, transformed.image_fit)
    np.testing.assert_allclose(score_map(pipe, bad), alone.score_map(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        pipe.decision_function(bad), alone.decision_function(X), rtol=1e-5, atol=1e-6
    )
    if not isinstance(detector, PaDiM):
        spots = nearest_good(pipe, bad)
        assert [spot["good_image"] for spot in spots] == [
            spot["good_image"] for spot in alone.nearest_good(X)
        ]


def test_thresholds_from_left_out_images(images):
    pipe = Pipeline([("features", union()), ("detector", PatchCore(random_state=0))])
    model = HeldOutThreshold(pipe, target_fpr=0.2, method="leave_one_out").fit(images)
    features = by_hand([bank(), bank(n_filters=8, image_size=96)], images)
    alone = HeldOutThreshold(PatchCore(random_state=0), target_fpr=0.2, method="leave_one_out")
    np.testing.assert_allclose(model.offset_, alone.fit(features).offset_, rtol=1e-6)


def test_searches_reach_into_a_union(images):
    bad, masks, _ = make_defects(images[:3], random_state=0)
    X, y = [*images, *bad], [None] * len(images) + list(masks)
    pipe = make_pipeline(union(), PatchCore(random_state=0))
    grid = {
        "featureunion__coarse__n_filters": [4, 6],
        "featureunion__transformer_weights": [None, {"fine": 0.5}],
        "featureunion__fine": ["drop", bank(n_filters=8)],
    }
    search = GridSearchCV(pipe, grid, cv=GoodOnlyKFold(2), scoring=scorers("image_auroc"))
    found = search.fit(X, y).cv_results_["mean_test_score"]
    assert np.isfinite(found).all() and len(found) == 8
    assert score_map(search, bad).shape == (3, 70, 80)


@pytest.mark.parametrize("dump", ["pickle", "skanomaly"])
def test_a_union_in_a_file(images, tmp_path, dump):
    both = union(transformer_weights={"fine": 0.5})
    pipe = Pipeline([("features", both), ("detector", PatchCore(random_state=0))]).fit(images)
    if dump == "pickle":
        again = pickle.loads(pickle.dumps(pipe))
    else:
        skanomaly.dump(pipe, tmp_path / "both.skanomaly")
        again = skanomaly.load(tmp_path / "both.skanomaly")
    np.testing.assert_array_equal(again.score_map(images[:2]), pipe.score_map(images[:2]))


# --- the cache --------------------------------------------------------------------------------


def test_a_cache_gives_the_same_scores(images, tmp_path, monkeypatch):
    def make(cache, **parameters):
        both = union(bank(cache=cache), bank(n_filters=8, cache=cache), **parameters)
        detector = PatchCore(balance_layers=False, random_state=0)  # so that weights count
        return Pipeline([("features", both), ("detector", detector)])

    first = make(tmp_path).fit(images).score_samples(images)
    np.testing.assert_allclose(first, make(None).fit(images).score_samples(images), rtol=1e-6)
    other = make(tmp_path, transformer_weights={"fine": 0.1}).fit(images).score_samples(images)
    plain = make(None, transformer_weights={"fine": 0.1}).fit(images).score_samples(images)
    np.testing.assert_allclose(other, plain, rtol=1e-6)
    assert not np.allclose(first, other)

    def refuse(*args):
        raise AssertionError("computed again")

    again = make(tmp_path).fit(images)
    monkeypatch.setattr(FilterBank, "_features", refuse)
    monkeypatch.setattr(PatchCore, "_score_maps", refuse)
    np.testing.assert_array_equal(again.score_samples(images), first)


def test_keys_tell_unions_apart(images, tmp_path):
    four, eight = (bank(n_filters=n, cache=tmp_path) for n in (4, 8))
    unions = [
        make_union(four, eight),
        make_union(eight, four),
        make_union(four),
        make_union(make_union(four), eight),
        FeatureUnion([("a", four), ("b", eight)], transformer_weights={"a": 2}),
        FeatureUnion([("a", four), ("b", eight)], transformer_weights={"b": 2}),
    ]
    keys = [clone(one).fit_transform(images).keys.tolist() for one in [*unions, four]]
    assert len({key for some in keys for key in some}) == len(keys) * len(images)
    assert keys[0] == clone(unions[0]).fit_transform(images).keys.tolist()


def test_without_a_cache_in_each_part_nothing_is_kept(images, tmp_path):
    found = union(bank(cache=tmp_path)).fit_transform(images)
    assert found.cache is None
    detector = PatchCore(random_state=0).fit(found)
    assert detector.fit_digest_ is None
    expected = by_hand([bank(), bank(n_filters=8, image_size=96)], images)
    np.testing.assert_allclose(
        detector.score_samples(found), PatchCore(random_state=0).fit(expected).score_samples(found)
    )


def test_a_file_that_changes_has_another_key(images, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, images[:3], strict=True):
        Image.fromarray(image).save(path)
    cache = tmp_path / "cache"
    both = make_union(bank(cache=cache), bank(n_filters=8, cache=cache)).fit(images)
    maps = both.transform([str(path) for path in paths])
    before = maps.keys
    Image.fromarray(images[5]).save(paths[1])
    found = maps.arrays()
    assert (maps.keys != before).tolist() == [False, True, False]
    expected = both.transform([images[i] for i in (0, 5, 2)]).arrays()
    assert all(map(np.array_equal, found.values(), expected.values()))


# --- memory -----------------------------------------------------------------------------------


def test_a_forecast_counts_the_parts_that_are_held(images):
    pipe = Pipeline([("features", union()), ("detector", PaDiM(random_state=0))])
    n_values = union().fit_transform(images[:2]).nbytes // 2
    assert estimate_memory(pipe, images, n_images=1000)["features"] == 1000 * n_values
    coarse = bank().fit_transform(images[:2]).nbytes // 2
    streams = clone(pipe).set_params(features__fine__memory_limit=4000)
    assert estimate_memory(streams, images, n_images=1000)["features"] == 1000 * coarse
    streams.set_params(features__coarse__memory_limit=4000)
    assert estimate_memory(streams, images, n_images=1000)["features"] == 0


# --- what is refused --------------------------------------------------------------------------


def maps_of(n=2, grid=(4, 4), image_fit=None, frames=None):
    frames = [(8, 8)] * n if frames is None else frames
    return FeatureMaps({"a": np.zeros((n, *grid, 3), np.float32)}, frames, image_fit)


def test_extractors_that_see_other_parts_of_an_image_are_refused(images):
    with pytest.raises(ValueError, match=r'resize="pad", image_size=\(64, 64\) of .* 1; set the'):
        union(fine=bank(resize="pad")).fit_transform(images)
    same = union(bank(resize="crop"), bank(n_filters=8, resize="crop"))
    assert_same(
        same.fit_transform(images),
        by_hand([bank(resize="crop"), bank(n_filters=8, resize="crop")], images),
    )
    with pytest.raises(ValueError, match='with "pad" or "crop" the same image_size'):
        same.set_params(fine__image_size=96).fit_transform(images)


def test_other_images_are_refused():
    with pytest.raises(ValueError, match="2 images from the extractor at place 0 and 3 from that"):
        side_by_side([maps_of(2), maps_of(3)])
    fit = ImageFit(8, 8)
    frames = [(8, 8), (8, 9)]
    with pytest.raises(ValueError, match=r"one of \(8, 8\) pixels .* of \(8, 9\) from that at"):
        side_by_side(
            [maps_of(2, frames=[(8, 8)] * 2, image_fit=fit), maps_of(2, (4, 4), fit, frames)]
        )


def test_transformers_that_are_no_extractors_are_refused(images):
    as_table = FunctionTransformer(lambda X: np.zeros((len(X), 3)))
    with pytest.raises(ValueError, match="got ndarray from that at place 1; take extractors"):
        make_union(bank(), as_table).fit_transform(images)
    with pytest.raises(ValueError, match="got list from that at place 0"):
        FeatureUnion([("a", "passthrough"), ("b", bank())]).fit_transform(images)


def test_other_functions_of_numpy_are_refused():
    X = maps_of()
    for call in (np.vstack, np.concatenate, np.stack):
        with pytest.raises(TypeError, match="no implementation found"):
            call([X, X])
    with pytest.raises(TypeError, match="no implementation found"):
        np.mean(X)
    for weight in (np.inf, np.nan):
        with pytest.raises(ValueError, match="expected a finite number to multiply features by"):
            X * weight
    for weight in ("2", [1, 2], None):
        with pytest.raises(TypeError):
            X * weight


def test_tables_are_refused(images):
    """scikit-learn's wish for a data frame is one that features of images cannot meet."""
    with pytest.raises(ValueError, match="set_output"):
        union().set_output(transform="pandas")
    pytest.importorskip("pandas")
    with (
        config_context(transform_output="pandas"),
        pytest.raises(TypeError, match="transform_output at their default"),
    ):
        union().fit_transform(images)
    with pytest.raises(TypeError, match=r"take X.arrays\(\) or X.joined"):
        np.asarray(maps_of())
