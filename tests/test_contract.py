"""The contract of detectors and extractors, and what scikit-learn demands of an estimator."""

import contextlib
import pickle
import subprocess
import sys

import joblib
import numba
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.pipeline import Pipeline as SklearnPipeline
from threadpoolctl import threadpool_limits

from skanomaly import FeatureMaps, FilterBank, PatchCore, Pipeline, score_map
from skanomaly.estimator_checks import parametrize_with_checks
from skanomaly.images import ImageFit
from skanomaly.registry import DETECTORS as REGISTERED_DETECTORS
from skanomaly.registry import EXTRACTORS as REGISTERED_EXTRACTORS

# Fitted, as MKD takes one.
SOURCE = FilterBank(n_filters=4, image_size=64, random_state=0).fit(
    np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
)
# Parameters under which a registered class is quick on small data; others are checked as they come.
SMALL = {
    "PatchCore": {"random_state": 0},
    "PaDiM": {"random_state": 0},
    "SPADE": {"n_neighbors": 3},
    "CFlow": {"n_components": 8, "n_blocks": 2, "condition_size": 8, "n_epochs": 2},
    "DifferNet": {"n_blocks": 2, "n_epochs": 2},
    "RegAD": {"image_size": 64, "random_state": 0},
    "GlobalLocal": {"image_size": 64, "n_iter": 2},
    "GANomaly": {"image_size": 32, "width": 4, "n_epochs": 2},
    "FYD": {"backbone": "squeezenet1_1", "weights": None, "image_size": 64, "n_epochs": 2},
    "ARNet": {"image_size": 32, "width": 4, "n_epochs": 2},
    "CutPaste": {"encoder": "tiny", "image_size": 64, "patch_size": 32, "n_iter": 2},
    "MKD": {"source": SOURCE, "image_size": 64, "width": 4, "n_epochs": 2},
    "TDG": {"image_size": 64, "sizes": [16, 24], "n_iter": 2, "transformations": "turns"},
    "FilterBank": {"image_size": 64, "random_state": 0},
    "FeatureExtractor": {
        "backbone": "squeezenet1_1", "weights": None, "image_size": 64, "random_state": 0,
    },
}  # fmt: skip
# RegistrationNetwork is fitted on categories: tests/test_regad.py holds it to the rules.
EXTRACTORS = [
    entry.load()(**SMALL.get(entry.name, {}))
    for entry in REGISTERED_EXTRACTORS
    if entry.name != "RegistrationNetwork"
]
ALL_DETECTORS = [entry.load()(**SMALL.get(entry.name, {})) for entry in REGISTERED_DETECTORS]
DETECTORS = [
    detector
    for entry, detector in zip(REGISTERED_DETECTORS, ALL_DETECTORS, strict=True)
    if entry.takes == "features"
]

each_detector = pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
each_extractor = pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda e: type(e).__name__)


def expected_failed_checks(estimator):
    """Rules that an estimator with these parameters is not expected to keep, and why."""
    if type(estimator).__name__ == "GlobalLocal":
        return {"signs": "two iterations of training find no defect; tests/test_global_local.py"}
    if type(estimator).__name__ == "CutPaste":
        return {"signs": "two steps of training find no defect; tests/test_cutpaste.py"}
    if type(estimator).__name__ in ("GANomaly", "ARNet"):
        return {"signs": "two epochs of training find no defect; the tests of each do"}
    if type(estimator).__name__ == "TDG":
        return {"signs": "two iterations of training find no defect; tests/test_tdg.py"}
    return {}


@parametrize_with_checks(
    [*ALL_DETECTORS, *EXTRACTORS], expected_failed_checks=expected_failed_checks
)
def test_the_contract(estimator, check):
    check(estimator)


def features(n=24, seed=0):
    """FeatureMaps of two layers, in frames of one size."""
    rng = np.random.default_rng(seed)
    layers = {
        "fine": rng.normal(size=(n, 6, 4, 12)).astype(np.float32),
        "coarse": rng.normal(size=(n, 3, 2, 20)).astype(np.float32),
    }
    return FeatureMaps(layers, np.tile((50, 31), (n, 1)), ImageFit(48, 32))


def with_defect(X):
    """The same features, the first images wrong in their upper left corner."""
    layers = {name: maps.copy() for name, maps in X.arrays().items()}
    layers["fine"][: len(X) // 2, :2, :2] += 9
    layers["coarse"][: len(X) // 2, :1, :1] += 9
    return FeatureMaps(layers, X.frames, X.image_fit)


def images(n=8, seed=0, size=72):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def streamed(X):
    """Features that are made batch by batch, whenever they are asked for."""

    def extract(rows, batch_size):
        for first in range(0, len(rows), batch_size):
            yield X[np.array(rows[first : first + batch_size])]

    return FeatureMaps.streamed(list(range(len(X))), extract, X.layer_shapes, X.image_fit)


# --- detectors --------------------------------------------------------------------------------


@each_detector
@pytest.mark.parametrize("image_score", ["paper", "map_max"])
def test_an_image_scores_alike_alone_and_among_others(detector, image_score):
    detector = clone(detector).set_params(image_score=image_score).fit(features())
    X = with_defect(features(40, 1))
    together = detector.score_samples(X)
    alone = [detector.score_samples(X[i])[0] for i in range(len(X))]
    np.testing.assert_allclose(alone, together, rtol=1e-6)
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(detector.score_samples(X[order]), together[order], rtol=1e-6)
    np.testing.assert_allclose(
        detector.score_map(X[order]), detector.score_map(X)[order], rtol=1e-6, atol=1e-6
    )


@contextlib.contextmanager
def threads(n):
    """So many threads in all libraries."""
    before = torch.get_num_threads(), numba.get_num_threads()
    with threadpool_limits(n):
        torch.set_num_threads(n)
        numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            numba.set_num_threads(before[1])


def results_of(pipe, good, X, batch):
    """Everything a fitted pipeline says, asked for a batch of images at a time."""
    pipe = clone(pipe).fit(good)
    parts = [X[first : first + batch] for first in range(0, len(X), batch)]
    features = [pipe[:-1].transform(part) for part in parts]
    scores, maps = zip(*map(pipe[-1].score_samples_and_map, features), strict=True)
    verdicts = [pipe[-1].predict(part) for part in features]
    bank = getattr(pipe[-1], "memory_bank_", np.zeros(1))
    return [np.concatenate(part) for part in (scores, maps, verdicts)] + [bank]


@each_detector
@each_extractor
def test_results_do_not_depend_on_threads_batches_or_memory(extractor, detector):
    good, X = images(24), images(65, seed=1)
    pipe = Pipeline([("features", extractor), ("detector", detector)])
    with threads(1):
        expected = results_of(pipe, good, X, 64)
    has_batch = "batch_size" in extractor.get_params()
    has_limit = "memory_limit" in detector.get_params()
    for n, batch, limit in ((2, 64, None), (2, 1, "2GB"), (1, 7, "80MB")):
        other = clone(pipe).set_params(features__memory_limit="1MB" if limit else None)
        if has_batch:
            other.set_params(features__batch_size=batch)
        if has_limit:
            other.set_params(detector__memory_limit=limit)
        with threads(n):
            found = results_of(other, good, X, batch)
        for there, here in zip(expected[:2], found[:2], strict=True):
            np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-6 * np.abs(there).max())
        np.testing.assert_array_equal(found[2], expected[2])
        assert found[3].shape == expected[3].shape
        np.testing.assert_allclose(found[3], expected[3], rtol=1e-5, atol=1e-5)


@each_detector
def test_table_of_signs_and_shapes(detector):
    detector = clone(detector).fit(features())
    X = with_defect(features(10, 1))
    bad, good = np.arange(5), np.arange(5, 10)

    maps = detector.score_map(X)
    assert maps.shape == (10, 50, 31) and maps.dtype == np.float32
    assert maps[bad, 5, 5].min() > maps[good].max()  # high where the defect is
    assert maps[bad, 5, 5].min() > maps[bad, -5, -5].max()

    samples, decision = detector.score_samples(X), detector.decision_function(X)
    for scores in (samples, decision):
        assert scores.shape == (10,) and scores.dtype == np.float64
        assert scores[bad].max() < scores[good].min()  # low for a defect
    assert np.array_equal(decision, samples - detector.offset_)

    verdicts = detector.predict(X)
    assert verdicts.dtype.kind == "i" and set(verdicts[bad]) == {-1}
    assert np.array_equal(verdicts, np.where(decision < 0, -1, 1))


@each_detector
def test_errors_say_what_is_wrong_with_y(detector):
    for y, message in {
        (-1,) * 24: "y marks every image as a defect",
        (1,) * 23: "expected one entry of y per image, got 23 for 24 images",
        (0, 1) * 12: r"y holds \[0, 1\]; expected the labels \+1 .* np.where\(y == 1, -1, 1\)",
    }.items():
        with pytest.raises(ValueError, match=message):
            clone(detector).fit(features(), y)


@each_detector
def test_contamination_is_the_share_below_the_threshold(detector):
    detector = clone(detector).set_params(contamination=0.25)
    assert (detector.fit_predict(features(40)) == -1).sum() == 10


@each_detector
def test_one_pass_gives_both_scores_and_maps(detector):
    detector = clone(detector).fit(features())
    X = with_defect(features(20, 1))
    scores, maps = detector.score_samples_and_map(X)
    assert np.array_equal(scores, detector.score_samples(X))
    assert np.array_equal(maps, detector.score_map(X))


@each_detector
def test_largest_value_of_the_map_as_the_images_score(detector):
    detector = clone(detector).set_params(image_score="map_max", sigma=2.0).fit(features())
    X = with_defect(features(6, 1))
    # In the input's own pixels, the frame being the input: the very same numbers.
    X = FeatureMaps(X.arrays(), np.tile((48, 32), (6, 1)), X.image_fit)
    expected = detector.score_map(X).max(axis=(1, 2))
    np.testing.assert_allclose(-detector.score_samples(X), expected, rtol=1e-6)


@each_detector
@pytest.mark.parametrize("library", [pickle, joblib], ids=["pickle", "joblib"])
def test_a_detector_travels_to_another_process(detector, library, tmp_path):
    """Written here, used by a fresh interpreter that works in another folder."""
    detector = clone(detector).fit(features())
    X = with_defect(features(6, 1))
    with open(tmp_path / "fitted", "wb") as file:
        library.dump((detector, X), file)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        f"import {library.__name__} as library, numpy as np\n"
        "with open('../fitted', 'rb') as file: detector, X = library.load(file)\n"
        "np.savez('out', scores=detector.score_samples(X), maps=detector.score_map(X))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=elsewhere, check=True)
    with np.load(elsewhere / "out.npz") as saved:
        assert np.array_equal(saved["scores"], detector.score_samples(X))
        assert np.array_equal(saved["maps"], detector.score_map(X))


BAD_FEATURES = {
    "one image's maps": (np.zeros((6, 4, 12), np.float32), "become a batch with"),
    "five axes": (np.zeros((2, 6, 4, 12, 1), np.float32), r"got shape \(2, 6, 4, 12, 1\)"),
    "empty": (np.zeros((0, 6, 4, 12), np.float32), "got shape"),
    "NaN maps": (np.full((2, 6, 4, 12), np.nan), "NaN or infinity"),
    "NaN rows": (np.full((3, 12), np.nan), "NaN"),
    "empty features": (features()[:0], "at least one image"),
}
IMAGES = {
    "images": (images(), "expects features, got images"),
    "list of images": (list(images()), "expects features, got images"),
    "paths": (["a.png", "b.png"], "FilterBank"),
    "one path": ("a.png", "expects features, got images or paths"),
}


@each_detector
@pytest.mark.parametrize(("X", "message"), BAD_FEATURES.values(), ids=BAD_FEATURES)
def test_bad_features_are_refused(detector, X, message):
    with pytest.raises(ValueError, match=message):
        clone(detector).fit(X)


@pytest.mark.parametrize(
    ("extractor", "X", "parameters"),
    [
        (EXTRACTORS[0], [np.full((72, 72, 4), value) for value in (0.5, np.nan)], {}),
        (EXTRACTORS[1], images(), {"layers": "none such"}),
    ],
    ids=["FilterBank", "FeatureExtractor"],
)
def test_a_refused_fit_of_an_extractor_loses_nothing(extractor, X, parameters):
    extractor = clone(extractor).fit(images())
    before = extractor.transform(images(2)).arrays()
    learned = {name: value for name, value in vars(extractor).items() if name.endswith("_")}
    with pytest.raises(ValueError, match=r"NaN|none such"):
        extractor.set_params(**parameters).fit(X)
    assert all(vars(extractor)[name] is value for name, value in learned.items())
    after = pickle.loads(pickle.dumps(extractor)).transform(images(2)).arrays()
    assert list(after) == list(before)
    for name, maps in after.items():
        assert np.array_equal(maps, before[name])


@each_detector
@pytest.mark.parametrize(("X", "message"), IMAGES.values(), ids=IMAGES)
def test_detectors_on_features_refuse_images(detector, X, message):
    with pytest.raises(ValueError, match=message):
        clone(detector).fit(X)


@each_detector
def test_features_of_another_kind_are_refused(detector):
    detector = clone(detector).fit(features())
    X = features(3)
    other = FeatureMaps({"fine": X.arrays()["fine"]}, X.frames, X.image_fit)
    with pytest.raises(ValueError, match="use the extractor the detector was fitted with"):
        detector.predict(other)
    plain = clone(detector).fit(np.random.default_rng(0).normal(size=(20, 3, 3, 7)))
    with pytest.raises(ValueError, match="expected features with 7 channels, as in fit, got 8"):
        plain.predict(np.zeros((2, 3, 3, 8)))
    with pytest.raises(ValueError, match=r"\(3, 3, 7\).*got.*\(4, 3, 7\)"):
        plain.predict(np.zeros((2, 4, 3, 7)))


@each_detector
def test_a_row_is_an_image_of_one_patch(detector):
    rows = np.random.default_rng(0).normal(size=(30, 12))
    maps = rows[:, None, None, :]
    by_rows, by_maps = clone(detector).fit(rows), clone(detector).fit(maps)
    assert np.array_equal(by_rows.score_samples(rows), by_maps.score_samples(maps))
    assert by_rows.score_map(rows).shape == (30, 1, 1)


@each_detector
@pytest.mark.parametrize(
    "parameters",
    [{"contamination": 0.7}, {"sigma": -1}, {"image_score": "mean"}, {"verbose": "yes"}],
    ids=str,
)
def test_bad_parameters_are_refused(detector, parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        clone(detector).set_params(**parameters).fit(features())


# --- extractors -------------------------------------------------------------------------------


@each_extractor
def test_the_global_generators_are_left_alone(extractor):
    import torch

    torch.manual_seed(3)
    np_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    clone(extractor).set_params(random_state=1).fit_transform(images())
    assert np.array_equal(np_state, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_state, torch.get_rng_state())


@each_extractor
def test_extractor_travels_to_another_process(extractor, tmp_path):
    extractor = clone(extractor).fit(images())
    joblib.dump((extractor, images(2)), tmp_path / "fitted")
    code = (
        "import joblib, numpy as np; e, X = joblib.load('../fitted');"
        "np.savez('out', **e.transform(X).arrays())"
    )
    (tmp_path / "elsewhere").mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "elsewhere", check=True)
    expected = extractor.transform(images(2)).arrays()
    with np.load(tmp_path / "elsewhere" / "out.npz") as saved:
        for name, maps in expected.items():
            np.testing.assert_allclose(saved[name], maps, rtol=1e-5, atol=1e-5)


def test_filters_are_not_learned_from_defects():
    both = np.concatenate([images(6), 255 - images(3, 1)])
    y = np.repeat([1, -1], [6, 3])
    bank = EXTRACTORS[0]
    expected = clone(bank).fit(images(6)).transform(both).arrays()["energies"]
    assert np.array_equal(clone(bank).fit(both, y).transform(both).arrays()["energies"], expected)


@each_extractor
def test_gray_counts_as_rgb(extractor):
    extractor = clone(extractor).fit(images())
    gray = images()[..., 0]
    as_gray, as_rgb = extractor.transform(gray), extractor.transform(np.stack([gray] * 3, -1))
    for name, maps in as_gray.arrays().items():
        np.testing.assert_allclose(maps, as_rgb.arrays()[name], rtol=1e-5, atol=1e-5)


@each_extractor
@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([], "at least one image"),
        ("a.png", "single path"),
        ([np.full((72, 72), np.nan)], "image 0: holds NaN"),
        ([images()[0], None], "image 1: expected a path"),
        ([images()[0], "missing.png"], r"missing\.png: no such image file"),
    ],
)
def test_bad_images_are_refused(extractor, X, message):
    extractor = clone(extractor).fit(images())
    with pytest.raises(ValueError, match=message):
        extractor.transform(X)


# --- together ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    names = [str(folder / f"{i}.png") for i in range(10)]
    for name, image in zip(names, images(10), strict=True):
        Image.fromarray(image).save(name)
    return names


def pipeline(kind=Pipeline):
    return kind(
        [
            ("features", FilterBank(n_filters=4, image_size=64, random_state=0)),
            ("detector", PatchCore(random_state=0)),
        ]
    )


def test_grid_search_over_paths(paths):
    grid = {"detector__coreset_ratio": [0.05, 0.2], "detector__sigma": [0.0, 4.0]}

    def mean_score(estimator, X, y=None):
        return score_map(estimator, X).mean()

    search = GridSearchCV(pipeline(), grid, cv=KFold(2), scoring=mean_score, n_jobs=2)
    search.fit(paths)
    assert search.best_estimator_.predict(paths).shape == (10,)
    assert score_map(search, paths[:2]).shape == (2, 72, 72)
    assert len(set(search.cv_results_["mean_test_score"])) > 1


def test_cross_validation_over_feature_maps_in_two_processes():
    X, y = with_defect(features(20)), np.repeat([-1, 1], 10)
    cv = KFold(2, shuffle=True, random_state=0)
    one, two = (
        cross_validate(PatchCore(random_state=0), X, y, cv=cv, scoring="roc_auc", n_jobs=n)
        for n in (1, 2)
    )
    assert np.array_equal(one["test_score"], two["test_score"])


def test_cross_val_score_knows_the_sign():
    X, y = with_defect(features(20)), np.repeat([-1, 1], 10)
    order = np.random.default_rng(0).permutation(20)
    detector = PatchCore(coreset_ratio=0.02, random_state=0).fit(features(20, 5))
    scores = cross_val_score(
        FrozenEstimator(detector), X[order], y[order], cv=KFold(2), scoring="roc_auc"
    )
    assert scores.min() == 1


@pytest.mark.parametrize("kind", [Pipeline, SklearnPipeline])
def test_score_map_is_found_behind_anything(kind, paths):
    pipe = pipeline(kind).fit(paths)
    expected = pipe[-1].score_map(pipe[:-1].transform(paths))
    assert np.array_equal(score_map(pipe, paths), expected)
    assert np.array_equal(score_map(FrozenEstimator(pipe), paths), expected)
    assert hasattr(pipe, "score_map") == (kind is Pipeline)
    alone = kind([("detector", pipe[-1])])
    assert np.array_equal(score_map(alone, pipe[:-1].transform(paths)), expected)


def test_pipeline_has_score_map_only_where_its_last_step_has():
    assert not hasattr(Pipeline([("features", FilterBank())]), "score_map")
    assert not hasattr(clone(pipeline())[:-1], "score_map")


def test_score_map_of_what_has_none():
    from sklearn.ensemble import IsolationForest

    with pytest.raises(TypeError, match="expected a fitted detector with score maps"):
        score_map(IsolationForest(), features())
    with pytest.raises(NotFittedError):
        score_map(pipeline(), images())


def test_a_fitted_pipeline_knows_no_path_of_its_machine(paths, tmp_path):
    """Nothing of where the images lay goes into the file."""
    content = pickle.dumps(pipeline().fit(paths))
    assert paths[0].rsplit("/", 1)[0].encode() not in content
