"""The cluster: a client of it, what its workers must have, and what is said when it is lost."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import skanomaly
from skanomaly.exceptions import ImageError
from skanomaly.images import image_content
from skanomaly.io import temporary_name
from skanomaly.utils.dask_worker import current_worker

N_CHECKED = 3  # images that every worker must be able to read
# What a worker of one thread is to start no threads by. Of OpenMP and BLAS Dask takes care itself.
# Not NUMBA_NUM_THREADS: a worker gets these when it has imported the script that has started it,
# and numba compiles nothing any more if that variable changes after it was imported.
ONE_THREAD = {"LOKY_MAX_CPU_COUNT": "1"}
# A worker that is not back by then is given up, and starting one takes a while on a busy machine.
PATIENCE = {"distributed.deploy.lost-worker-timeout": "10 minutes"}

_LOST = "scheduler-connection-lost"  # Dask's reason why a future is canceled


@contextmanager
def connect(cluster: str) -> Iterator[Any]:
    """Context with a client of a Dask cluster, which is the current one inside.

    Parameters
    ----------
    cluster : str
        "local:4" starts four processes of one thread each on this machine, and ends them with the
        context; "tcp://HOST:8786" is the address of a scheduler.

    Yields
    ------
    dask.distributed.Client

    Raises
    ------
    ValueError
        The text is neither of these.
    ConnectionError
        No scheduler answers at the address.
    ImportError
        Dask is not installed.

    Notes
    -----
    The processes of "local:4" start as Python's ``multiprocessing`` starts them: in a script, what
    uses them stands below ``if __name__ == "__main__":``.

    Examples
    --------
    >>> from skanomaly.distributed import connect
    >>> with connect("local:1") as client:
    ...     client.submit(sum, [1, 2]).result()
    3
    """
    dask, distributed = require_dask()
    local = re.fullmatch(r"local:([1-9]\d*)", cluster)
    if local is None and "://" not in cluster:
        raise ValueError(
            f'expected a cluster as "local:4", so many processes here, or as the address of a '
            f'scheduler, "tcp://HOST:8786", got {cluster!r}'
        )
    if local is None:
        try:
            client = distributed.Client(cluster)
        except (OSError, ValueError) as error:
            raise ConnectionError(
                f"{cluster}: no scheduler answers there ({error}); start one with `dask scheduler` "
                "and workers with `dask worker`"
            ) from error
        with client:
            yield client
        return
    options = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": ":0"}
    with (
        dask.config.set(PATIENCE),
        distributed.LocalCluster(
            n_workers=int(local[1]), env=ONE_THREAD, silence_logs=logging.CRITICAL, **options
        ) as workers,
        distributed.Client(workers) as client,
    ):
        yield client


def require_dask():
    """The modules dask and distributed; ImportError with the way out where they are missing."""
    try:
        import dask
        import distributed
        import pyarrow  # noqa: F401  # only workers use it, but they should not be the first to say
    except ImportError as error:
        raise ImportError(
            f"skanomaly.distributed needs dask, distributed and pyarrow ({error}); install them "
            'with: pip install "skanomaly[distributed]"'
        ) from error
    return dask, distributed


@contextmanager
def current_client():
    """Context with the current client; inside a task its thread is left to others meanwhile."""
    _, distributed = require_dask()
    if current_worker() is not None:
        with distributed.worker_client() as client:
            yield client
        return
    try:
        client = distributed.Client.current()
    except ValueError as error:
        raise ValueError(
            "expected a client of a Dask cluster, got none; make one first: "
            'client = dask.distributed.Client("scheduler:8786"), or skanomaly.distributed.'
            'connect("local:4")'
        ) from error
    yield client


def check_folder(client, folder):
    """Refuse a folder that some workers do not see."""
    token = folder / temporary_name()
    token.touch()
    try:
        seen = client.run(os.path.exists, str(token), on_error="return")
    finally:
        token.unlink()
    blind = [worker for worker, is_there in seen.items() if is_there is False]
    if blind:
        raise ValueError(
            f"{folder}: worker {blind[0]} does not see this folder; choose one on storage that all "
            "workers see"
        )


def check_workers(client, files):
    """Refuse workers of another version, or that cannot read files, the first, that others can."""
    files = files[:N_CHECKED]
    _check_versions(client)
    missing = client.run(_unreadable, files, on_error="return")
    missing = {worker: found for worker, found in missing.items() if isinstance(found, list)}
    here = _unreadable(files)
    for worker, names in missing.items():
        for name in names:
            if name not in here or any(name not in others for others in missing.values()):
                raise ValueError(
                    f"{name}: worker {worker} cannot read it, but others can, or this process; "
                    "pass paths or URLs on storage that all workers see"
                )


def _check_versions(client):
    for worker, version in client.run(_version, on_error="return").items():
        if isinstance(version, (ImportError, AttributeError)):  # no package, or one without this
            version = "none, or a much older one"
        if isinstance(version, str) and version != skanomaly.__version__:
            raise RuntimeError(
                f"expected skanomaly {skanomaly.__version__} on all workers, as in this process, "
                f"got {version} on {worker}; install the same version everywhere"
            )


def _version():
    return skanomaly.__version__


def _unreadable(files):
    """Those of some files that this process cannot read."""
    return [name for name in files if not _is_readable(name)]


def _is_readable(name):
    try:
        image_content(name, name)
    except ImageError:
        return False
    return True


@contextmanager
def losses_named(client, advice):
    """Context in which the loss of the scheduler, or of too many workers, is said in a sentence."""
    _, distributed = require_dask()
    address = client.scheduler.address if client.scheduler else "the scheduler"
    try:
        yield
    except distributed.scheduler.KilledWorker as error:
        raise RuntimeError(
            f"a task has ended {error.allowed_failures + 1} workers one after the other, which "
            "usually ran out of memory; take a smaller partition_size, an extractor with "
            f"memory_limit, or workers with more memory; {advice}"
        ) from error
    except (distributed.client.FutureCancelledError, distributed.comm.CommClosedError) as error:
        if getattr(error, "reason", _LOST) != _LOST:
            raise
        raise ConnectionError(
            f"{address}: the connection to the scheduler was lost, and with it what was in memory "
            f"there; {advice}"
        ) from error
