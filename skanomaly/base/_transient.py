"""Attributes that are rebuilt on first use."""


class TransientStateMixin:
    """Attributes that are rebuilt on first use and are left out of pickles and copies.

    A class names them once, in ``_transient``; before they are set they are None.
    """

    _transient: tuple[str, ...] = ()

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        for name in cls._transient:
            if not hasattr(cls, name):
                setattr(cls, name, None)

    def __getstate__(self):
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in self._transient}
