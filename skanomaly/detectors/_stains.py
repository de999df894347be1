"""Stains of irregular shape, painted on patches so that a classifier sees what defects may be."""

from numbers import Real

import numpy as np
from scipy.signal import resample

N_CORNERS = 20  # of a contour before it is smoothed
SMALLEST_HALF_AXIS = 1e-6  # of a pixel: an ellipse of none has no directions
GREY = 1e-3  # by which the channels of grey pictures may differ
N_DIRECTIONS = 160  # in which the smooth contour is known
STAINS = {
    "axes": (0.01, 0.12),  # half axes of the ellipse, of the image's shorter side; all up to 1
    "irregularity": (0.3, 0.7),  # how far corners leave the ellipse, of its mean half axis
    "softness": (0.0, 0.15),  # width of the edge, of the longer half axis
    "values": (0.0, 1.0),  # of each channel
}


def check_stains(stains):
    """All parameters of stains, the given ones and the usual others.

    Raises ValueError where a name is unknown, or a range is not two numbers in their order.
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


def stain(patches, rng, image_side, n_read, *, axes, irregularity, softness, values):
    """Patches (n, side, side, C) with a stain each, as a new array.

    An ellipse of random axes, centre and turn, whose contour is bent in and out, is filled with
    one colour, which is a grey where the patches are. It may leave the patch, its centre does not.

    Parameters
    ----------
    patches : ndarray of shape (n, side, side, C), float32 in [0, 1]
    rng : numpy Generator
    image_side : int
        Shorter side of the image the patches are from.
    n_read : int
        Pixels of a patch's sides, from its upper left corner, in which centres lie.
    axes, irregularity, softness, values : pairs (least, most)
        Of which each stain draws its own, see ``STAINS``.
    """
    n, side, _, n_channels = patches.shape
    half_axes = np.maximum(image_side * rng.uniform(*axes, (n, 2)), SMALLEST_HALF_AXIS)
    contour = _contours(half_axes, rng.uniform(*irregularity, n), rng)  # (n, directions)
    centre = rng.uniform(0, n_read - 1, (n, 2))
    edge = np.maximum(rng.uniform(*softness, n) * half_axes.max(axis=1), 1)
    pixel = np.arange(side)
    dy = pixel[:, None] - centre[:, :1, None]  # (n, side, 1)
    dx = pixel[None, :] - centre[:, 1:, None]  # (n, 1, side)
    angle = (np.arctan2(dy, dx) + rng.uniform(0, 2 * np.pi, (n, 1, 1))) % (2 * np.pi)
    direction = (angle * N_DIRECTIONS / (2 * np.pi)).astype(int) % N_DIRECTIONS
    radius = np.take_along_axis(contour, direction.reshape(n, -1), axis=1).reshape(angle.shape)
    # At least the pixel of the centre is covered.
    cover = np.clip((np.maximum(radius, 1) - np.hypot(dy, dx)) / edge[:, None, None] + 0.5, 0, 1)
    is_grey = np.ptp(patches, axis=3).max() < GREY
    colour = rng.uniform(*values, (n, 1, 1, 1 if is_grey else n_channels))
    return (patches + cover[..., None] * (colour - patches)).astype(np.float32)


def _contours(half_axes, irregularity, rng):
    """Distance from the centre to the contour in each direction, (n, N_DIRECTIONS)."""
    angle = 2 * np.pi * np.arange(N_CORNERS) / N_CORNERS
    a, b = half_axes[:, :1], half_axes[:, 1:]
    ellipse = a * b / np.hypot(b * np.cos(angle), a * np.sin(angle))  # (n, corners)
    jitter = rng.uniform(-1, 1, ellipse.shape) * (irregularity * half_axes.mean(axis=1))[:, None]
    return resample(np.maximum(ellipse + jitter, 0), N_DIRECTIONS, axis=1)
