"""Exceptions of skanomaly; each is also an exception that users of Python already catch."""

__all__ = [
    "DamagedFileError",
    "ImageError",
    "MemoryLimitError",
    "MissingImageError",
    "NotTrustedError",
    "TrainingError",
    "WeightsError",
]


class _TwoKinds:
    """Of exceptions of two kinds, which Python and Dask do not agree how to rebuild elsewhere."""

    def __reduce__(self):
        return type(self), self.args


class ImageError(ValueError):
    """An image that cannot be used; the message names it."""


class MissingImageError(_TwoKinds, ImageError, FileNotFoundError):
    """An image file that does not exist."""


class MemoryLimitError(_TwoKinds, MemoryError, ValueError):
    """Work that would not fit into memory, refused before it starts."""


class DamagedFileError(ValueError):
    """A file that is not as it was written, or not of the kind asked for; the message names it."""


class NotTrustedError(ValueError):
    """A file whose content would have to run code in order to be loaded."""


class WeightsError(_TwoKinds, OSError, ValueError):
    """Weights that cannot be found, fetched or used; the message names the ways out."""


class TrainingError(RuntimeError):
    """A training that cannot go on; the network is in its last good state.

    Parameters
    ----------
    message : str
        What went wrong, in which epoch, and the way out.
    history : dict of str to list of float
        The losses until then.
    """

    def __init__(self, message, history):
        super().__init__(message, history)  # both, so that it can travel between processes
        self.history = history

    def __str__(self):
        return self.args[0]
