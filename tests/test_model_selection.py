"""Splitters, scorers, synthetic defects and held-out thresholds."""

import pickle

import numpy as np
import pytest
from scipy.stats import beta, betabinom
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    GridSearchCV,
    GroupShuffleSplit,
    KFold,
    LeaveOneOut,
    RepeatedKFold,
    ShuffleSplit,
    cross_validate,
)
from sklearn.pipeline import Pipeline as SklearnPipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from skanomaly import FeatureMaps, FilterBank, PaDiM, PatchCore, Pipeline, metrics, score_map
from skanomaly.base import BaseDetector
from skanomaly.datasets import make_defects, make_textures
from skanomaly.datasets._masks import MaskFiles
from skanomaly.images import ImageFit
from skanomaly.model_selection import (
    GoodOnlyKFold,
    GoodOnlyShuffleSplit,
    HeldOutThreshold,
    detection_rates,
    scorers,
)
from skanomaly.model_selection._conformal import threshold_of

ALL_NAMES = (
    *("image_auroc", "image_ap", "image_f1_max"),
    *("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"),
)


class Given(BaseDetector):
    """Learns nothing: a patch is as abnormal as its first number. Counts its own work."""

    calls = []

    def __init__(
        self, image_score="paper", sigma=0.0, contamination=0.1, random_state=None, verbose=0
    ):
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.random_state = random_state
        self.verbose = verbose

    def _fit(self, X):
        self.n_seen_ = len(X)

    def _score_maps(self, X):
        Given.calls.append(len(X))
        return next(iter(X.arrays().values()))[..., 0]


def features(n=24, seed=0):
    """FeatureMaps on a 6 x 4 grid, in frames of 12 x 8 pixels."""
    maps = np.random.default_rng(seed).normal(size=(n, 6, 4, 12)).astype(np.float32)
    return FeatureMaps({"only": maps}, np.tile((12, 8), (n, 1)), ImageFit(12, 8))


def with_defects(n=24, every=4):
    """Features of which every fourth image is defective in a corner, and the masks."""
    X = features(n)
    X.arrays()["only"][::every, :2, :2] += 1.5
    masks = np.zeros((n, 12, 8), dtype=bool)
    masks[::every, :4, :4] = True
    return X, masks


def labels(masks):
    return np.where(masks.any(axis=(1, 2)), -1, 1)


# --- splitters --------------------------------------------------------------------------------

SPLITTERS = [
    GoodOnlyKFold(4),
    GoodOnlyKFold(3, shuffle=True, random_state=0),
    GoodOnlyShuffleSplit(6, test_size=0.3, random_state=0),
]
MASKS = with_defects()[1]
CODINGS = {
    "labels": labels(MASKS),
    "list of labels": labels(MASKS).tolist(),
    "masks": MASKS,
    "masks as numbers": MASKS * np.uint8(255),
    "list with None": [mask if mask.any() else None for mask in MASKS],
}


@pytest.mark.parametrize("y", CODINGS.values(), ids=CODINGS)
@pytest.mark.parametrize("splitter", SPLITTERS, ids=str)
def test_training_parts_are_good_and_test_parts_hold_all_defects(splitter, y):
    X, masks = with_defects()
    is_bad = masks.any(axis=(1, 2))
    splits = list(splitter.split(X, y))
    assert len(splits) == splitter.get_n_splits(X, y)
    for train, test in splits:
        assert not is_bad[train].any()
        assert np.array_equal(np.intersect1d(test, np.flatnonzero(is_bad)), np.flatnonzero(is_bad))
        assert len(np.intersect1d(train, test)) == 0 and len(train) > 0
        assert (np.diff(train) > 0).all() and (np.diff(test) > 0).all()
        assert not is_bad[test].all()


def test_folds_test_every_good_image_once_and_train_on_the_others():
    X, masks = with_defects(23)
    good = np.flatnonzero(labels(masks) == 1)
    splits = list(GoodOnlyKFold(4).split(X, masks))
    held_out = np.concatenate([np.intersect1d(test, good) for _, test in splits])
    assert np.array_equal(np.sort(held_out), good)
    for train, test in splits:
        assert np.array_equal(np.union1d(train, np.intersect1d(test, good)), good)


@pytest.mark.parametrize("splitter", SPLITTERS, ids=str)
def test_without_y_all_images_are_good(splitter):
    for X in (features(12), np.zeros((12, 3)), ["a.png"] * 12):
        for train, test in splitter.split(X):
            assert len(train) > 0 and len(test) > 0 and len(np.intersect1d(train, test)) == 0


def test_groups_stay_together():
    X, masks = with_defects(30)
    groups = np.arange(30) // 3
    is_good = labels(masks) == 1
    for splitter in (GoodOnlyKFold(4), GoodOnlyKFold(4, shuffle=True, random_state=1)):
        for train, test in splitter.split(X, masks, groups):
            assert len(np.intersect1d(groups[train], groups[test[is_good[test]]])) == 0
            assert set(np.flatnonzero(~is_good)) <= set(test)


def test_sizes_and_random_state_of_random_parts():
    X, masks = with_defects(24)  # 18 good, 6 defective
    draw = GoodOnlyShuffleSplit(3, train_size=10, test_size=0.25, random_state=3)
    first, second = ([(a.tolist(), b.tolist()) for a, b in draw.split(X, masks)] for _ in range(2))
    assert first == second and first[0] != first[1]
    assert {(len(train), len(test)) for train, test in first} == {(10, 5 + 6)}
    by_default = next(GoodOnlyShuffleSplit(1, random_state=0).split(X, masks))
    assert [len(part) for part in by_default] == [16, 2 + 6]


def test_shuffled_folds_depend_on_the_random_state_alone():
    draws = [
        [test.tolist() for _, test in GoodOnlyKFold(3, shuffle=True, random_state=s).split([0] * 9)]
        for s in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("splitter", SPLITTERS, ids=str)
@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1] * 6, r"expected the labels \+1 \(good\) and -1 \(defect\)"),
        ([1] * 11, "one entry of y for each image, got 11 for 12 images"),
    ],
)
def test_splitters_refuse_bad_labels(splitter, y, message):
    with pytest.raises(ValueError, match=message):
        next(splitter.split(features(12), y))


def test_fewer_good_images_than_folds():
    y = [1, 1, 1, -1, -1, -1, -1]
    with pytest.raises(ValueError, match="at least 5 good images, one for each fold, got 3"):
        next(GoodOnlyKFold(5).split(y, y))
    with pytest.raises(ValueError, match=r"at least 3 groups of good images.*got 2"):
        next(GoodOnlyKFold(3).split(y, y, groups=[0, 0, 1, 2, 3, 4, 5]))


# --- scorers ----------------------------------------------------------------------------------


def test_scorers_answer_what_the_metrics_answer():
    X, masks = with_defects()
    detector = Given(sigma=1.0).fit(X)
    maps, scores = detector.score_map(X), -detector.score_samples(X)
    expected = {
        "image_auroc": metrics.image_roc_auc_score(masks, scores),
        "image_ap": metrics.image_average_precision_score(masks, scores),
        "image_f1_max": metrics.image_f1_max_score(masks, scores),
        "pixel_auroc": metrics.pixel_roc_auc_score(masks, maps),
        "pixel_ap": metrics.pixel_average_precision_score(masks, maps),
        "pixel_f1_max": metrics.f1_max_score(masks, maps),
        "aupro": metrics.aupro_score(masks, maps, max_fpr=0.1),
    }
    assert scorers(*ALL_NAMES, max_fpr=0.1)(detector, X, masks) == expected
    assert scorers("aupro")(detector, X, masks) > expected["aupro"]
    assert list(scorers("aupro", "image_auroc")(detector, X, masks)) == ["aupro", "image_auroc"]
    assert len(set(expected.values())) == len(expected)


def test_pixels_outside_of_a_region_do_not_count():
    X, masks = with_defects()
    detector = Given(sigma=1.0).fit(X)
    maps = detector.score_map(X)
    roi = np.zeros(maps[0].shape, dtype=bool)
    rows, columns = np.nonzero(np.any([one for one in masks if one is not None], axis=0))
    roi[: rows.max(), : columns.max()] = True
    names = "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"
    found = scorers(*names, roi=roi)(detector, X, masks)
    assert found["aupro"] == metrics.aupro_score(masks, maps, roi=roi)
    assert found["pixel_auroc"] == metrics.pixel_roc_auc_score(masks, maps, roi=roi)
    assert found != scorers(*names)(detector, X, masks)
    assert scorers("image_auroc", roi=roi)(detector, X, masks) == scorers("image_auroc")(
        detector, X, masks
    )


def test_labels_do_for_images():
    X, masks = with_defects()
    detector, scoring = Given().fit(X), scorers("image_auroc", "image_ap")
    assert scoring(detector, X, labels(masks)) == scoring(detector, X, masks)


def test_each_image_is_scored_once():
    X, masks = with_defects()
    detector = Given().fit(X)
    Given.calls.clear()
    scorers(*ALL_NAMES)(detector, X, masks)
    assert sum(Given.calls) == len(X)
    Given.calls.clear()
    scorers("image_auroc", "image_ap")(detector, X, masks)
    assert sum(Given.calls) == len(X)


def test_images_pass_the_extractor_once(monkeypatch):
    pipe, images = pipeline().fit(textures(4)), textures(4)
    masks = np.zeros((4, 64, 64), dtype=bool)
    masks[0, :9] = True
    passes = []
    transform = FilterBank.transform
    monkeypatch.setattr(
        FilterBank, "transform", lambda self, X: passes.append(len(X)) or transform(self, X)
    )
    threshold = HeldOutThreshold(FrozenEstimator(pipe), target_fpr=0.5, cv=2)
    threshold.fit(images)
    passes.clear()
    values = [
        scorers(*ALL_NAMES)(estimator, images, masks)
        for estimator in (pipe, SklearnPipeline(pipe.steps), FrozenEstimator(pipe), threshold)
    ]
    assert passes == [4] * 4
    assert values[0] == values[1] == values[2] == values[3]


def test_grid_search_with_several_metrics_in_two_processes():
    X, masks = with_defects(40)
    searches = [
        GridSearchCV(
            PatchCore(random_state=0),
            {"sigma": [0.0, 2.0], "n_reweight": [0, 3]},
            cv=GoodOnlyKFold(3),
            scoring=scorers("image_auroc", "aupro", max_fpr=0.2),
            refit="aupro",
            n_jobs=n_jobs,
            error_score="raise",
        ).fit(X, masks)
        for n_jobs in (1, 2)
    ]
    for name in ("image_auroc", "aupro"):
        first, second = (search.cv_results_[f"mean_test_{name}"] for search in searches)
        np.testing.assert_allclose(first, second)
    assert len(set(first)) > 1
    assert searches[0].best_index_ == np.argmax(searches[0].cv_results_["mean_test_aupro"])
    in_search = scorers("aupro")(searches[0], X, masks)
    assert in_search == scorers("aupro")(searches[0].best_estimator_, X, masks)


def test_a_search_over_held_out_thresholds_refits_on_good_images_only():
    X, masks = with_defects(40)
    model = HeldOutThreshold(Given(), target_fpr=0.2, cv=3, random_state=0)
    search = GridSearchCV(
        model,
        {"estimator__sigma": [0.0, 1.0]},
        cv=GoodOnlyKFold(3),
        scoring=scorers("aupro"),
        refit="aupro",
        error_score="raise",
    ).fit(X, masks)
    assert search.best_estimator_.estimator_.n_seen_ == 30
    by_hand = clone(search.best_estimator_).fit(X, masks)
    assert by_hand.offset_ == search.best_estimator_.offset_


def test_masks_are_read_from_their_files_once(tmp_path):
    from PIL import Image

    reads = []

    class Counting(MaskFiles):
        def __getitem__(self, key):
            reads.append(key)
            return super().__getitem__(key)

    X, masks = with_defects(8)
    paths = [str(tmp_path / f"{i}.png") for i in range(8)]
    for path, mask in zip(paths, masks, strict=True):
        Image.fromarray(mask * np.uint8(255)).save(path)
    y, detector = Counting(paths, paths), Given().fit(X)
    assert scorers(*ALL_NAMES)(detector, X, y) == scorers(*ALL_NAMES)(detector, X, masks)
    assert sorted(set(reads)) == sorted(reads) == [*range(9)]  # the last ends the iteration


def test_cross_validation_over_a_list_of_masks():
    X, masks = with_defects()
    as_list = [mask if mask.any() else None for mask in masks]
    results = [
        cross_validate(Given(), X, y, cv=GoodOnlyKFold(3), scoring=scorers(*ALL_NAMES))
        for y in (masks, as_list)
    ]
    for name in ALL_NAMES:
        assert np.array_equal(results[0][f"test_{name}"], results[1][f"test_{name}"])
        assert np.isfinite(results[0][f"test_{name}"]).all()


@pytest.mark.parametrize(
    ("names", "y", "message"),
    [
        (["aupro"], "labels", "aupro needs y as masks"),
        (["image_auroc"], None, "the scorers need y"),
        (["image_auroc"], [0, 1] * 12, r"expected the labels \+1 \(good\) and -1 \(defect\)"),
        (["image_auroc"], [-1] * 24, "0 good images and 24 defects"),
    ],
)
def test_scorers_say_what_is_wrong_with_y(names, y, message):
    X, masks = with_defects()
    y = labels(masks) if isinstance(y, str) else y
    with pytest.raises(ValueError, match=message):
        scorers(*names)(Given().fit(X), X, y)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, "expected names of metrics out of .*, got none"),
        (["auroc"], {}, r"got \['auroc'\]"),
        (["aupro"], {"max_fpr": 0}, "max_fpr is 0; expected a share"),
        (["aupro"], {"roi": [np.ones((4, 4))]}, "expected roi as one mask"),
        (["aupro"], {"roi": np.zeros((4, 4))}, "got an empty one"),
        (["aupro"], {"random_state": None}, "random_state is None; expected an int"),
    ],
)
def test_scorers_refuse_bad_options(names, options, message):
    with pytest.raises(ValueError, match=message):
        scorers(*names, **options)


# --- synthetic defects ------------------------------------------------------------------------


def textures(n, seed=0):
    return make_textures(n, kind="brushed", size=64, random_state=seed)


def pipeline(kind=Pipeline):
    return kind(
        [
            ("features", FilterBank(n_filters=4, image_size=64, random_state=0)),
            ("detector", PatchCore(random_state=0)),
        ]
    )


def test_synthetic_defects_stand_in_for_real_ones():
    images, pipe = textures(5), pipeline().fit(textures(6, seed=1))
    spoilt, masks, _ = make_defects(images, random_state=7)
    X, y = np.concatenate([images, spoilt]), [None] * 5 + list(masks)
    options = {"synthetic": True, "sizes": [1.0], "random_state": 7}
    answer = scorers(*ALL_NAMES, **options)(pipe, images)
    assert answer == scorers(*ALL_NAMES)(pipe, X, y)
    assert answer["image_auroc"] > 0.5
    assert answer != scorers(*ALL_NAMES, **(options | {"random_state": 8}))(pipe, images)
    holes = scorers("aupro", **options, kinds=["hole"])(pipe, images)
    assert holes != answer["aupro"]


def test_synthetic_defects_on_files_leave_real_defects_out(tmp_path):
    from PIL import Image

    images, paths = textures(4), [str(tmp_path / f"{i}.png") for i in range(4)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    pipe, scoring = pipeline().fit(paths), scorers("image_auroc", "pixel_ap", synthetic=True)
    assert scoring(pipe, paths[:3]) == scoring(pipe, images[:3])
    assert scoring(pipe, paths, [1, 1, 1, -1]) == scoring(pipe, paths[:3])


def test_search_without_any_defect():
    search = GridSearchCV(
        pipeline(SklearnPipeline),
        {"detector__sigma": [0.0, 6.0]},
        cv=KFold(2),
        scoring=scorers("image_auroc", "pixel_auroc", synthetic=True),
        refit="pixel_auroc",
        error_score="raise",
    ).fit(textures(8))
    values = search.cv_results_["mean_test_pixel_auroc"]
    assert values[0] != values[1] and values.min() > 0.5


def test_synthetic_defects_need_images():
    X = features()
    with pytest.raises(ValueError, match="painted into images, got features"):
        scorers("aupro", synthetic=True)(Given().fit(X), X)


# --- held-out threshold -----------------------------------------------------------------------


class Unlabelled(HeldOutThreshold):
    """HeldOutThreshold that is never told y."""

    def fit(self, X, y=None):
        return super().fit(X)


# The checks hand every estimator the labels 0, 1, 2 of classes as y, and those are refused (see
# below): they run without y. Some have 20 samples, too few for a rate of 5 %.
@pytest.mark.filterwarnings("ignore:target_fpr=0.06 takes 16:UserWarning")
@parametrize_with_checks(
    [Unlabelled(PatchCore(random_state=0), cv=2, random_state=0)],
)
def test_held_out_threshold_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_thresholds_are_order_statistics_of_held_out_images():
    X = features(50)
    detector = PatchCore(coreset_ratio=0.2, sigma=1.0, random_state=0)
    model = HeldOutThreshold(
        detector, target_fpr=5 / 51, method="folds", cv=KFold(4), confidence=0.9
    ).fit(X)
    scores, maxima = np.zeros(50), np.zeros(50)
    for train, test in KFold(4).split(np.zeros(50)):
        fold = clone(detector).fit(X[train])
        scores[test] = fold.score_samples(X[test])
        maxima[test] = fold.score_map(X[test]).max(axis=(1, 2))
    assert np.array_equal(model.oof_scores_, scores)
    assert np.array_equal(model.oof_map_maxima_, maxima)
    assert model.offset_ == np.sort(scores)[4]
    assert model.map_offset_ == np.sort(maxima)[-5]
    assert model.fpr_interval_ == model.map_fpr_interval_
    np.testing.assert_allclose(model.fpr_interval_, beta(5, 46).interval(0.9))
    whole = clone(detector).fit(X)
    assert np.array_equal(model.score_samples(X), whole.score_samples(X))
    assert np.array_equal(model.score_map(X), whole.score_map(X))


def test_a_refused_fit_keeps_model_and_threshold_together():
    X = features(20)
    model = HeldOutThreshold(
        PatchCore(random_state=0), target_fpr=0.1, method="folds", cv=2, random_state=0
    ).fit(X)
    before, interval = model.decision_function(X), model.fpr_interval_
    with pytest.raises(ValueError, match="each fold"):  # the new model has learned by then
        model.set_params(cv=5).fit(features(3))
    assert np.array_equal(model.decision_function(X), before)
    assert model.fpr_interval_ == interval and len(model.good_images_) == 20


def test_the_promise_is_kept_on_scores_of_known_distribution():
    """A score uniform in [0, 1] falls below a threshold at a rate that is the threshold."""
    rng, rates, covered = np.random.default_rng(0), [], []
    model = HeldOutThreshold(Given(), target_fpr=0.08, cv=2, confidence=0.8, random_state=0)
    for _ in range(150):
        model.fit(-rng.random((37, 1)))
        low, high = model.fpr_interval_
        rates.append(model.offset_)
        covered.append(low <= model.offset_ <= high)
    # of 37: mean 0.08, standard error 0.0035; coverage 0.8, standard error 0.033
    assert np.mean(rates) == pytest.approx(0.08, abs=0.01)
    assert np.mean(covered) == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize(
    ("n", "target_fpr", "rank"),
    [
        (99, 0.01, 1),
        (199, 0.01, 2),
        (198, 0.01, 1.99),
        (99, 0.29, 29),
        (20, 0.05, 1.05),
        (13, 0.5, 7),
    ],
)
def test_the_threshold_has_the_rank_of_the_rate(n, target_fpr, rank):
    X = np.random.default_rng(n).normal(size=(n, 2))
    model = HeldOutThreshold(Given(), target_fpr=target_fpr, cv=2, random_state=0).fit(X)
    ordered, k = np.sort(model.oof_scores_), int(rank)
    expected = ordered[k - 1] + (rank - k) * (ordered[k] - ordered[k - 1])
    assert model.offset_ == pytest.approx(expected, rel=1e-9)
    assert (model.oof_map_maxima_ > model.map_offset_).sum() == int(np.ceil(rank)) - 1


def test_too_few_images_for_the_rate():
    X = np.random.default_rng(0).normal(size=(18, 2))
    with pytest.warns(UserWarning, match=r"0.05 takes 19 held-out.*got 18.* 0.053;") as caught:
        model = HeldOutThreshold(Given(), target_fpr=0.05, cv=3, random_state=0).fit(X)
    assert caught[0].filename == __file__
    np.testing.assert_allclose(model.fpr_interval_, beta(1, 18).interval(0.95))


def test_the_tail_takes_over_where_no_score_is_low_enough():
    """Scores of an exponential distribution: the tail through them is the true one."""
    rng, rates = np.random.default_rng(0), []
    for _ in range(400):
        scores = -rng.exponential(size=40)
        rates.append(np.exp(threshold_of(scores, 0.01)))  # the share below a threshold
    # 0.014 for the logarithm's curve; the lowest score has 1 / 41 = 0.024
    assert np.mean(rates) == pytest.approx(0.0145, abs=0.002)
    one_odd = np.append(-rng.exponential(size=39), -1e6)
    assert threshold_of(np.zeros(1), 0.01) == 0
    assert threshold_of(one_odd, 0.05) > -10  # rank 2.05: the odd one does not count


def test_leave_one_out_and_folds():
    X = features(24)
    detector = PatchCore(coreset_ratio=0.3, sigma=1.0, random_state=0)
    auto = HeldOutThreshold(detector, target_fpr=0.2).fit(X)
    scores, maxima = clone(detector).fit(X).leave_one_out(X)
    assert auto.method_ == "leave_one_out"
    assert np.array_equal(auto.oof_scores_, scores) and len(scores) == 24
    assert np.array_equal(auto.oof_map_maxima_, maxima)
    folds = HeldOutThreshold(detector, target_fpr=0.2, method="folds", random_state=0).fit(X)
    assert folds.method_ == "folds" and not np.array_equal(folds.oof_scores_, scores)
    given = HeldOutThreshold(Given(), target_fpr=0.2).fit(X)
    assert given.method_ == "folds"
    with pytest.raises(ValueError, match='Given has no leave_one_out; pass method="folds"'):
        HeldOutThreshold(Given(), target_fpr=0.2, method="leave_one_out").fit(X)
    padim = HeldOutThreshold(PaDiM(random_state=0), target_fpr=0.2, random_state=0)
    pairs = np.arange(24) // 2
    assert padim.fit(X).method_ == "leave_one_out"
    assert padim.fit(X, groups=pairs).method_ == "folds"  # it leaves out single images only
    with pytest.raises(ValueError, match="PaDiM leaves out single images of one fit, not groups"):
        padim.set_params(method="leave_one_out").fit(X, groups=pairs)


def test_features_of_a_pipeline_are_computed_once(monkeypatch):
    calls, transform = [], FilterBank.transform

    def counted(self, X):
        calls.append(len(X))
        return transform(self, X)

    monkeypatch.setattr(FilterBank, "transform", counted)
    images = textures(12)
    for kind in Pipeline, SklearnPipeline:
        calls.clear()
        model = HeldOutThreshold(pipeline(kind), target_fpr=0.2).fit(images)
        assert calls == [12] and model.method_ == "leave_one_out"
        expected = clone(model.estimator).fit(images).score_samples(images)
        np.testing.assert_array_equal(model.score_samples(images), expected)


def test_counts_of_false_alarms_and_strange_images():
    rng = np.random.default_rng(0)
    X = rng.random((60, 1))
    X[[7, 33]] += [[9], [5]]
    y = np.ones(61, int)
    y[0] = -1
    X = np.concatenate([np.zeros((1, 1)), X])
    model = HeldOutThreshold(Given(), target_fpr=0.1, confidence=0.9, random_state=0).fit(X, y)
    assert model.suspicious_images_.tolist() == [8, 34]  # places in X, the strangest first
    rank = 0.1 * 61
    expected = betabinom(1000, rank, 61 - rank).interval(0.9)
    assert model.false_alarms_per_1000_ == expected
    assert model.false_alarm_interval(50) == betabinom(50, rank, 61 - rank).interval(0.9)
    pairs = np.arange(61) // 2  # half as many independent images: less is known
    paired = clone(model).fit(X, y, groups=pairs)
    low, high = paired.false_alarms_per_1000_
    assert low < expected[0] and high > expected[1]


def test_another_target_is_that_of_another_fit():
    X = np.random.default_rng(0).normal(size=(39, 1))
    groups = np.arange(39) // 2
    model = HeldOutThreshold(Given(), target_fpr=0.1, cv=3, random_state=0).fit(X, groups=groups)
    assert model.expected_fpr_ == 0.1
    assert model.set_target(0.25) is model
    other = clone(model).fit(X, groups=groups)
    for name in (
        *("target_fpr", "expected_fpr_", "offset_", "map_offset_", "fpr_interval_"),
        *("map_fpr_interval_", "false_alarms_per_1000_"),
    ):
        assert getattr(model, name) == getattr(other, name), name
    assert model.false_alarm_interval(50) == other.false_alarm_interval(50)
    state = dict(vars(model))
    for wrong in (0, 0.6, "a", np.nan):
        with pytest.raises(ValueError, match="target_fpr"):
            model.set_target(wrong)
    assert vars(model) == state
    with pytest.warns(UserWarning, match="target_fpr=0.01 takes 99") as caught:
        model.set_target(0.01)
    assert caught[0].filename == __file__
    with pytest.raises(NotFittedError):
        HeldOutThreshold(Given()).set_target(0.1)


def test_an_offset_by_hand_has_its_own_rate():
    X = np.random.default_rng(0).normal(size=(39, 1))
    model = HeldOutThreshold(Given(), target_fpr=0.1, cv=3, random_state=0).fit(X)
    before, ordered = model.map_offset_, np.sort(model.oof_scores_)
    assert model.set_offset(model.offset_).expected_fpr_ == pytest.approx(0.1)
    assert model.set_offset(float(ordered[9])) is model
    assert model.expected_fpr_ == 10 / 40 and model.offset_ == ordered[9]
    assert model.fpr_interval_ == pytest.approx(tuple(beta.ppf([0.025, 0.975], 10, 30)))
    assert model.false_alarms_per_1000_ == model.false_alarm_interval(1000)
    assert model.map_offset_ == before and model.target_fpr == 0.1
    assert (model.predict(X) == -1).sum() == 9
    assert model.set_offset(ordered[0] - 9).expected_fpr_ == 1 / 40
    assert model.set_offset(ordered[-1] + 9).expected_fpr_ == 39 / 40
    for wrong in (np.inf, "a", None):
        with pytest.raises(ValueError, match="offset must be a finite number"):
            model.set_offset(wrong)
    with pytest.raises(NotFittedError):
        HeldOutThreshold(Given()).set_offset(1.0)


def test_signs_and_shapes():
    X, masks = with_defects(40)
    X.arrays()["only"][::4, :2, :2] += 9
    detector = PatchCore(random_state=0)
    model = HeldOutThreshold(detector, target_fpr=0.1, cv=3, random_state=0).fit(X, masks)
    decision = model.decision_function(X)
    assert decision.dtype == np.float64
    assert np.array_equal(decision, model.score_samples(X) - model.offset_)
    assert np.array_equal(model.predict(X), np.where(decision < 0, -1, 1))
    assert set(model.predict(X)[::4]) == {-1}
    flagged = score_map(model, X) > model.map_offset_
    assert flagged.shape == (40, 12, 8) and flagged[::4, :2, :2].all()
    assert np.array_equal(model.fit_predict(X, masks), model.predict(X))


@pytest.mark.parametrize("coding", ["masks", "labels"])
def test_defects_are_left_out(coding):
    X, masks = with_defects(40)
    y = masks if coding == "masks" else labels(masks)
    model = HeldOutThreshold(PatchCore(random_state=0), target_fpr=0.1, cv=3, random_state=0)
    with_bad = clone(model).fit(X, y)
    good = clone(model).fit(X[labels(masks) == 1])
    assert np.array_equal(with_bad.oof_scores_, good.oof_scores_) and len(good.oof_scores_) == 30
    assert with_bad.offset_ == good.offset_ and with_bad.map_offset_ == good.map_offset_
    assert np.array_equal(with_bad.score_samples(X), good.score_samples(X))


def test_kinds_of_splitters():
    X = features(30)
    model = HeldOutThreshold(Given(), target_fpr=0.2, random_state=0)
    alone = clone(model).set_params(cv=LeaveOneOut()).fit(X)
    assert np.array_equal(alone.oof_scores_, Given().fit(X).score_samples(X))
    half = clone(model).set_params(cv=ShuffleSplit(1, test_size=0.5, random_state=0)).fit(X)
    assert len(half.oof_scores_) == 15 and half.estimator_.n_seen_ == 30
    with pytest.raises(ValueError, match="holds out each image at most once, got RepeatedKFold"):
        clone(model).set_params(cv=RepeatedKFold(n_splits=3, n_repeats=2)).fit(X)


@pytest.mark.parametrize("method", ["folds", "leave_one_out"])
def test_groups_are_held_out_together(method):
    groups = np.repeat(np.arange(12), 3)
    X = np.repeat(np.random.default_rng(0).normal(size=(12, 6)), 3, axis=0)  # each piece thrice
    model = HeldOutThreshold(PatchCore(coreset_ratio=1.0, n_reweight=0), target_fpr=0.1, cv=4)
    model.set_params(random_state=0, method=method)
    y = np.ones(36, dtype=int)
    y[3:6] = -1
    # A piece of which another image was in the training part is at distance 0.
    assert np.mean(-clone(model).fit(X, y).oof_scores_ < 1e-2) > 0.5
    assert np.mean(-clone(model).fit(X, y, groups=groups).oof_scores_ < 1e-2) == 0


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_random_state_makes_a_fit_repeatable(n_jobs):
    X = features(30)
    model = HeldOutThreshold(
        PatchCore(random_state=0), target_fpr=0.2, method="folds", random_state=1
    )
    first = clone(model).fit(X)
    second = clone(model).set_params(n_jobs=n_jobs).fit(X)
    other = clone(model).set_params(random_state=2).fit(X)
    assert np.array_equal(first.oof_scores_, second.oof_scores_)
    assert not np.array_equal(first.oof_scores_, other.oof_scores_)


def test_around_a_pipeline_of_images_and_back_from_a_pickle():
    model = HeldOutThreshold(pipeline(SklearnPipeline), target_fpr=0.2, cv=3, random_state=0)
    images = textures(12)
    model.set_params(estimator__detector__sigma=2.0)
    assert clone(model).get_params()["estimator__detector__sigma"] == 2.0
    model.fit(list(images))
    back = pickle.loads(pickle.dumps(model))
    assert np.array_equal(back.predict(images), model.predict(images))
    assert np.array_equal(score_map(back, images), score_map(model.estimator_, images))
    assert not hasattr(model.estimator, "n_features_in_")  # a clone was fitted


def test_the_folds_are_scored_by_models_that_have_not_seen_them():
    X = np.random.default_rng(0).normal(size=(40, 6))
    detector = PatchCore(coreset_ratio=1.0, n_reweight=0, contamination=0.1, random_state=0)
    model = HeldOutThreshold(detector, target_fpr=0.1, cv=4, random_state=0).fit(X)
    assert model.offset_ < detector.fit(X).offset_ - 0.5  # a whole bank knows every image it saw


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1] * 12, r"expected the labels \+1 \(good\) and -1 \(defect\)"),
        ([-1] * 24, "got y with defects only"),
        ([1] * 23, "one entry of y for each image, got 23 for 24"),
        ([1] * 4 + [-1] * 20, "at least 5 good images, one for each fold, got 4"),
    ],
)
def test_bad_labels_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        HeldOutThreshold(Given()).fit(features(24), y)


@pytest.mark.parametrize(
    "parameters",
    [{"target_fpr": 0}, {"target_fpr": 0.6}, {"confidence": 1.0}, {"cv": 1}, {"verbose": "yes"}],
    ids=str,
)
def test_bad_parameters_are_refused(parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        HeldOutThreshold(Given(), **parameters).fit(features())


@pytest.mark.parametrize("method", ["predict", "decision_function", "score_samples", "score_map"])
def test_unfitted_thresholds_say_so(method):
    with pytest.raises(NotFittedError):
        getattr(HeldOutThreshold(Given()), method)(features())
    with pytest.raises(NotFittedError):
        scorers("image_auroc")(HeldOutThreshold(Given()), features(), labels(with_defects()[1]))


def test_strange_images_are_named_where_only_some_are_held_out():
    X = np.random.default_rng(0).random((60, 1))
    half = ShuffleSplit(1, test_size=0.5, random_state=0)
    train, held_out = next(half.split(X))
    strange = np.sort(held_out)[[3, 20]]
    X[strange] += [[5], [9]]
    X[train[0]] += 7  # strange as well, but never held out
    model = HeldOutThreshold(Given(), target_fpr=0.1, cv=half).fit(X)
    assert model.suspicious_images_.tolist() == strange[::-1].tolist()
    pairs = np.arange(60) // 2
    grouped = clone(model).set_params(cv=GroupShuffleSplit(1, test_size=0.5, random_state=0))
    assert grouped.fit(X, groups=pairs).n_independent_ == 15  # of 30 pairs


def test_painted_defects_that_are_found():
    images = textures(30)
    model = HeldOutThreshold(pipeline(), target_fpr=0.1).fit(images)
    rates = detection_rates(model, images, sizes=(0.3, 2), n_each=2, random_state=0)
    assert {record["size"] for record in rates} == {0.3, 2.0}
    for size in 0.3, 2.0:
        some = [record for record in rates if record["size"] == size]
        assert sum(record["n"] for record in some) == 20
        assert all(0 <= record["found"] <= record["n"] for record in some)
    small, large = (
        {key: sum(r[key] for r in rates if r["size"] == size) for key in ("found", "extent")}
        for size in (0.3, 2.0)
    )
    assert small["found"] < large["found"] and small["extent"] < large["extent"]
    model.offset_ = -np.inf  # flags nothing
    assert not any(r["found"] for r in detection_rates(model, images, n_each=1, sizes=[1]))
    assert rates == detection_rates(
        model.fit(images), images, sizes=(0.3, 2), n_each=2, random_state=0
    )
    with pytest.raises(NotFittedError):
        detection_rates(HeldOutThreshold(pipeline()), images)
