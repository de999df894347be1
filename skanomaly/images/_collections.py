"""Collections of images: what is one, and how their images are named in messages."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from skanomaly.images._files import path_of

_ADVICE = "pass a list of paths, arrays or PIL images, or an array of shape (n, H, W[, C])"
_NOT_PIXELS = "OUST"  # kinds of arrays that hold paths, bytes or objects


def check_images(X: Any) -> Any:
    """Validate a collection of images.

    Parameters
    ----------
    X : sequence of paths, files' bytes, arrays or PIL images, or array of shape (n, H, W[, C])
        A column of a table is one as well: ``table["path"]``, ``table[["path"]]``, or an array of
        shape (n, 1) of paths.

    Returns
    -------
    X, or a list if X is a column of a table
        It has a length and integer indices.

    Raises
    ------
    ValueError
        If X is empty, a single image or a single path, or has several columns.
    """
    if path_of(X) is not None:
        raise ValueError(
            f"expected a collection of images, got the single path {path_of(X)!r}; {_ADVICE}. "
            "For the images of a folder use skanomaly.load_folder."
        )
    if isinstance(X, (bytes, bytearray, memoryview, io.IOBase)):
        raise ValueError(
            f"expected a collection of images, got a single file as {type(X).__name__}; "
            "pass a list with it: [file]"
        )
    if isinstance(X, (Image.Image, Mapping)) or not (
        hasattr(X, "__len__") and hasattr(X, "__getitem__")
    ):
        raise ValueError(f"expected a collection of images, got {type(X).__name__}; {_ADVICE}")
    X = _column(X)
    if _is_pixels(X) and X.ndim not in (3, 4):
        raise ValueError(
            f"expected images of shape (n, H, W) or (n, H, W, C), got shape {X.shape}; {_ADVICE}"
        )
    if len(X) == 0:
        raise ValueError(f"expected at least one image, got none; {_ADVICE}")
    return X


def _column(X):
    """The only column of a table, or X itself."""
    if hasattr(X, "columns"):
        if len(X.columns) != 1:
            raise ValueError(
                f"expected one column of paths, got a table with {len(X.columns)} columns; "
                'pass the column with the paths, such as table["path"]'
            )
        X = X.iloc[:, 0] if hasattr(X, "iloc") else X[X.columns[0]]
    if hasattr(X, "iloc"):
        return X.tolist()
    if isinstance(X, np.ndarray) and not _is_pixels(X) and X.ndim != 1:
        if X.ndim != 2 or X.shape[1] != 1:
            raise ValueError(
                f"expected a list of paths, or one column of them, got an array of shape {X.shape}"
            )
        return X[:, 0]
    return X


def _is_pixels(X):
    return isinstance(X, np.ndarray) and X.dtype.kind not in _NOT_PIXELS


def image_name(item: Any, index: int) -> str:
    """Name of an image in messages: its path, or its index in the collection.

    Parameters
    ----------
    item : path, file, PIL image or ndarray
    index : int

    Returns
    -------
    str
    """
    path = path_of(item)
    return f"image {index}" if path is None else path


class ImageSubset:
    """Some images of a collection; in messages they keep their indices in the whole collection.

    An array of int or bool chooses some of them in turn.

    Parameters
    ----------
    images : collection of images
    rows : ndarray of shape (n,), int
        Indices of the images.
    """

    def __init__(self, images, rows):
        self.images, self.rows = images, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        if isinstance(i, np.ndarray):
            return ImageSubset(self.images, self.rows[i])
        if isinstance(i, slice):
            return [self.images[row] for row in self.rows[i]]
        return self.images[self.rows[i]]


def name_in(images: Any, i: int) -> str:
    """Name in messages of the image with index i of a collection.

    Parameters
    ----------
    images : collection of images
    i : int

    Returns
    -------
    str
    """
    if isinstance(images, ImageSubset):
        return name_in(images.images, images.rows[i])
    return image_name(images[i], i)


def place_in(images: Any, i: int) -> tuple[int, int]:
    """Index of an image in the whole collection that some are chosen from, and how many that has.

    Parameters
    ----------
    images : collection of images
    i : int

    Returns
    -------
    index, n_images : int
    """
    while isinstance(images, ImageSubset):
        i, images = images.rows[i], images.images
    return int(i), len(images)


def titles(images: Any, names: Sequence[str] | None) -> list[str]:
    """A title for each image, for plots and reports.

    Parameters
    ----------
    images : collection of images
    names : sequence of str or None
        The titles. None: folder and name of a file, or the index of another image.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If there is not one name per image.
    """
    if names is None:
        paths = [path_of(item) for item in images]
        return [
            f"image {i}" if path is None else "/".join(Path(path).parts[-2:])
            for i, path in enumerate(paths)
        ]
    if len(names) != len(images):
        raise ValueError(
            f"expected one name per image, got {len(names)} names for {len(images)} images"
        )
    return list(names)
