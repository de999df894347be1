"""The worker of dask that the calling thread computes for: its share of the machine.

dask is never imported: where there is a worker, it has been.
"""

import sys
from typing import Any


def current_worker() -> Any | None:
    """The worker whose task runs in the calling thread.

    Returns
    -------
    distributed.Worker or None
        None outside of a task of dask.
    """
    get_worker = getattr(sys.modules.get("distributed"), "get_worker", None)
    if get_worker is None:
        return None
    try:
        return get_worker()
    except ValueError:  # what dask raises outside of tasks
        return None


def worker_threads() -> int | None:
    """Number of threads in which the current worker runs tasks, or None without one.

    Returns
    -------
    int or None
    """
    worker = current_worker()
    return None if worker is None else worker.state.nthreads


def worker_memory_left() -> int | None:
    """Bytes that the current worker may take until its process is ended.

    Returns
    -------
    int or None
        None without a worker, or where it has no limit.
    """
    worker = current_worker()
    if worker is None or worker.memory_manager.memory_limit is None:
        return None
    # The nanny ends the process at this share of the limit, 0.95 by default; False: never.
    share = sys.modules["dask"].config.get("distributed.worker.memory.terminate") or 1
    limit = int(share * worker.memory_manager.memory_limit)
    return max(limit - worker.monitor.get_process_memory(), 0)
