"""Coresets of parts, put together: the coreset of all rows without all rows in one place.

Greedy selection in each part, and then among the rows that the parts have selected, covers all rows
within four times the best radius if a part sends n_samples rows, and within little more than twice
of it if it sends more (Malkomes et al., NeurIPS 2015; Ceccarello et al., VLDB 2019).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from skanomaly.coreset._greedy import greedy_order_and_radii

OVERSAMPLING = 4  # rows that all parts send, by rows selected in the end; measured on real images
MIN_ROWS = 1_000  # that a part sends at least: few rows of a small part leave out what is rare


def part_size(n_samples: int, n_part: int, n_rows: int) -> int:
    """How many rows a part selects, of which a coreset of all rows will be selected.

    Parameters
    ----------
    n_samples : int
        Rows of the coreset of all rows.
    n_part : int
        Rows of the part.
    n_rows : int
        Rows of all parts. A part of all rows selects ``n_samples`` of them.

    Returns
    -------
    int
        Four times the part's share of ``n_samples``, at least 1,000, or as many as the part has.

    Examples
    --------
    >>> from skanomaly.coreset import part_size
    >>> part_size(20_000, 200_000, 800_000), part_size(20_000, 2_000, 800_000)
    (20000, 1000)
    """
    if n_part == n_rows:
        return n_samples
    return min(n_part, max(OVERSAMPLING * n_samples * n_part // n_rows, MIN_ROWS))


def union_size(n_samples: int) -> int:
    """How many rows of several parts together are enough: a larger union may be thinned to them.

    Parameters
    ----------
    n_samples : int
        Rows of the coreset of all rows.

    Returns
    -------
    int
        Four times ``n_samples``, at least 1,000.

    Examples
    --------
    >>> from skanomaly.coreset import union_size
    >>> union_size(20_000)
    80000
    """
    return max(OVERSAMPLING * n_samples, MIN_ROWS)


def merge_coresets(
    coresets: Sequence[ArrayLike],
    n_samples: int,
    *,
    radii: Sequence[float] | None = None,
    device: str = "cpu",
    n_jobs: int | None = None,
    verbose: int = 0,
) -> tuple[np.ndarray, float]:
    """Select rows of several coresets in greedy k-center order: a coreset of all they stand for.

    Parameters
    ----------
    coresets : sequence of array-like of shape (m_i, d)
        The rows that each part has selected, in its order, all of one projection. The first row of
        the first one is selected first; the result depends on the order of the parts.
    n_samples : int
        Number of rows to select, or all there are where they are fewer.
    radii : sequence of float or None, default=None
        Each part's covering radius; None: 0, each coreset being all of its part.
    device, n_jobs, verbose
        As for :func:`greedy_coreset`.

    Returns
    -------
    order : ndarray of shape (n_samples,), int64
        Distinct indices of rows, the coresets being laid one after the other.
    radius : float
        Every row of the parts lies within this distance of a selected row: the covering radius of
        the selection among the coresets, plus the largest of ``radii``.

    Raises
    ------
    ValueError
        If there is no coreset, or one is not a 2-D array of finite numbers, or they differ in the
        number of columns; or a parameter is out of its range.

    See Also
    --------
    part_size : How many rows each part should have selected.

    References
    ----------
    G. Malkomes et al., "Fast distributed k-center clustering with outliers on massive data",
    NeurIPS 2015. M. Ceccarello et al., "Solving k-center clustering (with outliers) in MapReduce
    and streaming, almost as accurately as sequentially", VLDB 2019.

    Examples
    --------
    >>> from skanomaly.coreset import merge_coresets
    >>> merge_coresets([[[0.0], [4.0]], [[9.0], [5.0]]], 3, radii=[1.0, 0.5])
    (array([0, 2, 1]), 2.0)
    """
    if len(coresets) == 0:
        raise ValueError("expected the coresets of at least one part, got none")
    rows = np.concatenate([np.asarray(rows, dtype=np.float32) for rows in coresets])
    n_samples = min(n_samples, len(rows))
    order, reached = greedy_order_and_radii(
        rows, n_samples, start=0, device=device, n_jobs=n_jobs, verbose=verbose
    )
    return order, float(reached[-1]) + max(map(float, radii or [0]))
