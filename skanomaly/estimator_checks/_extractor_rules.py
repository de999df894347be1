"""The contract of extractors, rule by rule."""

import pickle
import tempfile

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skanomaly.estimator_checks._parameter_values import other_values, seeded_clone
from skanomaly.estimator_checks._rules import RuleBook, refuses, same
from skanomaly.estimator_checks._samples import take

EXTRACTOR_RULES = RuleBook()
rule = EXTRACTOR_RULES.rule


def fitted(extractor, samples, **parameters):
    """A clone, fitted on the sample's good images."""
    return seeded_clone(extractor).set_params(**parameters).fit(samples.good(samples.n_training))


def arrays(maps):
    """Features and frames of FeatureMaps."""
    maps = maps.store()
    return {**maps.arrays(), "frames": maps.frames}


@rule(
    "let __init__ only assign its arguments to attributes of the same names, and never change them"
)
def check_parameters(extractor, samples):
    before = extractor.get_params(deep=False)
    after = fitted(extractor, samples).get_params(deep=False)
    assert list(before) == list(after), f"fit changed the parameters' names to {list(after)}"
    for name, value in seeded_clone(extractor).get_params(deep=False).items():
        assert repr(after[name]) == repr(value), f"fit changed {name} to {after[name]!r}"


@rule(
    "let _fit set attributes whose names end in '_', and name those rebuilt from them in _transient"
)
def check_learned_state(extractor, samples):
    extractor = fitted(extractor, samples)
    extractor.transform(samples.good(2))
    names = set(vars(extractor)) - set(extractor.get_params(deep=False))
    names -= set(extractor._transient)
    odd = sorted(name for name in names if not name.endswith("_") and not name.startswith("_sk"))
    assert not odd, f"the fitted attributes {odd} do not end in '_'"


@rule("call check_is_fitted through the base class: do not override transform")
def check_unfitted(extractor, samples):
    method = clone(extractor).transform
    refuses(lambda: method(samples.good(2)), NotFittedError, "unfitted transform")


@rule("return {layer: (b, h, w, C) float32} from _features, with the shapes in layer_shapes_")
def check_shapes(extractor, samples):
    extractor = fitted(extractor, samples)
    X, sizes = samples.mixed_sizes(4)
    maps = extractor.transform(X)
    assert maps.frames.tolist() == [list(size) for size in sizes], "frames are not images' sizes"
    for name, layer in maps.arrays().items():
        assert layer.dtype == np.float32, f"layer {name} is {layer.dtype}, not float32"
        expected = tuple(extractor.layer_shapes_[name])
        assert layer.shape[1:] == expected, f"layer {name} has shape {layer.shape[1:]}"


@rule("compute each image's features by itself: no statistics over the batch")
def check_batch_independence(extractor, samples):
    extractor, X = fitted(extractor, samples), samples.mixed(19)
    together = arrays(extractor.transform(X))
    for i in (0, 18):
        alone = arrays(extractor.transform(take(X, [i])))
        expected = {name: array[[i]] for name, array in together.items()}
        same(alone, expected, f"an image alone and among {len(X)}", rtol=1e-5)


@rule("draw from check_random_state(self.random_state), never from a global generator")
def check_repeatability(extractor, samples):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (arrays(fitted(extractor, samples).transform(samples.good(2))) for _ in "ab")
    same(second, first, "two fits with the same random_state")
    same(np.random.get_state()[1], before, "numpy's global generator after fit")  # noqa: NPY002


@rule("do not override fit: the base class reads y, and leaves the images marked as defects out")
def check_labels(extractor, samples):
    n, X = samples.n_training, samples.good(2)
    both = [*samples.good(n), *samples.mixed(4)]
    y = np.repeat([1, -1], [n, 4])
    if not extractor._needs_images:
        return  # it learns from no image
    expected = arrays(fitted(extractor, samples).transform(X))
    same(arrays(seeded_clone(extractor).fit(both, y).transform(X)), expected, "labels", rtol=1e-6)
    wrong = np.repeat([0, 1], [n, 4])
    refuses(lambda: clone(extractor).fit(both, wrong), ValueError, "y coded 0/1")


@rule("let _features return the same whether it is called at once or image by image, now or later")
def check_streaming(extractor, samples):
    if "memory_limit" not in extractor.get_params(deep=False):
        return
    extractor, X = fitted(extractor, samples), samples.mixed(5)
    expected = arrays(extractor.transform(X))
    streamed = extractor.set_params(memory_limit="10KB").transform(X)
    assert not streamed.is_stored, "features above memory_limit are stored"
    same(arrays(streamed), expected, "streamed features", rtol=1e-5)
    # A slice of streamed features carries its own images alone.
    few = pickle.loads(pickle.dumps(streamed[[3]]))
    assert len(few) == 1, "a pickled slice has other images"
    same(arrays(few), {k: v[[3]] for k, v in expected.items()}, "a pickled slice", rtol=1e-5)


@rule("read parameters and learned state when images come, not through a shared object later")
def check_later_fits(extractor, samples):
    if "memory_limit" not in extractor.get_params(deep=False):
        return
    X, others = samples.mixed(3), samples.mixed(6, seed=5)
    extractor = fitted(extractor, samples, memory_limit="10KB")
    expected = arrays(extractor.transform(X))
    streamed = extractor.transform(X)
    extractor.fit(others)
    same(arrays(streamed), expected, "streamed features after another fit", rtol=1e-5)


@rule("keep arrays, or objects that pickle; name what is rebuilt on first use in _transient")
def check_pickle(extractor, samples):
    extractor, X = fitted(extractor, samples), samples.mixed(3)
    content = pickle.dumps(extractor)
    expected = arrays(extractor.transform(X))
    assert len(pickle.dumps(extractor)) == len(content), "a pickle grows when it is used"
    same(arrays(pickle.loads(content).transform(X)), expected, "a pickled extractor", rtol=1e-5)


@rule(
    "let _identity digest everything that features depend on; name no parameter in "
    "_unused_by_features that they depend on"
)
def check_cache(extractor, samples):
    if "cache" not in extractor.get_params(deep=False):
        return
    X = samples.mixed(3)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            cached = fitted(extractor, samples, cache=folder)
            expected = arrays(fitted(extractor, samples).transform(X))
            same(arrays(cached.transform(X)), expected, "features with a cache", rtol=1e-5)
        for name in extractor.get_params(deep=False):
            for value in other_values(extractor, name):
                try:
                    plain = fitted(extractor, samples, **{name: value})
                except ValueError:
                    continue  # not a value for these images
                cached = fitted(extractor, samples, **{name: value}, cache=folder)
                what = f"features from the cache of another {name}, set to {value!r}"
                expected = arrays(plain.set_params(cache=None).transform(X))
                same(arrays(cached.transform(X)), expected, what, rtol=1e-5)


@rule("raise before anything is changed, and change nothing in place: let _fit make new arrays")
def check_refused_fit(extractor, samples):
    extractor, X = fitted(extractor, samples), samples.good(2)
    before = arrays(extractor.transform(X))
    for name, bad in samples.bad_inputs().items():
        if name in ("no image", "one path"):  # others are met by a fit that reads the image
            refuses(lambda bad=bad: extractor.fit(bad), (ValueError, OSError), f"fit on {name}")
        refuses(lambda bad=bad: extractor.transform(bad), (ValueError, OSError), name)
    same(arrays(extractor.transform(X)), before, "features after a fit that failed")


@rule("set n_channels_in_ in _fit, or leave it to the base class")
def check_channels(extractor, samples):
    extractor = fitted(extractor, samples)
    other = [np.zeros((72, 80, extractor.n_channels_in_ + 2), np.uint8)]
    refuses(lambda: extractor.transform(other), ValueError, "an image with other channels")
