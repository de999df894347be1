"""Attributes that are rebuilt on first use."""

import threading

from skanomaly.base._parameters import fill_parameters

_LOCK = threading.RLock()  # of the threads that rebuild; one rebuild may need another


class TransientStateMixin:
    """Attributes that are rebuilt on first use and are left out of pickles and copies.

    A class names them once, in ``_transient``; before they are set they are None.
    """

    _transient: tuple[str, ...] = ()

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        fill_parameters(cls)
        for name in cls._transient:
            if not hasattr(cls, name):
                setattr(cls, name, None)

    def _rebuilt(self, name, build):
        """The transient attribute, built by one of the threads that ask for it first."""
        if getattr(self, name) is None:
            with _LOCK:
                if getattr(self, name) is None:
                    setattr(self, name, build())
        return getattr(self, name)

    def __getstate__(self):
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in self._transient}
