"""Whatever is called in whatever order: refused calls change nothing, files change nothing.

Hypothesis calls the methods of each registered class at random and compares with a simple model:
answers depend on the last fit and on the present parameters alone.
"""

import contextlib
import os
import pickle
import shutil
import sys
import tempfile
from typing import NamedTuple

import numpy as np
import pytest
from fuzz.strategies import bounded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import skanomaly
from skanomaly import FeatureMaps, FilterBank
from skanomaly.images import ImageFit
from skanomaly.registry import DETECTORS, EXTRACTORS

SIDE, N = 64, 6
MAX_SLOW_FITS = 2  # of a class, in all examples together
PACKAGE = os.path.dirname(skanomaly.__file__) + os.sep


class Interrupt(BaseException):
    """What nobody expects: as a KeyboardInterrupt, no Exception."""


def features(seed, n=N):
    rng = np.random.default_rng(seed)
    layers = {
        "fine": rng.normal(size=(n, 4, 3, 5)).astype(np.float32),
        "coarse": rng.normal(size=(n, 2, 2, 6)).astype(np.float32),
    }
    return FeatureMaps(layers, np.tile((20, 15), (n, 1)), ImageFit(16, 12))


def images(seed, n=N):
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


NAN = np.full((N, SIDE, SIDE, 3), np.nan)
BAD_FEATURES = [
    features(0)[:0],
    np.full((N, 4, 3, 5), np.nan),
    np.zeros((2, 3, 4, 5, 6), np.float32),
    images(0),
    ["a.png"],
]
BAD_IMAGES = [[], ["missing.png"], "missing.png", [None, images(0)[0]], NAN, features(0)]
BAD_TARGETS = [[0, 1] * (N // 2), [1] * (N - 1), [-1] * N, ["good"] * N, [NAN[0]] * N]


class Kind(NamedTuple):
    """How a registered class is made small, and what else its fit needs."""

    parameters: dict
    arguments: dict = {}
    n_examples: int = 10
    is_slow: bool = False  # a fit seen before is then taken from memory


KINDS = {
    "PatchCore": Kind({"coreset_ratio": 0.5, "random_state": 0}, n_examples=40),
    "PaDiM": Kind({"n_components": 6, "random_state": 0}, n_examples=40),
    "SPADE": Kind({"n_neighbors": 2}, n_examples=40),
    "CFlow": Kind(
        {"n_blocks": 1, "condition_size": 4, "n_epochs": 1, "random_state": 0}, n_examples=8
    ),
    "DifferNet": Kind({"n_blocks": 1, "n_epochs": 1, "random_state": 0}, n_examples=8),
    "RegAD": Kind(
        {"image_size": SIDE, "augmentations": ["flip"], "random_state": 0},
        n_examples=8,
        is_slow=True,
    ),
    "GlobalLocal": Kind(
        {"image_size": SIDE, "n_iter": 1, "patch_size": 17, "random_state": 0},
        n_examples=2,
        is_slow=True,
    ),
    "TDG": Kind(
        {"image_size": SIDE, "sizes": [16, 24], "n_iter": 1, "transformations": "turns"},
        n_examples=2,
        is_slow=True,
    ),
    "CutPaste": Kind(
        {"encoder": "tiny", "image_size": 64, "patch_size": 32, "n_iter": 1, "random_state": 0},
        n_examples=2,
        is_slow=True,
    ),
    "FYD": Kind(
        {
            "backbone": "squeezenet1_1", "weights": None, "image_size": SIDE, "n_epochs": 1,
            "random_state": 0,
        },
        n_examples=2,
        is_slow=True,
    ),
    "GANomaly": Kind(
        {"image_size": 32, "width": 2, "n_epochs": 1, "random_state": 0},
        n_examples=2,
        is_slow=True,
    ),
    "ARNet": Kind(
        {"image_size": 32, "width": 2, "n_epochs": 1, "random_state": 0},
        n_examples=2,
        is_slow=True,
    ),
    "MKD": Kind(
        {
            "source": FilterBank(n_filters=4, image_size=SIDE, random_state=0).fit(images(0)),
            "image_size": SIDE, "width": 2, "n_epochs": 1, "random_state": 0,
        },
        n_examples=2,
        is_slow=True,
    ),
    "FilterBank": Kind(
        {"image_size": SIDE, "n_filters": 4, "random_state": 0}, n_examples=8, is_slow=True
    ),
    "FeatureExtractor": Kind(
        {
            "backbone": "squeezenet1_1", "weights": None, "image_size": SIDE,
            "layers": ["features.3"], "random_state": 0,
        },
        n_examples=8,
    ),
    "RegistrationNetwork": Kind(
        {"backbone": "squeezenet1_1", "weights": None, "image_size": SIDE, "n_epochs": 0},
        {"groups": ["a"] * 3 + ["b"] * 3},
        n_examples=2,
        is_slow=True,
    ),
}  # fmt: skip
# Other values of parameters: some a fit depends on, some only what comes after it.
CHANGES = [
    {"sigma": 0.0}, {"sigma": 2.0}, {"image_score": "map_max"}, {"contamination": None},
    {"contamination": 0.2}, {"random_state": 1}, {"n_jobs": 1}, {"batch_size": 3},
    {"n_reweight": 0}, {"n_gallery_neighbors": 2},
]  # fmt: skip
BAD_CHANGES = [
    {"sigma": -1.0}, {"contamination": 0.9}, {"image_score": "mean"}, {"image_size": -8},
    {"resize": "somehow"}, {"memory_limit": "much"},
]  # fmt: skip


class Calls(RuleBasedStateMachine):
    """Calls of an estimator; a child names its class."""

    kind, cls, takes, is_detector = Kind({}), None, "images", True

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.path = os.path.join(self.folder, "estimator.skanomaly")
        self.estimator = self.cls(**self.kind.parameters)
        self.history = None  # what the learned state depends on
        self.state = self.digest()

    def teardown(self):
        shutil.rmtree(self.folder)

    # --- the model ---

    def digest(self):
        """Of the parameters and of all that was learned."""
        return skanomaly.dump(self.estimator, self.path)

    def data(self, seed):
        return features(seed) if self.takes == "features" else images(seed)

    def bad_data(self):
        return BAD_FEATURES if self.takes == "features" else BAD_IMAGES

    def settings(self):
        return repr(sorted(self.estimator.get_params().items()))

    def ask(self):
        """Everything that the estimator says of other images."""
        X = self.data(9)[:2]
        if not self.is_detector:
            return list(self.estimator.transform(X).arrays().values())
        scores, maps = self.estimator.score_samples_and_map(X)
        if not hasattr(self.estimator, "offset_"):
            return [scores, maps]
        verdicts = self.estimator.predict(X)
        assert np.array_equal(verdicts, np.where(scores < self.estimator.offset_, -1, 1))
        return [scores, maps, verdicts]

    def learned(self, history):
        """Another state is expected from here on."""
        self.history, self.state = history, self.digest()

    def unchanged(self):
        assert self.digest() == self.state

    @contextlib.contextmanager
    def refused(self, *kinds):
        before = dict(vars(self.estimator))
        with pytest.raises(kinds):
            yield
        after = vars(self.estimator)
        assert all(after[name] is before[name] for name in before if name.endswith("_"))
        self.unchanged()

    @property
    def is_fitted(self):
        return self.history is not None

    # --- calls that are as they should be ---

    @initialize(seed=st.sampled_from([0, 1, None]))
    def begin(self, seed):
        if seed is not None:
            self.fit(seed, None)

    @rule(seed=st.integers(0, 1), marks=st.sampled_from([None, "labels", "masks"]))
    def fit(self, seed, marks):
        key = (self.settings(), seed, marks)
        if self.kind.is_slow and key not in self.fitted and len(self.fitted) >= MAX_SLOW_FITS:
            return
        if self.kind.is_slow and key in self.fitted:
            self.estimator = pickle.loads(self.fitted[key])
        else:
            is_bad = [False] * (N - 1) + [True]
            masks = [np.ones((4, 4), bool) if bad else None for bad in is_bad]
            y = {None: None, "labels": np.where(is_bad, -1, 1), "masks": masks}[marks]
            assert self.estimator.fit(self.data(seed), y, **self.kind.arguments) is self.estimator
            self.fitted[key] = pickle.dumps(self.estimator)
        # A fit forgets what was learned before, and masks mark what labels mark.
        self.learned(("fit", self.settings(), seed, marks is None))

    @precondition(
        lambda self: hasattr(self.cls, "partial_fit") and hasattr(self.cls, "_partial_fit")
    )
    @rule(seed=st.integers(2, 3))
    def partial_fit(self, seed):
        self.estimator.partial_fit(self.data(seed))
        self.learned(("more", self.history, self.settings(), seed))

    @precondition(lambda self: self.is_fitted)
    @rule()
    def answers_depend_on_the_last_fit_and_the_parameters_alone(self):
        answers = self.ask()
        key = self.history, self.settings()
        expected = self.answers.setdefault(key, answers)
        assert len(answers) == len(expected)
        for found, known in zip(answers, expected, strict=True):
            np.testing.assert_array_equal(found, known)

    @rule(change=st.sampled_from(CHANGES))
    def set_params(self, change):
        if change.keys() <= self.estimator.get_params().keys():
            self.estimator.set_params(**change)
            self.state = self.digest()

    @rule(is_dumped=st.booleans())
    def travel(self, is_dumped):
        if is_dumped:
            assert skanomaly.dump(self.estimator, self.path) == self.state
            self.estimator = skanomaly.load(self.path)
        else:
            self.estimator = pickle.loads(pickle.dumps(self.estimator))
        self.unchanged()
        if self.is_fitted:
            self.answers_depend_on_the_last_fit_and_the_parameters_alone()

    @rule()
    def clone(self):
        copied = clone(self.estimator)
        assert repr(copied) == repr(self.estimator)
        assert not any(name.endswith("_") for name in vars(copied))
        self.unchanged()

    # --- calls that are refused ---

    @rule(i=st.integers(0, 5), is_fit=st.booleans())
    def bad_images(self, i, is_fit):
        bad = self.bad_data()
        with self.refused(ValueError, TypeError, OSError, NotFittedError):
            if is_fit:
                self.estimator.fit(bad[i % len(bad)], **self.kind.arguments)
            else:
                self.answer(bad[i % len(bad)])

    @rule(i=st.integers(0, len(BAD_TARGETS) - 1))
    def bad_targets(self, i):
        with self.refused(ValueError):
            self.estimator.fit(self.data(0), BAD_TARGETS[i], **self.kind.arguments)

    @rule(change=st.sampled_from(BAD_CHANGES))
    def bad_parameters(self, change):
        before = {
            name: value for name, value in self.estimator.get_params().items() if name in change
        }
        if not before:
            return
        self.estimator.set_params(**change)
        with pytest.raises(ValueError):
            self.estimator.fit(self.data(0), **self.kind.arguments)
        self.estimator.set_params(**before)
        self.unchanged()

    @precondition(lambda self: not self.is_fitted)
    @rule()
    def answers_before_a_fit(self):
        with self.refused(NotFittedError):
            self.answer(self.data(0))

    def answer(self, X):
        return self.estimator.score_samples(X) if self.is_detector else self.estimator.transform(X)

    @rule(n_calls=st.integers(1, 200), seed=st.integers(0, 1))
    def interrupted(self, n_calls, seed):
        """A fit that ends at the n-th call of one of our functions, if there are so many."""
        # What is raised in a generator that is being dropped ends nothing.
        try:
            with interruption(n_calls):
                self.estimator.fit(self.data(seed), **self.kind.arguments)
        except Interrupt:
            self.unchanged()
        else:
            self.learned(("fit", self.settings(), seed, True))

    @invariant()
    def a_fitted_estimator_has_something_learned(self):
        has_learned = any(name.endswith("_") for name in vars(self.estimator))
        assert has_learned == self.is_fitted


@contextlib.contextmanager
def interruption(n_calls):
    """Interrupt at the n-th call of a function of the package in this thread."""
    n_seen = 0

    def count(frame, event, _):
        nonlocal n_seen
        is_ours = event == "call" and frame.f_code.co_filename.startswith(PACKAGE)
        # A lock that is never released would end the test, not the call.
        if is_ours and frame.f_code.co_name not in ("__enter__", "__exit__", "__del__"):
            n_seen += 1
            if n_seen == n_calls:
                sys.setprofile(None)
                raise Interrupt

    def report(unraisable):
        if unraisable.exc_type is not Interrupt:
            hook(unraisable)

    before, hook = sys.getprofile(), sys.unraisablehook
    sys.unraisablehook = report
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)
        sys.unraisablehook = hook


def machine(entry, is_detector):
    """The test of one registered class."""
    kind, cls = KINDS[entry.name], entry.load()
    members = {
        "kind": kind, "cls": cls, "takes": entry.takes, "is_detector": is_detector,
        "answers": {}, "fitted": {},
    }  # fmt: skip
    calls = type(f"CallsOf{entry.name}", (Calls,), members)
    calls.TestCase.settings = bounded(kind.n_examples, stateful_step_count=10)
    return calls.TestCase


globals().update({f"Test{entry.name}": machine(entry, True) for entry in DETECTORS})
globals().update({f"Test{entry.name}": machine(entry, False) for entry in EXTRACTORS})
