"""Synthetic stains of irregular shape, painted on patches: what a classifier learns defects from.

The model of stains is that of Collin and De Vleeschouwer, "Improved anomaly detection by training
an autoencoder with skip connections on images corrupted with stain-shaped noise", ICPR 2020.
"""

from numbers import Real

import numpy as np
from scipy.signal import resample

N_CORNERS = 20  # of a contour before it is smoothed
SMALLEST_HALF_AXIS = 1e-6  # of a pixel: an ellipse of none has no directions
GRAY = 1e-3  # by which the channels of gray images may differ
N_DIRECTIONS = 160  # in which the smooth contour is known
STAINS = {
    "axes": (0.01, 0.12),  # half axes of the ellipse, of the image's shorter side; all up to 1
    "irregularity": (0.3, 0.7),  # how far corners leave the ellipse, of its mean half axis
    "softness": (0.0, 0.15),  # width of the edge, of the longer half axis
    "values": (0.0, 1.0),  # of each channel
}


def check_stains(stains):
    """All parameters of stains: those given, and the defaults of the others.

    Parameters
    ----------
    stains : dict or None
        Pairs (least, most) by name, see :func:`stain`.

    Returns
    -------
    dict of str to tuple (least, most)

    Raises
    ------
    ValueError
        A name is unknown, or a range is not two numbers from 0 to 1 in ascending order.
    """
    stains = {} if stains is None else dict(stains)
    unknown = set(stains) - set(STAINS)
    if unknown:
        raise ValueError(f"expected stains with the keys {list(STAINS)}, got {sorted(unknown)}")
    for name, given in stains.items():
        is_pair = np.shape(given) == (2,) and all(isinstance(value, Real) for value in given)
        if not is_pair or not 0 <= given[0] <= given[1] <= 1:
            raise ValueError(
                f"expected stains[{name!r}] as a pair (least, most) of numbers from 0 to 1, "
                f"shares of the image's side or brightness, got {given!r}"
            )
    return STAINS | stains


def stain(
    patches: np.ndarray,
    rng: np.random.Generator,
    image_side: int,
    n_read: int,
    *,
    axes: tuple[float, float],
    irregularity: tuple[float, float],
    softness: tuple[float, float],
    values: tuple[float, float],
) -> np.ndarray:
    """Patches with a synthetic stain each.

    An ellipse of random axes, center and rotation, whose contour is bent in and out, is filled with
    one color, a gray one where the patches are gray. It may leave the patch, its center does not.

    Parameters
    ----------
    patches : ndarray of shape (n, side, side, C), float32 in [0, 1]
    rng : numpy Generator
    image_side : int
        Shorter side of the image that the patches are from, in pixels.
    n_read : int
        Pixels of a patch's sides, from its upper left corner, in which centers lie.
    axes, irregularity, softness, values : pairs (least, most)
        Ranges from which each stain draws its own: half axes of the ellipse, of the image's shorter
        side; how far the contour leaves it, of the mean half axis; width of the edge, of the longer
        half axis; values of the channels.

    Returns
    -------
    ndarray of shape (n, side, side, C), float32
        A new array.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.training import check_stains, stain
    >>> patches = np.zeros((2, 33, 33, 3), np.float32)
    >>> white = check_stains({"values": (1, 1)})
    >>> stained = stain(patches, np.random.default_rng(0), image_side=256, n_read=33, **white)
    >>> stained.max(axis=(1, 2, 3))
    array([1., 1.], dtype=float32)
    """
    n, side, _, n_channels = patches.shape
    half_axes = np.maximum(image_side * rng.uniform(*axes, (n, 2)), SMALLEST_HALF_AXIS)
    contour = _contours(half_axes, rng.uniform(*irregularity, n), rng)  # (n, directions)
    center = rng.uniform(0, n_read - 1, (n, 2))
    edge = np.maximum(rng.uniform(*softness, n) * half_axes.max(axis=1), 1)  # (n,) pixels
    pixel = np.arange(side)
    dy = pixel[:, None] - center[:, :1, None]  # (n, side, 1)
    dx = pixel[None, :] - center[:, 1:, None]  # (n, 1, side)
    angle = (np.arctan2(dy, dx) + rng.uniform(0, 2 * np.pi, (n, 1, 1))) % (2 * np.pi)
    direction = (angle * N_DIRECTIONS / (2 * np.pi)).astype(int) % N_DIRECTIONS  # (n, side, side)
    radius = np.take_along_axis(contour, direction.reshape(n, -1), axis=1).reshape(angle.shape)
    # At least the pixel of the center is covered.
    cover = np.clip((np.maximum(radius, 1) - np.hypot(dy, dx)) / edge[:, None, None] + 0.5, 0, 1)
    # A colored stain on gray images would be told from them by its color alone.
    is_gray = np.ptp(patches, axis=3).max() < GRAY
    color = rng.uniform(*values, (n, 1, 1, 1 if is_gray else n_channels))
    return (patches + cover[..., None] * (color - patches)).astype(np.float32)


def _contours(half_axes, irregularity, rng):
    """Distance from the center to the contour in each direction, (n, N_DIRECTIONS)."""
    angle = 2 * np.pi * np.arange(N_CORNERS) / N_CORNERS
    a, b = half_axes[:, :1], half_axes[:, 1:]
    ellipse = a * b / np.hypot(b * np.cos(angle), a * np.sin(angle))  # (n, corners)
    jitter = rng.uniform(-1, 1, ellipse.shape) * (irregularity * half_axes.mean(axis=1))[:, None]
    # Resampling by Fourier coefficients joins the corners smoothly, the last one to the first.
    return resample(np.maximum(ellipse + jitter, 0), N_DIRECTIONS, axis=1)
