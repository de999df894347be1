"""Scorers, splitters and thresholds in all of scikit-learn's tools for model selection."""

import pickle
import warnings

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import permutation_importance
from sklearn.metrics import check_scoring, get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)

from skanomaly import FeatureMaps, PaDiM, PatchCore, Pipeline
from skanomaly.images import ImageFit
from skanomaly.model_selection import (
    GoodOnlyKFold,
    GoodOnlyShuffleSplit,
    HeldOutThreshold,
    scorers,
)
from skanomaly.model_selection._scorers import IMAGE_METRICS, PIXEL_METRICS

N = 40
IS_BAD = np.arange(N) % 4 == 0
CV = GoodOnlyKFold(3)


def make_data():
    """FeatureMaps, the masks of their defects, and the labels."""
    maps = np.random.default_rng(0).normal(size=(N, 4, 3, 6)).astype(np.float32)
    maps[IS_BAD, :2, :2] += 2
    masks = np.zeros((N, 8, 6), dtype=bool)
    masks[IS_BAD, :4, :4] = True
    X = FeatureMaps({"only": maps}, np.tile((8, 6), (N, 1)), ImageFit(8, 6))
    return X, masks, np.where(IS_BAD, -1, 1)


X, MASKS, Y = make_data()
WITH_NONE = [mask if mask.any() else None for mask in MASKS]


def rows():
    """Plain rows, for what takes tables alone."""
    made = np.random.default_rng(1).normal(size=(N, 3))
    made[IS_BAD, 0] += 3
    return made


def detector():
    return PatchCore(coreset_ratio=1.0, sigma=0.0, random_state=0)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


# --- scorers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*IMAGE_METRICS, *PIXEL_METRICS])
def test_one_metric_is_a_number_and_the_same_among_several(name):
    fitted, alone = detector().fit(X, Y), scorers(name)
    value = alone(fitted, X, MASKS)
    assert isinstance(value, float)
    several = scorers("image_auroc", "aupro", name)
    assert several(fitted, X, MASKS)[name] == value == alone(fitted, X, WITH_NONE)
    assert pickle.loads(pickle.dumps(alone))(fitted, X, MASKS) == value
    assert clone(alone, safe=False)(fitted, X, MASKS) == value
    assert check_scoring(fitted, scoring=alone) is get_scorer(alone) is alone


@pytest.mark.parametrize("y", [Y, MASKS, WITH_NONE], ids=["labels", "masks", "list of masks"])
def test_each_way_of_validating_takes_one_metric(y):
    options = {"cv": CV, "scoring": scorers("image_auroc")}
    scores = cross_val_score(detector(), X, y, **options, error_score="raise")
    several = cross_validate(detector(), X, y, cv=CV, scoring=scorers("image_auroc", "image_ap"))
    np.testing.assert_array_equal(scores, several["test_image_auroc"])
    both = cross_validate(detector(), X, y, **options, n_jobs=2, error_score="raise")
    np.testing.assert_array_equal(both["test_score"], scores)
    by_name = {name: scorers(name) for name in ("image_auroc", "image_ap")}
    named = cross_validate(detector(), X, y, cv=CV, scoring=by_name, error_score="raise")
    for name in by_name:
        np.testing.assert_array_equal(named[f"test_{name}"], several[f"test_{name}"])
    score, permuted, _ = permutation_test_score(
        detector(), X, y, **options, n_permutations=3, random_state=0
    )
    assert score == scores.mean() > permuted.max()


SEARCHES = {
    "grid": (GridSearchCV, {}),
    "grid of two processes": (GridSearchCV, {"n_jobs": 2}),
    "random": (RandomizedSearchCV, {"n_iter": 2, "random_state": 0}),
    "halving": (
        HalvingGridSearchCV,
        {"min_resources": 30, "random_state": 0, "return_train_score": False},
    ),
    "random halving": (
        HalvingRandomSearchCV,
        {"n_candidates": 2, "min_resources": 30, "random_state": 0, "return_train_score": False},
    ),
}


@pytest.mark.parametrize(("kind", "options"), SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("name", ["image_auroc", "aupro"])
def test_each_search_takes_one_metric(kind, options, name):
    search = kind(
        detector(),
        {"n_reweight": [0, 3]},
        cv=CV,
        scoring=scorers(name),
        error_score="raise",
        **options,
    ).fit(X, MASKS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ == search.cv_results_["mean_test_score"][search.best_index_]
    assert search.score(X, MASKS) == scorers(name)(search.best_estimator_, X, MASKS)


def test_the_name_of_the_only_metric_may_stand_as_refit():
    options = {"cv": CV, "error_score": "raise"}
    grid = {"n_reweight": [0, 3]}
    alone = GridSearchCV(detector(), grid, scoring=scorers("aupro"), refit="aupro", **options).fit(
        X, MASKS
    )
    named = GridSearchCV(
        detector(), grid, scoring={"aupro": scorers("aupro")}, refit="aupro", **options
    ).fit(X, MASKS)
    assert alone.best_params_ == named.best_params_ and alone.best_score_ == named.best_score_


def test_a_search_is_validated_in_turn():
    search = GridSearchCV(detector(), {"n_reweight": [0, 3]}, cv=CV, scoring=scorers("image_auroc"))
    # The inner search needs defects in the outer training parts.
    outer = KFold(2, shuffle=True, random_state=0)
    scores = cross_val_score(
        search, X, Y, cv=outer, scoring=scorers("image_ap"), error_score="raise"
    )
    assert np.isfinite(scores).all()


def test_curves_are_computed_where_training_parts_have_no_defects():
    options = {"cv": CV, "scoring": scorers("image_auroc"), "error_score": "raise"}
    with pytest.warns(UndefinedMetricWarning, match="0 defects, and the metrics need both"):
        sizes, training, test = learning_curve(
            PaDiM(random_state=0), X, Y, train_sizes=[8, 16], **options
        )
    assert sizes.tolist() == [8, 16] and np.isfinite(test).all() and np.isnan(training).all()
    with pytest.warns(UndefinedMetricWarning):
        training, test = validation_curve(
            detector(), X, Y, param_name="n_reweight", param_range=[0, 3], **options
        )
    assert np.isfinite(test).all() and np.isnan(training).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search = HalvingGridSearchCV(
            detector(), {"n_reweight": [0, 3]}, min_resources=30, random_state=0, **options
        ).fit(X, Y)
    assert np.isfinite(search.best_score_)


def test_a_part_without_defects_has_no_score_and_a_warning():
    fitted = detector().fit(X, Y)
    good = np.flatnonzero(~IS_BAD)
    with pytest.warns(UndefinedMetricWarning, match=r"30 good images and 0 .*GoodOnlyKFold"):
        assert np.isnan(scorers("aupro")(fitted, X[good], [None] * 30))
    with pytest.warns(UndefinedMetricWarning):
        both = scorers("image_auroc", "image_ap")(fitted, X[good], Y[good])
    assert list(both) == ["image_auroc", "image_ap"] and np.isnan(list(both.values())).all()
    with pytest.raises(ValueError, match="0 good images and 10 defects"):
        scorers("image_auroc")(fitted, X[np.flatnonzero(IS_BAD)], Y[IS_BAD])


def test_importances_of_the_columns_of_a_table():
    table = rows()
    fitted = detector().set_params(n_reweight=0).fit(table, Y)
    found = permutation_importance(
        fitted, table, Y, scoring=scorers("image_auroc"), n_repeats=3, random_state=0
    )
    assert found.importances_mean.argmax() == 0


def test_several_metrics_are_refused_where_one_number_is_needed():
    with pytest.raises(ValueError, match="scoring must return a number"):
        cross_val_score(detector(), X, Y, cv=CV, scoring=scorers("image_auroc", "image_ap"))


# --- groups -----------------------------------------------------------------------------------

PIECES = np.random.default_rng(2).permutation(N) // 2  # two images of each piece


def check_apart(splits, groups=PIECES):
    """No group has good images on both sides; every defect is tested, none learned from."""
    splits = list(splits)
    assert splits
    for train, test in splits:
        assert not IS_BAD[train].any() and IS_BAD[test].sum() == IS_BAD.sum()
        assert not set(groups[train]) & set(groups[test[~IS_BAD[test]]])


@pytest.mark.parametrize(
    "cv",
    [
        GoodOnlyKFold(3),
        GoodOnlyKFold(3, shuffle=True, random_state=0),
        GoodOnlyShuffleSplit(3, test_size=0.3, random_state=0),
        GoodOnlyShuffleSplit(3, random_state=0),
        GoodOnlyShuffleSplit(3, train_size=5, random_state=0),
    ],
    ids=str,
)
def test_groups_reach_the_splitter_routed_or_not(cv):
    check_apart(cv.split(X, MASKS, PIECES))
    options = {"cv": cv, "scoring": scorers("image_auroc"), "error_score": "raise"}
    found = []
    for is_routed in (False, True):
        with sklearn.config_context(enable_metadata_routing=is_routed):
            params = {"params": {"groups": PIECES}} if is_routed else {"groups": PIECES}
            result = cross_validate(detector(), X, Y, **options, **params, return_indices=True)
        check_apart(zip(result["indices"]["train"], result["indices"]["test"], strict=True))
        found.append(result["test_score"])
    np.testing.assert_array_equal(*found)


def test_random_parts_of_groups_have_the_sizes_asked_for():
    for options, n_tested in (({}, 2), ({"test_size": 4}, 4), ({"train_size": 0.75}, 5)):
        groups = np.arange(30) // 2  # 15 pieces, 2 images of each
        splits = GoodOnlyShuffleSplit(4, random_state=0, **options).split([0] * 30, None, groups)
        assert {len(np.unique(groups[test])) for _, test in splits} <= {n_tested, n_tested - 1}


@pytest.mark.usefixtures("routing")
def test_a_splitter_asks_for_groups_as_scikit_learns_own_do():
    for cv in (GoodOnlyKFold(), GoodOnlyShuffleSplit()):
        assert cv.get_metadata_routing().split.requests == {"groups": True}
        assert GroupKFold().get_metadata_routing().split.requests == {"groups": True}
        cv.set_split_request(groups="piece")
        assert cv.get_metadata_routing().split.requests == {"groups": "piece"}
    cv = GoodOnlyKFold(3).set_split_request(groups="piece")
    result = cross_validate(
        detector(), X, Y, params={"piece": PIECES}, cv=cv, scoring=scorers("image_auroc"),
        return_indices=True, error_score="raise",
    )  # fmt: skip
    check_apart(zip(result["indices"]["train"], result["indices"]["test"], strict=True))


class Recording(GoodOnlyKFold):
    """Remembers the groups that it was given."""

    seen = []

    def split(self, X, y=None, groups=None):
        Recording.seen.append(groups)
        return super().split(X, y, groups)


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("kind", [GridSearchCV, HalvingGridSearchCV])
def test_groups_reach_a_search_its_folds_and_the_threshold_within(kind):
    model = HeldOutThreshold(
        detector(), target_fpr=0.2, method="folds", cv=Recording(2), random_state=0
    )
    assert model.get_metadata_routing().fit.requests == {"groups": True}
    pipe = Pipeline([("detector", model)])
    options = {"min_resources": 36, "return_train_score": False} if kind != GridSearchCV else {}
    search = kind(
        pipe,
        {"detector__estimator__n_reweight": [0, 3]},
        cv=GoodOnlyKFold(2),
        scoring=scorers("image_auroc"),
        error_score="raise",
        **options,
    )
    Recording.seen.clear()
    search.fit(X, Y, groups=PIECES)
    assert all(groups is not None for groups in Recording.seen)
    np.testing.assert_array_equal(Recording.seen[-1], PIECES[~IS_BAD])  # of the refit


@pytest.mark.usefixtures("routing")
def test_groups_reach_a_search_that_is_validated_in_turn():
    model = HeldOutThreshold(
        detector(), target_fpr=0.2, method="folds", cv=Recording(2), random_state=0
    )
    grid = {"estimator__n_reweight": [0, 3]}
    search = GridSearchCV(model, grid, cv=GoodOnlyKFold(2), scoring=scorers("image_auroc"))
    Recording.seen.clear()
    cross_validate(
        search, X, Y, params={"groups": PIECES}, cv=GroupKFold(2),
        scoring=scorers("image_ap"), error_score="raise",
    )  # fmt: skip
    assert len(Recording.seen) == 2 * (2 * 2 + 1)
    assert all(groups is not None for groups in Recording.seen)


@pytest.mark.usefixtures("routing")
def test_groups_keep_the_pieces_of_the_threshold_together():
    model = HeldOutThreshold(detector(), target_fpr=0.2, method="folds", cv=3, random_state=0)
    routed = clone(model).fit(X, Y, groups=PIECES)
    with sklearn.config_context(enable_metadata_routing=False):
        plain = clone(model).fit(X, Y, groups=PIECES)
        ungrouped = clone(model).fit(X, Y)
    np.testing.assert_array_equal(routed.oof_scores_, plain.oof_scores_)
    assert (routed.oof_scores_ != ungrouped.oof_scores_).any()
    options = {"cv": GroupKFold(2), "scoring": scorers("image_auroc"), "error_score": "raise"}
    model.set_params(cv=Recording(3))
    for asks in (True, False):
        Recording.seen.clear()
        model.set_fit_request(groups=asks)
        cross_validate(model, X, Y, params={"groups": PIECES}, **options)
        assert [groups is not None for groups in Recording.seen] == [asks, asks]


@pytest.mark.usefixtures("routing")
def test_metadata_that_nobody_asked_for_is_refused():
    with pytest.raises(TypeError, match="sample_weight"):
        cross_validate(
            detector(), X, Y, params={"sample_weight": np.ones(N)}, cv=CV,
            scoring=scorers("image_auroc"),
        )  # fmt: skip


@pytest.mark.parametrize("cv", [GoodOnlyKFold(2), GoodOnlyShuffleSplit(2)], ids=str)
def test_groups_of_another_length_are_refused(cv):
    for groups in (PIECES[:-1], [*PIECES, 3], PIECES[:, None]):
        with pytest.raises(ValueError, match=r"one group for each image, of shape \(40,\)"):
            next(cv.split(X, Y, groups))
