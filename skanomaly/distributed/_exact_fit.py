"""PatchCore's coreset of all patches on a cluster: that of one process, pick for pick.

    project each partition -> rounds among all of them (skanomaly.coreset.Shard) -> gather the rows

The patches stay with the workers, projected to few dimensions. In a round each partition learns
what was selected and sends its farthest patches; the selection among them is made here. In the end
the images of the patches that were selected are read again for their features. The cluster keeps
how all of it was computed: if a worker is lost, its partitions are projected again and go through
the rounds again.
"""

import copy
from typing import Any, NamedTuple

import numpy as np

from skanomaly.coreset import Shard, members_of_each, order_of_shards
from skanomaly.distributed._fit_graph import FitGraph, gathered, task
from skanomaly.distributed._partitions import Part, tell
from skanomaly.distributed._running import compute, persist
from skanomaly.utils.threads import limit_blas_threads


class Piece(NamedTuple):
    """A partition, and its projected patches on the cluster, a Delayed."""

    part: Part
    projected: Any


class ExactFitGraph(FitGraph):
    """Tasks of a fit of a detector that selects rows, among those of all partitions at once.

    The state of partitions is a list of Pieces. The rounds of a selection run when ``fit`` is
    called.
    """

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._held = []  # what is projected; the cluster drops what nobody here refers to

    def learn(self, part):
        part = Part(self.paths[part], part.start)
        projected = task(_project, self.plan, self.extractor, part, self.topic)
        projected = persist(self.client, [projected])
        self._held += projected
        return [Piece(part, *projected)]

    def join(self, states):
        return [piece for state in states for piece in state]

    def fit(self, state):
        counts = task(gathered, [task(_count, piece.projected) for piece in state])
        n_images = sum(len(piece.part) for piece in state)
        counts, n_samples, start = compute(self.client, task(_request, self.plan, counts, n_images))
        ends = np.cumsum(counts)
        order, radius = self._select(state, ends - counts, ends, n_samples, start)
        chosen = []
        for piece, first, end in zip(state, ends - counts, ends, strict=True):
            places = np.flatnonzero((order >= first) & (order < end))
            rows = task(_gather, self.plan, self.extractor, *piece, order[places] - first)
            chosen.append(task(gathered, [places, rows]))
        return task(_fit, self.plan, chosen, radius)

    def _select(self, state, firsts, ends, n_samples, start):
        """Numbers (m,) of patches of all Pieces in greedy order, and their covering radius."""
        which = int(np.searchsorted(ends, start, side="right"))
        first = compute(self.client, task(_row, state[which].projected, start - firsts[which]))
        shards = [
            task(_begin, piece.projected, offset, n_samples, first)
            for piece, offset, end in zip(state, firsts, ends, strict=True)
            if end > offset
        ]
        n_members = members_of_each(len(shards))

        def ask(numbers, rows):
            selected = task(gathered, [numbers, rows])  # once for each worker
            shards[:] = persist(
                self.client,
                [task(_advance, self.plan, shard, selected, n_members) for shard in shards],
            )
            return compute(self.client, task(gathered, [task(_farthest, one) for one in shards]))

        return order_of_shards(ask, n_samples, start, first, int(ends[-1]))


def _project(plan, extractor, part, topic):
    with limit_blas_threads():
        X = extractor.transform(part.paths)
        plan._check_memory(X)  # by what this worker has
        projected = plan._project_part(X, part.first)
    tell(topic, "learn", part)
    return projected


def _count(projected):
    return len(projected.rows)


def _request(plan, counts, n_images):
    """Patches of each partition, how many are to be selected, and the number of the first one."""
    return np.array(counts), *plan._n_selected_and_start(sum(counts), n_images)


def _row(projected, place):
    return projected.rows[place]


def _begin(projected, offset, n_samples, first):
    return Shard(projected.rows, offset, n_samples, first), None


def _advance(plan, shard, selected, n_members):
    return shard[0].advance(*selected, n_members, plan.n_jobs)


def _farthest(shard):
    return shard[1]


def _gather(plan, extractor, part, projected, places):
    """State of a partition of which the patches at some places of its Projected are selected."""
    images = plan._images_of(projected, places)  # others need not be read again
    with limit_blas_threads():
        X = extractor.transform([part.paths[i] for i in images]) if len(images) > 0 else None
        return plan._gather_part(X, images, part.first, projected, places)


def _fit(plan, chosen, radius):
    detector = copy.copy(plan)
    detector._fit_from(plan._put_together(chosen, radius))
    return detector
