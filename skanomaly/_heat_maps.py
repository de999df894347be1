"""Score maps as pictures: colours, overlays and PNG files, without matplotlib.

A colour means the same score in every picture: the limits vmin and vmax are given, or taken once
from a whole set of maps, never from the picture at hand.
"""

import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter

from skanomaly._images import read_image

# Black over purple and orange to pale yellow: brightness rises evenly, also for the colour-blind.
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
HEAT_COLOURS = np.column_stack(
    [np.interp(_LEVELS, np.linspace(0, 1, len(_ANCHORS)), channel) for channel in _ANCHORS.T]
).astype(np.uint8)  # (256, 3)

# How much of the picture a level covers: a good place is dimmed, a defect all but hidden.
OPACITY = 0.35 + 0.5 * _LEVELS**0.7  # (256,)
OUTLINE_COLOUR = (0, 229, 255)  # cyan, which neither surfaces nor heat colours have

_FULL_GLOW = 0.25  # how far above the threshold, as a share of it, colours are brightest
_GAP = 4  # pixels between the image and its overlay


def colour_limits(score_maps, verdicts=None):
    """One pair (vmin, vmax) for a set of score maps: good places stay dark, defects light up.

    Parameters
    ----------
    score_maps : array of shape (n, H, W), or sequence of (H, W) arrays
        High for a defect.
    verdicts : array of shape (n,) or None
        +1 good, -1 defect.

    Returns
    -------
    vmin, vmax : float
        `vmin` is the peak of a typical good image; where no image is called good, what 95 % of a
        typical image's pixels stay below. `vmax` lies at least as far above `vmin` as `vmin` above
        a typical pixel, so that a set of good images alone does not light up; and it reaches the
        peak of a typical defective image.

    Raises
    ------
    ValueError
        A map holds NaN or infinity.

    Examples
    --------
    >>> from skanomaly._heat_maps import colour_limits
    >>> good, bad = [[1, 1], [1, 3]], [[1, 1], [1, 8]]
    >>> colour_limits([good, bad, good], [1, -1, 1])
    (3.0, 8.0)
    >>> colour_limits([good, good], [1, 1])
    (3.0, 5.0)
    """
    levels = []
    for i, scores in enumerate(score_maps):
        levels.append(map_levels(scores))
        if not np.isfinite(levels[-1][0]):
            raise ValueError(f"score map {i} holds NaN or infinity; expected finite scores")
    return limits_of_levels(levels, verdicts)


def limits_of_good(maxima, threshold):
    """Scores of the first and the last colour: what held-out good images reach stays dark.

    ``maxima`` are those of their score maps, ``threshold`` is the one of single pixels.
    """
    vmin, threshold = float(np.median(maxima)), float(threshold)
    vmax = threshold + _FULL_GLOW * abs(threshold)
    return vmin, float(max(vmax, np.nextafter(vmin, np.inf)))


def map_levels(score_map):
    """What colour_limits wants to know of a map: its peak, its median and its 95 % quantile."""
    score_map = np.asarray(score_map)
    return score_map.max(), np.median(score_map), np.quantile(score_map, 0.95)


def limits_of_levels(levels, verdicts=None):
    """As colour_limits, from the map_levels of each map."""
    peaks, middles, heights = np.transpose(levels)
    is_good = np.zeros(len(peaks), bool) if verdicts is None else np.asarray(verdicts) == 1
    if is_good.any():
        vmin, typical = np.median(peaks[is_good]), np.median(middles[is_good])
    else:
        vmin, typical = np.median(heights), np.median(middles)
    vmax = vmin + (vmin - typical)
    if not is_good.all():
        vmax = max(vmax, np.median(peaks[~is_good]))
    return float(vmin), float(vmax if vmax > vmin else vmin + 1)


def to_rgb(image):
    """(H, W, C) as read_image gives it -> (H, W, 3) uint8 to look at.

    16-bit images are brightened by a power of two, as far as they allow: many cameras fill 10 or
    12 bits only. Of more than three channels the first three are shown, of two the mean.
    """
    if image.dtype == np.uint16:
        n_bits = max(8, int(image.max()).bit_length())
        image = (image >> (n_bits - 8)).astype(np.uint8)
    elif image.dtype != np.uint8:
        image = np.rint(image * 255).astype(np.uint8)
    if image.shape[2] >= 3:
        return image[:, :, :3]
    grey = image.mean(axis=2, keepdims=True).astype(np.uint8)
    return np.repeat(grey, 3, axis=2)


def heat_levels(score_map, vmin, vmax):
    """(H, W) scores -> (H, W) uint8: 0 at or below vmin, 255 at or above vmax."""
    shares = (np.asarray(score_map) - vmin) / (vmax - vmin)
    return np.rint(255 * np.clip(shares, 0, 1)).astype(np.uint8)


def overlay(rgb, score_map, vmin, vmax):
    """(H, W, 3) uint8 image under its score map's colours."""
    levels = heat_levels(score_map, vmin, vmax)
    opacity = OPACITY.astype(np.float32)[:, None]  # (256, 1)
    blended = rgb * (1 - opacity)[levels] + (HEAT_COLOURS * opacity)[levels]
    return np.rint(blended).astype(np.uint8)


def outline(mask):
    """(H, W) bool: a line around the mask's regions, outside of them, as thick as can be seen."""
    reach = max(1, round(min(mask.shape) / 150))
    return maximum_filter(mask, size=2 * reach + 1) & ~mask


def crop_around(rgb, box, context):
    """A box of a picture with what lies around it, and the box in that crop.

    Parameters
    ----------
    rgb : ndarray of shape (H, W, 3)
    box : tuple (top, left, bottom, right)
        In the picture's pixels, the last two outside of it.
    context : float
        How much is shown around the box on each side, in multiples of its longer one.

    Returns
    -------
    crop : ndarray of shape (h, w, 3)
    box : tuple (top, left, bottom, right)
        In the crop's pixels.
    """
    frame = rgb.shape[:2]
    starts, ends = np.array(box[:2]), np.array(box[2:])
    around = int(np.ceil(context * (ends - starts).max()))
    # As much of the image as asked for; beyond a border nothing is shown, but more on the far side.
    size = np.minimum(ends - starts + 2 * around, frame)
    corner = np.clip(starts - around, 0, frame - size)
    (top, left), (bottom, right) = corner, corner + size
    return rgb[top:bottom, left:right], (*(starts - corner), *(ends - corner))


def save_score_map(path, image, score_map, *, vmin, vmax, mask=None):
    """Write an image and, beside it, the image under its score map, as one PNG file.

    Parameters
    ----------
    path : str or Path
        Where to; the folder exists.
    image : path, PIL image or array of shape (H, W[, C])
        What :func:`skanomaly.score_map` was given.
    score_map : array of shape (H, W)
        The higher, the more abnormal.
    vmin, vmax : float
        Scores of the first and of the last colour. Give all pictures the same.
    mask : array of shape (H, W), bool, or None
        The truth, drawn as an outline.

    Raises
    ------
    ValueError
        The image cannot be read, the sizes differ, or vmin is not below vmax.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from PIL import Image
    >>> from skanomaly.display import save_score_map
    >>> image, scores = np.zeros((20, 30), np.uint8), np.eye(20, 30)
    >>> with TemporaryDirectory() as folder:
    ...     save_score_map(folder + "/1.png", image, scores, vmin=0, vmax=1)
    ...     with Image.open(folder + "/1.png") as picture:
    ...         picture.size
    (64, 20)
    """
    rgb = to_rgb(read_image(image))
    check_map(rgb, score_map, "score_map")
    check_limits(vmin, vmax)
    heat = overlay(rgb, score_map, vmin, vmax)
    if mask is not None:
        mask = np.asarray(mask).astype(bool)
        check_map(rgb, mask, "mask")
        heat[outline(mask)] = OUTLINE_COLOUR
    gap = np.full((len(rgb), _GAP, 3), 255, dtype=np.uint8)
    picture = Image.fromarray(np.concatenate([rgb, gap, heat], axis=1))
    picture.save(path, format="PNG", compress_level=1)  # the default takes six times as long


def check_map(rgb, scores, name):
    """A map or mask must have the image's own frame, and no NaN."""
    shape = np.shape(scores)
    if shape != rgb.shape[:2]:
        raise ValueError(
            f"{name}: expected shape {rgb.shape[:2]}, as its image, got {shape}; maps and masks "
            "lie in the image's own frame, neither resized nor cropped"
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{name}: holds NaN or infinity; expected finite scores")


def check_limits(vmin, vmax):
    """The first colour's score must lie below the last one's."""
    if not vmin < vmax:
        raise ValueError(
            f"expected vmin < vmax, got vmin={vmin!r} and vmax={vmax!r}; scores rise from good to "
            "defect"
        )
