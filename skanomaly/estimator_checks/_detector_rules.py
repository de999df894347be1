"""The contract of detectors, rule by rule."""

import pickle
from contextlib import suppress

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skanomaly.estimator_checks._rules import RuleBook, refuses, same
from skanomaly.estimator_checks._samples import take
from skanomaly.feature_maps import FeatureMaps

DETECTOR_RULES = RuleBook()
rule = DETECTOR_RULES.rule


def fitted(detector, samples, **parameters):
    """A clone, fitted on the sample's good images, with those of the parameters that it has."""
    known = detector.get_params(deep=False)
    detector = clone(detector).set_params(**{k: v for k, v in parameters.items() if k in known})
    return detector.fit(samples.good(samples.n_training))


def scores_and_maps(detector, X):
    scores, maps = detector.score_samples_and_map(X)
    return [scores, *maps]


@rule(
    "let __init__ only assign its arguments to attributes of the same names, and never change them"
)
def check_parameters(detector, samples):
    before = detector.get_params(deep=False)
    after = fitted(detector, samples).get_params(deep=False)
    assert list(before) == list(after), f"fit changed the parameters' names to {list(after)}"
    for name, value in clone(detector).get_params(deep=False).items():
        assert type(after[name]) is type(value), f"fit changed the parameter {name}"
        assert repr(after[name]) == repr(value), f"fit changed {name} to {after[name]!r}"


@rule(
    "let _fit set attributes whose names end in '_', and name those rebuilt from them in _transient"
)
def check_learned_state(detector, samples):
    names = set(vars(fitted(detector, samples))) - set(detector.get_params(deep=False))
    transient = set(detector._transient)
    odd = sorted(n for n in names - transient if not n.endswith("_") and not n.startswith("_sk"))
    assert not odd, f"the fitted attributes {odd} do not end in '_'"


@rule("call check_is_fitted through the base class: do not override the public methods")
def check_unfitted(detector, samples):
    for name in ("predict", "decision_function", "score_samples", "score_map"):
        method = getattr(clone(detector), name)
        refuses(lambda method=method: method(samples.good(2)), NotFittedError, f"unfitted {name}")


@rule("_score_maps returns high values where a defect is; the base class turns the sign of scores")
def check_signs(detector, samples):
    detector = fitted(detector, samples)
    X = samples.mixed(8)
    bad, good = np.arange(4), np.arange(4, 8)
    maps = np.stack(detector.score_map(X))
    there, far_away = (
        maps[:, *place].mean(axis=(1, 2)) for place in (samples.defect, samples.far_away)
    )  # (n,) each
    assert there[bad].min() > there[good].max(), "maps are not high at a defect"
    assert (there > far_away)[bad].all(), "maps are not higher at a defect than far from it"
    scores, decisions = detector.score_samples(X), detector.decision_function(X)
    assert scores[bad].max() < scores[good].min(), "score_samples is not low for defects"
    same(decisions, scores - detector.offset_, "decision_function - (score_samples - offset_)")
    same(detector.predict(X), np.where(decisions < 0, -1, 1), "predict")


@rule("return float arrays (b, h, w) from _score_maps and (b,) from _score_images")
def check_shapes(detector, samples):
    detector = fitted(detector, samples)
    scores, maps = detector.score_samples_and_map(samples.good(3, seed=1))
    assert scores.shape == (3,) and scores.dtype == np.float64, "score_samples is not (n,) float64"
    assert maps.ndim == 3 and maps.dtype == np.float32, "score_map is not (n, H, W) float32"
    X, sizes = samples.mixed_sizes(4)
    maps = detector.score_map(X)
    assert [m.shape for m in maps] == [tuple(s) for s in sizes], "maps are not in images' frames"
    same(detector.score_map(take(X, [0]))[0], maps[0], "a map among other sizes", rtol=1e-6)


@rule("score each image by itself: no statistics over the batch, no state changed by scoring")
def check_batch_independence(detector, samples):
    X = samples.mixed(20)
    for image_score in ("paper", "map_max"):
        one = fitted(detector, samples, image_score=image_score)
        together = scores_and_maps(one, X)
        for i in (0, 7, 19):
            alone = scores_and_maps(one, take(X, [i]))
            expected = [together[0][[i]], together[1 + i]]
            same(alone, expected, f"an image alone and among {len(X)}", rtol=1e-6)
        order = np.random.default_rng(0).permutation(len(X))
        mixed_up = scores_and_maps(one, take(X, order))
        expected = [together[0][order], *(together[1 + i] for i in order)]
        same(mixed_up, expected, "images in another order", rtol=1e-6)


@rule("draw from check_random_state(self.random_state) in _fit, and from nothing else")
def check_repeatability(detector, samples):
    X = samples.mixed(4)
    seed = {"random_state": 0} if "random_state" in detector.get_params() else {}
    first, second = (scores_and_maps(fitted(detector, samples, **seed), X) for _ in range(2))
    same(second, first, "two fits with the same random_state")


@rule("let _fit set everything anew, whatever was learned before")
def check_refit_forgets(detector, samples):
    X = samples.mixed(4)
    again = fitted(detector, samples).fit(samples.good(max(6, samples.n_training - 2), seed=3))
    again.fit(samples.good(samples.n_training))
    once = fitted(detector, samples)
    same(scores_and_maps(again, X), scores_and_maps(once, X), "a second fit", rtol=1e-6)
    assert set(vars(again)) == set(vars(once)), "a second fit left other attributes"


@rule("do not override fit: the base class reads y, and leaves the images marked as defects out")
def check_labels(detector, samples):
    n = samples.n_training
    bad = take(samples.mixed(8), range(4))
    both = samples.join(samples.good(n), bad)
    expected = fitted(detector, samples).score_samples(bad)
    y = np.repeat([1, -1], [n, 4])
    same(clone(detector).fit(both, y).score_samples(bad), expected, "labels", rtol=1e-6)
    masks = [None] * n + [np.eye(5, dtype=bool)] * 4
    same(clone(detector).fit(both, masks).score_samples(bad), expected, "masks", rtol=1e-6)
    for name, wrong in {
        "y coded 0/1": np.repeat([0, 1], [n, 4]),
        "y of bool": np.repeat([True, False], [n, 4]),
        "y of another length": y[1:],
        "y without a good image": np.full(n + 4, -1),
    }.items():
        refuses(lambda wrong=wrong: clone(detector).fit(both, wrong), ValueError, name)


@rule(
    "do not set offset_ in _fit; override _training_scores if they are not those of score_samples"
)
def check_threshold(detector, samples):
    X = samples.mixed(8)
    if "contamination" not in detector.get_params(deep=False):
        detector = fitted(detector, samples).set_threshold(samples.good(40), contamination=0.25)
        assert (detector.predict(samples.good(40)) == -1).sum() == 10, "the share is not met"
        return
    detector = fitted(detector, samples, contamination=0.25)
    free = fitted(detector, samples, contamination=None)
    same(free.score_samples(X), detector.score_samples(X), "scores without a threshold")
    refuses(lambda: free.predict(X), NotFittedError, "predict without a threshold")
    good = samples.good(40, seed=2)
    free.set_threshold(good, contamination=0.25)
    assert (free.predict(good) == -1).sum() == 10, "set_threshold did not set the share asked for"
    detector.offset_ = -np.inf
    assert set(detector.predict(X)) == {1}, "an offset_ set by hand is not used"


@rule("read X.batches() rather than assuming that all features are in memory")
def check_streaming(detector, samples):
    good, X = samples.good(samples.n_training), samples.mixed(4)
    if not isinstance(good, FeatureMaps):
        return
    stored = clone(detector).fit(good)
    streaming = clone(detector).fit(streamed(good))
    assert stored.offset_ == streaming.offset_, "the threshold of streamed features differs"
    expected = scores_and_maps(stored, X)
    same(scores_and_maps(streaming, streamed(X)), expected, "streamed features")


@rule("copy what you change: X belongs to the user")
def check_input_left_alone(detector, samples):
    good, X = samples.good(samples.n_training), samples.mixed(4)
    arrays = [
        array
        for part in (good, X)
        for array in (part.arrays().values() if isinstance(part, FeatureMaps) else part)
    ]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    clone(detector).fit(good).score_map(X)
    same(arrays, before, "the images or features after fit and score_map")


@rule("keep arrays, or objects that pickle; name what is rebuilt on first use in _transient")
def check_pickle(detector, samples):
    detector = fitted(detector, samples)
    X = samples.mixed(4)
    content = pickle.dumps(detector)
    expected = scores_and_maps(detector, X)
    assert len(pickle.dumps(detector)) == len(content), "a pickle grows when the detector is used"
    same(scores_and_maps(pickle.loads(content), X), expected, "a pickled detector")


@rule("let _partial_fit and _forget learn and forget what the base class hands them, and no more")
def check_updates(detector, samples):
    if not hasattr(detector, "partial_fit"):
        return
    n, X = samples.n_training, samples.mixed(4)
    good, more = samples.good(n), samples.good(n, seed=4)
    seed = {"random_state": 0} if "random_state" in detector.get_params() else {}
    detector = clone(detector).set_params(**seed)
    first, fitted_once = clone(detector).partial_fit(good), clone(detector).fit(good)
    same(scores_and_maps(first, X), scores_and_maps(fitted_once, X), "the first partial_fit")
    bad = take(X, range(4))
    y = np.repeat([1, -1], [n, 4])
    first.partial_fit(more)
    fitted_once.partial_fit(samples.join(more, bad), y)
    same(scores_and_maps(fitted_once, X), scores_and_maps(first, X), "labels", rtol=1e-6)
    assert fitted_once.learned_from_.tolist() == [True] * 2 * n + [False] * 4, "learned_from_"
    before = scores_and_maps(first, X)
    refuses(lambda: first.partial_fit(bad, [-1] * 4), ValueError, "partial_fit on defects only")
    if not hasattr(detector, "forget"):
        same(scores_and_maps(first, X), before, "scores after a partial_fit that failed")
        return
    known, unknown = list(range(2 * n)), [2 * n]
    for name, images in {"all images": known, "no image": [], "an unknown image": unknown}.items():
        refuses(lambda images=images: first.forget(images), ValueError, f"forget on {name}")
    same(scores_and_maps(first, X), before, "scores after updates that failed")
    first.forget([0], take(good, [0]))
    assert np.flatnonzero(~first.learned_from_).tolist() == [0], (
        "learned_from_ of a forgotten image"
    )
    refuses(lambda: first.forget([0], take(good, [0])), ValueError, "forgetting an image twice")


@rule("raise before anything is changed, and change nothing in place: let _fit make new arrays")
def check_refused_fit(detector, samples):
    detector = fitted(detector, samples)
    X = samples.mixed(4)
    before, expected = pickle.dumps(detector), scores_and_maps(detector, X)
    for name, bad in samples.bad_inputs().items():
        refuses(lambda bad=bad: detector.fit(bad), (ValueError, OSError), f"fit on {name}")
    refuses(lambda: detector.fit(samples.good(8), [0, 1] * 4), ValueError, "fit on y coded 0/1")
    for method in ("fit", "partial_fit"):
        if hasattr(detector, method):
            interrupt(detector, method, samples.good(samples.n_training, seed=2))
    assert pickle.dumps(detector) == before, "a fit that failed changed the detector"
    same(scores_and_maps(detector, X), expected, "scores after a fit that failed")


def interrupt(detector, method, X):
    """Call a fit that is interrupted at its end, when everything has been learned."""

    class Interrupted(BaseException):
        pass

    def stop(X):
        raise Interrupted

    detector._set_offset = detector._update_offset = stop  # comes last
    try:
        with suppress(Interrupted):  # it has come as far as it was to come
            getattr(detector, method)(X)
    finally:
        del detector._set_offset, detector._update_offset


def streamed(X):
    """Features computed batch by batch whenever they are asked for."""

    def extract(rows, batch_size):
        for first in range(0, len(rows), batch_size):
            yield X[np.array(rows[first : first + batch_size])]

    return FeatureMaps.streamed(list(range(len(X))), extract, X.layer_shapes, X.image_fit)
