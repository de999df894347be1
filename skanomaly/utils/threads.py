"""Numbers of threads, and pools whose threads do not start further threads in BLAS.

``torch.set_num_threads`` is never called: each call discards torch's compiled convolutions.
"""

import contextlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import joblib
from threadpoolctl import ThreadpoolController

# BLAS has one limit for the whole process: the first context sets it, the last one restores it.
_LOCK = threading.Lock()
_n_inside, _limiter = 0, None


N_READERS = 2  # threads that read images where n_jobs is None


def count_threads(n_jobs: int | None, default: int) -> int:
    """Number of threads for the parameter ``n_jobs`` of an estimator.

    Parameters
    ----------
    n_jobs : int or None
        As in scikit-learn: -1 for all processors; None for the default.
    default : int

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If ``n_jobs`` is 0.
    """
    return default if n_jobs is None else joblib.effective_n_jobs(n_jobs)


@contextlib.contextmanager
def limit_blas_threads() -> Iterator[None]:
    """Context in which each matrix product of numpy uses one thread.

    For many small products: after a product in several threads, BLAS keeps these busy waiting for
    the next one, which takes the processors from other threads. Contexts may be nested, and entered
    by several threads at the same time.
    """
    global _n_inside, _limiter
    with _LOCK:
        if _n_inside == 0:
            _limiter = _libraries("blas", "torch" in sys.modules).limit(limits=1)
        _n_inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _n_inside -= 1
            if _n_inside == 0:
                _limiter.restore_original_limits()


@contextlib.contextmanager
def single_threaded_pool(n_threads: int) -> Iterator[ThreadPoolExecutor]:
    """Context that gives a pool of threads whose matrix products use one thread each."""
    with limit_blas_threads(), ThreadPoolExecutor(n_threads, initializer=_use_one_thread) as pool:
        yield pool


def _use_one_thread():
    """Limit OpenMP to one thread for the calling thread; other threads keep their limits."""
    torch = sys.modules.get("torch")
    if torch is not None:
        # torch sets the limit of a new thread on first use: it does so here, before it is lowered.
        torch.get_num_threads()
    _libraries("openmp", torch is not None).limit(limits=1)


@cache
def _libraries(kind, _has_torch):
    """Controller of the loaded libraries of a kind; cached, as finding them takes milliseconds.

    Once torch has been imported they are searched again, as it brings its own libraries.
    """
    return ThreadpoolController().select(user_api=kind)
