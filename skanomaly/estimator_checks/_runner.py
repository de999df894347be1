"""Run the rules: at once, or one pytest test each."""

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator

from skanomaly.base import BaseDetector, BaseExtractor
from skanomaly.estimator_checks._cache_rules import CACHE_RULES
from skanomaly.estimator_checks._detector_rules import DETECTOR_RULES
from skanomaly.estimator_checks._extractor_rules import EXTRACTOR_RULES
from skanomaly.estimator_checks._rules import Rule
from skanomaly.estimator_checks._samples import FeatureSamples, ImageSamples


def check_detector(detector: Any, *, expected_failed_checks: dict[str, str] | None = None) -> None:
    """Check that a detector keeps the contract of skanomaly, and scikit-learn's.

    Parameters
    ----------
    detector : BaseDetector
        With parameters under which a fit is quick and finds gross defects. It is cloned. A
        detector of features is checked on features, a detector of images on images of 72 x 80.
    expected_failed_checks : dict of str to str or None, default=None
        Names of rules that are not checked, and why.

    Raises
    ------
    TypeError
        It is no BaseDetector.
    AssertionError
        A rule is broken; the message names the detector, the rule, what was seen and how to mend
        it.

    See Also
    --------
    parametrize_with_checks : The same as tests.

    Examples
    --------
    >>> from skanomaly import PaDiM
    >>> from skanomaly.estimator_checks import check_detector
    >>> check_detector(PaDiM(n_components=8, random_state=0))
    """
    if not isinstance(detector, BaseDetector):
        raise TypeError(f"expected a BaseDetector, got {type(detector).__name__}")
    _run(detector, expected_failed_checks)


def check_extractor(
    extractor: Any, *, expected_failed_checks: dict[str, str] | None = None
) -> None:
    """Check that an extractor keeps the contract of skanomaly, and scikit-learn's.

    Parameters
    ----------
    extractor : BaseExtractor
        With a small ``image_size``. It is cloned.
    expected_failed_checks : dict of str to str or None, default=None
        Names of rules that are not checked, and why.

    Raises
    ------
    TypeError
        It is no BaseExtractor.
    AssertionError
        A rule is broken; the message names the extractor, the rule, what was seen and how to mend
        it.

    Examples
    --------
    >>> from skanomaly import FilterBank
    >>> from skanomaly.estimator_checks import check_extractor
    >>> check_extractor(FilterBank(n_filters=2, image_size=64, random_state=0))
    """
    if not isinstance(extractor, BaseExtractor):
        raise TypeError(f"expected a BaseExtractor, got {type(extractor).__name__}")
    _run(extractor, expected_failed_checks)


def parametrize_with_checks(
    estimators: Iterable[Any],
    *,
    expected_failed_checks: Callable[[Any], dict[str, str]] | None = None,
) -> Any:
    """Decorator of a pytest test that is run for each estimator and each rule.

    Parameters
    ----------
    estimators : list of BaseDetector or BaseExtractor
    expected_failed_checks : callable or None, default=None
        Returns, for an estimator, names of rules that are expected to fail, and why.

    Returns
    -------
    pytest.mark.parametrize
        Of the arguments ``estimator`` and ``check``; the test is ``check(estimator)``.

    Examples
    --------
    >>> from skanomaly import PaDiM
    >>> from skanomaly.estimator_checks import parametrize_with_checks
    >>> @parametrize_with_checks([PaDiM()])
    ... def test_contract(estimator, check):
    ...     check(estimator)
    """
    import pytest

    cases = []
    for estimator in estimators:
        expected = expected_failed_checks(estimator) if expected_failed_checks else {}
        for rule in rules_of(estimator):
            marks: Any = ()
            if rule.name in expected:
                marks = pytest.mark.xfail(reason=expected[rule.name], strict=False)
            check = functools.partial(_check_rule, rule)
            name = f"{type(estimator).__name__}-{rule.name}"
            cases.append(pytest.param(estimator, check, marks=marks, id=name))
    return pytest.mark.parametrize(("estimator", "check"), cases)


def rules_of(estimator):
    """The rules that an estimator must keep."""
    own = EXTRACTOR_RULES if isinstance(estimator, BaseExtractor) else DETECTOR_RULES + CACHE_RULES
    return [*own, SCIKIT_LEARN]


def _run(estimator, expected_failed_checks):
    skipped = expected_failed_checks or {}
    for rule in rules_of(estimator):
        if rule.name not in skipped:
            _check_rule(rule, estimator)


def _check_rule(rule, estimator):
    """Check one rule; whatever is raised comes as an AssertionError with the rule's name."""
    takes_features = isinstance(estimator, BaseDetector)
    takes_features &= get_tags(estimator).input_tags.two_d_array
    samples = FeatureSamples() if takes_features else ImageSamples()
    try:
        with _importable(type(estimator)):
            rule.check(clone(estimator), samples)
    except Exception as error:
        what = (
            str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        )
        raise AssertionError(
            f"{type(estimator).__name__} breaks the rule {rule.name!r}: {what}. "
            f"How to mend it: {rule.remedy}."
        ) from error


@contextlib.contextmanager
def _importable(kind):
    """Context in which a class that was typed in, not imported, can be pickled as others can."""
    module = sys.modules.get(kind.__module__)
    is_missing = "." not in kind.__qualname__ and not hasattr(module, kind.__name__)
    if is_missing:
        setattr(module, kind.__name__, kind)
    try:
        yield
    finally:
        if is_missing:
            delattr(module, kind.__name__)


def _check_scikit_learn(estimator, samples):
    with warnings.catch_warnings():
        # scikit-learn has few checks for estimators that take no table.
        warnings.simplefilter("ignore", SkipTestWarning)
        check_estimator(estimator, on_skip=None)


SCIKIT_LEARN = Rule(
    "scikit_learn",
    _check_scikit_learn,
    "see the developer's guide of scikit-learn on the check that failed",
)
