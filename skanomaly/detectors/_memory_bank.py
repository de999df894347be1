"""PatchCore's memory bank: rows chosen from all patches, and where each comes from."""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from skanomaly.coreset import greedy_order_and_radii
from skanomaly.embedding import balancing_scales, finest_grid
from skanomaly.feature_maps import usual_batch

AUTO_RATIO, AUTO_ROWS = 0.1, 5_000  # of coreset_ratio="auto": the paper's share, and the most rows
SCALE_IMAGES = 64  # on so many, evenly spaced, the layers' scales are measured
ORIGIN_BYTES = 8  # per row of the bank: two int32
CORESET_ROW_BYTES = 220  # estimate: what the greedy search holds beside each projected row


def bank_size(ratio, n_patches, n_rows=None):
    """Rows of the bank: n_rows if given, else those of a coreset_ratio, at least one."""
    if n_rows is not None:
        return min(n_rows, n_patches)
    if ratio == "auto":
        return max(1, min(int(AUTO_RATIO * n_patches), AUTO_ROWS))
    return max(1, int(ratio * n_patches))


def scales_of(X, layers=None):
    """{layer: factor} that balances the layers of FeatureMaps of good images.

    ``layers`` are those that count; None: all.
    """
    layers = list(X.layer_shapes if layers is None else layers)
    if len(layers) == 1:
        return dict.fromkeys(layers, 1.0)
    places = np.linspace(0, len(X) - 1, min(SCALE_IMAGES, len(X))).astype(int)
    some = X[places].store()
    arrays = {name: some.arrays()[name] for name in layers}
    if some.roi_bits is not None:
        arrays = {name: maps[some.inside(maps.shape[1:3])] for name, maps in arrays.items()}
    return balancing_scales(arrays)


def forecast_bank(layer_shapes, n_images, n_projections, ratio, n_rows=None, n_candidates=None):
    """Bytes held while a bank is chosen, by what they are for."""
    height, width = finest_grid(layer_shapes)
    n_features = sum(shape[2] for shape in layer_shapes.values())
    n_patches = n_images * height * width
    n_kept = bank_size(ratio, n_patches, n_rows)
    n_patches = min(n_candidates or n_patches, n_patches)
    n_kept = min(n_kept, n_patches)
    n_dims = min(n_projections or n_features, n_features)
    return {
        "projected patches": 4 * n_dims * (n_patches + n_kept),
        "the coreset's search": CORESET_ROW_BYTES * n_patches,
        "memory bank and its index": (4 * 2 * n_features + ORIGIN_BYTES) * n_kept,
        "a batch": 4 * 4 * n_features * min(n_images, usual_batch(layer_shapes)) * height * width,
    }


def stored(rows, dtype):
    """Rows of a bank as they are kept; ValueError where they are beyond the range of the dtype."""
    with np.errstate(over="ignore"):
        kept = rows.astype(dtype, copy=False)
    if not np.isfinite(kept).all():
        raise ValueError(
            f"expected features that {dtype} can hold, up to {np.finfo(dtype).max:g}, got "
            f'{np.abs(rows).max():g}; set memory_dtype="float32", or scale the features'
        )
    return kept


class Candidates:
    """Draws the patches that a bank is chosen from, for each image alone.

    So they do not depend on which other images are in a part.

    Parameters
    ----------
    n_candidates : int
        Of all images.
    n_images : int
    seed : int
    """

    def __init__(self, n_candidates, n_images, seed):
        self.n_candidates, self.n_images, self.seed = n_candidates, n_images, seed

    def count(self, first, end):
        """How many are drawn of consecutive images, from the first to before the end."""
        before, through = (self.n_candidates * i // self.n_images for i in (first, end))
        return through - before

    def draw(self, number, n_patches):
        """Which of so many patches of an image are candidates, ascending; at most all."""
        n_drawn = self.count(number, number + 1)
        if n_drawn >= n_patches:
            return np.arange(n_patches)
        rng = np.random.RandomState([self.seed, number])
        return np.sort(rng.choice(n_patches, n_drawn, replace=False))


def choose_bank(X, first, patches_of, projection, start, n_rows, candidates=None, **options):
    """Patches in the order in which the greedy coreset takes them.

    Those outside the regions of interest are not among them.

    Parameters
    ----------
    X : FeatureMaps of shape (n, D)
    first : int
        Number of the first image among all.
    patches_of : callable
        FeatureMaps of b images in, (b * h * w, D) out.
    projection : RandomProjection
        In whose few dimensions the patches are chosen.
    start : int
        Number of the first patch among those that count, on from the last to the first one.
    n_rows : int
        As many, or all that there are.
    candidates : Candidates or None, default=None
        Draws those that the bank is chosen from; None: it is chosen from all.
    **options : dict
        Passed to :func:`skanomaly.coreset.greedy_order_and_radii`.

    Returns
    -------
    dict
        ``rows`` and ``origin`` as from :func:`gather`; ``frames``, (n, 2) int32, of all images; and
        ``radii``, (m,) float32, the covering radii, after the projection, of the first 1, 2, ...
        rows: of the patches that they are chosen from.
    """
    found = project_patches(X, first, patches_of, projection, candidates)
    n_found = check_any(len(found.rows), len(X))
    options["start"] = start % n_found
    order, radii = greedy_order_and_radii(found.rows, min(n_rows, n_found), **options)
    order, frames = found.numbers[order], found.frames
    del found  # the bank's rows need its memory
    rows, origin = gather(X, order, patches_of, projection.n_features_in_)
    return {"rows": rows, "origin": origin, "frames": frames, "radii": radii}


class Projected(NamedTuple):
    """Patches of n images that a bank is chosen from, in the dimensions in which it is chosen.

    Parameters
    ----------
    rows : ndarray of shape (m, k), float32
    numbers : ndarray of shape (m,), int
        Their numbers among all patches, counted over images, then rows, then columns.
    frames : ndarray of shape (n, 2), int32
        Height and width of the images, which streamed features tell only now.
    """

    rows: np.ndarray
    numbers: np.ndarray
    frames: np.ndarray


def project_patches(X, first, patches_of, projection, candidates=None):
    """The patches of FeatureMaps that count, as :class:`Projected`; parameters of choose_bank."""
    n_each = math.prod(finest_grid(X.layer_shapes))
    n_most = len(X) * n_each
    if candidates is not None:
        n_most = min(n_most, candidates.count(first, first + len(X)))
    projected = np.empty((n_most, projection.n_features_out_), dtype=np.float32)
    numbers, frames = [], []
    done = seen = 0  # patches that count, and images
    for batch in X.batches():
        patches = patches_of(batch)  # (b * h * w, D)
        places = those_that_count(batch, first + seen, candidates)
        patches = patches if len(places) == len(patches) else patches[places]
        if len(patches) > 0:
            projected[done : done + len(patches)] = projection.transform(patches)
        numbers.append(seen * n_each + places)
        frames.append(batch.frames)
        done, seen = done + len(places), seen + len(batch)
        del patches  # those of large images take as much as their features
    frames = np.concatenate(frames).astype(np.int32)
    return Projected(projected[:done], np.concatenate(numbers), frames)


def check_any(n_patches, n_images):
    """The number of patches to choose from; ValueError where it is 0."""
    if n_patches == 0:
        raise ValueError(
            f"expected at least one patch of these {n_images} images to choose from, got none; "
            "take a larger region of interest, or more n_candidates"
        )
    return n_patches


def those_that_count(batch, first=0, candidates=None):
    """Places (k,) of a few images' patches that are inside the regions, and candidates if drawn.

    ``first`` is the number of the first of the images among all.
    """
    n_each = math.prod(finest_grid(batch.layer_shapes))
    places = np.arange(len(batch) * n_each).reshape(len(batch), n_each)
    inside = batch.inside(finest_grid(batch.layer_shapes))
    if inside is None and candidates is None:
        return places.ravel()
    inside = np.ones(places.shape, bool) if inside is None else inside.reshape(places.shape)
    found = [own[is_inside] for own, is_inside in zip(places, inside, strict=True)]
    if candidates is not None:
        found = [own[candidates.draw(first + i, len(own))] for i, own in enumerate(found)]
    return np.concatenate(found)


def gather(X, order, patches_of, n_features):
    """Rows of all patches by number, in one pass: never all of them in memory.

    Parameters
    ----------
    X : FeatureMaps of shape (n, D)
    order : ndarray of shape (m,), int
        Numbers of patches, counted over images, then rows, then columns.
    patches_of : callable
        FeatureMaps of b images in, (b * h * w, n_features) out.
    n_features : int

    Returns
    -------
    rows : ndarray of shape (m, n_features), float32
    origin : ndarray of shape (m, 2), int32
        Image and cell.
    """
    rows = np.empty((len(order), n_features), dtype=np.float32)
    by_number = np.argsort(order)
    first = done = 0
    for batch in X.batches():
        patches = patches_of(batch)
        end = np.searchsorted(order, first + len(patches), sorter=by_number)
        rows[by_number[done:end]] = patches[order[by_number[done:end]] - first]
        first, done = first + len(patches), end
        del patches
    return rows, np.column_stack(np.divmod(order, first // len(X))).astype(np.int32)


def among_all(learned_from, origin, frames):
    """Origins and frames of the images learned from, counted among all images given to fit.

    Parameters
    ----------
    learned_from : ndarray of shape (n,), bool
    origin : ndarray of shape (m, 2), int32
        Place among the images learned from, and cell.
    frames : ndarray of shape (n_learned, 2), int32

    Returns
    -------
    origin : ndarray of shape (m, 2), int32
    frames : ndarray of shape (n, 2), int32
        (0, 0) for images that were left out.
    """
    rows = np.flatnonzero(learned_from)
    all_frames = np.zeros((len(learned_from), 2), dtype=np.int32)
    all_frames[rows] = frames
    return np.column_stack([rows[origin[:, 0]], origin[:, 1]]).astype(np.int32), all_frames


def first_rows(array, n_rows):
    """An array's first rows, in memory of their own: nothing longer is held for them."""
    return array if array.base is None and len(array) == n_rows else array[:n_rows].copy()


def rarity(patches, nearest, index, bank, n_around):
    """Weights of eq. 7: near 1 where m* is a rare patch of the bank, 1 - 1/b where a common one.

    Parameters
    ----------
    patches : ndarray of shape (b, D)
        The least familiar patch of each image.
    nearest : ndarray of shape (b,), int, or None
        Row of the bank nearest to each, m*; None: it is searched.
    index : PatchIndex
        Of the bank.
    bank : ndarray of shape (m, D)
    n_around : int
        Neighbors b of m* in the bank, or as many as it has.

    Returns
    -------
    ndarray of shape (b,)
    """
    nearest = index.kneighbors(patches)[1][:, 0] if nearest is None else nearest
    nearest = bank[nearest]
    _, around = index.kneighbors(nearest, min(n_around, len(bank)))
    distances = np.linalg.norm(patches[:, None] - bank[around], axis=2)
    own = np.linalg.norm(patches - nearest, axis=1)
    return 1 - np.exp(own - logsumexp(distances, axis=1))
