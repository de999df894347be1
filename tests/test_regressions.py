"""Faults that were found once, each kept from coming back."""

import ast
import io
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

import skanomaly
from skanomaly import (
    SPADE,
    FeatureExtractor,
    FeatureMaps,
    FilterBank,
    GlobalLocal,
    PaDiM,
    PatchCore,
    RegAD,
    metrics,
)
from skanomaly.base import BaseDetector
from skanomaly.datasets import make_textures
from skanomaly.model_selection import (
    GoodOnlyKFold,
    GoodOnlyShuffleSplit,
    HeldOutThreshold,
    scorers,
)

ROOT = Path(__file__).parents[1]
ROWS = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)


def maps(n=24, seed=0):
    return FeatureMaps({"f": np.random.default_rng(seed).normal(size=(n, 4, 5, 8)).astype("f")})


def images(n=6, size=64, seed=0):
    return make_textures(n, size=size, random_state=seed)


# --- the cache ----------------------------------------------------------------------------------


class Blurred(BaseDetector):
    """Distance to the mean; the hook itself looks at sigma."""

    def __init__(self, *, image_score="paper", sigma=1.0, contamination=0.1, verbose=0):
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.verbose = verbose

    def _fit(self, X):
        self.mean_ = X.joined().mean(axis=0)

    def _score_maps(self, X):
        return self.sigma * np.linalg.norm(X.joined() - self.mean_, axis=3)


def test_a_parameter_that_a_hook_reads_is_part_of_the_cache_keys(tmp_path):
    X = FilterBank(image_size=64, random_state=0, cache=tmp_path).fit_transform(images())
    scores = [Blurred(sigma=s).fit(X).score_samples(X) for s in (0.5, 8.0)]
    np.testing.assert_allclose(scores[1], 16 * scores[0], rtol=1e-5)
    detector = Blurred(sigma=0.5).fit(X).set_params(sigma=8.0)
    np.testing.assert_allclose(detector.score_samples(X), scores[1], rtol=1e-5)


class ScaledBySigma(PaDiM):
    """A child whose hook reads what its parent declares as unused."""

    def _score_maps(self, X):
        return self.sigma * super()._score_maps(X)


class OwnPatches(PatchCore):
    def _patches(self, X):
        return 3 * super()._patches(X)


def assert_same_with_and_without_cache(detector, tmp_path, **later):
    """A detector's scores on cached and on plain features, parameters set after fit."""
    bank = FilterBank(image_size=64, random_state=0).fit(images())
    plain = bank.transform(images())
    cached = bank.set_params(cache=tmp_path).fit(images()).transform(images())
    expected = clone(detector).fit(plain).set_params(**later).score_samples(plain)
    found = clone(detector).fit(cached).set_params(**later).score_samples(cached)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    return found


def test_a_child_does_not_inherit_what_its_parent_declares(tmp_path):
    scores = [
        assert_same_with_and_without_cache(
            ScaledBySigma(sigma=s, n_components=5, random_state=0), tmp_path
        )
        for s in (1.0, 8.0)
    ]
    assert not np.allclose(*scores)


def test_children_and_parameters_have_banks_of_their_own_in_the_cache(tmp_path):
    for kind in (PatchCore, OwnPatches):
        for patch_size in (1, 3):
            detector = kind(patch_size=patch_size, random_state=0)
            assert_same_with_and_without_cache(detector, tmp_path)
    for later in ({"patch_size": 1}, {"n_neighbors": 3}, {"n_reweight": 2}, {"sigma": 1.0}):
        assert_same_with_and_without_cache(PatchCore(random_state=0), tmp_path, **later)


def test_a_fit_that_does_not_repeat_itself_is_not_cached(tmp_path):
    X = FilterBank(image_size=64, random_state=0, cache=tmp_path).fit_transform(images())
    assert Blurred().fit(X).fit_digest_ is not None
    assert PaDiM(random_state=None).fit(X).fit_digest_ is None

    class Nested(Blurred):
        def __init__(self, inner=None, *, sigma=1.0, image_score="paper", contamination=0.1):
            super().__init__(sigma=sigma, image_score=image_score, contamination=contamination)
            self.inner = inner
            del self.verbose

    assert Nested(PaDiM(random_state=0)).fit(X).fit_digest_ is not None
    assert Nested(PaDiM()).fit(X).fit_digest_ is None


def test_another_version_of_a_class_does_not_read_the_scores_of_this_one(tmp_path):
    X = FilterBank(image_size=64, random_state=0, cache=tmp_path).fit_transform(images())
    before = Blurred().fit(X).score_samples(X)
    edited = type("Blurred", (Blurred,), {"__module__": __name__, "__init__": Blurred.__init__})
    edited._score_maps = lambda self, X: 7 * Blurred._score_maps(self, X)
    np.testing.assert_allclose(edited().fit(X).score_samples(X), 7 * before, rtol=1e-5)


@pytest.mark.parametrize("cached", [False, True])
def test_streamed_features_are_those_of_the_fit_they_come_from(tmp_path, cached):
    settings = {"cache": tmp_path} if cached else {"memory_limit": "1KB"}
    bank = FilterBank(image_size=64, random_state=0, **settings).fit(images())
    plain = FilterBank(image_size=64, random_state=0).fit(images()).transform(images(2))
    X = bank.transform(images(2))
    bank.fit(255 - images(6, seed=4)).set_params(resize="crop")
    np.testing.assert_array_equal(X.arrays()["energies"], plain.arrays()["energies"])
    again = FilterBank(image_size=64, random_state=0, **settings).fit(images())
    found = again.transform(images(2)).arrays()["energies"]
    np.testing.assert_array_equal(found, plain.arrays()["energies"])


@pytest.mark.parametrize("place", [0, 2500, 4999])
@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: {"w": [a]}, lambda a: (1, a)], ids="adt")
def test_digests_tell_long_arrays_apart(place, wrap):
    from skanomaly.io import digest

    one, other = np.zeros(5000), np.zeros(5000)
    other[place] = 1
    assert digest(wrap(one)) != digest(wrap(other))
    assert digest(wrap(one)) == digest(wrap(one.copy()))
    assert digest([1, 2], [3]) != digest([1], [2, 3])


# --- y ------------------------------------------------------------------------------------------

WRONG_CODINGS = {
    "0/1": np.repeat([0, 1], 12),
    "0/1 as floats": np.repeat([0.0, 1.0], 12),
    "0/1 as a list": [0] * 12 + [1] * 12,
    "all 0": np.zeros(24, int),
    "bool": np.repeat([False, True], 12),
    "0/1 as objects": np.repeat([0, 1], 12).astype(object),
    "-1/0": np.repeat([0, -1], 12),
    "words": ["good"] * 12 + ["defect"] * 12,
    "a column": np.repeat([0, 1], 12)[:, None],
}
SHAPED = {"rows": ROWS, "arrays": ROWS.reshape(24, 1, 1, 6), "FeatureMaps": maps()}


@pytest.mark.parametrize("y", WRONG_CODINGS.values(), ids=WRONG_CODINGS)
@pytest.mark.parametrize("X", SHAPED.values(), ids=SHAPED)
@pytest.mark.parametrize(
    "detector",
    [PatchCore(), PaDiM(), SPADE(n_neighbors=3), HeldOutThreshold(PatchCore())],
    ids=lambda d: type(d).__name__,
)
def test_fits_on_features_refuse_labels_coded_otherwise(detector, X, y):
    with pytest.raises(ValueError, match=r"expected the labels \+1 \(good\) and -1 \(defect\)"):
        clone(detector).fit(X, y)


@pytest.mark.parametrize("y", WRONG_CODINGS.values(), ids=WRONG_CODINGS)
@pytest.mark.parametrize(
    "estimator",
    [FilterBank(image_size=64), RegAD(image_size=64), GlobalLocal(image_size=64)],
    ids=lambda d: type(d).__name__,
)
def test_fits_on_images_refuse_labels_coded_otherwise(estimator, y):
    with pytest.raises(ValueError, match=r"expected the labels \+1 \(good\) and -1 \(defect\)"):
        clone(estimator).fit(np.zeros((24, 64, 64, 3), np.uint8), y)


def test_everything_that_reads_y_refuses_the_same_codings():
    from skanomaly.display import RocCurveDisplay, ScoreHistogramDisplay

    detector = PatchCore(random_state=0).fit(ROWS)
    scores = np.arange(24.0)
    for y in WRONG_CODINGS.values():
        for read in (
            lambda y: detector.set_threshold(ROWS, y),
            lambda y: next(GoodOnlyKFold(2).split(ROWS, y)),
            lambda y: next(GoodOnlyShuffleSplit(1).split(ROWS, y)),
            lambda y: scorers("image_auroc")(detector, ROWS, y),
            lambda y: metrics.image_roc_auc_score(y, scores),
            lambda y: RocCurveDisplay.from_predictions(y, scores),
            lambda y: ScoreHistogramDisplay.from_predictions(y, scores),
        ):
            with pytest.raises((ValueError, TypeError), match="expected"):
                read(y)


def test_numbers_that_cannot_mark_defects_are_not_looked_at():
    """As scikit-learn's outlier detectors take them."""
    expected = PatchCore(random_state=0).fit(ROWS).score_samples(ROWS)
    for y in (np.arange(1, 25), np.linspace(0.5, 3, 24), np.ones(24)):
        found = PatchCore(random_state=0).fit(ROWS, y).score_samples(ROWS)
        np.testing.assert_array_equal(found, expected)


# --- a fit that fails ---------------------------------------------------------------------------


def bad_later(n=20):
    """Features of which the second batch holds NaN."""
    layer = maps(n, seed=3).arrays()["f"].copy()
    layer[-1] = np.nan
    return FeatureMaps({"f": layer})


@pytest.mark.parametrize("n_components", [3, None])
def test_a_refused_partial_fit_changes_nothing(n_components):
    detector = PaDiM(n_components=n_components, random_state=0).fit(maps())
    before, scores = pickle.dumps(detector), detector.decision_function(maps(5, 1))
    refused = {
        "NaN in the second batch": (bad_later(), None),
        "y coded 0/1": (maps(8, 2), [0, 1] * 4),
        "other layers": (FeatureMaps({"g": np.zeros((3, 4, 5, 8), "f")}), None),
        "no image": (maps()[:0], None),
    }
    for X, y in refused.values():
        with pytest.raises(ValueError):
            detector.partial_fit(X, y)
        assert pickle.dumps(detector) == before
    np.testing.assert_array_equal(detector.decision_function(maps(5, 1)), scores)


def test_an_interrupted_partial_fit_changes_nothing(monkeypatch):
    from skanomaly.density import PositionwiseGaussian

    detector = PaDiM(n_components=3, random_state=0).fit(maps())
    before = pickle.dumps(detector)
    learn = PositionwiseGaussian.partial_fit

    def interrupted(self, X):
        learn(self, X)
        raise KeyboardInterrupt

    monkeypatch.setattr(PositionwiseGaussian, "partial_fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        detector.partial_fit(maps(20, 2))
    assert pickle.dumps(detector) == before


class Counting(Blurred):
    """Learns in place, as one should not."""

    def _fit(self, X):
        self.__dict__.setdefault("seen_", []).append(len(X))
        super()._fit(X)
        if len(X) > 20:
            raise RuntimeError("too many")


def test_what_attributes_hold_comes_back_as_well():
    detector = Counting().fit(maps(8))
    with pytest.raises(RuntimeError):
        detector.fit(maps(24))
    assert detector.seen_ == [8]
    assert detector.fit(maps(9)).seen_ == [9]


class Ridge(Blurred):
    """A parameter whose name ends as that of an attribute does."""

    def __init__(self, *, lambda_=2.0, image_score="paper", sigma=1.0, contamination=0.1):
        super().__init__(image_score=image_score, sigma=sigma, contamination=contamination)
        del self.verbose
        self.lambda_ = lambda_

    def _score_maps(self, X):
        return self.lambda_ * super()._score_maps(X)


def test_a_parameter_may_end_in_an_underscore():
    assert Ridge(lambda_=3.0).fit(maps()).get_params()["lambda_"] == 3.0


def test_a_frozen_detector_gets_a_threshold():
    from sklearn.frozen import FrozenEstimator

    detector = PatchCore(random_state=0).fit(maps())
    model = HeldOutThreshold(FrozenEstimator(detector), target_fpr=0.1, cv=2).fit(maps(20, 1))
    assert model.offset_ < 0 and detector.contamination == 0.01


# --- images or features -------------------------------------------------------------------------


def test_the_dtype_of_images_does_not_decide_what_they_are():
    pixels = images(4)
    X = images(3, seed=1)
    as_floats = pixels.astype(np.float32) / 255
    scores = [
        RegAD(image_size=64, random_state=0).fit(good).score_samples(X)
        for good in (pixels, as_floats, list(pixels), pixels.astype(np.uint16) * 257)
    ]
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], rtol=1e-4)


@pytest.mark.parametrize("detector", [RegAD(), GlobalLocal()], ids=["RegAD", "GlobalLocal"])
@pytest.mark.parametrize("X", [maps(), ROWS], ids=["FeatureMaps", "rows"])
def test_detectors_of_images_refuse_features(detector, X):
    with pytest.raises(ValueError, match="expects images, got features"):
        clone(detector).fit(X)


def test_a_network_gives_the_same_features_by_name_and_as_a_module():
    from torchvision import models

    from skanomaly.utils.networks import seeded

    seed = np.random.RandomState(0).randint(2**31)
    with seeded(seed):
        module = models.get_model("swin_t", weights=None).eval()
    by_name = FeatureExtractor("swin_t", weights=None, image_size=64, random_state=0).fit()
    layers = by_name.layers_
    as_module = FeatureExtractor(module, layers=layers, image_size=64).fit()
    assert as_module.layer_shapes_ == by_name.layer_shapes_
    X = images(2)
    for name, expected in by_name.transform(X).arrays().items():
        np.testing.assert_allclose(as_module.transform(X).arrays()[name], expected, atol=1e-5)


def test_layers_in_another_order_are_refused():
    layers = {"a": maps().arrays()["f"], "b": maps(seed=2).arrays()["f"]}
    detector = PaDiM(random_state=0).fit(FeatureMaps(layers))
    with pytest.raises(ValueError, match="expected features with layers"):
        detector.predict(FeatureMaps(dict(reversed(layers.items()))))


def test_parameters_set_after_fit_do_not_change_what_an_extractor_has_learned():
    bank = FilterBank(image_size=64, random_state=0).fit(images(size=(72, 96)))
    expected = bank.transform(images(2, size=(72, 96))).arrays()["energies"]
    bank.set_params(image_size=128, resize="crop")
    found = bank.transform(images(2, size=(72, 96))).arrays()["energies"]
    np.testing.assert_array_equal(found, expected)


def test_the_way_to_search_the_bank_may_be_set_after_fit():
    detector = PatchCore(random_state=0, coreset_ratio=0.5).fit(maps(12))
    detector.score_samples(maps(2))
    detector.set_params(neighbors="pynndescent")
    restored = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(detector.score_samples(maps(2)), restored.score_samples(maps(2)))


@pytest.mark.parametrize("cached", [False, True])
def test_a_bad_image_of_a_slice_is_named_by_its_place_in_the_whole(tmp_path, cached):
    settings = {"cache": tmp_path} if cached else {"memory_limit": "1KB"}
    good = list(images())
    bank = FilterBank(image_size=64, random_state=0, **settings).fit(good)
    X = bank.transform([*good, np.full((64, 64, 3), np.nan)])
    with pytest.raises(ValueError, match="image 6: holds NaN"):
        X[3:].arrays()


# --- what travels -------------------------------------------------------------------------------


def test_a_slice_of_streamed_features_pickles_its_own_images_alone():
    pixels = [np.random.default_rng(i).integers(0, 256, (72, 72, 3), np.uint8) for i in range(40)]
    bank = FilterBank(image_size=64, random_state=0, memory_limit="1MB").fit(pixels)
    X = bank.transform(pixels)
    assert not X.is_stored
    learned = len(pickle.dumps(bank))
    for part in (X[[3]], X[3], X[10:12], X[np.arange(40) == 7], X[1:][2:5]):
        size = len(pickle.dumps(part))
        assert size < len(part) * pixels[0].nbytes + 1.1 * learned + 2000
        restored = pickle.loads(pickle.dumps(part))
        np.testing.assert_array_equal(restored.arrays()["energies"], part.arrays()["energies"])


def test_a_slice_of_streamed_paths_carries_the_weights_once(tmp_path):
    from PIL import Image

    paths = []
    for i, image in enumerate(images(3)):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    extractor = FeatureExtractor(
        "squeezenet1_1", weights=None, image_size=64, memory_limit="1KB", random_state=0
    ).fit()
    weights = sum(array.nbytes for array in extractor.weights_.values())
    assert len(pickle.dumps(extractor.transform(paths))) < 1.1 * weights + 5000
    extractor.set_params(cache=tmp_path / "cache").fit()
    cached = extractor.transform(paths)
    assert len(pickle.dumps(cached[[1]])) < 1.1 * weights + 5000


@pytest.mark.parametrize("detector", [PatchCore(random_state=0), SPADE(n_neighbors=3)], ids="ps")
def test_no_work_starts_when_a_detector_is_pickled(detector, tmp_path, monkeypatch):
    good = images(12)
    X = FilterBank(image_size=64, random_state=0, cache=tmp_path).fit_transform(good)
    detector = clone(detector).fit(X)
    offset = clone(detector).fit(X.store()).offset_
    for name in ("_score_maps", "_score_images", "_training_scores"):
        monkeypatch.setattr(type(detector), name, lambda *args: pytest.fail("scores computed"))
    restored = pickle.loads(pickle.dumps(detector))
    assert restored.offset_ == pytest.approx(offset, rel=1e-6)
    assert vars(detector)["offset_"] == restored.offset_  # a plain attribute


# --- the package --------------------------------------------------------------------------------


def test_every_public_sub_package_is_there_after_import():
    folders = {p.parent.name for p in Path(skanomaly.__file__).parent.glob("*/__init__.py")}
    public = sorted(folders - {"cli", "utils"})
    code = f"import skanomaly\nfor name in {public}: assert getattr(skanomaly, name)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(public) <= set(skanomaly.__all__)


def test_every_imported_library_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in optional for line in extra)]
    declared = {line.split(">")[0].split("[")[0].lower() for line in lines}
    names = {
        "sklearn": "scikit-learn", "PIL": "pillow", "python_multipart": "python-multipart",
        # These come with them.
        "llvmlite": "numba", "distributed": "dask", "fsspec": "dask",
    }  # fmt: skip
    if_installed = {"pandas"}  # where it is not installed a table of dicts is returned
    for path in Path(skanomaly.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module]
            for module in modules:
                root = module.split(".")[0]
                if root in sys.stdlib_module_names or root == "skanomaly":
                    continue
                assert names.get(root, root) in declared | if_installed, f"{path.name}: {root}"


# --- the score of an image ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "detector",
    [
        PatchCore(random_state=0),
        PaDiM(random_state=0),
        SPADE(n_neighbors=3),
        RegAD(image_size=64, random_state=0),
        GlobalLocal(image_size=64, n_iter=1),
    ],
    ids=lambda d: type(d).__name__,
)
def test_image_score_chooses_between_two_scores(detector):
    takes_images = isinstance(detector, (RegAD, GlobalLocal))
    good = list(images(6)) if takes_images else maps()
    X = list(images(3, seed=1)) if takes_images else maps(3, seed=1)
    detector = clone(detector).fit(good)
    scores = {
        kind: detector.set_params(image_score=kind).score_samples(X)
        for kind in ("paper", "map_max")
    }
    assert not np.allclose(scores["paper"], scores["map_max"], rtol=1e-3)


def test_maps_are_smoothed_once(monkeypatch):
    from skanomaly.images import ImageFit

    calls = []
    smooth = ImageFit.smooth
    monkeypatch.setattr(
        ImageFit, "smooth", lambda self, *args: calls.append(1) or smooth(self, *args)
    )
    detector = PaDiM(random_state=0).fit(maps())
    calls.clear()
    detector.score_samples(maps(16))
    assert len(calls) == 1


def test_a_buffer_is_not_mistaken_for_a_threshold():
    """A detector without a threshold says so."""
    detector = PatchCore(contamination=None, random_state=0).fit(ROWS)
    with pytest.raises(ValueError, match=r"contamination=None.*set_threshold"):
        detector.predict(ROWS)
    buffer = io.BytesIO(pickle.dumps(detector))
    with pytest.raises(ValueError, match="set_threshold"):
        pickle.load(buffer).decision_function(ROWS)
    assert (detector.set_threshold(ROWS, contamination=0.25).predict(ROWS) == -1).sum() == 6
