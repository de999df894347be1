"""The checks accept what keeps the contract and name the rule that is broken."""

import numpy as np
import pytest

from skanomaly.base import BaseDetector, BaseExtractor, BaseImageDetector
from skanomaly.estimator_checks import check_detector, check_extractor, parametrize_with_checks


class Distance(BaseDetector):
    """Distance of each position to its mean."""

    def __init__(self, *, power=1.0, image_score="paper", sigma=4.0, contamination=0.01, verbose=0):
        self.power = power
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.verbose = verbose

    def _fit(self, X):
        vectors = X.joined()
        self.mean_ = vectors.mean(axis=0, dtype=np.float64)
        self.scale_ = vectors.std(axis=0, dtype=np.float64) + 1e-6

    def _score_maps(self, X):
        distances = np.linalg.norm((X.joined() - self.mean_) / self.scale_, axis=3)
        return distances**self.power


class Smallest(BaseDetector):
    """No parameter at all."""

    def _fit(self, X):
        self.mean_ = X.joined().mean(axis=0, dtype=np.float64)

    def _score_maps(self, X):
        return np.linalg.norm(X.joined() - self.mean_, axis=3)


def test_a_detector_needs_no_parameter():
    check_detector(Smallest())
    detector = Smallest().fit(np.random.default_rng(0).normal(size=(100, 4)))
    assert detector.sigma == 4.0 and detector.get_params() == {}


class TurnedSign(Distance):
    def _score_maps(self, X):
        return -super()._score_maps(X)


class BatchMinimum(Distance):
    def _score_maps(self, X):
        maps = super()._score_maps(X)
        return maps - maps.min()


class MissedByCache(Distance):
    _unused_by_hooks = ("power", "verbose")


class MissedAfterFit(Distance):
    """The hook reads what is declared as unused, but only where scores are computed."""

    _unused_by_hooks = ("sigma",)

    def _score_maps(self, X):
        return super()._score_maps(X) * (1 + self.sigma)


class GlobalSeed(Distance):
    def _fit(self, X):
        super()._fit(X)
        self.mean_ = self.mean_ + np.random.normal(size=self.mean_.shape)  # noqa: NPY002


class InPlace(Distance):
    def _fit(self, X):
        for maps in X.arrays().values():
            maps -= maps.mean()
        super()._fit(X)


class KeepsPart(Distance):
    def _fit(self, X):
        super()._fit(X)
        self.helper = X

    def _score_maps(self, X):
        self.n_scored_ = (*getattr(self, "n_scored_", ()), len(X))
        return super()._score_maps(X)


class ChangesParameter(Distance):
    def _fit(self, X):
        super()._fit(X)
        self.power = 2.0


class WrongShape(Distance):
    def _score_maps(self, X):
        return super()._score_maps(X)[:, None]


class LearnsFromAll(Distance):
    def fit(self, X, y=None):
        return super().fit(X)


class Forgetful(Distance):
    """Learns from what the class has seen before."""

    seen = 0

    def _fit(self, X):
        super()._fit(X)
        type(self).seen += 1
        self.mean_ = self.mean_ + type(self).seen


BROKEN = {
    TurnedSign: "signs",
    BatchMinimum: "batch_independence",
    MissedByCache: "unused_parameters",
    MissedAfterFit: "unused_parameters",
    GlobalSeed: "repeatability",
    InPlace: "input_left_alone",
    KeepsPart: "learned_state",
    ChangesParameter: "parameters",
    WrongShape: "signs",
    LearnsFromAll: "labels",
    Forgetful: "repeatability",
}


def test_a_detector_that_keeps_the_contract_passes():
    check_detector(Distance())


@pytest.mark.parametrize(
    ("broken", "rule"), BROKEN.items(), ids=lambda b: getattr(b, "__name__", b)
)
def test_a_broken_rule_is_named_with_a_remedy(broken, rule):
    with pytest.raises(
        AssertionError, match=rf"{broken.__name__} breaks the rule '{rule}'"
    ) as info:
        check_detector(broken())
    assert "How to mend it: " in str(info.value)


def test_a_rule_can_be_expected_to_fail():
    with pytest.raises(AssertionError, match="'batch_independence'"):
        check_detector(BatchMinimum(), expected_failed_checks={"signs": "tried elsewhere"})
    marked = parametrize_with_checks(
        [TurnedSign()], expected_failed_checks=lambda e: {"signs": "its sign is turned"}
    )
    marks = {case.id: case.marks for case in marked.args[1]}
    assert [m.name for m in marks["TurnedSign-signs"]] == ["xfail"]
    assert not marks["TurnedSign-shapes"]


class MeanImage(BaseImageDetector):
    """Difference from the mean image."""

    def __init__(
        self, *, image_size=64, resize="stretch", image_score="map_max", sigma=4.0,
        contamination=0.01, device="cpu", n_jobs=None, verbose=0,
    ):  # fmt: skip
        self.image_size = image_size
        self.resize = resize
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.device = device
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _fit(self, X):
        pixels = X.arrays()["pixels"]  # (n, H, W, C)
        self.mean_ = pixels.mean(axis=(0, 1, 2))
        self.scale_ = pixels.std(axis=(0, 1, 2)) + 1e-3

    def _score_maps(self, X):
        edges = np.abs(np.diff(X.arrays()["pixels"], axis=1)).mean(axis=3)
        return edges  # (b, H - 1, W)


def test_a_detector_of_images_is_checked_on_images():
    check_detector(MeanImage())


class Pooled(BaseExtractor):
    """Means over cells of 8 x 8 pixels."""

    def __init__(
        self,
        *,
        factor=1.0,
        image_size=64,
        resize="stretch",
        memory_limit=None,
        cache=None,
        verbose=0,
    ):
        self.factor = factor
        self.image_size = image_size
        self.resize = resize
        self.memory_limit = memory_limit
        self.cache = cache
        self.verbose = verbose

    def _features(self, batch):
        b, h, w, c = batch.shape
        cells = batch.reshape(b, h // 8, 8, w // 8, 8, c).mean(axis=(2, 4))
        return {"cells": np.float32(self.factor) * cells}


class SmallestExtractor(BaseExtractor):
    def _features(self, batch):
        return {"pixels": batch[:, ::16, ::16]}


def test_an_extractor_needs_no_parameter():
    check_extractor(SmallestExtractor())


class CompanyMean(Pooled):
    def _features(self, batch):
        maps = super()._features(batch)["cells"]
        return {"cells": maps - maps.mean(axis=0)}


class FactorMissed(Pooled):
    _unused_by_features = (*Pooled._unused_by_features, "factor")


def test_an_extractor_that_keeps_the_contract_passes():
    check_extractor(Pooled())


@pytest.mark.parametrize(
    ("broken", "rule"), [(CompanyMean, "batch_independence"), (FactorMissed, "cache")]
)
def test_a_rule_that_an_extractor_breaks_is_named(broken, rule):
    with pytest.raises(AssertionError, match=rf"{broken.__name__} breaks the rule '{rule}'"):
        check_extractor(broken())


def test_other_things_are_refused():
    with pytest.raises(TypeError, match="expected a BaseDetector, got Pooled"):
        check_detector(Pooled())
    with pytest.raises(TypeError, match="expected a BaseExtractor, got Distance"):
        check_extractor(Distance())
