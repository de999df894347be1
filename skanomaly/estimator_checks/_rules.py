"""What a rule of the contract is, and comparisons that say what differs."""

from typing import NamedTuple

import numpy as np


class Rule(NamedTuple):
    """One rule of the contract.

    Parameters
    ----------
    name : str
        By which errors and tests call it.
    check : callable
        Takes the estimator and its sample data; raises AssertionError where the rule is broken.
    remedy : str
        How to mend it.
    """

    name: str
    check: object
    remedy: str


class RuleBook(list):
    """Rules in the order in which they are checked."""

    def rule(self, remedy):
        """Decorator that adds a function ``check_<name>`` as the rule called <name>."""

        def add(check):
            self.append(Rule(check.__name__.removeprefix("check_"), check, remedy))
            return check

        return add


def same(found, expected, what, *, rtol=0.0):
    """AssertionError unless two results agree: numbers, arrays, lists or dicts of them."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), f"{what}: {list(found)} instead of {list(expected)}"
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list):
        assert len(found) == len(expected), f"{what}: {len(found)} instead of {len(expected)}"
        for one, other in zip(found, expected, strict=True):
            same(one, other, what, rtol=rtol)
        return
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, not {expected.shape}"
    limit = rtol * max(np.abs(expected).max(initial=0), 1e-30)
    difference = np.abs(found.astype(np.float64) - expected).max(initial=0)
    assert difference <= limit, f"{what}: values differ by up to {difference:.3g}"


def refuses(call, kinds, what):
    """AssertionError unless a call raises one of these exceptions; returns the exception."""
    try:
        call()
    except kinds as error:
        return error
    except Exception as error:
        names = kinds.__name__ if isinstance(kinds, type) else [kind.__name__ for kind in kinds]
        raise AssertionError(f"{what} raised {type(error).__name__}, expected {names}") from error
    raise AssertionError(f"{what} was accepted")
