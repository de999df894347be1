"""Work on several images at a time, a thread each."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


def map_images(function, *items):
    """Call function on each image's items; as many images at a time as torch has threads.

    Each thread keeps its torch operations to itself, so threads never wait for one another, and
    an image's result does not depend on how many there are.
    """
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=_stay_alone) as pool:
        return list(pool.map(function, *items))


def _stay_alone():
    """One OpenMP thread for this Python thread; other threads keep their setting."""
    torch.get_num_threads()  # torch sets a new thread's number on first use: let it, then lower it
    _thread_pools().limit(limits=1, user_api="openmp")


@cache
def _thread_pools():
    return ThreadpoolController()
