"""EnsembleDetector: several detectors as one, against plain numpy."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit
from sklearn.preprocessing import FunctionTransformer

import skanomaly
from skanomaly import (
    SPADE,
    EnsembleDetector,
    FeatureMaps,
    FilterBank,
    PaDiM,
    PatchCore,
    Pipeline,
    estimate_memory,
    nearest_good,
    score_regions,
)
from skanomaly.base import BaseImageDetector
from skanomaly.datasets import make_textures
from skanomaly.estimator_checks import parametrize_with_checks
from skanomaly.images import ImageFit
from skanomaly.model_selection import GoodOnlyKFold, HeldOutThreshold, scorers

N = 12
GROUPS = np.arange(N) // 3


class Residual(BaseImageDetector):
    """What principal components of the good images leave; it cannot leave out an image."""

    def __init__(self, *, n_components=3, image_size=64, sigma=4.0, contamination=0.01):
        self.n_components = n_components
        self.image_size = image_size
        self.sigma = sigma
        self.contamination = contamination

    def _fit(self, X):
        self.mean_, self.components_ = self._learned(X.arrays()["pixels"])

    def _learned(self, pixels):
        rows = pixels.reshape(len(pixels), -1).astype(np.float64)
        mean = rows.mean(axis=0)
        return mean, np.linalg.svd(rows - mean, full_matrices=False)[2][: self.n_components]

    def _residuals(self, pixels, mean, components):
        errors = [one - (one @ components.T) @ components for one in [pixels.ravel() - mean]]
        return np.abs(errors).reshape(pixels.shape).mean(axis=2)

    def _score_maps(self, X):
        pixels = X.arrays()["pixels"]
        return np.stack([self._residuals(one, self.mean_, self.components_) for one in pixels])


class LeftOutResidual(Residual):
    """The same, which can."""

    def _leave_one_out(self, X, groups):
        pixels = X.arrays()["pixels"]
        for i, one in enumerate(pixels):
            learned = self._learned(pixels[groups != groups[i]])
            yield X[[i]].store(), {"score_maps": self._residuals(one, *learned)[None]}


@parametrize_with_checks([EnsembleDetector([("a", LeftOutResidual()), ("b", Residual(sigma=6.0))])])
def test_the_contract(estimator, check):
    check(estimator)


def make_features(n, seed, n_bad=0):
    """FeatureMaps in frames of 20 x 24; the first images have a defect."""
    rng = np.random.default_rng(seed)
    fine = rng.normal(size=(n, 5, 6, 7)).astype(np.float32)
    fine[:n_bad, :2, :2] += 6
    return FeatureMaps({"fine": fine}, np.tile((20, 24), (n, 1)), ImageFit(10, 12))


@pytest.fixture(scope="module")
def good():
    return make_features(N, 0)


@pytest.fixture(scope="module")
def test():
    return make_features(8, 1, n_bad=4)


def members():
    return [
        ("bank", PatchCore(coreset_ratio=1.0, sigma=1.0, image_score="map_max", random_state=0)),
        ("gaussian", PaDiM(n_components=3, sigma=2.0, random_state=0)),
    ]


def oracle(named, good, test, *, weights, combination, groups):
    """Scales, held-out scores and score maps, each image's by a fit without its group."""
    scales, held_out, maps = [], [], []
    for _, one in named:
        left_out = [
            clone(one).fit(good[np.flatnonzero(groups != group)]).score_map(good[[i]])[0]
            for i, group in enumerate(groups)
        ]
        scales.append(np.mean([m.max() for m in left_out]))
        held_out.append(left_out)
        maps.append(clone(one).fit(good).score_map(test))
    combine = {"mean": lambda maps: np.sum(maps, axis=0), "max": lambda maps: np.max(maps, axis=0)}
    factors = weights / {"mean": np.sum(weights), "max": np.max(weights)}[combination]

    def combined(maps):
        scaled = [f / s * m for f, s, m in zip(factors, scales, np.asarray(maps), strict=True)]
        return combine[combination](scaled)

    return scales, -combined(held_out).max(axis=(1, 2)), combined(maps)


@pytest.mark.parametrize("weights", [None, [1, 3]])
@pytest.mark.parametrize("combination", ["mean", "max"])
def test_it_is_the_mean_or_maximum_of_maps_of_one_scale(combination, weights, good, test):
    model = EnsembleDetector(
        members(), combination=combination, weights=weights, contamination=0.25
    ).fit(good)
    factors = np.ones(2) if weights is None else np.array(weights)
    scales, held_out, maps = oracle(
        members(), good, test, weights=factors, combination=combination, groups=np.arange(N)
    )
    np.testing.assert_allclose(model.scales_, scales, rtol=1e-4)
    np.testing.assert_allclose(model.weights_, factors / factors.sum())
    np.testing.assert_allclose(model.held_out_scores_, held_out, rtol=1e-4)
    scores, found = model.score_samples_and_map(test)
    np.testing.assert_allclose(found, maps, rtol=1e-4)
    np.testing.assert_allclose(scores, -maps.max(axis=(1, 2)), rtol=1e-4)
    assert model.offset_ == np.percentile(model.held_out_scores_, 25)
    assert model.predict(test)[:4].tolist() == [-1] * 4


def test_members_that_cannot_leave_out_images_are_fitted_on_folds(good, test):
    """Each by its own way: the bank in one fit, the one in a wrapper by folds."""
    bank, gaussian = members()
    wrapped = HeldOutThreshold(gaussian[1], cv=2, target_fpr=0.4, random_state=0)
    model = EnsembleDetector([bank, ("wrapped", wrapped)], cv=4).fit(good)
    one_by_one = oracle(
        [bank], good, test, weights=np.ones(1), combination="mean", groups=np.arange(N)
    )[0]
    by_folds = oracle(
        [gaussian], good, test, weights=np.ones(1), combination="mean", groups=GROUPS
    )[0]
    np.testing.assert_allclose(model.scales_, one_by_one + by_folds, rtol=1e-4)
    assert not hasattr(model, "leave_one_out")
    assert model.named_estimators_["wrapped"].offset_ < 0  # its threshold is there, and unused
    maps = [one.score_map(test) for one in (bank[1].fit(good), gaussian[1].fit(good))]
    expected = (maps[0] / model.scales_[0] + maps[1] / model.scales_[1]) / 2
    np.testing.assert_allclose(model.score_map(test), expected, rtol=1e-5)


def test_plain_folds(good):
    """A detector of images without leave_one_out: scored by models of the other folds."""
    images = make_textures(6, kind="weave", size=(40, 48), random_state=0)
    model = EnsembleDetector([("a", Residual())], cv=KFold(3)).fit(images)
    maxima = np.array(
        [
            one.max()
            for test in ([0, 1], [2, 3], [4, 5])
            for one in Residual().fit(np.delete(images, test, axis=0)).score_map(images[test])
        ]
    )
    np.testing.assert_allclose(model.scales_, [np.mean(maxima)], rtol=1e-5)
    np.testing.assert_allclose(model.held_out_scores_, -maxima / np.mean(maxima), rtol=1e-5)


def test_a_member_that_cannot_with_its_parameters_is_fitted_on_folds(good, monkeypatch):
    def refuse(self, X, groups):
        raise NotImplementedError("not with these parameters")

    monkeypatch.setattr(PaDiM, "_leave_one_out", refuse)
    found = EnsembleDetector([("a", PaDiM(random_state=0))], cv=3).fit(good)
    maxima = [
        one.max()
        for train, test in KFold(3).split(np.arange(N))
        for one in PaDiM(random_state=0).fit(good[train]).score_map(good[test])
    ]
    np.testing.assert_allclose(found.scales_, [np.mean(maxima)], rtol=1e-5)


def test_leave_one_out(good, test):
    model = EnsembleDetector(members()).fit(good)
    scores, maxima = model.leave_one_out(good)
    np.testing.assert_array_equal(scores, model.held_out_scores_)
    np.testing.assert_array_equal(maxima, -scores)
    # The same, computed anew.
    for found in model.leave_one_out(good, np.arange(N)):
        np.testing.assert_allclose(np.abs(found), maxima, rtol=1e-6)
    bank = members()[:1]
    alone = EnsembleDetector(bank).fit(good)
    _, expected, _ = oracle(bank, good, test, weights=np.ones(1), combination="mean", groups=GROUPS)
    found, _ = alone.leave_one_out(good, GROUPS)
    scale = -expected.mean()  # the oracle's maps have a mean maximum of 1 by these groups
    np.testing.assert_allclose(found / -found.mean(), expected / scale, rtol=1e-5)
    with pytest.raises(NotImplementedError, match="not groups"):
        model.leave_one_out(good, GROUPS)  # PaDiM
    with pytest.raises(ValueError, match="expected the 12 images of fit"):
        model.leave_one_out(good[:3])


def test_leave_one_out_follows_a_combination_that_was_set_since(good):
    model = EnsembleDetector(members()).fit(good).set_params(combination="max")
    scores, maxima = model.leave_one_out(good)
    assert not np.allclose(scores, model.held_out_scores_)
    np.testing.assert_allclose(maxima, model.leave_one_out(good, np.arange(N))[1], rtol=1e-6)


@pytest.mark.parametrize("method", ["leave_one_out", "folds"])
def test_a_threshold_from_held_out_images(method, good, test):
    model = EnsembleDetector(members())
    held = HeldOutThreshold(model, target_fpr=0.2, method=method, cv=3, random_state=0)
    held.fit(good)
    assert held.method_ == method
    fitted = clone(model).fit(good)
    np.testing.assert_allclose(held.score_map(test), fitted.score_map(test), rtol=1e-6)
    if method == "leave_one_out":
        np.testing.assert_array_equal(held.oof_scores_, fitted.held_out_scores_)
        np.testing.assert_array_equal(held.oof_map_maxima_, -fitted.held_out_scores_)
    assert held.predict(test)[:4].tolist() == [-1] * 4
    assert {region["image"] for region in score_regions(held, test)} >= {0, 1, 2, 3}


def test_a_threshold_falls_back_to_folds(good):
    images = make_textures(6, kind="weave", size=(40, 48), random_state=0)
    model = EnsembleDetector([("a", LeftOutResidual()), ("b", Residual())], cv=2)
    held = HeldOutThreshold(model, target_fpr=0.3, cv=2, random_state=0).fit(images)
    assert held.method_ == "folds"
    alone = HeldOutThreshold(clone(model).set_params(b="drop"), target_fpr=0.3).fit(images)
    assert alone.method_ == "leave_one_out"


def test_each_member_is_fitted_once_for_its_threshold(good, monkeypatch):
    fits = []
    fit = PaDiM._fit
    monkeypatch.setattr(PaDiM, "_fit", lambda self, X: (fits.append(len(X)), fit(self, X))[1])
    model = EnsembleDetector([("a", members()[1][1]), ("b", PaDiM(n_components=4))])
    HeldOutThreshold(model, target_fpr=0.2).fit(good)
    assert fits == [N, N]


def test_a_single_member_keeps_its_order(good, test):
    name, one = members()[0]
    model, alone = EnsembleDetector([(name, one)]).fit(good), clone(one).fit(good)
    np.testing.assert_allclose(
        model.score_map(test) * model.scales_[0], alone.score_map(test), rtol=1e-6
    )
    assert (np.argsort(model.score_samples(test)) == np.argsort(alone.score_samples(test))).all()


def test_dropped_members_and_weights_of_zero(good, test, monkeypatch):
    model = EnsembleDetector([*members(), ("none", "drop")], weights=[1, 0, 5]).fit(good)
    assert list(model.named_estimators_) == ["bank", "gaussian"]
    assert model.weights_.tolist() == [1, 0]
    alone = EnsembleDetector(members()).set_params(gaussian="drop").fit(good)
    assert len(alone.estimators_) == 1
    np.testing.assert_array_equal(model.score_map(test), alone.score_map(test))
    monkeypatch.setattr(PaDiM, "_score_maps", None)  # a member of weight 0 is not asked
    model.score_samples(test)


def test_parameters_by_name(good):
    model = EnsembleDetector(members())
    given = dict(model.estimators)
    assert model.get_params()["bank__sigma"] == 1.0
    assert model.get_params()["gaussian"] is given["gaussian"]
    model.set_params(bank=SPADE(n_neighbors=3), gaussian__sigma=5.0, combination="max")
    assert isinstance(model.estimators[0][1], SPADE)
    assert given["gaussian"].sigma == 5.0
    with pytest.raises(ValueError, match="Invalid parameter 'other'"):
        model.set_params(other__sigma=1)
    fitted = model.fit(good)
    assert not hasattr(given["gaussian"], "gaussian_")  # members are cloned
    assert fitted.named_estimators_["gaussian"].sigma == 5.0


def test_grid_search_over_members(good, test):
    X = FeatureMaps(
        {k: np.concatenate([good.arrays()[k], test.arrays()[k]]) for k in good.layer_shapes},
        np.concatenate([good.frames, test.frames]),
        good.image_fit,
    )
    y = np.repeat([1, -1, 1], [N, 4, 4])
    search = GridSearchCV(
        EnsembleDetector(members()),
        {
            "bank__sigma": [0.5, 2.0],
            "combination": ["mean", "max"],
            "gaussian": ["drop", PaDiM(n_components=2, random_state=0)],
        },
        cv=GoodOnlyKFold(2),
        scoring=scorers("image_auroc"),
        refit="image_auroc",
    ).fit(X, y)
    assert len(search.cv_results_["params"]) == 8
    assert search.best_score_ > 0.9
    assert (~search.best_estimator_.learned_from_).sum() == 4
    assert skanomaly.score_map(search, test).shape == (8, 20, 24)


def test_labels_and_masks_leave_defects_out(good, test):
    expected = EnsembleDetector(members()).fit(good[:10]).score_samples(test)
    masks = [None] * 10 + [np.eye(20, 24, dtype=bool)] * 2
    for y in (np.repeat([1, -1], [10, 2]), masks):
        model = EnsembleDetector(members()).fit(good, y)
        np.testing.assert_array_equal(model.score_samples(test), expected)
        assert model.learned_from_.tolist() == [True] * 10 + [False] * 2
        assert len(model.held_out_scores_) == 10


def pipelines():
    """Two members with inputs of other sizes, each in its own way of fitting images into it."""
    banks = [
        FilterBank(n_filters=4, image_size=64, random_state=0),
        FilterBank(n_filters=4, image_size=(64, 80), resize="pad", random_state=0),
    ]
    detectors = [
        PatchCore(coreset_ratio=1.0, random_state=0),
        PatchCore(random_state=0, sigma=1.0),
    ]
    return [
        (name, Pipeline([("features", bank), ("detector", detector)]))
        for name, bank, detector in zip("ab", banks, detectors, strict=True)
    ]


@pytest.fixture(scope="module")
def on_images():
    images = [*make_textures(7, kind="brushed", size=(64, 64), random_state=0)]
    images.insert(2, images[0][:60, :52])
    y = np.array([1, -1, 1, 1, 1, 1, 1, 1])
    return EnsembleDetector(pipelines()).fit(images, y), images, y


def test_members_on_images_of_several_sizes(on_images):
    model, images, _ = on_images
    maps = model.score_map(images[:3])
    assert [one.shape for one in maps] == [(64, 64), (64, 64), (60, 52)]
    each = [one.score_map(images[:3]) for one in model.estimators_]
    for one, *parts in zip(maps, *each, strict=True):
        np.testing.assert_allclose(one, np.mean(
            [part / scale for part, scale in zip(parts, model.scales_, strict=True)], axis=0
        ), rtol=1e-5)  # fmt: skip


def test_what_a_member_tells(on_images):
    """Good images of a member are counted among those learned from."""
    model, images, y = on_images
    good = [images[i] for i in np.flatnonzero(y == 1)]
    spots = nearest_good(model.named_estimators_["a"], good)
    assert [spot["good_image"] for spot in spots] == list(range(7))  # all patches are in the bank
    assert np.flatnonzero(model.learned_from_).tolist() == [0, 2, 3, 4, 5, 6, 7]
    assert score_regions(model.named_estimators_["a"], good, threshold=-1.0)
    with pytest.raises(TypeError, match="keeps good patches"):
        nearest_good(model, good)


def test_files(on_images, tmp_path):
    model, images, _ = on_images
    expected = model.score_samples(images)
    copies = [pickle.loads(pickle.dumps(model))]
    skanomaly.dump(model, tmp_path / "model.skanomaly")
    copies.append(skanomaly.load(tmp_path / "model.skanomaly"))
    for copy in copies:
        np.testing.assert_array_equal(copy.score_samples(images), expected)
        np.testing.assert_array_equal(copy.leave_one_out(images)[0], model.held_out_scores_)
        assert copy.named_estimators_["a"] is copy.estimators_[0]
    with pytest.raises(NotFittedError):
        clone(copies[1]).predict(images)


def test_frozen_members_are_not_fitted(good, test):
    old = make_features(10, 5)
    frozen = FrozenEstimator(members()[0][1].fit(old))
    model = EnsembleDetector([("old", frozen)], cv=2).fit(good)
    expected = frozen.score_map(good).max(axis=(1, 2))
    np.testing.assert_allclose(model.scales_, [expected.mean()], rtol=1e-6)
    assert not hasattr(model, "leave_one_out")


def test_an_image_is_named_by_its_place(tmp_path):
    images = [*make_textures(6, kind="weave", size=(40, 48), random_state=0)]
    images[4] = tmp_path / "missing.png"
    y = [1, -1, 1, 1, 1, 1]
    with pytest.raises(OSError, match=r"missing\.png"):
        EnsembleDetector([("a", Residual())]).fit(images, y)
    images[4] = np.full((40, 48, 3), np.nan)
    with pytest.raises(ValueError, match="image 4"):
        EnsembleDetector([("a", Residual())]).fit(images, y)


def test_memory_of_members_fitted_one_after_another():
    images = make_textures(2, size=(64, 64), random_state=0)
    (_, a), (_, b) = pipelines()
    each = [estimate_memory(one, images, n_images=100) for one in (a, b)]
    both = estimate_memory(
        EnsembleDetector([("a", a), ("b", b), ("c", "drop")]), images, n_images=100
    )
    assert max(one["total"] for one in each) <= both["total"] < sum(one["total"] for one in each)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"estimators": []}, ValueError, "at least one member"),
        ({"estimators": [("a", "drop")]}, ValueError, "at least one member"),
        ({"estimators": [PatchCore()]}, ValueError, r"list of \(name, estimator\)"),
        ({"estimators": "bank"}, ValueError, "'estimators' parameter"),
        ({"estimators": [("a", PatchCore()), ("a", PaDiM())]}, ValueError, "not unique"),
        ({"estimators": [("a__b", PatchCore())]}, ValueError, "must not contain __"),
        ({"estimators": [("weights", PatchCore())]}, ValueError, "conflict with constructor"),
        ({"estimators": [("a", LinearRegression())]}, TypeError, "with score maps.*as 'a'"),
        ({"estimators": [("a", PatchCore)]}, TypeError, "got the class PatchCore as 'a'"),
        ({"weights": [1.0]}, ValueError, "one weight for each of the 2 estimators"),
        ({"weights": [1.0, -1.0]}, ValueError, "not negative"),
        ({"weights": [1.0, np.nan]}, ValueError, "finite weights"),
        ({"weights": [0, 0]}, ValueError, "a weight above 0"),
        ({"weights": [0, 1], "estimators": [members()[0], ("b", "drop")]}, ValueError, "above 0"),
        ({"combination": "median"}, ValueError, "'combination' parameter"),
        (
            {"cv": 20, "estimators": [("a", HeldOutThreshold(PaDiM(), target_fpr=0.4))]},
            ValueError,
            "n_splits=20",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(parameters, error, message, good):
    model = EnsembleDetector(**{"estimators": members(), **parameters})
    with pytest.raises(error, match=message):
        model.fit(good)


def test_a_splitter_that_leaves_images_out_is_refused():
    images = make_textures(6, kind="weave", size=(40, 48), random_state=0)
    model = EnsembleDetector([("a", Residual())], cv=ShuffleSplit(1, random_state=0))
    with pytest.raises(ValueError, match="holds out each image"):
        model.fit(images)


def test_one_good_image_is_refused(good):
    with pytest.raises(ValueError, match="at least two good images"):
        EnsembleDetector(members()).fit(good[:1])


def test_maps_of_other_sizes_are_refused(good):
    """A member that loses the images' sizes, as by plain arrays of features."""
    to_arrays = FunctionTransformer(lambda X: X.arrays()["fine"])
    odd = Pipeline([("arrays", to_arrays), ("detector", PatchCore(random_state=0))])
    model = EnsembleDetector([members()[0], ("odd", odd)])
    with pytest.raises(ValueError, match=r"\(20, 24\) from 'bank' and \(5, 6\) from 'odd'"):
        model.fit(good)


def test_maps_without_height_are_refused():
    """Images that are all the same: every map is 0."""
    images = np.zeros((4, 40, 48, 3), np.uint8)
    with pytest.raises(ValueError, match=r"positive maximum.*from 'a'"):
        EnsembleDetector([("a", LeftOutResidual())]).fit(images)
