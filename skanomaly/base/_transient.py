"""Attributes that are rebuilt on first use."""

from skanomaly.base._parameters import fill_parameters
from skanomaly.utils.state import exchanged
from skanomaly.utils.threads import ForkSafeLock

_LOCK = ForkSafeLock()  # of the threads that rebuild; one rebuild may need another


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

    def set_params(self, **params):
        """Set parameters, all at once: a method that is running keeps to those it started with.

        Parameters
        ----------
        **params : dict
            By name; ``teacher__image_size`` and the like are parameters of parameters.

        Returns
        -------
        self : object
        """
        with exchanged(self) as fresh:
            super(TransientStateMixin, fresh).set_params(**params)
        return self

    def _rebuilt(self, name, build, is_current=None):
        """The transient attribute, built by one of the threads that ask for it first.

        ``is_current`` tells whether one that is there may be used, as parameters are now.
        """

        def present():
            value = getattr(self, name)
            return None if value is None or (is_current and not is_current(value)) else value

        if (value := present()) is None:
            with _LOCK:
                if (value := present()) is None:
                    value = build()
                    setattr(self, name, value)
        return value

    def __getstate__(self):
        state = dict(super().__getstate__())  # at once: another thread may be rebuilding
        return {name: value for name, value in state.items() if name not in self._transient}
