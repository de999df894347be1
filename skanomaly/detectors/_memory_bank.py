"""PatchCore's memory bank: rows chosen from all patches, and where each comes from."""

import numpy as np
from scipy.special import logsumexp

from skanomaly.coreset import greedy_order
from skanomaly.embedding import balancing_scales, finest_grid
from skanomaly.feature_maps import usual_batch

AUTO_RATIO, AUTO_ROWS = 0.1, 5_000  # of coreset_ratio="auto": the paper's share, and the most rows
SCALE_IMAGES = 64  # on so many, evenly spaced, the layers' scales are measured
ORIGIN_BYTES = 8  # per row of the bank: two int32
CORESET_ROW_BYTES = 220  # estimate: what the greedy search holds beside each projected row


def bank_size(ratio, n_patches):
    """Rows of the bank for a coreset_ratio, at least one."""
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


def forecast_bank(layer_shapes, n_images, ratio, n_projections, n_candidates=None):
    """Bytes held while a bank is chosen, by what they are for."""
    height, width = finest_grid(layer_shapes)
    n_features = sum(shape[2] for shape in layer_shapes.values())
    n_patches = n_images * height * width
    n_kept = bank_size(ratio, n_patches)
    n_patches = min(n_candidates or n_patches, n_patches)
    n_dims = min(n_projections or n_features, n_features)
    return {
        "projected patches": 4 * n_dims * (n_patches + n_kept),
        "the coreset's search": CORESET_ROW_BYTES * n_patches,
        "memory bank and its index": (4 * 2 * n_features + ORIGIN_BYTES) * n_kept,
        "a batch": 4 * 4 * n_features * min(n_images, usual_batch(layer_shapes)) * height * width,
    }


def choose_bank(X, patches_of, projection, rng, n_rows, n_candidates=None, **options):
    """Patches in the order in which the greedy coreset takes them.

    Those outside the regions of interest are not among them.

    Parameters
    ----------
    X : FeatureMaps of shape (n, D)
    patches_of : callable
        FeatureMaps of b images in, (b * h * w, D) out.
    projection : RandomProjection
        In whose few dimensions the patches are chosen.
    rng : RandomState
        Draws the projection and the first patch.
    n_rows : int
        As many, or all that there are.
    n_candidates : int or None, default=None
        Of all patches so many are drawn, and the bank is chosen from these; None: from all.
    **options : dict
        Passed to :func:`skanomaly.coreset.greedy_order`.

    Returns
    -------
    dict
        As from :func:`gather`.
    """
    first = patches_of(X[0])  # (h * w, D)
    n_each, n_features = first.shape
    projection.fit(n_features, origin=first[0].copy())
    del first
    n_patches = len(X) * n_each
    drawn = None
    if n_candidates is not None and n_candidates < n_patches:
        drawn = np.zeros(n_patches, dtype=bool)
        drawn[rng.choice(n_patches, n_candidates, replace=False)] = True
    projected, numbers = None, []
    done = seen = 0
    for batch in X.batches():
        patches = patches_of(batch)  # (b * h * w, D)
        counts = _that_count(batch, drawn, seen, len(patches))
        rows = projection.transform(patches if counts is None else patches[counts])
        if projected is None:
            n_most = min(n_candidates or n_patches, n_patches)
            projected = np.empty((n_most, rows.shape[1]), dtype=np.float32)
        projected[done : done + len(rows)] = rows
        numbers.append(seen + (np.arange(len(rows)) if counts is None else counts))
        done, seen = done + len(rows), seen + len(patches)
        del patches  # those of large images take as much as their features
    projected = projected[:done]
    order = greedy_order(projected, min(n_rows, done), random_state=rng, **options)
    del projected  # the bank's rows need its memory
    return gather(X, np.concatenate(numbers)[order], patches_of, n_features)


def _that_count(batch, drawn, first, n_patches):
    """Places of a batch's patches that are drawn and inside; None: all are."""
    counts = None if drawn is None else drawn[first : first + n_patches]
    if batch.roi_bits is not None:
        inside = batch.inside(finest_grid(batch.layer_shapes)).ravel()
        counts = inside if counts is None else inside & counts
    return None if counts is None else np.flatnonzero(counts)


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
    dict
        ``bank``, (m, n_features) float32; ``origin``, (m, 2) int32, image and cell; and
        ``frames``, (n, 2) int32, of all images, which streamed features tell only here.
    """
    bank = np.empty((len(order), n_features), dtype=np.float32)
    by_number, frames = np.argsort(order), []
    first = done = 0
    for batch in X.batches():
        patches = patches_of(batch)
        end = np.searchsorted(order, first + len(patches), sorter=by_number)
        bank[by_number[done:end]] = patches[order[by_number[done:end]] - first]
        frames.append(batch.frames)
        first, done = first + len(patches), end
        del patches
    origin = np.column_stack(np.divmod(order, first // len(X)))
    frames = np.concatenate(frames)
    return {"bank": bank, "origin": origin.astype(np.int32), "frames": frames.astype(np.int32)}


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
