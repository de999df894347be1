"""Functions that paint a defect of one kind into an image, at a random position.

All have the signature ``kind(rng, image, size) -> image``, with an image (H, W, C) float32 in
[0, 1], where 1 is the brightest value, and a factor ``size`` on all lengths. They return a new
array, whose values may exceed [0, 1]; the caller clips them.
"""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter

from skanomaly.datasets._drawing import (
    blob,
    inside_box,
    pixel_grid,
    smooth_noise,
    smooth_step,
    stroke,
)


def _scratch(rng, image, size):
    """A slightly bent bright groove with a dark burr along one side."""
    length = min(image.shape[:2]) * rng.uniform(0.25, 0.55) * size
    t = np.linspace(0, 1, max(int(length / 2), 8))
    angle = rng.uniform(0, np.pi)
    along = np.array([np.sin(angle), np.cos(angle)])
    side = np.array([along[1], -along[0]])
    bend = length * rng.normal(0, 0.07) * (2 * t - 1) ** 2
    points = _place(rng, image) + np.outer((t - 0.5) * length, along) + np.outer(bend, side)
    width = _pen(image, size) * rng.uniform(1.2, 1.9)
    widths = width * np.sin(np.pi * np.clip(t, 0.02, 0.98)) ** 0.5 * rng.uniform(0.7, 1.3, len(t))
    groove = stroke(image.shape[:2], points, widths)
    burr = stroke(image.shape[:2], points + 0.9 * width * side, widths)
    strength = _strength(image) * rng.choice([1, -1], p=[0.75, 0.25])
    return image + strength * (1.4 * groove - 0.8 * burr * (1 - groove))[:, :, None]


def _crack(rng, image, size):
    """A dark jagged line that becomes thinner, with one or two branches."""
    length = min(image.shape[:2]) * rng.uniform(0.25, 0.5) * size
    width = _pen(image, size) * rng.uniform(1.3, 2.1)
    angle = rng.uniform(0, 2 * np.pi)
    trunk = _walk(rng, length, angle, wildness=0.45)
    trunk += _place(rng, image) - trunk.mean(axis=0)
    cover = stroke(image.shape[:2], trunk, np.linspace(width, 0.4 * width, len(trunk)))
    for _ in range(rng.integers(1, 3)):
        turn = rng.choice([-1, 1]) * rng.uniform(0.5, 0.9)
        branch = _walk(rng, length * rng.uniform(0.2, 0.45), angle + turn, wildness=0.45)
        branch += trunk[rng.integers(len(trunk) // 5, 4 * len(trunk) // 5)]
        widths = np.linspace(0.7 * width, 0.3 * width, len(branch))
        cover = np.maximum(cover, stroke(image.shape[:2], branch, widths))
    return image * (1 - 0.8 * cover[:, :, None])


def _fiber(rng, image, size):
    """A curled hair on the surface, with its shadow."""
    length = min(image.shape[:2]) * rng.uniform(0.3, 0.6) * size
    points = _walk(rng, length, rng.uniform(0, 2 * np.pi), wildness=0.2, curl=0.16)
    points += _place(rng, image) - points.mean(axis=0)
    width = _pen(image, size) * 1.1
    hair = stroke(image.shape[:2], points, width)[:, :, None]
    shadow = stroke(image.shape[:2], points + 1.5 * width, 1.5 * width)[:, :, None]
    tone = 0.9 if image.mean() < 0.45 else 0.12
    return image * (1 - 0.35 * shadow) * (1 - hair) + tone * hair


def _stain(rng, image, size):
    """A dried liquid: tinted, darkest at the rim, with small splashes."""
    shape, scale = image.shape[:2], min(image.shape[:2]) * size
    center, radius = _place(rng, image), scale * rng.uniform(0.07, 0.13)
    cover = smooth_step(blob(rng, shape, center, radius, 0.16), 1.08, 0.9)
    for _ in range(rng.integers(0, 4)):
        splash = center + rng.normal(0, 1.3 * radius, 2)
        drop = blob(rng, shape, splash, radius * rng.uniform(0.1, 0.25), 0.1)
        cover = np.maximum(cover, smooth_step(drop, 1.2, 0.8))
    rim = cover - gaussian_filter(cover, 0.12 * radius)
    depth = (0.5 * cover + 0.9 * np.maximum(rim, 0))[:, :, None]
    tint = _per_channel(image, (0.55, 0.85, 1.2)) * rng.uniform(0.6, 0.9)
    return image * (1 - depth * tint)


def _hole(rng, image, size):
    """A pit: almost black, with a lower right edge that is lit."""
    shape, scale = image.shape[:2], min(image.shape[:2]) * size
    center, radius = _place(rng, image), scale * rng.uniform(0.022, 0.045)
    field = blob(rng, shape, center, radius, 0.1)
    soft = 0.7 / radius
    pit = smooth_step(field, 1 + soft, 1 - soft)[:, :, None]
    ring = smooth_step(field, 1.4 + soft, 1.1)
    facing = _toward_lamp(shape, center)
    lit = image + (0.8 * _strength(image) * ring * facing)[:, :, None]
    bottom = image * (0.12 + 0.1 * np.clip(facing, 0, 1))[:, :, None]
    return lit + pit * (bottom - lit)


def _spot(rng, image, size):
    """A drop of paint with a shadow and a highlight; black or white on gray images."""
    shape, scale = image.shape[:2], min(image.shape[:2]) * size
    center, radius = _place(rng, image), scale * rng.uniform(0.02, 0.045)
    field = blob(rng, shape, center, radius, 0.12)
    soft = 0.8 / radius
    drop = smooth_step(field, 1 + soft, 1 - soft)[:, :, None]
    if _has_colors(image):
        hue = rng.uniform(0, 2 * np.pi)
        color = 0.45 + 0.38 * np.cos(hue - 2 * np.pi / 3 * np.arange(3))
    else:
        color = np.full(image.shape[2], 0.92 if image.mean() < 0.5 else 0.1)
    y, x = pixel_grid(shape)
    away = np.hypot(y - center[0] + 0.35 * radius, x - center[1] + 0.35 * radius) / radius
    glint = 0.3 * np.exp(-((away / 0.3) ** 2))
    shaded = color * (1.05 - 0.12 * away)[:, :, None] + glint[:, :, None]
    shadow = smooth_step(np.hypot(y - center[0] - 2, x - center[1] - 2) / radius, 1.35, 0.9)
    ground = image * (1 - 0.35 * shadow)[:, :, None]
    return ground + drop * (np.clip(shaded, 0, 1) - ground)


def _dent(rng, image, size):
    """A shallow hollow: dark on the side that faces away from the lamp, bright on the other."""
    y, x = pixel_grid(image.shape[:2])
    radius = min(image.shape[:2]) * rng.uniform(0.05, 0.09) * size
    stretch, angle = np.exp(rng.uniform(0, 0.5)), rng.uniform(0, np.pi)
    center = _place(rng, image)
    dy, dx = (y - center[0]) / radius, (x - center[1]) / radius
    u = (np.cos(angle) * dy + np.sin(angle) * dx) * stretch
    v = (np.cos(angle) * dx - np.sin(angle) * dy) / stretch
    shade = (dy + dx) * np.exp(-(u**2) - v**2)
    return image + (1.2 * _strength(image) * shade)[:, :, None]


def _missing(rng, image, size):
    """A missing detail: its surroundings are continued smoothly over it."""
    shape, scale = image.shape[:2], min(image.shape[:2]) * size
    radius = scale * rng.uniform(0.07, 0.12)
    field = blob(rng, shape, _place(rng, image), radius, 0.05)
    known = (field > 1.1).astype(np.float32)
    window = 2 * int(1.2 * radius) + 1
    # Two passes of a box filter approximate a round window, at a cost independent of its size.
    weight = _box(_box(known, window), window) + 1e-6
    filled = np.stack(
        [_box(_box(channel * known, window), window) for channel in np.moveaxis(image, 2, 0)],
        axis=2,
    )
    filled = filled / weight[:, :, None] + rng.normal(0, 0.006, (*shape, 1))
    cover = smooth_step(field, 1.05, 0.9)[:, :, None]
    return image + cover * (filled - image)


def _misaligned(rng, image, size):
    """A shifted and rotated piece with a dark seam around it."""
    y, x = pixel_grid(image.shape[:2])
    scale = min(image.shape[:2]) * size
    center = _place(rng, image)
    half_y, half_x = scale * rng.uniform(0.08, 0.15, 2)
    inside = inside_box(y - center[0], x - center[1], half_y, half_x, 0.02 * scale)
    angle = rng.choice([-1, 1]) * rng.uniform(0.08, 0.35)
    shift = rng.choice([-1, 1], 2) * scale * rng.uniform(0.015, 0.05, 2)
    dy, dx = y - center[0], x - center[1]
    source = [
        center[0] + shift[0] + np.cos(angle) * dy - np.sin(angle) * dx,
        center[1] + shift[1] + np.sin(angle) * dy + np.cos(angle) * dx,
    ]
    turned = np.stack(
        [
            map_coordinates(channel, source, order=1, mode="mirror")
            for channel in np.moveaxis(image, 2, 0)
        ],
        axis=2,
    )
    cover = smooth_step(inside, -0.6, 0.6)[:, :, None]
    seam = np.exp(-(((inside - 0.5) / 1.2) ** 2))[:, :, None]
    return (image + cover * (turned - image)) * (1 - 0.3 * seam)


def _blur(rng, image, size):
    """A smeared or defocused area."""
    scale = min(image.shape[:2]) * size
    field = blob(rng, image.shape[:2], _place(rng, image), scale * rng.uniform(0.1, 0.16), 0.12)
    sigma = max(scale * rng.uniform(0.015, 0.025), 1.5)
    smeared = gaussian_filter(image, (sigma, sigma, 0), truncate=3)
    return image + smooth_step(field, 1.15, 0.85)[:, :, None] * (smeared - image)


def _bent(rng, image, size):
    """Displaced lines: the image is warped in one direction around a position, without a seam."""
    shape, scale = image.shape[:2], min(image.shape[:2]) * size
    center, radius = _place(rng, image), scale * rng.uniform(0.08, 0.13)
    y, x = pixel_grid(shape)
    bump = np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / (2 * radius**2))
    angle, reach = rng.uniform(0, 2 * np.pi), scale * rng.uniform(0.03, 0.05)
    source = np.stack([y - reach * np.sin(angle) * bump, x - reach * np.cos(angle) * bump])
    channels = np.moveaxis(image, 2, 0)
    return np.stack([map_coordinates(c, source, order=1, mode="mirror") for c in channels], axis=2)


def _place(rng, image):
    """Position (y, x): of a few random ones that with most detail, which is on the part."""
    height, width = image.shape[:2]
    reach = max(min(height, width) // 12, 2)
    places = rng.uniform((0.15 * height, 0.15 * width), (0.85 * height, 0.85 * width), (4, 2))
    detail = [
        image[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach].std()
        for y, x in places.astype(int)
    ]
    return places[np.argmax(detail)]


def _walk(rng, length, angle, wildness, curl=0.0):
    """Points (n, 2) at intervals of two pixels along a path with a random direction."""
    n = max(int(length / 2), 4)
    turns = wildness * smooth_noise(rng, (n, 1), (3, 1))[:, 0]
    headings = angle + turns + np.cumsum(curl * smooth_noise(rng, (n, 1), (8, 1))[:, 0])
    return np.cumsum(2 * np.stack([np.sin(headings), np.cos(headings)], axis=1), axis=0)


def _pen(image, size):
    """Width of a fine line in pixels, large enough to be visible."""
    return max(min(image.shape[:2]) / 256 * size, 0.8)


def _strength(image):
    """A change of brightness that is visible in this image: larger with more contrast."""
    return 0.13 + 0.7 * image.std()


def _per_channel(image, color):
    """The color for RGB images, its mean for gray ones and other numbers of channels."""
    return np.float32(color if _has_colors(image) else np.mean(color))


def _has_colors(image):
    """Whether this is an RGB image that is not gray."""
    return image.shape[2] == 3 and bool((image != image[:, :, :1]).any())


def _toward_lamp(shape, center):
    """(H, W) in [-1, 1]: 1 on the lower right of the center, where the wall of a pit is lit."""
    y, x = pixel_grid(shape)
    dy, dx = y - center[0], x - center[1]
    return (dy + dx) / (1.42 * np.hypot(dy, dx) + 1e-3)


def _box(values, width):
    """Box filter."""
    return uniform_filter(values, width, mode="reflect")


KINDS = {
    "scratch": _scratch,
    "crack": _crack,
    "stain": _stain,
    "hole": _hole,
    "missing": _missing,
    "misaligned": _misaligned,
    "blur": _blur,
    "spot": _spot,
    "dent": _dent,
    "fibre": _fiber,
    "bent": _bent,
}
ON_REQUEST = {"bent"}  # only visible on images with lines
