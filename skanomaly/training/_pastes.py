"""CutPaste: a piece of an image, cut out and pasted elsewhere in it, a defect made of good pixels.

Li et al., "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization", CVPR 2021,
appendix A.2. A piece is a rectangle, or a scar: a narrow one that is rotated. Its colors are
changed a little. Where nothing visible has changed, as on even ground, it is drawn again, by the
rule of ``make_defects``.
"""

import math
from functools import partial

import numpy as np

from skanomaly.datasets import ATTEMPTS, MIN_PIXELS, VISIBLE

STEEPEST = 45  # degrees from upright, of a scar
SMALLEST_SCAR = 1.5  # pixels: a smaller one, rotated, could lie between the pixels
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # of red, green and blue


def cut_paste(
    images: np.ndarray,
    rng: np.random.Generator,
    *,
    area: tuple[float, float] = (0.02, 0.15),
    aspect: tuple[float, float] = (0.3, 3.3),
    jitter: float = 0.1,
) -> tuple[np.ndarray, np.ndarray]:
    """Images with a rectangle of their own pasted elsewhere.

    Parameters
    ----------
    images : ndarray of shape (n, H, W, C), float32 in [0, 1]
    rng : numpy Generator
    area : (float, float), default=(0.02, 0.15)
        Least and most of the rectangle's share of the image, drawn uniformly.
    aspect : (float, float), default=(0.3, 3.3)
        Least and most of its height by its width; the logarithm is drawn uniformly.
    jitter : float, default=0.1
        How much the colors of the piece change, see :func:`jitter_colors`.

    Returns
    -------
    pasted : ndarray of shape (n, H, W, C), float32
        A new array.
    boxes : ndarray of shape (n, 4), int
        Top, left, bottom and right of what was pasted over, ends exclusive.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.training import cut_paste
    >>> images = np.random.default_rng(0).random((2, 64, 64, 3), dtype=np.float32)
    >>> pasted, boxes = cut_paste(images, np.random.default_rng(0))
    >>> top, left, bottom, right = boxes[0]
    >>> bool(0.015 < (bottom - top) * (right - left) / 64**2 < 0.16)
    True
    """
    return _paste_all(images, rng, partial(_rectangle, area=area, aspect=aspect), jitter)


def cut_paste_scar(
    images: np.ndarray,
    rng: np.random.Generator,
    *,
    width: tuple[float, float] = (2, 16),
    length: tuple[float, float] = (10, 25),
    jitter: float = 0.1,
) -> tuple[np.ndarray, np.ndarray]:
    """Images with a narrow, rotated rectangle of their own pasted elsewhere.

    Parameters
    ----------
    images : ndarray of shape (n, H, W, C), float32 in [0, 1]
    rng : numpy Generator
    width, length : (float, float), default=(2, 16) and (10, 25)
        Least and most, in pixels, drawn uniformly. A scar that is larger than the image when it is
        rotated, by up to 45 degrees from upright, is made smaller.
    jitter : float, default=0.1
        How much the colors of the piece change, see :func:`jitter_colors`.

    Returns
    -------
    pasted : ndarray of shape (n, H, W, C), float32
        A new array.
    boxes : ndarray of shape (n, 4), int
        Top, left, bottom and right of the box around what was pasted over, ends exclusive.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.training import cut_paste_scar
    >>> images = np.random.default_rng(0).random((2, 64, 64, 3), dtype=np.float32)
    >>> pasted, boxes = cut_paste_scar(images, np.random.default_rng(0))
    >>> int((pasted != images).any(axis=3).sum(axis=(1, 2)).min()) > 10
    True
    """
    return _paste_all(images, rng, partial(_scar, width=width, length=length), jitter)


def jitter_colors(
    pixels: np.ndarray, rng: np.random.Generator, amount: float, *, only_light: bool = False
) -> np.ndarray:
    """Pixels of one piece or image with other colors, by one draw for all of them.

    In random order: brightness, the factor of all values; contrast, that of the differences from
    the mean gray; and, of three channels, saturation, that of the differences from each pixel's
    gray; and hue, turned about the axis of grays. Gray pixels stay gray.

    Parameters
    ----------
    pixels : ndarray of shape (..., C), float32 in [0, 1]
    rng : numpy Generator
    amount : float
        Factors are drawn from 1 - amount to 1 + amount; the hue turns by up to this share of a
        full circle.
    only_light : bool, default=False
        Whether saturation and hue stay.

    Returns
    -------
    ndarray of shape (..., C), float32 in [0, 1]

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.training import jitter_colors
    >>> gray = np.full((2, 2, 3), 0.5, np.float32)
    >>> bool(np.ptp(jitter_colors(gray, np.random.default_rng(0), 0.1), axis=2).max() < 1e-6)
    True
    """
    if amount == 0:
        return pixels
    factors = rng.uniform(1 - amount, 1 + amount, 3).astype(np.float32)
    turn = 2 * math.pi * rng.uniform(-amount, amount)
    is_color = pixels.shape[-1] == 3
    for kind in rng.permutation(4 if is_color and not only_light else 2):
        if kind == 0:
            pixels = factors[0] * pixels
        elif kind == 1:
            mean = (pixels @ LUMA if is_color else pixels).mean()
            pixels = mean + factors[1] * (pixels - mean)
        elif kind == 2:
            gray = (pixels @ LUMA)[..., None]
            pixels = gray + factors[2] * (pixels - gray)
        else:
            pixels = pixels @ _about_gray(turn)
    return np.clip(pixels, 0, 1)


def _about_gray(angle):
    """Matrix (3, 3) that turns colors about the axis of grays; its rows and columns sum to 1."""
    near = (1 + 2 * math.cos(angle)) / 3
    cos, sin = (1 - math.cos(angle)) / 3, math.sin(angle) / math.sqrt(3)
    row = [near, cos + sin, cos - sin]
    return np.array([np.roll(row, i) for i in range(3)], dtype=np.float32)


def _paste_all(images, rng, draw, jitter):
    """All images (n, H, W, C) with a piece each, and the boxes (n, 4) of the pieces."""
    pasted, boxes = images.copy(), np.empty((len(images), 4), dtype=int)
    for image, result, box in zip(images, pasted, boxes, strict=True):
        for _ in range(ATTEMPTS):
            box[:], piece = draw(image, rng, jitter)
            there = np.s_[box[0] : box[2], box[1] : box[3]]
            change = np.abs(piece - image[there]).max(axis=2)
            if np.count_nonzero(change > VISIBLE) >= MIN_PIXELS:
                break
        result[there] = piece
    return pasted, boxes


def _rectangle(image, rng, jitter, area, aspect):
    """Where a piece goes, (top, left, bottom, right), and the pixels (h, w, C) of this box."""
    height, width, _ = image.shape
    n_pixels = rng.uniform(*area) * height * width
    ratio = math.exp(rng.uniform(*np.log(aspect)))
    h = min(max(round(math.sqrt(n_pixels * ratio)), 1), height)
    w = min(max(round(math.sqrt(n_pixels / ratio)), 1), width)
    (y, top), (x, left) = (rng.integers(n, size=2) for n in (height - h + 1, width - w + 1))
    piece = jitter_colors(image[y : y + h, x : x + w], rng, jitter)
    return (top, left, top + h, left + w), piece


def _scar(image, rng, jitter, width, length):
    """As _rectangle; the corners of the box, which the scar leaves free, are as they were."""
    frame = image.shape[:2]
    size = np.array([rng.uniform(*length), rng.uniform(*width)])  # along the scar, across it
    angle = math.radians(rng.uniform(-STEEPEST, STEEPEST))
    cos, sin = math.cos(angle), math.sin(angle)
    around = np.abs([[cos, sin], [sin, cos]]) @ size  # height and width of the box around it
    size *= min(1, *np.divide(frame, around), *np.divide(frame, size))
    size = np.maximum(size, SMALLEST_SCAR)
    around = np.abs([[cos, sin], [sin, cos]]) @ size
    h, w = np.minimum(np.ceil(around), frame).astype(int)
    y, x = np.arange(h)[:, None] + 0.5 - h / 2, np.arange(w) + 0.5 - w / 2  # from its center
    along, across = cos * y + sin * x, cos * x - sin * y  # (h, w), in pixels
    inside = (np.abs(along) <= size[0] / 2) & (np.abs(across) <= size[1] / 2)
    center = rng.uniform(size / 2, frame - size / 2)
    rows, columns = (
        np.clip(np.floor(middle + offset[inside]), 0, n - 1).astype(int)
        for middle, offset, n in zip(center, (along, across), frame, strict=True)
    )
    top, left = rng.integers(frame[0] - h + 1), rng.integers(frame[1] - w + 1)
    piece = image[top : top + h, left : left + w].copy()
    piece[inside] = jitter_colors(image[rows, columns], rng, jitter)  # (pixels of the scar, C)
    return (top, left, top + h, left + w), piece
