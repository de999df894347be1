"""Procedural images of good surfaces, and an inspection task made of them."""

import numpy as np
from sklearn.utils import Bunch, check_random_state

from skanomaly.datasets._defects import make_defects
from skanomaly.datasets._drawing import inside_box, pixel_grid, smooth_noise, smooth_step

_SMALLEST = 16


def make_textures(
    n_images: int = 10,
    *,
    kind: str = "weave",
    size: int | tuple[int, int] = 256,
    random_state: int | np.random.RandomState | None = None,
) -> np.ndarray:
    """Generate images of one good surface with natural variation.

    All images show the same material; light, position, grain and sensor noise differ between them
    as they do between parts in production.

    Parameters
    ----------
    n_images : int, default=10
        Number of images.
    kind : {"brushed", "weave", "wood", "speckle", "grid"}, default="weave"
        "brushed": brushed metal. "weave": fabric. "wood": a planed board. "speckle": granite.
        "grid": a drilled plate on a dark table, always at the same position up to a small shift and
        rotation; it fills the image at any size. The scale of the other surfaces is fixed in
        pixels: a larger image shows more of them.
    size : int or (int, int), default=256
        Height and width in pixels, at least 16; an int means a square.
    random_state : int, RandomState instance or None, default=None
        Makes the images reproducible. Image i does not depend on `n_images`.

    Returns
    -------
    images : ndarray of shape (n_images, H, W, 3), uint8
        RGB.

    Raises
    ------
    ValueError
        If `kind` is unknown, `size` is too small, or `n_images` is negative.

    See Also
    --------
    make_defects : Paint defects into such images, or into real ones.
    make_inspection : Good and defective images as a data set with a training and a test part.

    Examples
    --------
    >>> from skanomaly.datasets import make_textures
    >>> images = make_textures(3, kind="wood", size=(64, 96), random_state=0)
    >>> images.shape, images.dtype
    ((3, 64, 96, 3), dtype('uint8'))
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {sorted(_KINDS)}, got {kind!r}.")
    if n_images < 0:
        raise ValueError(f"n_images must be 0 or more, got {n_images}.")
    shape = _frame(size)
    seeds = check_random_state(random_state).randint(2**31 - 1, size=n_images)
    images = np.empty((n_images, *shape, 3), dtype=np.uint8)
    for image, seed in zip(images, seeds, strict=True):
        rng = np.random.default_rng(seed)
        image[...] = _photograph(rng, _KINDS[kind](rng, shape))
    return images


def make_inspection(
    n_good: int = 40,
    n_test_good: int = 20,
    n_defects: int = 20,
    *,
    kind: str = "weave",
    size: int | tuple[int, int] = 128,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Generate a small inspection task: good training images, good and defective test images.

    Parameters
    ----------
    n_good : int, default=40
        Number of good images for training.
    n_test_good, n_defects : int, default=20
        Number of good and of defective images for testing.
    kind : str, default="weave"
        The surface, as in :func:`make_textures`.
    size : int or (int, int), default=128
        Height and width in pixels.
    random_state : int, RandomState instance or None, default=None
        Makes the task reproducible.

    Returns
    -------
    data : Bunch
        The same fields as returned by :func:`load_folder`, but in memory: `train.images` and
        `test.images` are (n, H, W, 3) uint8 arrays, `test.masks` is an (n, H, W) bool array. The
        kinds of defects of :func:`make_defects` alternate.

    Raises
    ------
    ValueError
        If a number is below 1, `kind` is unknown or `size` is too small.

    See Also
    --------
    load_folder : The same for a folder of real images.

    Examples
    --------
    >>> from skanomaly.datasets import make_inspection
    >>> data = make_inspection(6, 2, 3, size=64, random_state=0)
    >>> data.train.images.shape, data.test.images.shape, data.test.masks.shape
    ((6, 64, 64, 3), (5, 64, 64, 3), (5, 64, 64))
    >>> data.test.target
    array([ 1,  1, -1, -1, -1])
    """
    counts = {"n_good": n_good, "n_test_good": n_test_good, "n_defects": n_defects}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}.")
    rng = check_random_state(random_state)
    images = make_textures(n_good + n_test_good + n_defects, kind=kind, size=size, random_state=rng)
    train, test = images[:n_good], images[n_good:]
    masks = np.zeros(test.shape[:3], dtype=bool)
    bad = slice(n_test_good, None)
    test[bad], masks[bad], defects = make_defects(test[bad], random_state=rng)
    defects = ["good"] * n_test_good + defects
    return Bunch(
        name=kind,
        train=Bunch(
            images=train,
            target=np.ones(n_good, dtype=int),
            names=[f"good/{i:03d}" for i in range(n_good)],
        ),
        validation=None,
        train_defects=None,
        test=Bunch(
            images=test,
            target=np.where(np.array(defects, dtype=str) == "good", 1, -1),
            masks=masks,
            names=[f"{defect}/{n_good + i:03d}" for i, defect in enumerate(defects)],
            defects=defects,
        ),
        defect_names=sorted(set(defects) - {"good"}),
        not_read=[],
        DESCR=(
            f"Procedural images of kind {kind!r}: {n_good} good images for training, "
            f"{n_test_good} good and {n_defects} defective ones for testing."
        ),
    )


def _frame(size):
    """(H, W) from an int or a pair."""
    try:
        height, width = np.broadcast_to(size, 2).tolist()
    except ValueError:
        raise ValueError(f"size must be one number or (height, width), got {size!r}.") from None
    if min(height, width) < _SMALLEST:
        raise ValueError(f"size must be at least {_SMALLEST} x {_SMALLEST} pixels, got {size!r}.")
    return int(height), int(width)


def _photograph(rng, surface):
    """Image in [0, 255] of a surface (H, W, 3) of reflectances: uneven light and sensor noise."""
    shape = surface.shape[:2]
    y, x = pixel_grid(shape)
    tilt_y, tilt_x, exposure = rng.normal(0, (0.03, 0.03, 0.02)).astype(np.float32)
    light = 1 + exposure + tilt_y * (2 * y / shape[0] - 1) + tilt_x * (2 * x / shape[1] - 1)
    image = surface * (255 * light)[:, :, None]
    image += 1.5 * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255)


def _brushed(rng, shape):
    """Metal brushed along the rows: streaks of several lengths and a broad highlight."""
    streaks = sum(
        weight * smooth_noise(rng, shape, (thickness, length))
        for weight, thickness, length in [(0.6, 1, 150), (0.5, 1, 40), (0.35, 1, 10), (0.5, 3, 250)]
    )
    _, x = pixel_grid(shape)
    center = shape[1] * rng.normal(0.45, 0.06)
    offset = (x - center) / shape[1] + 0.03 * smooth_noise(rng, shape, (50, 80))
    level = 0.5 + 0.2 * np.exp(-((offset / 0.28) ** 2)) + 0.032 * streaks
    return _color(level, (0.97, 1.0, 1.04))


def _weave(rng, shape):
    """Plain weave: vertical and horizontal threads pass over each other alternately."""
    u, v = (_weave_axis(rng, shape, axis) for axis in (1, 0))
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    across, along = u - i - 0.5, v - j - 0.5
    upright = (i + j) % 2 == 0
    across, along = np.where(upright, across, along), np.where(upright, along, across)
    relief = np.sqrt(1 - (1.8 * across) ** 2) * (0.55 + 0.45 * np.cos(np.pi * along))
    tone_u, tone_v = rng.normal(1, 0.045, (2, 2 * max(shape))).astype(np.float32)
    fibers = np.where(upright, smooth_noise(rng, shape, (5, 1)), smooth_noise(rng, shape, (1, 5)))
    tone = np.where(upright, tone_u[i], tone_v[j]) + 0.07 * fibers
    shade = (0.25 + 0.75 * relief - 0.22 * across) * tone
    level_color, upright_color = np.float32([(0.72, 0.74, 0.74), (0.30, 0.44, 0.60)])
    return shade[:, :, None] * np.where(upright[:, :, None], upright_color, level_color)


def _weave_axis(rng, shape, axis):
    """Position along one axis of a slightly skewed and uneven cloth, in threads, at least 0."""
    place = pixel_grid(shape)
    skew = rng.normal(0, 0.008)
    drift = 1.3 * smooth_noise(rng, shape, (70, 70))
    pixels = place[axis] + skew * place[1 - axis] + drift + rng.uniform(20, 40)
    return np.maximum(pixels, 0) / 9


def _wood(rng, shape):
    """A board cut lengthwise through growth rings, with pores along the grain."""
    y, x = pixel_grid(shape)
    wander = 9 * smooth_noise(rng, shape, (60, 260)) + 1.5 * smooth_noise(rng, shape, (14, 90))
    depth = rng.uniform(25, 45) + rng.normal(0, 0.12) * (x - shape[1] / 2)
    heart = shape[0] * rng.uniform(0.3, 0.7)
    radius = np.hypot(y - heart + wander, depth)
    ring = radius / 13 + 0.15 * smooth_noise(rng, shape, (5, 60)) + rng.random()
    phase = ring - np.floor(ring)
    # Late wood darkens gradually and ends abruptly at the next ring.
    late = phase**2 * smooth_step(phase, 1, 0.86)
    fibers = smooth_noise(rng, shape, (1, 25))
    pores = smooth_step(smooth_noise(rng, shape, (1.6, 16)), 1.5, 2.3)
    tint = 0.05 * smooth_noise(rng, shape, (80, 160))
    level = 1 + tint + 0.035 * fibers - 0.16 * pores
    light_wood, dark_wood = np.float32([(0.80, 0.62, 0.41), (0.53, 0.34, 0.18)])
    mix = (0.75 * late)[:, :, None]
    return (light_wood * (1 - mix) + dark_wood * mix) * level[:, :, None]


def _speckle(rng, shape):
    """Polished granite: overlapping grains of quartz, feldspar and mica."""
    surface = _color(0.66 + 0.04 * smooth_noise(rng, shape, (5, 5)), (1, 0.98, 0.95))
    for color, cell, rarity in [
        ((0.72, 0.53, 0.46), 9, 0.75),  # feldspar
        ((0.86, 0.85, 0.83), 6, 0.95),  # quartz
        ((0.40, 0.39, 0.40), 4, 1.05),  # dark feldspar
        ((0.16, 0.16, 0.18), 5, 1.45),  # mica
    ]:
        body = smooth_noise(rng, shape, (cell, cell)) + 0.45 * smooth_noise(rng, shape, (2, 2))
        cover = smooth_step(body, rarity, rarity + 0.35)[:, :, None]
        grain = _color(1 + 0.06 * smooth_noise(rng, shape, (3, 3)), color)
        surface += cover * (grain - surface)
    return surface


def _grid(rng, shape):
    """A plate with rounded corners and nine countersunk holes on a dark table."""
    y, x = pixel_grid(shape)
    unit = min(shape) / 256
    shift_y, shift_x = rng.normal(0, 1.2 * unit, 2)
    turn = rng.normal(0, 0.008)
    y, x = y - shape[0] / 2 - shift_y, x - shape[1] / 2 - shift_x
    y, x = y + turn * x, x - turn * y
    half_y, half_x = 0.4 * shape[0], 0.4 * shape[1]
    inside = inside_box(y, x, half_y, half_x, 18 * unit)
    pitch_y, pitch_x = 0.25 * shape[0], 0.25 * shape[1]
    hole_y = y - pitch_y * np.clip(np.rint(y / pitch_y), -1, 1)
    hole_x = x - pitch_x * np.clip(np.rint(x / pitch_x), -1, 1)
    beyond_hole = np.hypot(hole_y, hole_x) - 13 * unit
    # Height in pixels; its slope toward the lamp at the top left determines the shading.
    height = 5 * unit * smooth_step(inside, 0, 7 * unit)
    height -= 5 * unit * smooth_step(beyond_hole, 9 * unit, 0)
    slope_y, slope_x = np.gradient(height)
    grain = 0.6 * smooth_noise(rng, shape, (1, 30)) + 0.4 * smooth_noise(rng, shape, (1, 1))
    plate = _color(0.66 + 0.32 * (slope_y + slope_x) + 0.02 * grain, (0.96, 1.0, 1.04))
    table = _color(0.17 + 0.012 * smooth_noise(rng, shape, (2, 2)), (0.9, 1.0, 1.12))
    shadow = inside_box(y - 6 * unit, x - 6 * unit, half_y, half_x, 18 * unit)
    table *= 1 - 0.6 * smooth_step(shadow, -8 * unit, 6 * unit)[:, :, None]
    cover = smooth_step(np.minimum(inside, beyond_hole), -0.7, 0.7)[:, :, None]
    return table + cover * (plate - table)


def _color(level, color):
    """(H, W, 3) surface of one color from its (H, W) brightness."""
    return level[:, :, None] * np.float32(color)


_KINDS = {
    "brushed": _brushed,
    "weave": _weave,
    "wood": _wood,
    "speckle": _speckle,
    "grid": _grid,
}
