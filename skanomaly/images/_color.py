"""Heat maps: the colors of score maps, overlays and PNG files, without matplotlib.

A color means the same score in every heat map: the limits vmin and vmax are given, or taken once
from a whole set of maps, never from a single one.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter

from skanomaly.images._reading import read_image

# From black over purple and orange to pale yellow: brightness rises evenly, which the color-blind
# see as well.
_ANCHORS = np.array(
    [
        (0, 0, 4),
        (21, 11, 55),
        (58, 9, 99),
        (97, 19, 110),
        (134, 33, 107),
        (171, 46, 93),
        (204, 66, 72),
        (231, 94, 46),
        (247, 132, 17),
        (252, 174, 19),
        (245, 220, 76),
        (252, 255, 164),
    ]
)
_LEVELS = np.linspace(0, 1, 256)
HEAT_COLORS = np.column_stack(
    [np.interp(_LEVELS, np.linspace(0, 1, len(_ANCHORS)), channel) for channel in _ANCHORS.T]
).astype(np.uint8)  # (256, 3)

# How much of the image a level covers: good places are dimmed, defects almost hidden.
OPACITY = 0.35 + 0.5 * _LEVELS**0.7  # (256,)
OUTLINE_COLOR = (0, 229, 255)  # cyan: rare on surfaces, and not a color of heat maps
ROI_COLOR = (255, 176, 220)  # pink, of the region of interest

_FULL_GLOW = 0.25  # the last color lies so far above the threshold, as a share of it
_GAP = 4  # pixels between the image and its overlay


def color_limits(score_maps: Any, verdicts: Any = None) -> tuple[float, float]:
    """One pair (vmin, vmax) for a set of score maps: good places stay dark, defects are bright.

    Parameters
    ----------
    score_maps : array of shape (n, H, W), or sequence of (H, W) arrays
        High for a defect.
    verdicts : array of shape (n,) or None
        +1 good, -1 defect.

    Returns
    -------
    vmin, vmax : float
        `vmin` is the median peak of the good images; without good images, the median of the maps'
        95 % quantiles. `vmax` is the median peak of the defective images, but at least as far
        above `vmin` as `vmin` is above a median pixel, so that good images alone stay dark.

    Raises
    ------
    ValueError
        A map holds NaN or infinity.

    Examples
    --------
    >>> from skanomaly.images import color_limits
    >>> good, bad = [[1, 1], [1, 3]], [[1, 1], [1, 8]]
    >>> color_limits([good, bad, good], [1, -1, 1])
    (3.0, 8.0)
    >>> color_limits([good, good], [1, 1])
    (3.0, 5.0)
    """
    levels = []
    for i, scores in enumerate(score_maps):
        levels.append(map_levels(scores))
        if not np.isfinite(levels[-1][0]):
            raise ValueError(f"score map {i} holds NaN or infinity; expected finite scores")
    return limits_of_levels(levels, verdicts)


def limits_of_good(maxima: Any, threshold: float) -> tuple[float, float]:
    """Scores of the first and the last color, from held-out good images, which stay dark.

    Parameters
    ----------
    maxima : array-like of shape (n,)
        Largest value of each held-out good image's score map.
    threshold : float
        Threshold on score maps.

    Returns
    -------
    vmin, vmax : float
    """
    vmin, threshold = float(np.median(maxima)), float(threshold)
    vmax = threshold + _FULL_GLOW * abs(threshold)
    return vmin, float(max(vmax, np.nextafter(vmin, np.inf)))


def map_levels(score_map: Any) -> tuple[float, float, float]:
    """Peak, median and 95 % quantile of a map: what the limits of the colors depend on."""
    score_map = np.asarray(score_map)
    return score_map.max(), np.median(score_map), np.quantile(score_map, 0.95)


def limits_of_levels(levels: Any, verdicts: Any = None) -> tuple[float, float]:
    """As color_limits, from the map_levels of each map."""
    peaks, medians, quantiles = np.transpose(levels)
    is_good = np.zeros(len(peaks), bool) if verdicts is None else np.asarray(verdicts) == 1
    if is_good.any():
        vmin, typical = np.median(peaks[is_good]), np.median(medians[is_good])
    else:
        vmin, typical = np.median(quantiles), np.median(medians)
    vmax = vmin + (vmin - typical)
    if not is_good.all():
        vmax = max(vmax, np.median(peaks[~is_good]))
    return float(vmin), float(vmax if vmax > vmin else vmin + 1)


def to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W, C) as read_image returns it -> (H, W, 3) uint8 for display.

    16-bit images are scaled by the largest power of two that does not overflow, because many
    cameras fill only 10 or 12 bits. Of more than three channels the first three are shown, of two
    channels their mean.
    """
    if image.dtype == np.uint16:
        n_bits = max(8, int(image.max()).bit_length())
        image = (image >> (n_bits - 8)).astype(np.uint8)
    elif image.dtype != np.uint8:
        image = np.rint(image * 255).astype(np.uint8)
    if image.shape[2] >= 3:
        return image[:, :, :3]
    gray = image.mean(axis=2, keepdims=True).astype(np.uint8)
    return np.repeat(gray, 3, axis=2)


def heat_levels(score_map: Any, vmin: float, vmax: float) -> np.ndarray:
    """(H, W) scores -> (H, W) uint8: 0 at or below vmin, 255 at or above vmax."""
    shares = (np.asarray(score_map) - vmin) / (vmax - vmin)
    return np.rint(255 * np.clip(shares, 0, 1)).astype(np.uint8)


def overlay(rgb: np.ndarray, score_map: Any, vmin: float, vmax: float) -> np.ndarray:
    """(H, W, 3) uint8 image under its heat map."""
    levels = heat_levels(score_map, vmin, vmax)
    opacity = OPACITY.astype(np.float32)[:, None]  # (256, 1)
    blended = rgb * (1 - opacity)[levels] + (HEAT_COLORS * opacity)[levels]
    return np.rint(blended).astype(np.uint8)


def outline(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: a line around the mask's regions, outside of them."""
    # Thick enough to be visible when the image is shown at the size of a screen.
    reach = max(1, round(min(mask.shape) / 150))
    return maximum_filter(mask, size=2 * reach + 1) & ~mask


def crop_around(rgb: np.ndarray, box: tuple, context: float) -> tuple[np.ndarray, tuple]:
    """A box of an image with its surroundings, and the box in that crop.

    Parameters
    ----------
    rgb : ndarray of shape (H, W, 3)
    box : tuple (top, left, bottom, right)
        In the image's pixels; bottom and right are exclusive.
    context : float
        Width of the surroundings on each side, in multiples of the box's longer side.

    Returns
    -------
    crop : ndarray of shape (h, w, 3)
    box : tuple (top, left, bottom, right)
        In the crop's pixels.
    """
    frame = rgb.shape[:2]
    starts, ends = np.array(box[:2]), np.array(box[2:])
    around = int(np.ceil(context * (ends - starts).max()))
    # The crop always has its full size: near a border it is shifted inward instead of padded.
    size = np.minimum(ends - starts + 2 * around, frame)
    corner = np.clip(starts - around, 0, frame - size)
    (top, left), (bottom, right) = corner, corner + size
    return rgb[top:bottom, left:right], (*(starts - corner), *(ends - corner))


def save_score_map(
    path: str | Path, image: Any, score_map: Any, *, vmin: float, vmax: float, mask: Any = None
) -> None:
    """Write an image and, beside it, the image under its heat map, as one PNG file.

    Parameters
    ----------
    path : str or Path
        The file to write, in an existing folder.
    image : path, PIL image or array of shape (H, W[, C])
        The image that was passed to :func:`skanomaly.score_map`.
    score_map : array of shape (H, W)
        The higher, the more abnormal.
    vmin, vmax : float
        Scores of the first and the last color. Use the same for all images to be compared.
    mask : array of shape (H, W), bool, or None
        Ground truth, drawn as an outline.

    Raises
    ------
    ValueError
        The image cannot be read, the shapes differ, or vmin is not below vmax.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from PIL import Image
    >>> from skanomaly.display import save_score_map
    >>> image, scores = np.zeros((20, 30), np.uint8), np.eye(20, 30)
    >>> with TemporaryDirectory() as folder:
    ...     save_score_map(folder + "/1.png", image, scores, vmin=0, vmax=1)
    ...     with Image.open(folder + "/1.png") as written:
    ...         written.size
    (64, 20)
    """
    rgb = to_rgb(read_image(image))
    check_map(rgb, score_map, "score_map")
    check_limits(vmin, vmax)
    heat = overlay(rgb, score_map, vmin, vmax)
    if mask is not None:
        mask = np.asarray(mask).astype(bool)
        check_map(rgb, mask, "mask")
        heat[outline(mask)] = OUTLINE_COLOR
    gap = np.full((len(rgb), _GAP, 3), 255, dtype=np.uint8)
    both = Image.fromarray(np.concatenate([rgb, gap, heat], axis=1))
    both.save(path, format="PNG", compress_level=1)  # the default takes six times as long


def check_map(rgb: np.ndarray, scores: Any, name: str) -> None:
    """Raise ValueError unless a map or mask has the image's own shape and is finite."""
    shape = np.shape(scores)
    if shape != rgb.shape[:2]:
        raise ValueError(
            f"{name}: expected shape {rgb.shape[:2]}, as its image, got {shape}; pass maps and "
            "masks in the image's own pixels, neither resized nor cropped"
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{name}: holds NaN or infinity; expected finite scores")


def check_limits(vmin: float, vmax: float) -> None:
    """Raise ValueError unless vmin is below vmax."""
    if not vmin < vmax:
        raise ValueError(
            f"expected vmin < vmax, got vmin={vmin!r} and vmax={vmax!r}; score maps are high for "
            "defects"
        )
