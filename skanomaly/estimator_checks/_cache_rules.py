"""Rules on the cache: nothing that scores depend on is missing from its keys."""

import tempfile

import numpy as np
from sklearn.base import clone

from skanomaly.caching import CachedFeatureMaps
from skanomaly.estimator_checks._detector_rules import scores_and_maps
from skanomaly.estimator_checks._parameter_values import other_values, seeded_clone
from skanomaly.estimator_checks._rules import RuleBook, same
from skanomaly.feature_maps import FeatureMaps
from skanomaly.io import Cache, digest

CACHE_RULES = RuleBook()
_OF_THE_MACHINE = ("checkpoint", "device", "n_jobs")  # files and devices that may not be there
rule = CACHE_RULES.rule


@rule(
    "take the parameter out of _unused_by_hooks, or do not read it in _fit, _score_maps and "
    "_score_images; name its values in _parameter_constraints"
)
def check_unused_parameters(detector, samples):
    names = vars(type(detector)).get("_unused_by_hooks", ())
    if not names:
        return
    good, X = samples.good(samples.n_training), samples.mixed(4)
    detector = seeded_clone(detector)
    one = clone(detector).fit(good)
    X = one._check_X(X, reset=False).store()
    expected = _hooks(one, X)
    for name in names:
        tried = False
        for value in other_values(detector, name):
            changed = clone(detector).set_params(**{name: value})
            if not _fits(changed, good):
                continue
            what = f"what the hooks return with {name}={value!r}, declared as unused"
            same(_hooks(changed, X), expected, what)
            value_before = getattr(one, name)
            one.set_params(**{name: value})
            same(_hooks(one, X), expected, f"{what}, set after fit")
            one.set_params(**{name: value_before})
            tried = True
            break
        known = name in _OF_THE_MACHINE
        assert tried or known, f"{name} is declared as unused, and no other value of it is known"


@rule(
    "let scores depend on nothing but the images, the parameters and what fit has learned from "
    "these; name no parameter in _unused_by_hooks that the hooks read"
)
def check_cache(detector, samples):
    good, X = samples.good(samples.n_training), samples.mixed(4)
    if not isinstance(good, FeatureMaps):
        return  # images come with no cache
    detector = seeded_clone(detector)
    with tempfile.TemporaryDirectory() as folder:
        from_cache = [_cached(maps, Cache(folder)) for maps in (good, X)]
        cached_good, cached_X = from_cache
        expected = scores_and_maps(clone(detector).fit(good), X)
        for _ in range(2):
            cached = clone(detector).fit(cached_good)
            same(scores_and_maps(cached, cached_X), expected, "scores with a cache", rtol=1e-6)
        for name in detector.get_params(deep=False):
            what = f"scores from a cache that was filled with another {name}"
            for value in other_values(detector, name):
                plain = clone(detector).set_params(**{name: value})
                if not _fits(plain, good):
                    continue
                cached = clone(plain).fit(cached_good)
                same(scores_and_maps(cached, cached_X), scores_and_maps(plain, X), what, rtol=1e-6)
                plain = clone(detector).fit(good).set_params(**{name: value})
                cached = clone(detector).fit(cached_good).set_params(**{name: value})
                expected = scores_and_maps(plain, X)
                what = f"{what}, set after fit"
                same(scores_and_maps(cached, cached_X), expected, what, rtol=1e-6)
                break


def _fits(detector, good):
    """Fit, and tell whether the parameters suit these images."""
    try:
        detector.fit(good)
    except ValueError:
        return False
    return True


def _hooks(detector, X):
    """What the hooks return for X."""
    maps = detector._score_maps(X)
    return [maps, detector._score_images(X, maps)]


def _cached(X, cache):
    """The same features with keys in a cache."""
    arrays = X.arrays()
    keys = [digest({name: maps[i] for name, maps in arrays.items()}) for i in range(len(X))]
    return CachedFeatureMaps.of(X, np.array(keys), cache)
