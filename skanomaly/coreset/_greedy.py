"""Greedy k-center selection: repeatedly the row farthest from all rows selected so far.

The plain loop computes the distances of every row to every row selected. The rounds of
:class:`~skanomaly.coreset._bounds.BoundedSelection` give the same order at a fraction of the cost.
"""

import numbers
from contextlib import contextmanager

import numba
import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array, check_random_state

from skanomaly.coreset._bounds import BoundedSelection
from skanomaly.coreset._greedy_torch import greedy_order_torch
from skanomaly.coreset._projection import RandomProjection
from skanomaly.utils.device import resolve_device
from skanomaly.utils.threads import count_threads, single_threaded_pool

_TASKS_PER_THREAD = 4  # rows take unequal time: small tasks balance the threads
_LARGEST = 1e15  # squares of larger numbers, summed over columns, may overflow float32
_DEVICES = ("cpu", "cuda", "auto")


def greedy_coreset(
    X: ArrayLike,
    n_samples: int | float,
    *,
    n_projections: int | None = 128,
    radius: float | None = None,
    start: int | None = None,
    random_state: int | np.random.RandomState | None = None,
    device: str = "cpu",
    n_jobs: int | None = None,
    verbose: int = 0,
) -> np.ndarray:
    """Select rows in greedy k-center order: each is the one farthest from all before it.

    Rows are first projected to few dimensions, which hardly changes distances. The first m
    indices are the coreset of size m, so one call gives the coresets of all smaller sizes.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Finite numbers. Distances are computed in float32.
    n_samples : int or float
        An int is the number of rows, 1 to n. A float in (0, 1] is the fraction of the rows,
        rounded, at least one row: 1 is one row and 1.0 is all of them.
    n_projections : int or None, default=128
        Number of dimensions of the Gaussian random projection. None, or at least d: rows are not
        projected.
    radius : float or None, default=None
        Stop as soon as every row lies within this Euclidean distance, measured after the
        projection, of a selected row. Fewer than ``n_samples`` rows may then be returned.
    start : int or None, default=None
        Index of the first row. None: a row drawn by ``random_state``.
    random_state : int, RandomState instance or None, default=None
        Draws the projection, then the first row.
    device : {"cpu", "cuda", "auto"}, default="cpu"
        "cuda" runs the plain loop on a GPU with torch; rows that are equally far up to rounding
        may then be selected in another order. "auto" uses a GPU if there is one.
    n_jobs : int or None, default=None
        Number of threads on the CPU, on which the result does not depend. None means
        ``numba.get_num_threads()``; -1 means all processors.
    verbose : int, default=0
        If positive, show a progress bar.

    Returns
    -------
    ndarray of shape (n_samples,), int64
        Distinct indices of rows.

    Raises
    ------
    ValueError
        If X is not a 2-D array of finite numbers, or a parameter is out of its range.

    See Also
    --------
    RandomProjection, greedy_order : The two steps, for rows that arrive in batches.

    Notes
    -----
    On the CPU the result is exactly that of the plain loop whose distance is the float32 sum of
    squared differences of the projected rows; of equally far rows the lowest index is selected.
    Once all remaining rows are duplicates of selected rows, they follow by index. The first row is
    subtracted from all rows before they are projected or rounded from float64 to float32, so an
    offset costs no precision. Besides X, its projection and a copy of the selected rows, about 100
    bytes of memory are used for every row of X.

    References
    ----------
    T. F. Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical
    Computer Science 38, 1985. K. Roth et al., "Towards Total Recall in Industrial Anomaly
    Detection", CVPR 2022, algorithm 1.

    Examples
    --------
    >>> from skanomaly.coreset import greedy_coreset
    >>> greedy_coreset([[0.0], [1.0], [5.0], [9.0]], 3, start=0)
    array([0, 3, 2])
    """
    rows = check_array(X, dtype=[np.float64, np.float32], order="C", input_name="X")
    rng = check_random_state(random_state)
    n_features, origin = rows.shape[1], rows[0]
    projection = RandomProjection(n_projections, random_state=rng).fit(n_features, origin=origin)
    if rows.dtype == np.float64 or projection.components_ is not None:
        rows = projection.transform(rows)
    return greedy_order(
        rows,
        n_samples,
        start,
        radius=radius,
        random_state=rng,
        device=device,
        n_jobs=n_jobs,
        verbose=verbose,
    )


def greedy_order(
    Z: ArrayLike,
    n_samples: int | float,
    start: int | None = None,
    *,
    radius: float | None = None,
    random_state: int | np.random.RandomState | None = None,
    device: str = "cpu",
    n_jobs: int | None = None,
    verbose: int = 0,
) -> np.ndarray:
    """Select rows in greedy k-center order, without projection.

    Parameters
    ----------
    Z : array-like of shape (n, d)
        Finite numbers; float32 rows are not copied, others are rounded to float32.
    n_samples, start, radius, random_state, device, n_jobs, verbose
        As for :func:`greedy_coreset`.

    Returns
    -------
    ndarray of shape (n_samples,), int64
        Distinct indices of rows.

    Raises
    ------
    ValueError
        If Z is not a 2-D array of finite numbers, or a parameter is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.coreset import RandomProjection, greedy_order
    >>> rng = np.random.RandomState(0)
    >>> images = [rng.normal(size=(49, 384)) for _ in range(10)]
    >>> projection = RandomProjection(128, random_state=rng).fit(384, origin=images[0][0])
    >>> Z = np.concatenate([projection.transform(rows) for rows in images])
    >>> greedy_order(Z, 0.1, random_state=rng).shape
    (49,)
    """
    options = device, n_jobs, verbose
    return _select(Z, n_samples, start, radius, random_state, *options)[0]


def greedy_order_and_radii(
    Z: ArrayLike,
    n_samples: int | float,
    start: int | None = None,
    *,
    random_state: int | np.random.RandomState | None = None,
    device: str = "cpu",
    n_jobs: int | None = None,
    verbose: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Select rows in greedy k-center order, and measure how well they cover all rows.

    Parameters
    ----------
    Z : array-like of shape (n, d)
        Finite numbers; float32 rows are not copied, others are rounded to float32.
    n_samples, start, random_state, device, n_jobs, verbose
        As for :func:`greedy_coreset`.

    Returns
    -------
    order : ndarray of shape (n_samples,), int64
        Distinct indices of rows, as from :func:`greedy_order`.
    radii : ndarray of shape (n_samples,), float32
        Covering radius of the first 1, 2, ... of them: the largest distance of a row to the
        nearest one. It never grows.

    Raises
    ------
    ValueError
        If Z is not a 2-D array of finite numbers, or a parameter is out of its range.

    Examples
    --------
    >>> from skanomaly.coreset import greedy_order_and_radii
    >>> greedy_order_and_radii([[0.0], [1.0], [5.0], [9.0]], 3, start=0)
    (array([0, 3, 2]), array([9., 4., 1.], dtype=float32))
    """
    options = device, n_jobs, verbose
    return _select(Z, n_samples, start, None, random_state, *options, is_measured=True)


def _select(
    Z, n_samples, start, radius, random_state, device, n_jobs, verbose, *, is_measured=False
):
    """Indices of rows in greedy order, and covering radii, the last one if it is measured."""
    rows = check_array(Z, dtype=np.float32, order="C", input_name="Z")
    check_range(rows)
    n_samples = _check_n_samples(n_samples, len(rows))
    start = _check_start(start, len(rows), random_state)
    floor = _check_radius(radius)
    n_threads = _check_n_jobs(n_jobs)
    device = _check_device(device)
    with _progress(n_samples, verbose) as progress:
        if device == "cuda":
            found = greedy_order_torch(rows, n_samples, start, floor, device, progress)
        else:
            options = n_threads, is_measured, progress
            found = _greedy_order_compiled(rows, n_samples, start, floor, *options)
    picks, radii = found[0], np.sqrt(found[1][1:])
    if radius is not None:
        return picks, radii
    n_more = n_samples - len(picks)  # duplicates, at distance 0
    radii = np.append(radii, np.zeros(n_more, dtype=radii.dtype))
    return _with_duplicates(picks, n_samples, len(rows)), radii


def check_range(rows, least=1 / _LARGEST):
    """ValueError if squared distances of rows overflow float32, or all numbers are too small."""
    largest = max(abs(float(rows.max())), abs(float(rows.min())))
    if largest > _LARGEST or 0 < largest < least:
        raise ValueError(
            f"Squared distances of rows must fit float32: expected a largest absolute value "
            f"between {1 / _LARGEST:g} and {_LARGEST:g}, got {largest:g}. Scale the rows."
        )


def _check_n_samples(n_samples, n_rows):
    if isinstance(n_samples, numbers.Integral) and not isinstance(n_samples, bool):
        if 1 <= n_samples <= n_rows:
            return int(n_samples)
    elif isinstance(n_samples, float | np.floating) and 0 < n_samples <= 1:
        return max(1, round(float(n_samples) * n_rows))
    raise ValueError(
        f"n_samples must be an int between 1 and the number of rows, {n_rows}, or a float in "
        f"(0, 1], got {n_samples!r}."
    )


def _check_start(start, n_rows, random_state):
    if start is None:
        return check_random_state(random_state).randint(n_rows)
    if not isinstance(start, numbers.Integral) or not 0 <= start < n_rows:
        raise ValueError(f"start must be None or a row from 0 to {n_rows - 1}, got {start!r}.")
    return int(start)


def _check_radius(radius):
    """Squared distance at which to stop; without a radius, when only duplicates remain."""
    if radius is None:
        return np.float32(0)
    if not radius >= 0:
        raise ValueError(f"radius must be None or at least 0, got {radius!r}.")
    return np.float32(min(radius, 1e18) ** 2)


def _check_n_jobs(n_jobs):
    if n_jobs is not None and n_jobs != -1 and n_jobs < 1:
        raise ValueError(f"n_jobs must be None, -1 or at least 1, got {n_jobs!r}.")
    return count_threads(n_jobs, numba.get_num_threads())


def _check_device(device):
    if device not in _DEVICES:
        raise ValueError(f"device must be one of {_DEVICES}, got {device!r}.")
    return device if device == "cpu" else resolve_device(device).type


@contextmanager
def _progress(n_samples, verbose):
    """Context that gives a function to call with the number of rows selected so far."""
    if verbose <= 0:
        yield lambda n_picks: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=n_samples, desc="coreset", unit="row") as bar:
        yield lambda n_picks: bar.update(n_picks - bar.n)


def _greedy_order_compiled(rows, n_samples, start, floor, n_threads, is_measured, progress):
    """Rounds until enough rows are selected or none exceeds the floor."""
    n_tasks = _TASKS_PER_THREAD * n_threads
    # Not numba's threads, which cannot be nested in threads of the caller.
    with single_threaded_pool(n_threads) as pool:
        selection = BoundedSelection(rows, n_samples, rows[start], pool.map)
        selection.picks[0] = start
        selection.leave_out(start)
        while selection.n_picks < n_samples:
            members, threshold = selection.candidates(floor)
            if len(members) == 0:
                break
            selection.update(members, threshold, pool.map, n_tasks)
            selection.select(members, threshold)
            progress(selection.n_picks)
        if is_measured:
            selection.cover(pool.map, n_tasks)
    n_picks = selection.n_picks
    return selection.picks[:n_picks], selection.reached[: n_picks + 1]


def _with_duplicates(picks, n_samples, n_rows):
    """The picks, followed by the remaining rows by index."""
    if len(picks) == n_samples:
        return picks
    is_left = np.ones(n_rows, dtype=bool)
    is_left[picks] = False
    return np.concatenate([picks, np.flatnonzero(is_left)[: n_samples - len(picks)]])
