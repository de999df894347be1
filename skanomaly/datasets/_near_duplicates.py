"""Find images of the same object, independent of the exposure.

The n images are thumbnails of S x S pixels. Detail is compared: the difference of each pixel from
its neighborhood, in units of the contrast there, which does not depend on the exposure. The parts
that are common to a row, a column (stripes) or all images (the outline of the part) are subtracted.
A few likely partners of each image are found with very small copies. Then blocks of b x b pixels
are matched, each at the shift where it fits best, which compensates crops of a few percent. The
similarity of two images is the mean correlation of their blocks.

Which similarity is high depends on the set: images of a machined part are more similar than images
of wood. So the limit is derived from random pairs, nearly all of which show different objects.
"""

import numpy as np
from scipy.fft import irfft2, rfft2
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.utils import gen_batches

SIDE = 64  # S

_SMALL_SIDE = 16  # of the copies that find likely partners
_N_PARTNERS = 5
_BLOCKS = 8  # along each side
_REACH = 3  # maximal shift of a block in pixels
_MIN_CONTRAST = 0.05  # relative to that of the thumbnail; smaller contrast is not amplified
_MIN_DETAIL = 0.05  # mean detail per pixel of a block that is compared
_EVENNESS = 0.02  # contrast relative to the median of the set below which an image is not compared
_MIN_BLOCKS = 0.25  # fraction of blocks with detail that a comparison needs
_N_RANDOM_PAIRS = 2000
_MIN_IMAGES = 10  # fewer images do not show which similarity is usual
_DEVIATIONS = 12  # above random pairs; one of five real sets had different objects above 11
_MIN_LIMIT, _MAX_LIMIT = 0.5, 0.95
_PAIRS_AT_ONCE, _ROWS_AT_ONCE = 128, 512


class NearDuplicates:
    """Groups of images that show the same object.

    Parameters
    ----------
    thumbnails : ndarray of shape (n, S, S), float32
        Gray, in any unit.

    Attributes
    ----------
    groups : ndarray of shape (n,), int
        Images with the same number show the same object.
    similarity : ndarray of shape (n,), float
        Similarity of each image to the most similar one; -inf if it was not compared.
    limit : float
        Similarity from which on two images are considered to show the same object.
    usual : float
        Median similarity of random pairs.
    is_even : ndarray of shape (n,), bool
        Images with too little contrast for a comparison.
    """

    def __init__(self, thumbnails):
        n = len(thumbnails)
        contrast = thumbnails.std(axis=(1, 2))
        self.is_even = contrast <= _EVENNESS * np.median(contrast)
        self.groups, self.similarity = np.arange(n), np.full(n, -np.inf)
        self.limit, self.usual = _MAX_LIMIT, np.nan
        rows = np.flatnonzero(~self.is_even)
        if len(rows) < 2:
            return
        detail = _without_common(_detail(thumbnails[rows], sigma=1.5))
        self.usual, self.limit = _limit(detail)
        pairs = _likely_pairs(thumbnails[rows])
        similarity = _similarity(detail, pairs)
        np.maximum.at(self.similarity, rows[pairs], similarity[:, None])
        first, second = rows[pairs[similarity >= self.limit]].T
        links = coo_array((np.ones(len(first)), (first, second)), shape=(n, n))
        self.groups = connected_components(links, directed=False)[1]


def _detail(images, sigma):
    """(n, s, s) differences from the neighborhood, in units of the contrast there."""
    result = np.empty(images.shape, dtype=np.float32)
    for part in gen_batches(len(images), _ROWS_AT_ONCE):
        image = images[part] / images[part].std(axis=(1, 2), keepdims=True)
        around = (0, sigma, sigma)
        detail = image - gaussian_filter(image, around)
        contrast = np.sqrt(gaussian_filter(detail**2, around))
        result[part] = detail / (contrast + _MIN_CONTRAST)
    return result


def _without_common(detail):
    """The detail without what is common to rows, columns and all images; changed in place."""
    detail -= detail.mean(axis=1, keepdims=True)
    detail -= detail.mean(axis=2, keepdims=True)
    if len(detail) > 2:  # of two images the differences from the mean are opposite
        detail -= detail.mean(axis=0)
    return detail


def _likely_pairs(thumbnails):
    """(p, 2) pairs i < j: each image with those that have the most similar small copies."""
    n, step = len(thumbnails), SIDE // _SMALL_SIDE
    small = thumbnails.reshape(n, _SMALL_SIDE, step, _SMALL_SIDE, step).mean(axis=(2, 4))
    rows = _detail(small, sigma=2).reshape(n, -1)
    rows -= rows.mean(axis=0)
    # Whitening: directions in which all images vary say little about which two belong together.
    spread, directions = np.linalg.eigh(rows.T @ rows)
    rows = rows @ (directions / np.sqrt(np.maximum(spread, 0) + spread.mean() + 1e-9))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9
    n_partners = min(_N_PARTNERS, n - 1)
    pairs = []
    for part in gen_batches(n, _ROWS_AT_ONCE):
        own = np.arange(n)[part]
        similarity = rows[part] @ rows.T  # (r, n)
        similarity[np.arange(len(own)), own] = -np.inf
        partners = np.argpartition(-similarity, n_partners - 1, axis=1)[:, :n_partners]
        pairs.append(np.stack([np.repeat(own, n_partners), partners.ravel()], axis=1))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _limit(detail):
    """(usual similarity, similarity from which on images show the same object)."""
    n = len(detail)
    if n < _MIN_IMAGES:
        return np.nan, _MAX_LIMIT
    if n * (n - 1) // 2 <= _N_RANDOM_PAIRS:
        pairs = np.stack(np.triu_indices(n, 1), axis=1)
    else:
        pairs = np.random.default_rng(0).integers(n, size=(_N_RANDOM_PAIRS, 2))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    # Fisher's transformation makes the variance of correlations independent of their level.
    level = np.arctanh(np.clip(_similarity(detail, pairs), 0, 0.999))
    median, high = np.quantile(level, [0.5, 0.9])
    # As for a normal distribution; of random pairs, duplicates are less than one tenth.
    deviation = (high - median) / 1.28
    limit = np.tanh(median + _DEVIATIONS * deviation)
    return float(np.tanh(median)), float(np.clip(limit, _MIN_LIMIT, _MAX_LIMIT))


def _similarity(detail, pairs):
    """Mean correlation of the blocks of each pair (p,); -inf if there is too little detail."""
    result = np.empty(len(pairs))
    for part in gen_batches(len(pairs), _PAIRS_AT_ONCE):
        first, second = detail[pairs[part].T]  # (p, S, S) each
        fits, counts = _block_fits(first, second)
        n_counting = counts.sum(axis=1)
        mean = (fits * counts).sum(axis=1) / np.maximum(n_counting, 1)
        result[part] = np.where(n_counting >= _MIN_BLOCKS * _BLOCKS**2, mean, -np.inf)
    return result


def _block_fits(first, second):
    """Maximal correlation of each block of ``second`` with ``first`` over the shifts.

    Returns the correlations and whether either image has detail there, both (p, blocks).
    """
    side = SIDE // _BLOCKS
    wide = side + 2 * _REACH
    padded = np.pad(first, ((0, 0), (_REACH, _REACH), (_REACH, _REACH)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (wide, wide), axis=(1, 2))
    windows = views[:, ::side, ::side].reshape(len(first), -1, wide, wide)
    blocks = second.reshape(-1, _BLOCKS, side, _BLOCKS, side).transpose(0, 1, 3, 2, 4)
    blocks = blocks.reshape(len(second), -1, side, side)
    blocks = blocks - blocks.mean(axis=(2, 3), keepdims=True)  # (p, blocks, side, side)
    # Cross-correlation of the blocks with their windows at all shifts, by Fourier transforms.
    n_places = 2 * _REACH + 1
    product = irfft2(rfft2(windows) * rfft2(blocks, (wide, wide)).conj(), (wide, wide))
    product = product[:, :, :n_places, :n_places]  # (p, blocks, shifts, shifts)
    around = _window_sums(windows**2, side) - _window_sums(windows, side) ** 2 / side**2
    around = np.sqrt(np.maximum(around, 0))
    own = np.sqrt((blocks**2).sum(axis=(2, 3)))
    faint = _MIN_DETAIL * side
    fits = (product / np.maximum(around * own[:, :, None, None], faint**2)).max(axis=(2, 3))
    return fits, (around[:, :, _REACH, _REACH] > faint) | (own > faint)


def _window_sums(values, side):
    """Sums over side x side pixels at each position of the last two axes."""
    sums = values.cumsum(axis=-2, dtype=np.float64).cumsum(axis=-1)
    sums = np.pad(sums, [(0, 0)] * (values.ndim - 2) + [(1, 0), (1, 0)])
    return (
        sums[..., side:, side:]
        - sums[..., :-side, side:]
        - sums[..., side:, :-side]
        + sums[..., :-side, :-side]
    )
