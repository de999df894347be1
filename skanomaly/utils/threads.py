"""Numbers of threads, pools whose threads do not start further threads in BLAS, and forks.

``torch.set_num_threads`` is called once in a forked process and else never: each call discards
torch's compiled convolutions.
"""

import contextlib
import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from functools import cache, partial
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import joblib
from threadpoolctl import ThreadpoolController

from skanomaly.utils.dask_worker import worker_threads

N_READERS = 2  # threads that read images where n_jobs is None
_ASKED: ContextVar[int | None] = ContextVar("threads asked for", default=None)


class ForkSafeLock:
    """A lock that one thread may hold several times, and that is free in a forked process.

    A fork copies locks as they are, but not the threads that hold them and would release them. For
    the locks of modules, which there are few of and which last.
    """

    def __init__(self):
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self):
        self._lock = threading.RLock()

    def __enter__(self):
        self._lock.acquire()

    def __exit__(self, *exception):
        self._lock.release()


class SharedSetting:
    """Context in which the whole process has a setting; several threads may be in it at a time.

    The first thread makes the setting and the last one takes it back: if each restored what it has
    found, the one that leaves first would take it from the others.

    Parameters
    ----------
    make : callable
        Makes the setting, and returns a function that takes it back.
    """

    def __init__(self, make):
        self._make, self._lock = make, ForkSafeLock()
        self._n_inside, self._take_back = 0, None

    def __enter__(self):
        with self._lock:
            if self._n_inside == 0:
                self._take_back = self._make()
            self._n_inside += 1

    def __exit__(self, *exception):
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                self._take_back()


def count_threads(n_jobs: int | None, default: int) -> int:
    """Number of threads for the parameter ``n_jobs`` of an estimator.

    Parameters
    ----------
    n_jobs : int or None
        As in scikit-learn: -1 for all processors, -2 for all but one; None for the default.
    default : int
        At most so many; fewer where the process has fewer processors.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If ``n_jobs`` is 0.
    """
    # Not joblib.effective_n_jobs, which counts the processors of the whole cluster where joblib
    # runs its jobs on one: threads are of this process.
    if n_jobs is None:
        return max(min(default, count_processors()), 1)
    if n_jobs == 0:
        raise ValueError("n_jobs must be None, -1 or at least 1, got 0.")
    return n_jobs if n_jobs > 0 else max(count_processors() + 1 + n_jobs, 1)


def count_processors() -> int:
    """Number of processors that threads of this process may keep busy: its share of the machine.

    The fewest of those that joblib counts (where the process may run, what its container has,
    ``LOKY_MAX_CPU_COUNT``), of ``NUMBA_NUM_THREADS``, which joblib sets for the processes that it
    starts, and of the threads of the dask worker that the calling thread belongs to. Within
    :func:`using_threads` as many as that says.

    Returns
    -------
    int
    """
    if (asked := _ASKED.get()) is not None:
        return asked
    of_numba = os.environ.get("NUMBA_NUM_THREADS", "")
    limits = [int(of_numba) if of_numba.isdecimal() else None, worker_threads()]
    return min(_counted_by_joblib(), *(n for n in limits if n), sys.maxsize)


def _counted_by_joblib():
    """What joblib counts; it reads files each time, which takes as long as a small product."""
    of_process = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return _count_once(frozenset(of_process), os.environ.get("LOKY_MAX_CPU_COUNT"))


@cache
def _count_once(_of_process, _limit):
    """What joblib counts; counted anew where what it depends on has changed."""
    return joblib.cpu_count()


@contextlib.contextmanager
def using_threads(n_jobs: int | None) -> Iterator[None]:
    """Context in which the calling thread's share is what ``n_jobs`` says; None changes nothing.

    For what takes its share by itself and has no parameter for it.

    Parameters
    ----------
    n_jobs : int or None
        As for :func:`count_threads`.
    """
    before = _ASKED.set(_ASKED.get() if n_jobs is None else count_threads(n_jobs, 1))
    try:
        yield
    finally:
        _ASKED.reset(before)


def limit_blas_threads() -> contextlib.AbstractContextManager[None]:
    """Context in which each matrix product of numpy uses one thread.

    For many small products: after a product in several threads, BLAS keeps these busy waiting for
    the next one, which takes the processors from other threads. Contexts may be nested, and entered
    by several threads at the same time.
    """
    return _ONE_BLAS_THREAD


@contextlib.contextmanager
def single_threaded_pool(n_threads: int) -> Iterator[Any]:
    """Context that gives a pool of threads whose matrix products use one thread each.

    The calling thread is one of them, and the others last, for all pools of the process: starting a
    thread takes as long as a small product, and a new one has to set up its convolutions again.

    Callers in several threads share the processors: a pool is the smaller, the more of them there
    are at the time. Where a single thread is left, it is the calling one.

    Parameters
    ----------
    n_threads : int
        At most.

    Yields
    ------
    object
        Its ``map`` is that of an executor; what it returns is to be read within the context.
    """
    with limit_blas_threads(), _sharing_processors() as n_callers, _limit_openmp():
        n_threads //= n_callers
        yield _Pool(n_threads) if n_threads > 1 else _CALLING_THREAD


class _Pool:
    """The calling thread and some of those that last."""

    def __init__(self, n_threads):
        self.n_threads = n_threads

    def map(self, function, *iterables):
        """Results of a function, in the order of its arguments; the first error is raised."""
        tasks = list(zip(*iterables, strict=False))  # as map: until the shortest ends
        numbers, results, errors = iter(range(len(tasks))), [None] * len(tasks), {}

        def work():
            for i in numbers:  # each is given to one thread
                try:
                    results[i] = function(*tasks[i])
                except BaseException as error:
                    errors[i] = error
                    _exhaust(numbers)

        def help_out():
            with _limit_openmp():  # the calling thread is in such a context
                work()

        helpers = []
        try:
            for _ in range(min(self.n_threads, len(tasks)) - 1):
                helpers.append(_HELPERS.begin(partial(copy_context().run, help_out)))
            work()
        finally:
            _exhaust(numbers)  # the calling thread may have been interrupted
            with contextlib.ExitStack() as stack:
                for helper in helpers:
                    stack.callback(helper.end)  # of all, if one raises
            tasks.clear()  # which a helper that is about to wait for more may hold
        if errors:
            # An interrupt of the calling thread before what went wrong in a task.
            first = min(errors, key=lambda i: (isinstance(errors[i], Exception), i))
            try:
                raise errors[first]
            finally:
                errors.clear()  # whose tracebacks hold this frame, and with it all arguments
        return results


def _exhaust(numbers):
    deque(numbers, maxlen=0)


class _Helpers:
    """Threads that are started when all others are busy, and wait for more when they are done.

    Those of concurrent.futures do not do: they count as busy for a while after they are done, and
    new ones are started meanwhile, more and more of them.
    """

    def __init__(self):
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)  # which has none of the threads

    def _renew(self):
        _callers.clear()
        self._idle = []  # the last one to be done is taken first: its convolutions are set up

    def begin(self, function):
        """Have a thread call a function; an object whose ``end()`` waits for it."""
        try:
            tasks = self._idle.pop()
        except IndexError:
            tasks = SimpleQueue()
            threading.Thread(target=_help, args=(tasks, self._idle), daemon=True).start()
        job = _Job(tasks, self._idle)
        tasks.put((job.future, function))
        return job


class _Job:
    """What a thread was asked to do; the thread is known by the queue that it reads."""

    def __init__(self, tasks, idle):
        self.future, self._tasks, self._idle = Future(), tasks, idle

    def end(self):
        """Withdraw it if it has not begun, or else wait until it is done; raises what it raised."""
        if self.future.cancel():
            self._idle.append(self._tasks)  # where it is passed over
        else:
            self.future.result()


def _help(tasks, idle):
    """Do what comes in a queue, forever."""
    while True:
        future, function = tasks.get()
        if not future.set_running_or_notify_cancel():
            del future, function
            continue
        failed = None
        try:
            function()
        except BaseException as error:
            failed = error
        del function  # and all that it holds
        idle.append(tasks)  # before anybody knows that it is done
        if failed is None:
            future.set_result(None)
        else:
            future.set_exception(failed)
        del future, failed


@contextlib.contextmanager
def limit_if_shared() -> Iterator[None]:
    """Context in which torch uses no more threads than the process has processors.

    It uses one if several threads are in such a context or a pool.
    """
    with _sharing_processors() as n_callers, contextlib.ExitStack() as stack:
        n_threads = 1 if n_callers > 1 else count_processors()
        if n_callers > 1 or n_threads < sys.modules["torch"].get_num_threads():
            stack.enter_context(_limit_openmp(n_threads))
        yield


_CALLING_THREAD = SimpleNamespace(map=map)
_callers: set[int] = set()  # threads that are computing
_HELPERS = _Helpers()


@contextlib.contextmanager
def _sharing_processors():
    """Context that gives the number of threads in it, the calling one included."""
    caller = threading.get_ident()
    if caller in _callers:  # within another one
        yield len(_callers)
        return
    _callers.add(caller)
    try:
        yield len(_callers)
    finally:
        _callers.discard(caller)


def _make_one_blas_thread():
    libraries = _libraries("blas", "torch" in sys.modules).lib_controllers
    before = [(_setter(library), library.num_threads) for library in libraries]

    def take_back():
        for set_num_threads, n_threads in before:
            set_num_threads(n_threads)

    for set_num_threads, _ in before:
        set_num_threads(1)
    return take_back


def _setter(library):
    """The function that sets a library's number of threads.

    threadpoolctl obeys a single thread where OpenBLAS is concerned, the first one that asks, and
    ignores all others as long as that one lives. Here contexts are counted, so that all may ask.
    """
    for name in itertools.product(
        ("scipy_", ""), ("openblas_set_num_threads",), ("64_", "_64", "")
    ):
        if hasattr(library.dynlib, "".join(name)):
            return getattr(library.dynlib, "".join(name))
    return library.set_num_threads


_ONE_BLAS_THREAD = SharedSetting(_make_one_blas_thread)


def _limit_openmp(n_threads=1):
    """Limit OpenMP's threads for the calling thread alone; as a context, until its end."""
    torch = sys.modules.get("torch")
    if torch is not None:
        # torch sets the limit of a new thread on first use: it does so here, before it is lowered.
        torch.get_num_threads()
    return _libraries("openmp", torch is not None).limit(limits=n_threads)


def _use_one_thread_after_fork():
    """Let torch compute in one thread: it would wait for others that only the parent has."""
    set_num_threads = getattr(sys.modules.get("torch"), "set_num_threads", None)
    if set_num_threads is not None:  # it is, unless torch is being imported
        set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread_after_fork)


@cache
def _libraries(kind, _has_torch):
    """Controller of the loaded libraries of a kind; cached, as finding them takes milliseconds.

    Once torch has been imported they are searched again, as it brings its own libraries.
    """
    return ThreadpoolController().select(user_api=kind)
