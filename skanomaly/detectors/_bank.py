"""PatchCore's memory bank: rows picked from all patches, and where each comes from."""

import numpy as np

ORIGIN_BYTES = 8  # per row of the bank: two int32


def gather(X, order, patches_of, n_features):
    """Rows of all patches by number, in one pass: never all of them in memory.

    Parameters
    ----------
    X : FeatureMaps of shape (n,)
    order : ndarray of shape (m,), int
        Numbers of patches, counted over images, then rows, then columns.
    patches_of : callable
        FeatureMaps of b images in, (b * h * w, n_features) out.
    n_features : int

    Returns
    -------
    dict
        ``bank``, (m, n_features) float32; ``origin``, (m, 2) int32, image and cell; and
        ``frames``, (n, 2) int32, of all images, which streamed features tell only here.
    """
    bank = np.empty((len(order), n_features), dtype=np.float32)
    by_number, frames = np.argsort(order), []
    first = done = 0
    for piece in X.batches():
        patches = patches_of(piece)
        end = np.searchsorted(order, first + len(patches), sorter=by_number)
        bank[by_number[done:end]] = patches[order[by_number[done:end]] - first]
        frames.append(piece.frames)
        first, done = first + len(patches), end
    origin = np.column_stack(np.divmod(order, first // len(X)))
    frames = np.concatenate(frames)
    return {"bank": bank, "origin": origin.astype(np.int32), "frames": frames.astype(np.int32)}


def first_rows(array, n_rows):
    """An array's first rows, in memory of their own: nothing longer is held for them."""
    return array if array.base is None and len(array) == n_rows else array[:n_rows].copy()
