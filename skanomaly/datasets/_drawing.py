"""Noise, edges, boxes, blobs and strokes, from which textures and defects are drawn.

Shapes are scalar fields over the (H, W) frame, so that their edges can be as soft as in a photo.
"""

import numpy as np
from PIL import Image, ImageDraw

# Mean over all phases of the sum of squared cubic B-spline weights: the variance factor of an axis.
_SPLINE_VARIANCE = 151 / 315


def smooth_noise(rng, shape, cell):
    """(H, W) float32 noise, mean 0, variance 1, correlated over about ``cell`` = (y, x) pixels.

    Random numbers on a grid of that spacing are interpolated by cubic B-splines, first along the
    columns, then along the rows. With a cell of 1 the pixels of that axis are independent.
    """
    phases = rng.random(2)
    knots = [_n_knots(n, *axis) for n, *axis in zip(shape, cell, phases, strict=True)]
    noise = rng.standard_normal(knots, dtype=np.float32)
    noise = _spline(noise, shape[0], cell[0], phases[0])  # (H, n_knots)
    return np.ascontiguousarray(_spline(noise.T, shape[1], cell[1], phases[1]).T)  # (H, W)


def _n_knots(n, cell, phase):
    """Number of random numbers for n pixels along an axis."""
    return n if cell <= 1 else int((n - 1) / cell + phase) + 4


def _spline(values, n, cell, phase):
    """Values (n, m) float32 at n pixels from (n_knots, m), scaled to keep the variance."""
    if cell <= 1:
        return values
    position = np.arange(n) / cell + phase
    knot = position.astype(int)
    t = position - knot  # in [0, 1)
    pieces = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * (t + t**2 - t**3), t**3]
    scale = 6 * _SPLINE_VARIANCE**0.5
    return sum(
        (piece / scale).astype(np.float32)[:, None] * values[knot + i]
        for i, piece in enumerate(pieces)
    )


def pixel_grid(shape):
    """Row and column of every pixel, float32, of shapes (H, 1) and (1, W)."""
    height, width = shape
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    return y, x


def smooth_step(x, low, high):
    """0 below low, 1 above high, an S-curve in between; reversed if low > high."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def inside_box(y, x, half_y, half_x, radius):
    """Distance in pixels to the edge of a box with rounded corners; negative outside."""
    dy, dx = np.abs(y) - half_y + radius, np.abs(x) - half_x + radius
    corner = np.hypot(np.maximum(dy, 0), np.maximum(dx, 0))
    return radius - corner - np.minimum(np.maximum(dy, dx), 0)


def blob(rng, shape, center, radius, roughness):
    """(H, W) distance from the center in radii, distorted by noise: below 1 inside."""
    y, x = pixel_grid(shape)
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    distance = np.hypot((y - center[0]) * stretch, (x - center[1]) / stretch) / radius
    cell = max(radius * 0.7, 2)
    return (distance + roughness * smooth_noise(rng, shape, (cell, cell))).astype(np.float32)


def stroke(shape, points, widths):
    """(H, W) coverage in [0, 1] of a line through points (n, 2) in (y, x); widths in pixels.

    It is drawn four times as large with round joints and reduced, so that thin lines fade evenly.
    """
    zoom = 4
    canvas = Image.new("L", (zoom * shape[1], zoom * shape[0]))
    pen = ImageDraw.Draw(canvas)
    corners = (points[:, ::-1] + 0.5) * zoom  # x, y
    radii = np.maximum(np.broadcast_to(widths, len(points)) * zoom / 2, 0.5)
    for start, end, radius in zip(corners[:-1], corners[1:], radii[1:], strict=True):
        pen.line([*start, *end], fill=255, width=max(round(2 * radius), 1))
        pen.ellipse([*(end - radius), *(end + radius)], fill=255)
    return np.asarray(canvas.reduce(zoom), dtype=np.float32) / 255
