"""The feature cache: the same answers, each computed once."""

import os
import pickle
import shutil
import time

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skanomaly import (
    SPADE,
    FeatureExtractor,
    FilterBank,
    PaDiM,
    PatchCore,
    Pipeline,
    score_map,
)
from skanomaly.caching import CachedFeatureMaps
from skanomaly.datasets import make_defects, make_textures
from skanomaly.detectors import _bank_parts
from skanomaly.feature_maps import concatenate
from skanomaly.io import open_cache
from skanomaly.model_selection import GoodOnlyKFold, scorers

EXTRACTORS = [
    FilterBank(image_size=64, random_state=0),
    FeatureExtractor("squeezenet1_1", weights=None, image_size=64, random_state=0),
]
DETECTORS = [
    PatchCore(random_state=0),
    PaDiM(random_state=0),
    SPADE(n_neighbors=3),
    SPADE(n_neighbors=3, image_score="map_max"),
]

each_extractor = pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda e: type(e).__name__)
each_detector = pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)


@pytest.fixture
def images():
    return list(make_textures(19, size=(72, 80), random_state=0))


def computes(monkeypatch, estimator, method):
    """A list that grows with every call of a method of the estimator's class."""
    calls = []
    original = getattr(type(estimator), method)

    def counted(self, *args):
        calls.append(args)
        return original(self, *args)

    monkeypatch.setattr(type(estimator), method, counted)
    return calls


def assert_same_features(one, other):
    for name, maps in one.arrays().items():
        np.testing.assert_array_equal(maps, other.arrays()[name])


@each_extractor
def test_features_are_the_same_and_computed_once(extractor, images, tmp_path, monkeypatch):
    images[3] = images[3][:50]  # another frame
    images[5] = Image.fromarray(images[5])
    Image.fromarray(images[7]).save(tmp_path / "seven.png")
    images[7] = tmp_path / "seven.png"
    plain = clone(extractor).fit_transform(images)
    calls = computes(monkeypatch, extractor, "_features")
    cached = clone(extractor).set_params(cache=tmp_path / "cache").fit(images)
    first = cached.transform(images)
    assert_same_features(plain, first)
    np.testing.assert_array_equal(plain.frames, first.store().frames)
    n_computed = len(calls)
    for _ in range(2):
        assert_same_features(plain, cached.transform(images))
        assert_same_features(plain[[11, 2]], cached.transform([images[11], images[2]]))
        assert_same_features(plain[[11, 2]], cached.transform(images)[[11, 2]])
    # A second pipeline, or another process.
    again = clone(extractor).set_params(cache=tmp_path / "cache").fit(images)
    assert_same_features(plain, again.transform(images))
    assert len(calls) == n_computed
    again.transform([images[0].copy() // 2]).arrays()
    assert len(calls) == n_computed + 1


def test_filters_are_learned_once_from_the_same_images(images, tmp_path, monkeypatch):
    bank = FilterBank(image_size=64, random_state=0, cache=tmp_path)
    calls = computes(monkeypatch, bank, "_learn_filters")
    first, again = clone(bank).fit(images), clone(bank).fit(images)
    assert len(calls) == 1
    np.testing.assert_array_equal(first.first_filters_[2], again.first_filters_[2])
    np.testing.assert_array_equal(first.mean_, again.mean_)
    clone(bank).fit(images[1:])
    clone(bank).set_params(n_filters=8).fit(images)
    clone(bank).set_params(random_state=1).fit(images)
    assert len(calls) == 4
    for _ in range(2):
        clone(bank).set_params(random_state=None).fit(images)
    assert len(calls) == 6  # nothing to be repeated


def test_other_settings_and_weights_are_other_features(images, tmp_path):
    extractor = FeatureExtractor(
        "squeezenet1_1", weights=None, image_size=64, random_state=0, cache=tmp_path
    )
    keys = [
        clone(extractor).set_params(**changed).fit().transform(images[:2]).keys.tolist()
        for changed in (
            {}, {"random_state": 1}, {"image_size": 72}, {"resize": "pad"}, {"dtype": "bfloat16"},
            {"layers": "features.7"},
        )
    ]  # fmt: skip
    assert len({key for pair in keys for key in pair}) == 12
    same = clone(extractor).set_params(batch_size=3).fit().transform(images[:2]).keys.tolist()
    assert same == keys[0]


def test_networks_of_the_same_weights_are_told_apart(images, tmp_path):
    answers = []
    for activation in (torch.nn.ReLU(), torch.nn.Sigmoid()):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), activation)
        extractor = FeatureExtractor(network, layers="1", image_size=64, cache=tmp_path)
        answers.append(extractor.fit().transform(images[:1]).arrays()["1"])
    assert not np.array_equal(*answers)


@each_detector
def test_detectors_answer_the_same_and_once(detector, images, tmp_path, monkeypatch):
    bad = list(make_defects(images[:5], random_state=0)[0])
    extractor = FilterBank(image_size=64, random_state=0)
    plain = Pipeline([("f", extractor), ("d", clone(detector))]).fit(images)
    calls = computes(monkeypatch, detector, "_score_maps")
    cached = Pipeline([("f", clone(extractor).set_params(cache=tmp_path)), ("d", clone(detector))])
    for _ in range(2):
        cached.fit(images)
        assert cached[-1].offset_ == plain[-1].offset_
        np.testing.assert_array_equal(cached.score_samples(bad), plain.score_samples(bad))
        np.testing.assert_array_equal(cached.score_map(bad), plain.score_map(bad))
    calls.clear()
    cached.set_params(d__sigma=8.0).score_map(bad)
    is_before_the_maps = "sigma" in type(detector)._unused_by_hooks
    assert bool(calls) == (not is_before_the_maps)
    np.testing.assert_array_equal(
        score_map(cached, bad), score_map(plain.set_params(d__sigma=8.0), bad)
    )


def test_the_bank_of_a_ratio_serves_the_smaller_ones(images, tmp_path, monkeypatch):
    features = FilterBank(image_size=64, random_state=0, cache=tmp_path).fit(images)
    detector = PatchCore(random_state=0)
    calls, choose = [], _bank_parts.choose_bank

    def counted(X, *args, **options):
        if isinstance(X, CachedFeatureMaps):
            calls.append(X)
        return choose(X, *args, **options)

    monkeypatch.setattr(_bank_parts, "choose_bank", counted)
    banks = {}
    for ratio in (0.02, 0.2, 0.1, 0.05):
        fitted = clone(detector).set_params(coreset_ratio=ratio).fit(features.transform(images))
        banks[ratio] = fitted.memory_bank_
        plain = clone(fitted).fit(features.transform(images).store()[:])
        np.testing.assert_array_equal(plain.memory_bank_, fitted.memory_bank_)
    assert len(calls) == 2  # for 0.02, which has those up to 0.1 computed, and for 0.2
    np.testing.assert_array_equal(banks[0.05], banks[0.2][: len(banks[0.05])])
    fitted.set_params(random_state=np.random.RandomState(0)).fit(features.transform(images))
    fitted.set_params(random_state=1).fit(features.transform(images))
    fitted.set_params(n_projections=5).fit(features.transform(images[::-1]))
    assert len(calls) == 5


def test_a_limit_has_no_larger_coreset_made_than_it_allows(images, tmp_path):
    features = FilterBank(image_size=64, random_state=0, cache=tmp_path).fit(images)
    X = features.transform(images)
    detector = PatchCore(coreset_ratio=0.01, random_state=0)
    at_ratio = [sum(detector._forecast(X.layer_shapes, len(X), r).values()) for r in (0.01, 0.1)]
    detector.set_params(memory_limit=sum(at_ratio) // 2)
    detector.fit(X)
    (kept,) = [p for p in tmp_path.glob("*/*") if b'"rows"' in p.read_bytes()[:200]]
    assert kept.stat().st_size < 2 * detector.memory_bank_.nbytes + 200


def test_a_search_gives_the_same_results(images, tmp_path):
    bad, masks, _ = make_defects(images[:4], random_state=0)
    X = [*images, *bad]
    y = [None] * len(images) + list(masks)
    grid = {
        "d__coreset_ratio": [0.05, 0.2],
        "d__n_neighbors": [1, 3],
        "d__sigma": [2.0, 6.0],
    }
    results = []
    for cache in (None, tmp_path, joblib.Memory(tmp_path / "memory", verbose=0)):
        extractor = FilterBank(image_size=64, random_state=0, cache=cache)
        pipe = Pipeline([("f", extractor), ("d", PatchCore(random_state=0))])
        search = GridSearchCV(
            pipe, grid, cv=GoodOnlyKFold(3), scoring=scorers("image_auroc", "aupro"), refit="aupro"
        ).fit(X, y)
        results.append({k: v for k, v in search.cv_results_.items() if "time" not in k})
    for found in results[1:]:
        assert found.keys() == results[0].keys()
        for name, values in results[0].items():
            np.testing.assert_array_equal(found[name], values)
    assert list((tmp_path / "memory" / "skanomaly").iterdir())


def test_a_memory_without_a_location_keeps_nothing(images):
    features = FilterBank(image_size=64, random_state=0, cache=joblib.Memory(None))
    assert features.fit_transform(images).is_stored


def test_a_pickle_works_elsewhere_and_makes_no_folders(images, tmp_path):
    folder = tmp_path / "cache"
    pipe = Pipeline(
        [("f", FilterBank(image_size=64, random_state=0, cache=folder)), ("d", PatchCore())]
    ).fit(images)
    expected = pipe.score_samples(images)
    carried = pickle.dumps(pipe)
    shutil.rmtree(folder)
    with pytest.warns(UserWarning, match="there is no such folder here; results are computed"):
        np.testing.assert_array_equal(pickle.loads(carried).score_samples(images), expected)
    assert not folder.exists()


def test_arrays_come_back_as_they_were(tmp_path):
    cache = open_cache(tmp_path)
    arrays = {
        "none": np.empty((0, 3), np.uint8),
        "bytes": np.arange(7, dtype=np.uint8),
        "number": np.float32(3.5),
        "view": np.arange(24, dtype=np.int64).reshape(4, 6)[:, ::2],
        "a layer": np.ones((2, 3, 5), np.float32),
    }
    cache.save("key", arrays)
    loaded = cache.load("key")
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].flags.aligned and loaded[name].flags.writeable


def test_a_damaged_file_is_named_and_made_again(images, tmp_path):
    features = FilterBank(image_size=64, random_state=0, cache=tmp_path).fit(images)
    maps = features.transform(images[:1])
    expected = maps.store()
    path = tmp_path / maps.keys[0][:2] / maps.keys[0]
    whole = path.read_bytes()
    for damaged in (whole[:500], b"", whole[:-100] + bytes(36) + whole[-64:]):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=rf"{maps.keys[0]}: damaged.*computed again"):
            assert_same_features(features.transform(images[:1]), expected)
        assert path.read_bytes() == whole


def test_images_that_cannot_be_read_are_named(images, tmp_path):
    features = FilterBank(image_size=64, random_state=0, cache=tmp_path).fit(images)
    with pytest.raises(FileNotFoundError, match=r"gone\.png: no such image"):
        features.transform([images[0], tmp_path / "gone.png"])
    images[4] = np.full((72, 80, 3), np.nan)
    with pytest.raises(ValueError, match="image 4: holds NaN"):
        features.transform(images).store()


def test_further_images_are_not_answered_from_before(images, tmp_path):
    features = FilterBank(image_size=64, random_state=0, cache=tmp_path).fit(images)
    X = features.transform(images)
    detector = PaDiM(random_state=0).fit(X[:10])
    before = detector.score_samples(X[15:])
    detector.partial_fit(X[10:15])
    after = detector.score_samples(X[15:])
    assert not np.array_equal(before, after)
    plain = PaDiM(random_state=0).fit(X.store()[:10]).partial_fit(X.store()[10:15])
    np.testing.assert_allclose(after, plain.score_samples(X.store()[15:]), rtol=1e-6)


def test_a_detector_without_a_fixed_seed_is_not_repeated(images, tmp_path, monkeypatch):
    features = FilterBank(image_size=64, random_state=0, cache=tmp_path).fit(images)
    detector = PatchCore()
    calls = computes(monkeypatch, detector, "_score_maps")
    fitted = detector.fit(features.transform(images))
    fitted.score_samples(features.transform(images))
    fitted.score_samples(features.transform(images))
    assert len(calls) == 6  # two batches each time


# --- several at a time ------------------------------------------------------------------------


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_claim_is_held_by_one_and_not_for_ever(tmp_path):
    one, other = open_cache(tmp_path), open_cache(tmp_path)
    assert one.claim("key") and not other.claim("key") and not one.claim("key")
    assert other.claim("another key")
    one.release("key")
    one.release("key")  # there is none any more
    assert other.claim("key")
    (path,) = tmp_path.glob("*-key")
    age(path, 3600)  # its process was killed
    assert one.claim("key") and not other.claim("key")
    age(path, 3600)
    open_cache(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".claim-another key"]


def test_where_nothing_can_be_written_everything_is_ours(tmp_path):
    cache = open_cache(tmp_path)
    shutil.rmtree(tmp_path)
    assert cache.claim("key") and cache.claim("key")
    cache.release("key")


def counted(monkeypatch):
    """A list that grows with the images that are computed."""
    sizes, features = [], FilterBank._features

    def _features(self, batch):
        sizes.append(len(batch))
        return features(self, batch)

    monkeypatch.setattr(FilterBank, "_features", _features)
    return sizes


def small_bank(cache, images):
    return FilterBank(n_filters=4, image_size=64, random_state=0, cache=cache).fit(images[:4])


@pytest.mark.parametrize(("batch_size", "n_twice"), [(4, 12), (16, 0), (50, 20)])
def test_who_comes_second_computes_what_nobody_does(batch_size, n_twice, tmp_path, monkeypatch):
    images = list(make_textures(70, size=64, random_state=0))
    expected = small_bank(None, images).transform(images)
    features, sizes = small_bank(tmp_path, images), counted(monkeypatch)
    # Two streams over the same images, which take turns.
    streams = [features.transform(images).batches(batch_size) for _ in range(2)]
    parts = [[], []]
    while streams[0] or streams[1]:
        for i in (0, 1, 1):
            if streams[i]:
                piece = next(streams[i], None)
                if piece is None:
                    streams[i] = None
                else:
                    parts[i].append(piece)
    for pieces in parts:
        assert_same_features(concatenate(pieces), expected)
    # Twice: what the first one had claimed and not yet come to when the second had nothing left.
    assert sum(sizes) == 70 + n_twice
    assert not list(tmp_path.glob(".claim-*"))


def test_nobody_waits_for_claims_of_the_dead(tmp_path, monkeypatch):
    images = list(make_textures(40, size=64, random_state=0))
    expected = small_bank(None, images).transform(images)
    features, sizes = small_bank(tmp_path, images), counted(monkeypatch)
    X = features.transform(images)
    for key in X.keys[:3].tolist() + X.keys[20:30].tolist():
        assert open_cache(tmp_path).claim(key)
    assert_same_features(X, expected)
    assert sum(sizes) == 40


def test_what_is_left_undone_is_free_for_others(tmp_path, monkeypatch):
    images = list(make_textures(20, size=64, random_state=0))
    features = small_bank(tmp_path, images)
    stream = features.transform(images).batches(4)
    next(stream)
    assert len(list(tmp_path.glob(".claim-*"))) == 12
    stream.close()
    assert not list(tmp_path.glob(".claim-*"))
    broken = [*images[:18], np.full((64, 64, 3), np.nan), images[19]]
    with pytest.raises(ValueError, match="image 18: holds NaN"):
        features.transform(broken).arrays()
    assert not list(tmp_path.glob(".claim-*"))


def test_a_full_disk_among_claims(tmp_path, monkeypatch):
    images = list(make_textures(40, size=64, random_state=0))
    expected = small_bank(None, images).transform(images)
    X = small_bank(tmp_path, images).transform(images)
    assert X.cache.claim(X.keys[0])  # what is computed ahead of it is lost

    def no_space(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skanomaly.io._cache.write_arrays", no_space)
    with pytest.warns(UserWarning, match="cannot be written"):
        assert_same_features(X, expected)


def test_a_relative_folder_stays_where_it_was(tmp_path, monkeypatch):
    images = list(make_textures(4, size=64, random_state=0))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    X = small_bank("features", images).transform(images)
    monkeypatch.chdir(tmp_path / "elsewhere")
    pickle.loads(pickle.dumps(X)).arrays()
    assert not list((tmp_path / "elsewhere").iterdir())
    assert len([p for p in (tmp_path / "features").rglob("*") if p.is_file()]) == 5


@pytest.mark.parametrize("make", [str, joblib.Memory])
def test_a_relative_folder_on_a_worker_is_said(make, tmp_path, monkeypatch):
    images = list(make_textures(4, size=64, random_state=0))
    monkeypatch.chdir(tmp_path)
    small_bank(tmp_path / "absolute", images)
    monkeypatch.setattr("skanomaly.base._extractor.current_worker", lambda: "a worker")
    small_bank(tmp_path / "absolute", images)
    with pytest.warns(UserWarning, match="relative folder, which each worker of a cluster looks"):
        small_bank(make("here"), images)
