"""dump and load: a fitted estimator in one file, without code."""

import platform
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
import scipy
import sklearn

import skanomaly
from skanomaly.exceptions import DamagedFileError, NotTrustedError
from skanomaly.io import MAGIC, atomic_file, name_disk_errors, read_arrays, write_arrays
from skanomaly.persistence._objects import Decoder, Encoder

_KIND = "estimator"
# How pickles begin: bare ones since 2003, and what joblib compresses.
_PICKLES = b"\x80", b"\x1f\x8b", b"\x78", b"BZh", b"\xfd7zXZ", b"\x04\x22\x4d\x18", b"\x5d\x00"


def dump(estimator: Any, path: str | Path) -> str:
    """Write an estimator to a file that holds data alone, no code.

    Parameters
    ----------
    estimator : estimator
        A detector or an extractor, fitted or not, or a Pipeline, HeldOutThreshold or another
        estimator of scikit-learn of them; of a search, its ``best_estimator_``. Classes of others
        are first told to :func:`skanomaly.persistence.register_class`.
    path : str or Path
        A file that is there already is replaced once the new one is complete. The usual ending
        is ".skanomaly".

    Returns
    -------
    str
        SHA-256 of the file's description, which holds the checksums of all arrays: two files with
        one digest are equal.

    Raises
    ------
    TypeError
        The estimator holds an object that a file without code cannot hold, such as a function; the
        message says where.
    OSError
        The file cannot be written; the message names it.

    See Also
    --------
    load : The estimator from the file.

    Notes
    -----
    The file is a line, JSON and the bytes of the arrays. The JSON holds classes by name, attributes
    and the versions of the libraries. The same estimator gives the same bytes.

    Examples
    --------
    >>> import os, tempfile
    >>> import skanomaly
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(6, size=(64, 64), random_state=0)
    >>> pipe = skanomaly.Pipeline([("features", skanomaly.FilterBank(image_size=64)),
    ...                            ("detector", skanomaly.PatchCore())]).fit(good)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "part.skanomaly")
    ...     digest = skanomaly.dump(pipe, path)
    ...     again = skanomaly.load(path)
    >>> again.score_samples(good).tolist() == pipe.score_samples(good).tolist()
    True
    """
    encoder = Encoder()
    content = encoder.encode(estimator, type(estimator).__name__)
    versions = {
        "skanomaly": skanomaly.__version__,
        "python": platform.python_version(),
        **{library.__name__: library.__version__ for library in (np, scipy, sklearn)},
        "machine": platform.machine(),
    }
    head = {"versions": versions, "estimator": content}
    with atomic_file(path) as unfinished, name_disk_errors(path):
        return write_arrays(unfinished, encoder.arrays, head, _KIND)


def load(
    path: str | Path, *, mmap_mode: Literal["r", "c"] | None = None, trust_pickle: bool = False
) -> Any:
    """Read an estimator from a file of :func:`dump`.

    Nothing in the file is run: classes are looked up by their names among those that are known.
    Every byte is compared with a checksum first.

    Parameters
    ----------
    path : str or Path
    mmap_mode : {None, "r", "c"}, default=None
        "r": the arrays stay in the file and are shared by all processes that load it, read-only;
        "c": copied where one writes to them. The file must not change meanwhile.
    trust_pickle : bool, default=False
        Whether a file of joblib or pickle is loaded, too. Such a file runs whatever code its author
        put into it: trust its author as you would trust a program.

    Returns
    -------
    estimator

    Raises
    ------
    FileNotFoundError
        There is no such file.
    DamagedFileError
        The file is damaged, not one of ours, or of another format. It is a ValueError.
    NotTrustedError
        The file is a pickle, or holds a class that is not known. It is a ValueError.

    See Also
    --------
    dump : Writes the file, with an example.
    """
    if mmap_mode not in (None, "r", "c"):
        raise ValueError(f'expected mmap_mode None, "r" or "c", got {mmap_mode!r}')
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with open(path, "rb") as file:
        start = file.read(len(MAGIC))
    if start != MAGIC and trust_pickle:
        return joblib.load(path, mmap_mode=mmap_mode)
    if start.startswith(_PICKLES):
        raise NotTrustedError(
            f"{path} is a pickle, as joblib.dump writes it, which can run any code when it is "
            "loaded; if you trust its author, pass trust_pickle=True (--trust-pickle on the "
            "command line), and write it again with skanomaly.dump, whose files hold no code"
        )
    arrays, head = read_arrays(path, "a file of skanomaly.dump", mmap_mode)
    try:
        return Decoder(arrays).decode(head["estimator"])
    except NotTrustedError as error:
        raise NotTrustedError(f"{path}: {error}") from error
    except Exception as error:  # whatever a state makes a class's __setstate__ raise
        raise DamagedFileError(
            f"{path}: not a file of skanomaly.dump, or of a version that this one cannot read "
            f"({type(error).__name__}: {error})"
        ) from error
