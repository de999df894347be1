"""Paths in partitions, and a bar that counts those that are done."""

import os
from contextlib import contextmanager
from itertools import islice
from uuid import uuid4

from tqdm.auto import tqdm

import skanomaly
from skanomaly.images import is_one_mask, is_url


class Part:
    """Paths of some images: an object into which Dask does not look for tasks.

    Parameters
    ----------
    names : sequence of str
        As they were given.
    first : int
        Place of the first among all.
    """

    def __init__(self, names, first):
        self.names, self.first = tuple(names), first
        self.folder = os.getcwd()  # workers may be elsewhere
        self.version = skanomaly.__version__

    def __len__(self):
        return len(self.names)

    @property
    def paths(self):
        """Absolute paths, and URLs as they are; RuntimeError where another version asks."""
        if self.version != skanomaly.__version__:  # of a worker that joined after the check
            raise RuntimeError(
                f"expected skanomaly {self.version} on all workers, got {skanomaly.__version__} on "
                "one; install the same version everywhere"
            )
        return [name if is_url(name) else os.path.join(self.folder, name) for name in self.names]

    @property
    def has_relative(self):
        """Whether some of the names are relative paths."""
        return not all(is_url(name) or os.path.isabs(name) for name in self.names)


def regions_of(estimator):
    """{parameter: value} of the regions of interest in an estimator; ValueError for lists of them.

    Such are of the images of one call, in their order, while workers get a few of them at a time.
    """
    parameters = estimator.get_params().items()
    found = {name: roi for name, roi in parameters if name.rpartition("__")[2] == "roi"}
    for name, roi in found.items():
        if roi is not None and not callable(roi) and not is_one_mask(roi):
            raise ValueError(
                f"expected {name} to be one mask for all images, or a function of an image, such "
                "as skanomaly.images.foreground, got one mask for each image, which workers cannot "
                "tell apart"
            )
    return found


def iterate_paths(X):
    """The paths or URLs of a collection as str, one after the other; ValueError for all else."""
    if isinstance(X, (str, bytes)) or hasattr(X, "__fspath__") or not hasattr(X, "__iter__"):
        raise ValueError(
            f"expected a list of paths or URLs of images, got {X!r}; those of a folder are in "
            "skanomaly.load_folder(folder).train.images"
        )
    if hasattr(X, "columns"):
        if len(X.columns) != 1:
            raise ValueError(
                f"expected one column of paths, got a table with {len(X.columns)} columns; pass "
                'the column with the paths, such as table["path"]'
            )
        X = X[X.columns[0]]
    for i, item in enumerate(X):
        if not isinstance(item, str) and not hasattr(item, "__fspath__"):
            raise ValueError(
                f"image {i}: expected a path or a URL, got {type(item).__name__}; images do not "
                "travel to the workers: write them to files that all workers can read"
            )
        yield os.fsdecode(item)


def list_paths(X):
    """The same as a list; ValueError where there is none."""
    paths = list(iterate_paths(X))
    if not paths:
        raise ValueError("expected the paths of at least one image, got none")
    return paths


def lazy_parts(X, size):
    """Partitions of a collection, made when they are asked for; an empty one of an empty one."""
    paths, first = iterate_paths(X), 0
    while (names := tuple(islice(paths, size))) or first == 0:
        yield Part(names, first)
        if not names:
            return
        first += len(names)


@contextmanager
def counted(client, n_images, what, verbose):
    """Context with a topic under which :func:`tell` reports images that are done, for a bar."""
    if not verbose:
        yield None
        return
    topic, seen = f"skanomaly-{uuid4().hex}", set()
    with tqdm(total=n_images, desc=what, unit="image") as bar:

        def count(event):
            _, (key, n) = event
            if key not in seen:  # a lost task is done again
                seen.add(key)
                bar.update(n)

        client.subscribe_topic(topic, count)
        try:
            yield topic
        finally:
            client.unsubscribe_topic(topic)


def tell(topic, step, part):
    """Report in a task that a step of a partition is done."""
    if topic is not None:
        from distributed import get_worker

        get_worker().log_event(topic, ((step, part.first), len(part)))
