"""Which classes may stand in a file of an estimator, and by what name.

A file names a class; the name is looked up here and nowhere else. Our own classes have the short
names of :mod:`skanomaly.registry`, so that a class may move to another module. Those of
scikit-learn, torch and torchvision are found by their public path, and only estimators, splitters
and networks among them. Classes of others are those that :func:`register_class` was told of.
"""

import functools
import importlib
import re
import sys
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.model_selection import BaseCrossValidator

from skanomaly import registry
from skanomaly.exceptions import NotTrustedError

_registered: dict[str, type] = {}
_PATH = re.compile(
    r"(sklearn|torch\.nn|torchvision)(\.(?!tests)[a-z][a-z0-9_]*)*\.[A-Z][A-Za-z0-9]*"
)
_FUNCTION = re.compile(r"torch\.nn\.functional\.[a-z][a-z0-9_]*")


def register_class(kind: type | None = None, *, name: str | None = None) -> Any:
    """Allow a class in files of :func:`skanomaly.dump`.

    Parameters
    ----------
    kind : type
        Its instances are written as what ``__getstate__`` returns, at its simplest the instance's
        ``__dict__``, and made again without a call of ``__init__``, by ``__setstate__`` where there
        is one. All in the state must be numbers, strings, arrays, containers of these, or
        instances of classes that are allowed themselves.
    name : str or None, default=None
        The name in files; None: the module's and the class's. Keep it for as long as there are
        files.

    Returns
    -------
    type
        The class itself, so that the function is a decorator as well.

    Raises
    ------
    ValueError
        Another class has this name.

    Examples
    --------
    >>> from sklearn.base import BaseEstimator, TransformerMixin
    >>> from skanomaly.persistence import register_class
    >>> @register_class(name="example.Centered")
    ... class Centered(TransformerMixin, BaseEstimator):
    ...     def fit(self, X, y=None):
    ...         self.mean_ = X.mean(axis=0)
    ...         return self
    """
    if kind is None:
        return functools.partial(register_class, name=name)
    name = f"{kind.__module__}.{kind.__qualname__}" if name is None else name
    known = _registered.get(name)
    is_same = known is None or (known.__module__, known.__qualname__) == (
        kind.__module__,
        kind.__qualname__,
    )
    if name in registry.STORED or _PATH.fullmatch(name) or not is_same:
        raise ValueError(f"expected a name of its own for {kind}, got {name!r}, which is taken")
    _registered[name] = kind  # a module may be run again, as in a notebook
    return kind


def name_of(kind: type) -> str | None:
    """The name of a class in files; None for one that is not allowed there."""
    if registry.STORED.get(kind.__name__) == kind.__module__.removeprefix("skanomaly."):
        return kind.__name__
    for name, known in _registered.items():
        if known is kind:
            return name
    path = _public_path(kind)
    return path if _PATH.fullmatch(path) and _may_be_stored(kind) else None


def class_of(name: str) -> type:
    """The class of a name in a file; NotTrustedError for one that is not allowed there."""
    if name in registry.STORED:
        return getattr(importlib.import_module(f"skanomaly.{registry.STORED[name]}"), name)
    if name in _registered:
        return _registered[name]
    found = _at(name) if _PATH.fullmatch(name) else None
    if not isinstance(found, type) or not _may_be_stored(found):
        raise NotTrustedError(
            f"it holds an object of the class {name!r}, which is not known here; import the "
            "package that the class is from, or pass the class to "
            "skanomaly.persistence.register_class, if you trust it"
        )
    return found


def own_function_name(function: Any) -> str | None:
    """The name in files of one of our functions that may be a parameter; None for any other."""
    name = getattr(function, "__name__", "")
    module = registry.STORED_FUNCTIONS.get(name)
    return name if module and function.__module__ == f"skanomaly.{module}" else None


def function_name(function: Any) -> str | None:
    """The name in files of one of torch's activations; None for any other function."""
    path = f"torch.nn.functional.{getattr(function, '__name__', '')}"
    return path if _FUNCTION.fullmatch(path) and _at(path) is function else None


def function_of(name: str) -> Any:
    """The function of a name that :func:`function_name` returned."""
    if name in registry.STORED_FUNCTIONS:
        return _at(f"skanomaly.{registry.STORED_FUNCTIONS[name]}.{name}")
    found = _at(name) if _FUNCTION.fullmatch(name) else None
    if found is None:
        raise NotTrustedError(f"it holds the function {name!r}, which is not known here")
    return found


def _public_path(kind):
    """The shortest path of packages from which a class can be imported."""
    parts = kind.__module__.split(".")
    for n in range(1, len(parts)):
        package = ".".join(parts[:n])
        if getattr(sys.modules.get(package), kind.__name__, None) is kind:
            return f"{package}.{kind.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def _at(path):
    """What a module has under a name; None where there is no such thing."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _may_be_stored(kind):
    bases: tuple = (BaseEstimator, BaseCrossValidator)
    if "torch" in sys.modules:
        bases += (sys.modules["torch"].nn.Module,)
    return issubclass(kind, bases)
