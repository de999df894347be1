"""Greedy k-centre selection: take the row farthest from all rows taken so far, again and again.

This file holds what callers see. Each step of the plain loop looks at every row; the rounds of
``_selection`` give the same order, pick for pick, at a small part of the cost.
"""

import numbers
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numba
import numpy as np
from sklearn.utils import check_array, check_random_state

from skanomaly.coreset._projection import RandomProjection
from skanomaly.coreset._selection import Selection
from skanomaly.coreset._torch import greedy_order_torch

_TASKS_PER_THREAD = 4  # rows leave the race early or late: small tasks even that out
_LARGEST = 1e15  # squares of larger numbers, summed over columns, may overflow float32
_DEVICES = ("cpu", "cuda", "auto")


def greedy_coreset(
    X,
    n_samples,
    *,
    n_projections=128,
    radius=None,
    start=None,
    random_state=None,
    device="cpu",
    n_jobs=None,
    verbose=0,
):
    """Rows in greedy k-centre order: each is the one farthest from all before it.

    Rows are first projected to few dimensions, which hardly changes distances. The first m
    indices are the coreset of size m, so one call serves every smaller size.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Finite numbers. Computation is in float32.
    n_samples : int or float
        An int: how many rows, 1 to n. A float in (0, 1]: that part of the rows, rounded, at least
        one; so 1 is one row and 1.0 all of them.
    n_projections : int or None, default=128
        Dimensions of the Gaussian random projection. None, or at least d: no projection.
    radius : float or None, default=None
        Stop as soon as every row lies within this Euclidean distance, measured after the
        projection, of a row taken. The answer may then be shorter than ``n_samples``.
    start : int or None, default=None
        Index of the first row. None: a row drawn by ``random_state``.
    random_state : int, RandomState instance or None, default=None
        Draws the projection, then the first row.
    device : {"cpu", "cuda", "auto"}, default="cpu"
        "cuda" runs the plain loop on a GPU with torch: rows equally far up to rounding may then
        come in another order. "auto" takes a GPU where there is one.
    n_jobs : int or None, default=None
        Threads on the CPU; the answer does not depend on them. None: ``numba.get_num_threads()``.
    verbose : int, default=0
        Above 0, show a progress bar.

    Returns
    -------
    ndarray of shape (n_samples,), int64
        Indices of rows, none twice.

    Raises
    ------
    ValueError
        If X is not a 2-D array of finite numbers, or a parameter is out of its range.

    See Also
    --------
    RandomProjection, greedy_order : the two steps, for rows that arrive in batches.

    Notes
    -----
    On the CPU the answer is exactly that of the plain loop whose distance is the float32 sum of
    squared differences of the projected rows, where the lowest index wins a tie. Once every row
    left equals a row taken, the others follow by index. Rows are measured from the first row
    before they are projected or float64 is rounded to float32, so an offset does not cost digits.
    Beside the rows, their projection and a copy of the rows taken, memory holds about 100 bytes
    for every row of X.

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
    X = check_array(X, dtype=[np.float64, np.float32], order="C", input_name="X")
    rng = check_random_state(random_state)
    projection = RandomProjection(n_projections, random_state=rng).fit(X.shape[1], origin=X[0])
    if X.dtype == np.float64 or projection.components_ is not None:
        X = projection.transform(X)
    return greedy_order(
        X,
        n_samples,
        start,
        radius=radius,
        random_state=rng,
        device=device,
        n_jobs=n_jobs,
        verbose=verbose,
    )


def greedy_order(
    Z,
    n_samples,
    start=None,
    *,
    radius=None,
    random_state=None,
    device="cpu",
    n_jobs=None,
    verbose=0,
):
    """Greedy k-centre order of rows as they are, without projection.

    Parameters
    ----------
    Z : array-like of shape (n, d)
        Finite numbers; float32 is used without a copy, anything else is rounded to it.
    n_samples, start, radius, random_state, device, n_jobs, verbose
        As for :func:`greedy_coreset`.

    Returns
    -------
    ndarray of shape (n_samples,), int64
        Indices of rows, none twice.

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
    Z = check_array(Z, dtype=np.float32, order="C", input_name="Z")
    _check_range(Z)
    n_samples = _check_n_samples(n_samples, len(Z))
    start = _check_start(start, len(Z), random_state)
    floor = _check_radius(radius)
    n_threads = _check_n_jobs(n_jobs)
    device = _check_device(device)
    with _progress(n_samples, verbose) as progress:
        if device == "cuda":
            picks = greedy_order_torch(Z, n_samples, start, floor, device, progress)
        else:
            picks = _greedy_order_compiled(Z, n_samples, start, floor, n_threads, progress)
    return picks if radius is not None else _with_duplicates(picks, n_samples, len(Z))


def _check_range(Z):
    largest = max(abs(float(Z.max())), abs(float(Z.min())))
    if largest > _LARGEST or 0 < largest < 1 / _LARGEST:
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
    """Squared distance at which to stop: without a radius, once only duplicates are left."""
    if radius is None:
        return np.float32(0)
    if not radius >= 0:
        raise ValueError(f"radius must be None or at least 0, got {radius!r}.")
    return np.float32(min(radius, 1e18) ** 2)


def _check_n_jobs(n_jobs):
    if n_jobs is None:
        return numba.get_num_threads()
    if n_jobs < 1:
        raise ValueError(f"n_jobs must be None or at least 1, got {n_jobs!r}.")
    return n_jobs


def _check_device(device):
    if device not in _DEVICES:
        raise ValueError(f"device must be one of {_DEVICES}, got {device!r}.")
    if device == "cpu":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise ValueError("device='cuda' needs a GPU that torch can use: take 'auto' or 'cpu'.")
    return "cpu"


@contextmanager
def _progress(n_samples, verbose):
    """A function to be told how many picks there are."""
    if verbose <= 0:
        yield lambda n_picks: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=n_samples, desc="coreset", unit="row") as bar:
        yield lambda n_picks: bar.update(n_picks - bar.n)


def _greedy_order_compiled(rows, n_samples, start, floor, n_threads, progress):
    """Rounds of picks until there are enough or no row lies above the floor."""
    selection = Selection(rows, n_samples, start)
    # Threads of our own rather than numba's: these may be nested in the caller's threads.
    with ThreadPoolExecutor(n_threads) as pool:
        while selection.n_picks < n_samples:
            members, threshold = selection.candidates(floor)
            if len(members) == 0:
                break
            selection.catch_up(members, threshold, pool, _TASKS_PER_THREAD * n_threads)
            selection.pick_among(members, threshold)
            progress(selection.n_picks)
    return selection.picks[: selection.n_picks]


def _with_duplicates(picks, n_samples, n_rows):
    """Picks, then the rows left, lowest index first."""
    left = np.setdiff1d(np.arange(n_rows), picks)[: n_samples - len(picks)]
    return np.concatenate([picks, left])
