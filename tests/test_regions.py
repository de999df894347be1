"""Tables of the regions of score maps, and the peaks of a map."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from oracles_regions import peaks, region_table
from scipy.ndimage import gaussian_filter
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

from skanomaly import FilterBank, PatchCore, Pipeline, map_regions, score_map, score_regions
from skanomaly.datasets import make_inspection
from skanomaly.model_selection import GoodOnlyKFold, HeldOutThreshold, scorers
from skanomaly.regions import separate_peaks


def noise(shape, seed=0, smooth=1.0):
    return gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth).astype(
        np.float32
    )


def assert_same_table(found, expected):
    assert [list(record) for record in found] == [list(record) for record in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-6)


# Tables of maps -------------------------------------------------------------------------------


@pytest.mark.parametrize("smooth", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("quantile", [0.2, 0.7, 0.95])
def test_regions_are_those_of_a_flood_fill(smooth, quantile):
    maps = np.stack([noise((37, 23), seed, smooth) for seed in range(4)])
    threshold = float(np.quantile(maps, quantile))
    found = map_regions(maps, threshold)
    assert_same_table(found, region_table(maps, threshold))
    assert len(found) > 4


def test_maps_of_different_sizes_and_one_without_regions():
    maps = [noise((11, 40), 1), np.zeros((8, 9), np.float32), noise((1, 30), 2), noise((25, 1), 3)]
    threshold = 0.05
    found = map_regions(maps, threshold)
    assert_same_table(found, region_table(maps, threshold))
    assert {record["image"] for record in found} == {0, 2, 3}


def test_pixels_that_touch_by_a_corner_are_of_one_region():
    found = map_regions([np.eye(5)], 0.5)
    assert len(found) == 1
    assert [found[0][side] for side in ("top", "left", "bottom", "right")] == [0, 0, 5, 5]
    assert (found[0]["area"], found[0]["mean"]) == (5, 1.0)
    assert (found[0]["centroid_row"], found[0]["centroid_column"]) == (2.0, 2.0)


def test_equal_peaks_come_row_by_row_whatever_their_regions_begin_with():
    score_map = np.zeros((6, 9))
    score_map[0, 7], score_map[4, 7], score_map[1:4, 7] = 2, 9, 2  # begins first, peaks last
    score_map[2, 1] = score_map[5, 3] = 9
    order = [(r["peak_row"], r["peak_column"]) for r in map_regions([score_map], 1)]
    assert order == [(2, 1), (4, 7), (5, 3)]


def test_a_pixel_at_the_threshold_is_not_above_it():
    value = np.float32(0.1)
    assert map_regions(np.full((1, 3, 3), value), float(value)) == []
    assert len(map_regions(np.full((1, 3, 3), value), np.nextafter(value, np.float32(0)))) == 1
    assert map_regions(np.ones((1, 3, 3)), np.inf) == []


def test_records_are_plain_numbers_and_whole_maps_are_regions():
    record = map_regions(np.array([[[3, 1], [2, 2]]], np.uint8), 0)[0]
    assert json.loads(json.dumps(record)) == record
    assert (record["area"], record["peak"], record["mean"]) == (4, 3.0, 2.0)


@pytest.mark.parametrize(
    ("maps", "threshold", "message"),
    [
        ([], 1.0, "at least one score map, got none"),
        (np.zeros((4, 5)), 1.0, r"score map 0: expected numbers of shape \(H, W\).*\[score_map\]"),
        ([np.zeros((4, 5)), np.full((4, 5), np.nan)], 1.0, "score map 1 holds NaN"),
        ([np.array([["a"]])], 1.0, "score map 0: expected numbers"),
        (np.zeros((1, 4, 5)), np.nan, "expected a number as the threshold on score maps, got nan"),
        (np.zeros((1, 4, 5)), "0.5", "threshold on score maps, got '0.5'"),
        (np.zeros((1, 4, 5)), None, "threshold on score maps, got None"),
    ],
    ids=str,
)
def test_maps_and_thresholds_that_cannot_be_used(maps, threshold, message):
    with pytest.raises(ValueError, match=message):
        map_regions(maps, threshold)


@pytest.fixture
def frames(monkeypatch):
    """A stand-in for pandas whose frames are dicts of columns."""
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))


@pytest.mark.parametrize("threshold", [0.0, np.inf])
def test_a_frame_has_typed_columns_even_where_it_is_empty(frames, threshold):
    maps = noise((2, 12, 13))
    records = map_regions(maps, threshold)
    frame = map_regions(maps, threshold, as_frame=True)
    for name, column in frame.items():
        assert column.tolist() == [record[name] for record in records]
        whole = name not in ("peak", "mean", "centroid_row", "centroid_column")
        assert column.dtype.kind == ("i" if whole else "f")
    assert len(frame) == 12


def test_a_frame_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        map_regions(np.zeros((1, 3, 3)), 1.0, as_frame=True)


# Tables of images -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    return make_inspection(20, 2, 3, kind="brushed", size=64, random_state=0)


@pytest.fixture(scope="module")
def model(data):
    pipe = Pipeline(
        [("f", FilterBank(image_size=64, random_state=0)), ("d", PatchCore(random_state=0))]
    )
    model = HeldOutThreshold(pipe, target_fpr=0.1, cv=2, random_state=0)
    return model.fit(data.train.images)


def test_the_threshold_is_the_held_out_one_wherever_it_lies(model, data):
    X = list(data.test.images)
    maps = score_map(model, X)
    expected = map_regions(maps, model.map_offset_)
    assert {record["image"] for record in expected} >= {2, 3, 4}  # the defects
    assert score_regions(model, X) == expected
    assert score_regions(FrozenEstimator(model), X) == expected
    features = model.estimator_[:-1].transform(X)
    inner = HeldOutThreshold(PatchCore(random_state=0), target_fpr=0.1, cv=2, random_state=0)
    pipe = Pipeline([("features", model.estimator_[0]), ("detector", inner)])
    search = GridSearchCV(
        pipe,
        {"detector__estimator__sigma": [4.0]},
        cv=GoodOnlyKFold(2),
        scoring=scorers("image_auroc", synthetic=True),
        refit="image_auroc",
    ).fit(list(data.train.images))
    fitted = search.best_estimator_[-1]
    by_hand = map_regions(fitted.score_map(features), fitted.map_offset_)
    assert score_regions(search, X) == by_hand != []


def test_a_threshold_that_is_given_counts(model, data):
    X = data.test.images
    maps = score_map(model, X)
    threshold = 1.2 * model.map_offset_
    for estimator in (model, model.estimator_):
        assert score_regions(estimator, X, threshold) == map_regions(maps, threshold)
    assert score_regions(model, X, threshold=maps.max()) == []


def test_without_a_threshold_the_error_says_where_to_get_one(model, data):
    with pytest.raises(ValueError, match=r"got none, and Pipeline has no map_offset_; pass thresh"):
        score_regions(model.estimator_, data.test.images)
    with pytest.raises(NotFittedError):
        score_regions(HeldOutThreshold(PatchCore()), data.test.images)


# Peaks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reach", [(1, 1), (2, 5), (9, 3)])
@pytest.mark.parametrize("n_peaks", [1, 4, 99])
def test_peaks_are_those_of_the_slow_loop(reach, n_peaks):
    score_map = noise((21, 26), smooth=1.5)
    found = separate_peaks(score_map, n_peaks, reach)
    assert [tuple(peak) for peak in found] == peaks(score_map, n_peaks, reach)
    assert tuple(found[0]) == np.unravel_index(score_map.argmax(), score_map.shape)


def test_a_plateau_is_one_peak_and_of_equal_near_ones_the_first_stays():
    score_map = np.zeros((9, 30))
    score_map[2:8, 4:12] = 5
    score_map[5, 20] = score_map[6, 22] = 3
    assert separate_peaks(score_map, 9, (3, 3)).tolist()[:2] == [[2, 4], [5, 20]]
    assert [6, 22] not in separate_peaks(score_map, 9, (3, 3)).tolist()
    assert separate_peaks(np.ones((5, 6)), 3, (1, 1)).tolist() == [[0, 0]]
