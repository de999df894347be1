"""Selection without defects: DetectorSearchCV, sizes of painted defects, tune without a grid."""

import pickle
import tempfile

import joblib
import numpy as np
import pytest
import sklearn
from cli_parts import make_part, run
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, ShuffleSplit

import skanomaly
from skanomaly import FeatureMaps, FilterBank, PaDiM, PatchCore, Pipeline
from skanomaly.cli import _tune
from skanomaly.cli._grid import Grid, default_grid, make_candidates, read_grid
from skanomaly.datasets import make_defects, make_textures
from skanomaly.model_selection import (
    DetectorSearchCV,
    GoodOnlyKFold,
    HeldOutThreshold,
    _synthetic_defects,
    scorers,
)
from skanomaly.model_selection._synthetic_defects import SIZES

GOOD = make_textures(12, kind="brushed", size=64, random_state=0)


def pipeline(detector, **options):
    options = {"n_filters": 4, "image_size": 64, "random_state": 0} | options
    return Pipeline([("features", FilterBank(**options)), ("detector", detector)])


def candidates():
    """Of one extractor, and one of another."""
    return [
        ("rough", pipeline(PaDiM(sigma=30.0, random_state=0))),
        ("memory", pipeline(PatchCore(image_score="map_max", random_state=0))),
        ("memory, smooth", pipeline(PatchCore(image_score="map_max", sigma=8, random_state=0))),
        ("more filters", pipeline(PatchCore(random_state=0), n_filters=6)),
    ]


def search(estimators=None, **options):
    estimators = candidates() if estimators is None else estimators
    return DetectorSearchCV(estimators, **{"cv": 2, **options})


@pytest.fixture(scope="module")
def fitted():
    return search().fit(GOOD)


def by_hand(pipe, train, test, size=SIZES):
    """AUROC of held-out images against the same with defects, from nothing but arrays."""
    painted = [make_defects(GOOD[test], size=one, random_state=0)[0] for one in size]
    images = np.concatenate([GOOD[test], *painted])
    is_bad = np.arange(len(images)) >= len(test)
    return roc_auc_score(is_bad, -clone(pipe).fit(GOOD[train]).score_samples(images))


def test_scores_are_those_of_painted_defects_in_held_out_images(fitted):
    splits = list(GoodOnlyKFold(2, shuffle=True, random_state=0).split(GOOD))
    expected = [[by_hand(pipe, *split) for _, pipe in candidates()] for split in splits]
    found = fitted.cv_results_
    for i in range(2):
        np.testing.assert_allclose(found[f"split{i}_test_score"], expected[i], rtol=1e-12)
    means = found["mean_test_score"]
    np.testing.assert_allclose(means, np.mean(expected, axis=0))
    np.testing.assert_allclose(found["std_test_score"], np.std(expected, axis=0))
    assert found["rank_test_score"].tolist() == [1 + int((means > m).sum()) for m in means]
    assert len(set(means)) > 1 and fitted.best_index_ == np.argmax(means)
    assert fitted.best_score_ == means.max() and fitted.n_splits_ == 2
    assert found["name"] == [name for name, _ in candidates()]
    assert fitted.best_name_ == found["name"][fitted.best_index_]
    assert (found["mean_fit_time"] > 0).all() and (found["mean_score_time"] > 0).all()


def test_a_grid_over_the_steps_finds_the_same(fitted):
    grid = {
        "features": [FilterBank(n_filters=4, image_size=64, random_state=0)],
        "detector": [pipe[-1] for _, pipe in candidates()[:3]],
    }
    grid = GridSearchCV(
        pipeline(PatchCore()),
        grid,
        cv=GoodOnlyKFold(2, shuffle=True, random_state=0),
        scoring=scorers("image_auroc", synthetic=True),
        error_score="raise",
        refit=False,
    ).fit(GOOD)
    np.testing.assert_allclose(
        grid.cv_results_["mean_test_score"], fitted.cv_results_["mean_test_score"][:3], rtol=1e-12
    )


def test_the_best_is_fitted_on_all_and_stands_for_the_search(fitted):
    best = candidates()[fitted.best_index_][1].fit(GOOD)
    X = make_defects(GOOD[:4], random_state=3)[0]
    np.testing.assert_array_equal(fitted.score_samples(X), best.score_samples(X))
    np.testing.assert_array_equal(fitted.score_map(X), best.score_map(X))
    np.testing.assert_array_equal(fitted.predict(X), best.predict(X))
    np.testing.assert_array_equal(fitted.decision_function(X), best.decision_function(X))
    assert fitted.offset_ == best[-1].offset_
    np.testing.assert_array_equal(skanomaly.score_map(fitted, X), best.score_map(X))
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.score_samples(X), best.score_samples(X))
    model = HeldOutThreshold(fitted.best_estimator_, target_fpr=0.2).fit(GOOD)
    assert model.score_samples(X).shape == (4,)


def test_features_are_computed_once_and_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    counts = []
    features = FilterBank._features
    monkeypatch.setattr(
        FilterBank, "_features", lambda self, X: counts.append(len(X)) or features(self, X)
    )
    numbers = []
    for some in (candidates()[1:2], candidates()[:3]):
        counts.clear()
        model = search(some, refit=False).fit(GOOD)
        numbers.append(sum(counts))
    # Of each fold: those to train on, those held out, and these with defects.
    assert numbers == [2 * (6 + 6 + 6 * len(SIZES))] * 2
    assert list(tmp_path.iterdir()) == [] and not hasattr(model, "best_estimator_")
    assert all(pipe[0].cache is None for _, pipe in model.estimators)
    assert search(candidates()[1:2]).fit(GOOD).best_estimator_[0].cache is None


def test_defects_are_painted_once_for_all_candidates(monkeypatch):
    calls = []

    def paint(images, **options):
        calls.append((len(images), options["size"]))
        return make_defects(images, **options)

    monkeypatch.setattr(_synthetic_defects, "make_defects", paint)
    search(candidates()[:3], refit=False).fit(GOOD)
    assert calls == [(6, size) for _ in range(2) for size in SIZES]


def test_candidates_at_a_time(fitted):
    with joblib.parallel_config("threading"):
        found = search(n_jobs=2, refit=False).fit(GOOD).cv_results_
    np.testing.assert_array_equal(found["mean_test_score"], fitted.cv_results_["mean_test_score"])


def test_any_split():
    cv = ShuffleSplit(1, train_size=7, test_size=4, random_state=1)
    found = search(candidates()[:1], cv=cv).fit(GOOD)
    ((train, test),) = cv.split(GOOD)
    expected = by_hand(candidates()[0][1], train, test)
    assert found.best_score_ == pytest.approx(expected, rel=1e-12) and found.n_splits_ == 1


def test_known_defects_are_used_where_they_are_asked_for():
    bad = make_defects(GOOD[:4], random_state=5)[0]
    X, y = np.concatenate([GOOD, bad]), [1] * 12 + [-1] * 4
    model = search(candidates()[:2], scoring=scorers("image_auroc"), random_state=1).fit(X, y)
    for i, (train, test) in enumerate(GoodOnlyKFold(2, shuffle=True, random_state=1).split(X, y)):
        assert train.max() < 12
        for j, (_, pipe) in enumerate(candidates()[:2]):
            scores = clone(pipe).fit(X[train]).score_samples(X[test])
            expected = roc_auc_score(test >= 12, -scores)
            assert model.cv_results_[f"split{i}_test_score"][j] == pytest.approx(expected)
    assert model.best_estimator_[-1].learned_from_.tolist() == [True] * 12 + [False] * 4


def test_further_metrics_break_ties():
    class Given:
        """Two metrics: the first alike for all, the second higher for more smoothing."""

        def __call__(self, estimator, X, y):
            return {"first": 0.5, "second": estimator[-1].sigma}

    model = search(scoring=Given(), refit=False).fit(GOOD)
    assert model.best_name_ == "rough" and model.best_score_ == 0.5
    assert model.cv_results_["mean_test_second"].tolist() == [30, 4, 8, 4]
    assert model.cv_results_["rank_test_first"].tolist() == [1] * 4
    tied = search(candidates()[1:], scoring=lambda e, X, y: 1.0, refit=False).fit(GOOD)
    assert tied.best_index_ == 0  # of equals the first


def test_groups_stay_together():
    seen, groups = [], np.arange(12) // 3

    def note(estimator, X, y):
        seen.append({bytes(image) for image in X})
        return 0.5

    search(candidates()[1:2], scoring=note, refit=False).fit(GOOD, groups=groups)
    for images in seen:
        inside = np.array([bytes(image) in images for image in GOOD])
        assert all(len(set(inside[groups == g])) == 1 for g in range(4)) and 0 < inside.sum() < 12
    with sklearn.config_context(enable_metadata_routing=True):
        assert search().get_metadata_routing().consumes("fit", ["groups"]) == {"groups"}


@pytest.mark.parametrize(
    ("options", "X", "y", "message"),
    [
        ({"estimators": []}, GOOD, None, "expected candidates, each with a name of its own"),
        ({"estimators": candidates()[:1] * 2}, GOOD, None, "with a name of its own, got"),
        ({"estimators": [PatchCore()]}, GOOD, None, "must be a list of tuples"),
        ({"cv": 13}, GOOD, None, "at least 13 good images, one for each fold, got 12"),
        ({"scoring": scorers("image_auroc")}, GOOD, None, "the scorers need y"),
        ({"refit": 3}, GOOD, None, "The 'refit' parameter of DetectorSearchCV"),
        ({}, GOOD, [0, 1] * 6, "expected the labels"),
        ({}, FeatureMaps({"a": np.zeros((12, 2, 2, 3), np.float32)}), None, "got features"),
    ],
)
def test_what_it_refuses(options, X, y, message):
    with pytest.raises(ValueError, match=message):
        search(**options).fit(X, y)


def test_undefined_metrics_are_an_error():
    with (
        pytest.warns(sklearn.exceptions.UndefinedMetricWarning),
        pytest.raises(ValueError, match="expected a number as score of each candidate, got"),
    ):
        search(candidates()[:1], scoring=scorers("image_auroc")).fit(GOOD, [1] * 12)


# --- sizes of painted defects -----------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(0.5,), (0.25, 2.0)])
def test_each_image_gets_a_defect_of_each_size(sizes):
    pipe = candidates()[1][1].fit(GOOD[:6])
    found = scorers("image_auroc", synthetic=True, sizes=sizes)(pipe, GOOD[6:])
    expected = by_hand(pipe, np.arange(6), np.arange(6, 12), sizes)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sizes", [(), (1.0, 0.0), (-1,)])
def test_sizes_are_positive(sizes):
    with pytest.raises(ValueError, match="sizes must be positive numbers, at least one, got"):
        scorers("image_auroc", synthetic=True, sizes=sizes)


# --- tune -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return make_part(tmp_path_factory.mktemp("selection") / "part", n_train=12)


def test_the_candidates_of_no_grid_are_valid(monkeypatch):
    for has, features in (False, ["filter_bank"]), (True, ["filter_bank", "efficientnet_lite0"]):
        monkeypatch.setattr("skanomaly.cli._pipelines.has_weights", lambda name, has=has: has)
        grid = default_grid()
        found = make_candidates(grid, 20)
        assert len(found) == grid.n_candidates == 12 * len(features)
        assert list(dict.fromkeys(parameters["features"] for parameters, _ in found)) == features
        for parameters, pipe in found:
            values = pipe.get_params()
            own = {k: v for k, v in parameters.items() if "__" in k}
            assert own == {name: values[name] for name in own} and pipe[0].cache is None
            assert type(pipe[-1]).__name__.lower() == parameters["detector"]


def test_tune_without_a_grid(part, tmp_path, monkeypatch, capsys):
    grid = Grid(
        features=["filter_bank"],
        detector=["padim", "patchcore"],
        cv=2,
        synthetic=True,
        target_fpr=0.2,
        grid={"features__image_size": [64], "detector__sigma": [2.0, 30.0]},
    )
    monkeypatch.setattr(_tune, "default_grid", lambda: grid)
    best = tmp_path / "best.skanomaly"
    printed = []
    for folder in (part, part / "train" / "good"):  # defects of the folder are not looked at
        assert run("tune", folder, "-o", best) == 0
        printed.append(capsys.readouterr())
    assert printed[0] == printed[1]
    (line,) = [line for line in printed[0].out.splitlines() if line.startswith("chosen")]
    model = skanomaly.load(best)
    name, sigma = type(model.estimator[-1]).__name__.lower(), model.estimator[-1].sigma
    assert line == (
        "chosen by defects painted into held-out good images: "
        f"detector={name}, sigma={sigma}; written to {best}"
    )
    images = sorted(str(path) for path in (part / "train" / "good").iterdir())
    expected = DetectorSearchCV(
        [(str(i), pipe) for i, (_, pipe) in enumerate(make_candidates(grid, 6))], cv=2
    ).fit(images)
    assert expected.best_estimator_[-1].get_params() == model.estimator[-1].get_params()
    assert sigma == 2.0  # 30 pixels blur all defects of 64


def test_lists_in_a_grid(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(
        'features = ["filter_bank", "squeezenet1_1"]\nweights = "a.pth"\n'
        'detector = ["padim", "patchcore"]\n[grid.detector]\nsigma = [1, 2]\n'
    )
    found = make_candidates(read_grid(path), 20)
    assert [parameters for parameters, _ in found] == [
        {"features": features, "detector": detector, "detector__sigma": sigma}
        for features in ("filter_bank", "squeezenet1_1")
        for detector in ("padim", "patchcore")
        for sigma in (1, 2)
    ]
    assert [getattr(pipe[0], "weights", None) for _, pipe in found] == [None] * 4 + ["a.pth"] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("features = []", "features must be a string"),
        ('features = ["filter_bank", 1]', "features must be a string"),
        ('features = ["filter_bank", "filter_bank"]', "features must be a string"),
        ('detector = ["padim", "padin"]', "detector must be one of"),
        ('detector = ["regad", "padim"]', "a list of those that take features"),
        (
            'detector = ["padim", "patchcore"]\n[grid.detector]\ncoreset_ratio = [0.1]',
            "grid.detector.coreset_ratio is unknown",
        ),
    ],
)
def test_wrong_lists_in_a_grid(text, message, part, tmp_path, capsys):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    assert run("tune", part, "--grid", path, "-o", tmp_path / "best.skanomaly") == 2
    assert message in capsys.readouterr().err
