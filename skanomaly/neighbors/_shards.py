"""Neighbors among the rows of a bank from those among its shards."""

from collections.abc import Sequence

import numpy as np


def merge_neighbors(
    found: Sequence[tuple[np.ndarray, np.ndarray]],
    first_rows: Sequence[int],
    n_neighbors: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows of a bank, from the nearest ones of each of its shards.

    Parameters
    ----------
    found : sequence of (distances, indices), each of shape (n_queries, k_i)
        What ``kneighbors`` of each shard returned for the same queries, with k_i at least
        ``n_neighbors``, or all rows of the shard where it has fewer.
    first_rows : sequence of int
        The number, in the whole bank, of each shard's first row.
    n_neighbors : int, default=1

    Returns
    -------
    distances : ndarray of shape (n_queries, n_neighbors), float32
        Nearest first.
    indices : ndarray of shape (n_queries, n_neighbors), int64
        Rows of the whole bank; of equally distant ones the lower comes first.

    Raises
    ------
    ValueError
        If there are not as many shards as first rows, or fewer neighbors found than asked for.

    Notes
    -----
    Shards of float32 rows, searched exactly, give the very bits of one search of the whole bank.
    Rows of float64 are compared about the mean of their shard: the last digits may then differ.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.neighbors import PatchIndex, merge_neighbors
    >>> bank = np.array([[0, 0], [3, 4], [6, 8], [9, 9]], np.float32)
    >>> queries = np.array([[1, 1], [7, 7]], np.float32)
    >>> found = [PatchIndex().fit(shard).kneighbors(queries) for shard in (bank[:2], bank[2:])]
    >>> merge_neighbors(found, [0, 2])[1]
    array([[0],
           [2]])
    """
    if len(found) == 0 or len(found) != len(first_rows):
        raise ValueError(
            "expected what was found in at least one shard, and the number of each one's first "
            f"row, got {len(found)} shards and {len(first_rows)} numbers"
        )
    distances = np.concatenate([some for some, _ in found], axis=1)
    parts = [rows + first for (_, rows), first in zip(found, first_rows, strict=True)]
    indices = np.concatenate(parts, axis=1)
    if not 1 <= n_neighbors <= distances.shape[1]:
        raise ValueError(
            f"n_neighbors must be from 1 to the number of rows found, {distances.shape[1]}, got "
            f"{n_neighbors!r}; ask each shard for as many, or for all rows it has"
        )
    order = np.lexsort((indices, distances), axis=1)[:, :n_neighbors]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(indices, order, 1)
