"""Tasks of partitions for a model at hand: few of them in the cluster at a time."""

from itertools import islice

from skanomaly.distributed._clusters import require_dask

AHEAD = 4  # tasks in the cluster for each of its threads
N_AHEAD = 64  # or so many
# Paths of a million images are a large graph, and so is a large memory bank.
_LARGE = {"distributed.admin.large-graph-warning-threshold": "1 TB"}


def compute(client, outcome):
    """The result of a Delayed, whose graph is handed over at once."""
    dask, _ = require_dask()
    with dask.config.set(_LARGE):
        # Nothing is tried again but what was lost: an image that cannot be read stays so.
        future = client.compute(outcome, optimize_graph=False)
    try:
        return future.result()
    finally:
        future.cancel()  # what is left of the graph after an error or an interrupt


def persist(client, outcomes):
    """The same Delayed objects, whose results the cluster holds; what it loses it makes again."""
    dask, _ = require_dask()
    with dask.config.set(_LARGE):
        return client.persist(outcomes, optimize_graph=False)


def each_part(client, function, model, parts, *arguments):
    """Yield (number, function(model, part, ...)) of each partition, as they are done.

    The model is the result of a task: each worker gets it once and keeps what it builds of it, and
    a lost one is made again. Partitions are asked for as others are done.
    """
    dask, distributed = require_dask()
    with dask.config.set(_LARGE):
        held = client.submit(_as_it_is, model, pure=False)
    parts, waiting, done = enumerate(parts), {}, distributed.as_completed()

    def start(n):
        for number, part in islice(parts, n):
            future = client.submit(function, held, part, *arguments, pure=False)
            waiting[future.key] = number
            done.add(future)

    try:
        start(max(N_AHEAD, AHEAD * sum(client.nthreads().values())))
        for future in done:
            yield waiting.pop(future.key), future.result()
            start(1)
    finally:
        client.cancel([held, *done.futures])


def _as_it_is(model):
    return model
