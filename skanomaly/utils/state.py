"""The state of estimators, exchanged at once: who reads while another thread fits meets no mixture.

An estimator's state is its ``__dict__``. A fit works on a copy of the estimator, whose state takes
the place of the former one in a single step. A method that reads takes hold of the state when it
is called: it sees the old model or the new one.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator

from skanomaly.utils.threads import ForkSafeLock

__all__ = ["exchanged", "reading", "snapshot"]

_EXCHANGE = ForkSafeLock()  # held while references are exchanged, never while anything is computed
_LISTS = ("steps", "transformer_list")  # of a Pipeline, a FeatureUnion: tuples with an estimator
_FITTED = ("estimator_", "best_estimator_")  # of a HeldOutThreshold, a search


def reading(method: Callable) -> Callable:
    """Decorator of a method that reads: it keeps to the state that there is when it is called.

    Parameters
    ----------
    method : function
        Of an estimator; it must not return ``self``.

    Returns
    -------
    function
    """

    @functools.wraps(method)
    def read(self, *args, **kwargs):
        return method(snapshot(self), *args, **kwargs)

    return read


def snapshot(estimator: Any) -> Any:
    """An estimator that keeps to the present state, whatever the given one is fitted on later.

    Parameters
    ----------
    estimator : estimator
        The steps of a Pipeline and the fitted estimator of a wrapper or a search are taken with it.

    Returns
    -------
    estimator of the same class
        They share their state: what is rebuilt on first use by one is there for the other.
    """
    with _EXCHANGE:
        return _snapshot(estimator)


@contextmanager
def exchanged(
    estimator: Any, *, keep_after: type[Exception] | tuple[type[Exception], ...] = ()
) -> Iterator[Any]:
    """Context that gives a copy of an estimator to fit, and at its end exchanges their states.

    Parameters
    ----------
    estimator : estimator
        The steps of a Pipeline are copied and exchanged with it, all at once.
    keep_after : kind of exception, or tuple of them
        Those after which the states are exchanged nevertheless; after any other the copy is
        dropped.

    Yields
    ------
    estimator of the same class
        It shares the arrays, which must not be changed in place. Parameters that are set meanwhile
        on the estimator itself stay set.
    """
    copies: dict[int, tuple] = {}
    with _EXCHANGE:
        fresh = _copy(estimator, copies)
    try:
        yield fresh
    except keep_after:
        _exchange(list(copies.values()))
        raise
    _exchange(list(copies.values()))


def _snapshot(part):
    if not isinstance(part, BaseEstimator):  # "passthrough", or none whose state is known
        return part
    state = vars(part)
    inner = {name: _each(_snapshot, state[name]) for name in _LISTS if name in state}
    names = ("estimator",) if isinstance(part, FrozenEstimator) else _FITTED
    inner |= {name: _snapshot(state[name]) for name in names if name in state}
    same = object.__new__(type(part))
    same.__dict__ = {**state, **inner} if inner else state
    return same


def _copy(part, copies):
    """A copy with a state of its own; noted in copies, {id: (original, copy, state before)}."""
    if not isinstance(part, BaseEstimator):
        return part
    if id(part) not in copies:
        before = dict(vars(part))
        fresh = object.__new__(type(part))
        copies[id(part)] = part, fresh, before
        parts = {
            name: _each(lambda one: _copy(one, copies), before[name])
            for name in _LISTS
            if name in before
        }
        fresh.__dict__ = {**before, **parts}
    return copies[id(part)][1]


def _exchange(copies):
    """Give the originals the states of their copies."""
    originals = {id(fresh): part for part, fresh, _ in copies}
    with _EXCHANGE:
        states = []
        for part, fresh, before in copies:
            state, now = vars(fresh), vars(part)
            for name in _LISTS:
                if name in state:  # the steps that users hold on to, unless they were replaced
                    state[name] = _each(lambda one: originals.get(id(one), one), state[name])
            for name in part.get_params(deep=False):
                if name in now and now[name] is not before.get(name):
                    state[name] = now[name]  # set by another thread meanwhile
            states.append(state)
        for (part, _, _), state in zip(copies, states, strict=True):
            part.__dict__ = state


def _each(function, steps):
    """The same list of tuples, the function applied to what is in them."""
    return [
        tuple(map(function, step)) if isinstance(step, (tuple, list)) else function(step)
        for step in steps
    ]
