"""The graph of a fit: paths go out; sums or coresets of the partitions come back.

    extractor -> plan -> learn each partition -> join, as a tree -> fit -> scores -> threshold

It is handed over at once, not a future for each task: Dask goes through a graph depth first, so
that of a hundred partitions' states a few are held at a time. No task changes what it is given,
and all that is random is drawn before: a task whose result is lost with its worker gives the same
again. States are joined in the partitions' order, whoever is done first.
"""

import copy

import numpy as np
from sklearn.base import clone
from sklearn.utils import gen_batches

from skanomaly.base import BaseDetector, BaseExtractor
from skanomaly.distributed._clusters import require_dask
from skanomaly.distributed._partitions import Part, tell
from skanomaly.distributed._running import compute, persist
from skanomaly.feature_maps import BATCH_SIZE
from skanomaly.pipeline import Pipeline
from skanomaly.utils.threads import limit_blas_threads
from skanomaly.utils.unwrapping import scores_and_maps

JOINED_BYTES = 1 << 29  # of states that a task joins, unless two of them are more
FAN_IN = 8  # or so many of them


class FitGraph:
    """Tasks of a fit. Those that all others depend on are computed at once.

    Parameters
    ----------
    client : Client
    extractor, detector : estimators
        Not fitted; their random states are ints.
    paths : list of str
        Of the images to learn from.
    learned_from : ndarray of shape (n,), bool
        Which of the images given to fit these are.
    partition_size : int
    topic : str or None
        Under which tasks tell that they are done.
    """

    def __init__(self, client, extractor, detector, paths, learned_from, partition_size, topic):
        self.client, self.topic = client, topic
        self.paths, self.partition_size = paths, partition_size
        self.share = detector._share_below()
        n = len(paths)
        extractor = task(_fit_extractor, extractor, self._at(_looked_at(extractor, n)))
        few = self._at(detector._plan_places(n))
        plan = task(_plan, detector, extractor, few, learned_from, n)
        self.extractor, self.plan, kept = persist(client, [extractor, plan, task(_kept, plan, n)])
        kept = compute(client, kept)
        self.fan_in = 2 if kept is None else int(np.clip(JOINED_BYTES // max(kept, 1), 2, FAN_IN))

    def learn(self, part):
        """The state of a partition, a slice of the paths."""
        part = Part(self.paths[part], part.start)
        return task(_learn, self.plan, self.extractor, part, self.topic)

    def join(self, states):
        """One state of several, joined as a tree."""
        while len(states) > 1:
            states = [
                task(_join, self.plan, states[few]) if few.stop - few.start > 1 else states[-1]
                for few in gen_batches(len(states), self.fan_in)
            ]
        return states[0]

    def fit(self, state):
        """A task for the detector that has learned a state; it has no threshold."""
        return task(_fit, self.plan, state)

    def with_offset(self, detector, places):
        """The detector with its threshold from the scores of the images at some places."""
        if self.share is None:
            return detector
        parts = self._chosen(places)
        scores = [
            task(_training_scores, detector, self.extractor, part, self.topic) for part in parts
        ]
        return task(_with_offset, detector, scores, self.share)

    def held_out_scores(self, detector, places):
        """A task for each partition of the images at some places: (2, b), see HeldOutThreshold."""
        return [
            task(_held_out_scores, detector, self.extractor, part, self.topic)
            for part in self._chosen(places)
        ]

    def _chosen(self, places):
        """Partitions of the images at some places."""
        return [self._at(places[few]) for few in gen_batches(len(places), self.partition_size)]

    def _at(self, places):
        return Part([self.paths[i] for i in places], int(places[0]))


def spread(n, n_chosen):
    """Places (m,) of some of n images, evenly spread."""
    return np.linspace(0, n - 1, min(n, n_chosen)).astype(int)


def _looked_at(extractor, n):
    """Places of the images that a fit of the extractor on n images looks at."""
    n_chosen = extractor._n_learning_images if isinstance(extractor, BaseExtractor) else None
    return np.arange(n) if n_chosen is None else spread(n, n_chosen)


def fit_all(graph, parts, places):
    """A task for extractor and detector, fitted on all parts, with a threshold from some images.

    parts : list of slices of the paths; places : (m,) places of the images that are scored.
    """
    detector = graph.fit(graph.join([graph.learn(part) for part in parts]))
    return task(gathered, [graph.extractor, graph.with_offset(detector, places)])


def fit_in_folds(graph, folds, places):
    """The same, and as a third the scores of the images by models without their fold.

    folds : list of lists of parts, one after the other.
    """
    states = [graph.join([graph.learn(part) for part in fold]) for fold in folds]
    detector = graph.with_offset(graph.fit(graph.join(states)), places)
    found = []
    for k, fold in enumerate(folds):
        inside = (places >= fold[0].start) & (places < fold[-1].stop)
        model = graph.fit(graph.join(states[:k] + states[k + 1 :]))
        found += graph.held_out_scores(model, places[inside])
    return task(gathered, [graph.extractor, detector, found])


def task(function, *arguments):
    """A function and its arguments as a Delayed with a key of its own."""
    dask, _ = require_dask()
    return dask.delayed(function, pure=False)(*arguments)


def gathered(parts):
    """What several tasks return, as one result."""
    return tuple(parts)


def _fit_extractor(extractor, part):
    return clone(extractor).fit(part.paths)


def _plan(detector, extractor, part, learned_from, n_images):
    detector = clone(detector)
    detector._plan_parts(extractor.transform(part.paths), n_images)
    detector.learned_from_ = learned_from
    return detector


def _kept(plan, n_images):
    """Bytes of what a fit keeps, which a state is about as large as; None if that is unknown."""
    if type(plan)._forecast is BaseDetector._forecast:
        return None
    needs = plan._forecast(plan.layer_shapes_, n_images)
    return sum(needs.get(name, 0) for name in getattr(plan, "_kept_of_forecast", needs))


def _learn(plan, extractor, part, topic):
    with limit_blas_threads():
        X = extractor.transform(part.paths)
        plan._check_memory(X)  # by what this worker has
        state = plan._learn_part(X, part.first)
    tell(topic, "learn", part)
    return state


def _join(plan, states):
    return plan._join_parts(states)


def _fit(plan, state):
    detector = copy.copy(plan)
    detector._fit_from(state)
    return detector


def _training_scores(detector, extractor, part, topic):
    with limit_blas_threads():
        scores = detector._training_scores(extractor.transform(part.paths))
    tell(topic, "score", part)
    return scores


def _with_offset(detector, scores, share):
    detector = copy.copy(detector)
    detector.offset_ = np.percentile(np.concatenate(scores), 100 * share)
    return detector


def _held_out_scores(detector, extractor, part, topic):
    pipe, found = Pipeline([("features", extractor), ("detector", detector)]), []
    for few in gen_batches(len(part), BATCH_SIZE):
        scores, maps = scores_and_maps(pipe, part.paths[few])
        found.append([scores, [score_map.max() for score_map in maps]])
    tell(topic, "hold out", part)
    return np.concatenate(found, axis=1)
