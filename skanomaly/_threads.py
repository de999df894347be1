"""Threads that each keep their matrix products to themselves, so that they never wait for others.

torch is not told a number of threads: each time it is, it throws away its compiled convolutions.
"""

import contextlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from threadpoolctl import ThreadpoolController

# The setting is one of the whole process: the last to leave puts it back.
_LOCK = threading.Lock()
_n_inside, _limiter = 0, None


@contextlib.contextmanager
def lone_products():
    """Context in which each of numpy's matrix products takes one thread.

    For many small ones: after a product in several threads its library keeps them busy waiting
    for the next, for as long as a whole image takes elsewhere.
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
def lone_threads(n_threads):
    """A pool of threads whose matrix products take one thread each."""
    with lone_products(), ThreadPoolExecutor(n_threads, initializer=_stay_alone) as pool:
        yield pool


def _stay_alone():
    """One OpenMP thread for this thread; other threads keep their setting."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.get_num_threads()  # torch sets a new thread's number on first use: let it, then lower
    _libraries("openmp", torch is not None).limit(limits=1)


@cache
def _libraries(kind, _has_torch):
    """Handle on the libraries of a kind; looking for them takes longer than a small search."""
    return ThreadpoolController().select(user_api=kind)
