"""Distributed: a pipeline fitted by a cluster, whose result needs none."""

from itertools import pairwise
from numbers import Integral
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.pipeline import Pipeline as SklearnPipeline
from sklearn.utils import check_random_state, gen_even_slices, get_tags
from sklearn.utils.validation import check_is_fitted

from skanomaly.base import BaseDetector, ThresholdMixin
from skanomaly.distributed._clusters import (
    N_CHECKED,
    check_workers,
    current_client,
    losses_named,
)
from skanomaly.distributed._exact_fit import ExactFitGraph
from skanomaly.distributed._fit_graph import FitGraph, fit_all, fit_in_folds, spread
from skanomaly.distributed._partitions import (
    Part,
    counted,
    lazy_parts,
    list_paths,
    regions_of,
)
from skanomaly.distributed._running import compute, each_part
from skanomaly.distributed._score_files import score_files, scores_and_maps_of, scores_of
from skanomaly.images import read_roi
from skanomaly.model_selection import HeldOutThreshold
from skanomaly.utils.targets import good_images
from skanomaly.utils.unwrapping import image_threshold
from skanomaly.utils.validation import Interval, StrOptions, fitting

_AGAIN = "nothing was changed; call it again"


class Distributed(ThresholdMixin, MetaEstimatorMixin, BaseEstimator):
    """A pipeline that is fitted, and scores, on a cluster of Dask.

    The images' paths go out to the workers, and sums (PaDiM) or a coreset (PatchCore) of each
    partition come back. The result, ``estimator_``, is an ordinary estimator: it needs no cluster
    and no Dask. PaDiM learns what it learns in one process, up to rounding; PatchCore selects its
    bank among the rows that the partitions select, or among all (``coreset``). The result is the
    same whatever the number of workers and whoever is done first.

    The cluster is that of the current client: ``dask.distributed.Client("scheduler:8786")``, or
    :func:`connect`.

    Parameters
    ----------
    estimator : Pipeline or HeldOutThreshold
        A Pipeline of an extractor and PatchCore or PaDiM, or a HeldOutThreshold of one. It is
        cloned.
    coreset : {"merged", "exact"}, default="merged"
        How PatchCore's bank is selected. "merged": among the rows that each partition selects, in
        one pass over the images; it covers the patches up to a quarter less closely. "exact": the
        rows that one process selects, to the last one. The workers then hold all patches,
        projected, about 0.7 kB each, and the rows selected once for each partition, until the end;
        this process selects in rounds among the farthest of them; and images of selected patches
        are read again. Of PaDiM there is nothing to select.
    partition_size : int, default=256
        Images in a partition, at most; all of them are alike in size. A "merged" bank depends on
        it, and suffers below 32; an "exact" one does not.
    n_threshold : int, default=20_000
        Images from whose scores the threshold is taken, evenly spread over the paths. Of 20,000
        the quantile of 1 % is known to 0.07 points.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    estimator_ : Pipeline or HeldOutThreshold
        Fitted. Parameters ``random_state`` that were no int are the ints that were drawn for this
        fit, with which it can be repeated; a file as ``roi`` is the mask that was in it.
    threshold_images_ : ndarray of shape (m,), int
        Places in X of the images that the threshold comes from.
    partition_sizes_ : ndarray of shape (n_partitions,), int
        Good images in each partition.

    See Also
    --------
    score_files : Scores of millions of images, by any fitted estimator.

    Notes
    -----
    Tasks whose results are lost with their worker are done again and give the same results. That
    is why random states are fixed before. The thresholds of a HeldOutThreshold come from `cv`
    folds, an int, of whole partitions, which take turns: the states of all but one fold's
    partitions are joined to the model that scores its images, so that no image is learned from
    twice. Features are those of the final model. Images of a partition follow one another in X;
    order the paths so that images of one piece do too.

    References
    ----------
    G. Malkomes et al., "Fast distributed k-center clustering with outliers on massive data",
    NeurIPS 2015.

    Examples
    --------
    >>> import tempfile
    >>> from dask.distributed import Client
    >>> from PIL import Image
    >>> from skanomaly import FilterBank, PaDiM, Pipeline
    >>> from skanomaly.datasets import make_textures
    >>> from skanomaly.distributed import Distributed
    >>> features = FilterBank(image_size=64, random_state=0)
    >>> pipe = Pipeline([("features", features), ("detector", PaDiM(random_state=0))])
    >>> client = Client(processes=False, n_workers=1, dashboard_address=":0")
    >>> with tempfile.TemporaryDirectory() as folder, client:
    ...     paths = [f"{folder}/{i}.png" for i in range(12)]
    ...     for path, image in zip(paths, make_textures(12, size=64, random_state=0)):
    ...         Image.fromarray(image).save(path)
    ...     model = Distributed(pipe, partition_size=4).fit(paths)
    ...     model.estimator_.predict(paths[:3])  # in this process
    array([ 1, -1,  1])
    """

    _parameter_constraints = {
        "estimator": "no_validation",
        "coreset": [StrOptions({"merged", "exact"})],
        "partition_size": [Interval(Integral, 1, None, closed="left")],
        "n_threshold": [Interval(Integral, 2, None, closed="left")],
        "verbose": ["verbose"],
    }

    _asks_a_cluster = True  # for each score: score_files takes what is fitted instead

    def __init__(
        self,
        estimator,
        *,
        coreset="merged",
        partition_size=256,
        n_threshold=20_000,
        verbose=0,
    ):
        self.estimator = estimator
        self.coreset = coreset
        self.partition_size = partition_size
        self.n_threshold = n_threshold
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.input_tags, tags.target_tags = inner.input_tags, inner.target_tags
        return tags

    @property
    def n_features_in_(self):
        """As the fitted estimator has it."""
        return self.estimator_.n_features_in_

    @property
    def offset_(self):
        """Threshold on ``score_samples``: that of the fitted estimator."""
        return image_threshold(self.estimator_)

    @fitting(nested=True)
    def fit(self, X, y=None):
        """Learn from good images.

        Parameters
        ----------
        X : iterable of str or Path
            Paths or URLs of images that all workers can read. Relative paths are relative to the
            folder of this process.
        y : array of shape (n,), masks, or None, default=None
            Labels, +1 good and -1 defect, or masks: images marked as defects are left out.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            There is no client of a cluster; X is no paths, or none; y is coded otherwise, as 0/1;
            an image cannot be read; ``roi`` is a mask for each image; or a worker does not see what
            others see.
        NotImplementedError
            The detector cannot learn in partitions; the message says why.
        RuntimeError
            A worker has another version; or workers ran out of memory.
        ConnectionError
            The scheduler was lost.
        """
        paths = list_paths(X)
        is_good = good_images(y, len(paths))
        good = np.flatnonzero(is_good)
        model = _with_read_regions(_with_fixed_draws(self.estimator))
        held_out = model if isinstance(model, HeldOutThreshold) else None
        pipe = model if held_out is None else held_out.estimator
        extractor, detector = _two_steps(pipe)
        folds = self._folds(len(good), held_out)
        chosen = spread(len(good), self.n_threshold)
        # A HeldOutThreshold gives its detector the good images alone.
        learned_from = is_good if held_out is None else np.ones(len(good), dtype=bool)
        n_passes = (detector._share_below() is not None) + (held_out is not None)
        n_tasks = len(good) + len(chosen) * n_passes
        with (
            current_client() as client,
            losses_named(client, _AGAIN),
            counted(client, n_tasks, "fit", self.verbose) as topic,
        ):
            check_workers(client, Part(paths[:N_CHECKED], 0).paths)
            learning = Part([paths[i] for i in good], 0).paths, learned_from, self.partition_size
            is_exact = self.coreset == "exact" and detector._selects_rows
            graph_type = ExactFitGraph if is_exact else FitGraph
            graph = graph_type(client, extractor, detector, *learning, topic)
            if held_out is None:
                fitted = compute(client, fit_all(graph, folds[0], chosen))
            else:
                *fitted, scores = compute(client, fit_in_folds(graph, folds, chosen))
        pipe.steps = [(name, step) for (name, _), step in zip(pipe.steps, fitted, strict=True)]
        self.estimator_, self.threshold_images_ = pipe, good[chosen]
        self.partition_sizes_ = np.array([part.stop - part.start for f in folds for part in f])
        if held_out is not None:
            held_out.estimator_, held_out.good_images_, held_out.method_ = pipe, good, "folds"
            self.estimator_ = held_out._set_held_out(
                *np.concatenate(scores, axis=1), self.threshold_images_
            )
        return self

    def _folds(self, n, held_out):
        """Lists of slices of n images, alike in size; one list without held-out images."""
        n_folds = 1
        if held_out is not None:
            held_out._validate_params()
            n_folds = held_out.cv
            if held_out.method == "leave_one_out" or not isinstance(n_folds, Integral):
                raise ValueError(
                    'expected a HeldOutThreshold with method="auto" or "folds" and an int as cv, '
                    f"got method={held_out.method!r} and cv={n_folds!r}: on a cluster whole "
                    "partitions are held out together"
                )
            if not 2 <= n_folds <= n:
                raise ValueError(f"expected 2 to {n} folds, one for each good image, got {n_folds}")
        parts = list(gen_even_slices(n, max(-(-n // self.partition_size), n_folds)))
        ends = np.linspace(0, len(parts), n_folds + 1).astype(int)
        return [parts[start:end] for start, end in pairwise(ends)]

    def score_samples(self, X):
        """Score of each image: the lower, the more abnormal.

        Parameters
        ----------
        X : iterable of str or Path
            Paths or URLs, as for ``fit``. For millions of images see ``score_files``.

        Returns
        -------
        ndarray of shape (n,), float64
        """
        return np.concatenate(self._gathered(scores_of, X))

    def score_samples_and_map(self, X):
        """Scores and anomaly maps in one pass; the maps of all images are brought here.

        Parameters
        ----------
        X : iterable of str or Path

        Returns
        -------
        scores : ndarray of shape (n,), float64
            The lower, the more abnormal.
        maps : ndarray of shape (n, H, W), float32, or list of n arrays (H, W)
            The higher, the more abnormal; a list where the images' sizes differ.
        """
        found = self._gathered(scores_and_maps_of, X)
        maps = [one for _, some in found for one in some]
        alike = len({one.shape for one in maps}) == 1
        return np.concatenate([scores for scores, _ in found]), np.stack(maps) if alike else maps

    def score_files(self, X, folder, *, errors="record", maps=False, restart=False):
        """Score images, and write the scores as Parquet files.

        Parameters
        ----------
        X, folder, errors, maps, restart
            As for :func:`score_files`.

        Returns
        -------
        Bunch
            ``n_images``, ``n_defects``, ``n_errors``: int.
        """
        check_is_fitted(self)
        options = {"errors": errors, "maps": maps, "restart": restart, "verbose": self.verbose}
        return score_files(
            self.estimator_, X, folder, partition_size=self.partition_size, **options
        )

    def _gathered(self, function, X):
        """What a function of the model and a partition returns, for each partition in order."""
        check_is_fitted(self)
        paths, found = list_paths(X), {}
        with (
            current_client() as client,
            losses_named(client, _AGAIN),
        ):
            check_workers(client, Part(paths[:N_CHECKED], 0).paths)
            parts = lazy_parts(paths, self.partition_size)
            found = dict(each_part(client, function, self.estimator_, parts))
        return [found[number] for number in sorted(found)]


def _with_fixed_draws(estimator):
    """A clone in which every random state is an int: a task that is done again draws the same."""
    model = clone(estimator)
    for name, value in sorted(model.get_params().items()):
        if name.rpartition("__")[2] == "random_state" and not isinstance(value, Integral):
            model.set_params(**{name: check_random_state(value).randint(2**31)})
    return model


def _with_read_regions(model):
    """The model, whose regions of interest in files are read here: workers may not have these."""
    for name, roi in regions_of(model).items():
        if isinstance(roi, (str, Path)):
            model.set_params(**{name: read_roi(roi, f"{name}, {roi}")})
    return model


def _two_steps(pipe):
    """Extractor and detector of a Pipeline; an error for whatever else it is."""
    steps = [step for _, step in pipe.steps] if isinstance(pipe, SklearnPipeline) else [pipe]
    detector = steps[-1]
    is_ours = isinstance(detector, BaseDetector)
    if is_ours and type(detector)._plan_parts is BaseDetector._plan_parts:
        raise detector._not_in_parts()
    if not is_ours or len(steps) != 2:
        raise ValueError(
            "expected a Pipeline of an extractor and PatchCore or PaDiM, or a HeldOutThreshold of "
            f"one, got {' and '.join(type(step).__name__ for step in steps)}"
        )
    detector._validate_params()
    return steps
