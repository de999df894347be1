"""Scores of partitions: as arrays for thousands of images, as Parquet files for millions."""

import pickle
from collections.abc import Iterable, Sized
from contextlib import nullcontext
from copy import copy
from itertools import chain, repeat
from numbers import Integral
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import joblib
import numpy as np
from sklearn.utils import Bunch

from skanomaly.distributed._clusters import (
    check_folder,
    check_workers,
    current_client,
    losses_named,
)
from skanomaly.distributed._parquet import (
    BOX,
    MAPS,
    Row,
    counts,
    maps_file,
    open_maps,
    other_parts,
    part_file,
    read_part,
    remove_parts,
    write_part,
)
from skanomaly.distributed._partitions import counted, lazy_parts, regions_of, tell
from skanomaly.distributed._running import each_part
from skanomaly.exceptions import ImageError
from skanomaly.feature_maps import BATCH_SIZE
from skanomaly.io import name_disk_errors, remove_leftovers
from skanomaly.persistence import dump
from skanomaly.regions import map_regions
from skanomaly.utils.unwrapping import image_threshold, outermost, scores_and_maps_in_parts

_RESUME = "the files that are written stay: the same call again goes on"


def score_files(
    estimator: Any,
    X: Iterable[str | Path],
    folder: str | Path,
    *,
    errors: str = "record",
    maps: bool = False,
    restart: bool = False,
    partition_size: int = 256,
    verbose: int = 0,
) -> Bunch:
    """Score images on a cluster of Dask, and write the scores as Parquet files.

    The workers write a file for each partition of the images, complete or not at all. Files that
    are there already stay: a job that was stopped goes on where it was. Images are told apart by
    their paths alone; if their files have changed, pass ``restart=True``.

    Parameters
    ----------
    estimator : fitted estimator with a threshold
        A detector of images, or a Pipeline, HeldOutThreshold, Distributed or search around a
        detector. It travels to each worker once.
    X : iterable of str or Path
        Paths or URLs of images that all workers can read. It is gone through once, a few
        partitions ahead of the workers. Relative paths are relative to the folder of this process.
    folder : str or Path
        On storage that all workers see; it is created where there is none. A table in files
        ``000000.parquet`` and so on, which ``pandas.read_parquet(folder)`` reads as one:

        - ``image``: str, the path as given;
        - ``score``: float, as from ``decision_function``: negative for a defect; null of an image
          that cannot be read;
        - ``is_defect``: bool, or null;
        - ``n_regions``, ``area``, ``top``, ``left``, ``bottom``, ``right``: int, the number of
          regions above the threshold on score maps (``map_offset_`` of a HeldOutThreshold; null
          without one), and the area and box of the largest one, as from
          :func:`skanomaly.map_regions`;
        - ``error``: str, why the image cannot be read; else null.
    errors : {"record", "raise"}, default="record"
        An image that cannot be read is a row with its reason, or ends the job; then those of an
        earlier job are tried again.
    maps : bool, default=False
        Whether score maps are written too: ``_maps/000000.npz`` and so on, an archive for each
        partition, in which "0", "1", ... are the maps of its rows, (H, W) float32.
    restart : bool, default=False
        Whether the files of an earlier job in the folder are deleted first.
    partition_size : int, default=256
        Images in a file.
    verbose : int, default=0
        1 shows a progress bar; its total is known where X has a length.

    Returns
    -------
    Bunch
        ``n_images``, ``n_defects``, ``n_errors``: int, those of files that were there included.

    Raises
    ------
    ValueError
        There is no client of a cluster; X is no paths; a parameter is out of its range; the folder
        holds scores of other images, of another estimator or of a larger job; or a worker does not
        see what others see.
    RuntimeError
        A worker has another version; or workers ran out of memory.
    ImageError
        An image cannot be read, with ``errors="raise"``.
    ConnectionError
        The scheduler was lost.
    NotFittedError
        The estimator is not fitted, or has no threshold.

    Examples
    --------
    >>> import tempfile
    >>> from dask.distributed import Client
    >>> from PIL import Image
    >>> from skanomaly import FilterBank, PatchCore, Pipeline
    >>> from skanomaly.datasets import make_textures
    >>> from skanomaly.distributed import score_files
    >>> good = make_textures(6, size=(64, 64), random_state=0)
    >>> pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", PatchCore())])
    >>> pipe = pipe.fit(good)
    >>> client = Client(processes=False, n_workers=1, dashboard_address=":0")
    >>> with tempfile.TemporaryDirectory() as folder, client:
    ...     Image.fromarray(good[0]).save(f"{folder}/0.png")
    ...     counts = score_files(pipe, [f"{folder}/0.png", f"{folder}/1.png"], f"{folder}/scores")
    >>> counts.n_images, counts.n_errors
    (2, 1)
    """
    if errors not in ("record", "raise"):
        raise ValueError(f'expected errors to be "record" or "raise", got {errors!r}')
    if not isinstance(partition_size, Integral) or partition_size < 1:
        raise ValueError(f"expected partition_size to be an int from 1 on, got {partition_size!r}")
    estimator = _without_cluster(estimator)
    image_threshold(estimator)  # there is one
    if hasattr(estimator, "get_params"):
        regions_of(estimator)  # no lists
    folder = Path(folder).resolve()
    n_images = len(X) if isinstance(X, Sized) else None
    parts = lazy_parts(X, partition_size)
    first = next(parts)
    with (
        current_client() as client,
        losses_named(client, _RESUME),
        counted(client, n_images, "scores", verbose) as topic,
    ):
        with name_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        check_workers(client, first.paths)
        check_folder(client, folder)
        if restart:
            remove_parts(folder)
        job = _Job(folder, _digest_of(estimator), errors, maps, partition_size, topic)
        found = each_part(client, _score_part, estimator, chain([first], parts), job)
        total, n_parts = np.zeros(3, dtype=int), 0
        for _, of_part in found:
            total, n_parts = total + of_part, n_parts + 1
    for one in (folder, folder / MAPS):
        remove_leftovers(one)  # of workers that were killed
    if others := other_parts(folder, n_parts):
        raise ValueError(
            f"{folder}: all {n_parts} files are written, but there are {len(others)} more of an "
            f"earlier job, such as {others[0]}; delete them"
        )
    return Bunch(**dict(zip(("n_images", "n_defects", "n_errors"), total.tolist(), strict=True)))


def _without_cluster(estimator):
    """The estimator that scores in one process, where there is a Distributed in it."""
    if getattr(estimator, "_asks_a_cluster", False):
        return estimator.estimator_
    if getattr(inner := getattr(estimator, "estimator_", None), "_asks_a_cluster", False):
        estimator = copy(estimator)
        estimator.estimator_ = inner.estimator_
    return estimator


def _digest_of(estimator):
    """Digest of what is learned: the same of an estimator that was written and loaded."""
    try:
        with TemporaryDirectory() as scratch:
            return dump(estimator, Path(scratch) / "estimator")
    except TypeError:  # it holds what such a file cannot hold, as a class of others
        return joblib.hash(pickle.loads(pickle.dumps(estimator)))


class _Job(NamedTuple):
    """What is the same for all partitions."""

    folder: Path
    model: str  # its digest
    errors: str
    has_maps: bool
    partition_size: int
    topic: str | None


def scores_of(model, part):
    """(n,) scores of a partition."""
    return model.score_samples(part.paths)


def scores_and_maps_of(model, part):
    """(n,) scores of a partition, and a list of its maps."""
    found = [(scores, maps) for _, _, scores, maps in scores_and_maps_in_parts(model, part.paths)]
    return np.concatenate([scores for scores, _ in found]), [m for _, maps in found for m in maps]


def _score_part(model, part, job):
    """Write the files of a partition, unless they are there; numbers as from ``counts``."""
    number = part.first // job.partition_size
    path, maps_path = part_file(job.folder, number), maps_file(job.folder, number)
    found = read_part(path, part, job.model)
    is_done = found is not None and (maps_path.exists() or not job.has_maps)
    if not is_done or (job.errors == "raise" and found[2]):  # images that could not be read
        # The maps first: where the table is, all is.
        with open_maps(maps_path) if job.has_maps else nullcontext() as write:
            rows = [_row(model, *one, write) for one in enumerate(_scored(model, part, job))]
        rows = [row._replace(image=name) for name, row in zip(part.names, rows, strict=True)]
        write_part(path, rows, job.model, part.folder)
        found = counts(rows)
    tell(job.topic, "score", part)
    return found


def _row(model, number, found, write):
    """The row of an image, without its name."""
    if isinstance(found, ImageError):
        return Row("", error=str(found))
    score, score_map = found
    decision = float(score - image_threshold(model))
    if write is not None:
        write(number, score_map)
    row = Row("", decision, decision < 0)
    threshold = outermost(model, "map_offset_")
    if threshold is None:
        return row
    regions = map_regions([score_map], threshold)
    largest = max(regions, key=lambda region: region["area"], default={})
    return row._replace(n_regions=len(regions), **{k: largest.get(k) for k in BOX})


def _scored(model, part, job):
    """Score and score map, or None, of each image; or the error of one that cannot be read."""
    with_maps = job.has_maps or outermost(model, "map_offset_") is not None
    for start in range(0, len(part), BATCH_SIZE):
        paths = part.paths[start : start + BATCH_SIZE]
        yield from (_each if job.errors == "raise" else _each_or_error)(model, paths, with_maps)


def _each(model, paths, with_maps):
    if not with_maps:
        yield from zip(model.score_samples(paths), repeat(None))
        return
    for _, _, scores, maps in scores_and_maps_in_parts(model, paths):
        yield from zip(scores, maps, strict=True)


def _each_or_error(model, paths, with_maps):
    n_done = 0
    try:
        for found in _each(model, paths, with_maps):
            yield found
            n_done += 1
    except ImageError as error:
        if len(paths) == 1:
            yield error
            return
        for path in paths[n_done:]:  # one by one: which of them it is
            yield from _each_or_error(model, [path], with_maps)
