"""CutPaste's pastes, pixel by pixel, with the same draws as the package's."""

import math

N_ATTEMPTS, LEAST_CHANGE, LEAST_PIXELS = 8, 0.02, 6


def slow_cut_paste(image, rng, area, aspect):
    """An image (H, W, C) with a rectangle of its own pasted, without jitter, and the box."""
    height, width, n_channels = image.shape
    for _ in range(N_ATTEMPTS):
        share = rng.uniform(area[0], area[1])
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))  # height by width
        h = min(max(round(math.sqrt(share * height * width * ratio)), 1), height)
        w = min(max(round(math.sqrt(share * height * width / ratio)), 1), width)
        y, top = rng.integers(height - h + 1, size=2)
        x, left = rng.integers(width - w + 1, size=2)
        pasted, n_changed = image.copy(), 0
        for row in range(h):
            for column in range(w):
                change = 0.0
                for channel in range(n_channels):
                    new = image[y + row, x + column, channel]
                    pasted[top + row, left + column, channel] = new
                    change = max(change, abs(new - image[top + row, left + column, channel]))
                n_changed += change > LEAST_CHANGE
        if n_changed >= LEAST_PIXELS:
            break
    return pasted, (top, left, top + h, left + w)


def slow_scar(image, rng, width, length):
    """An image (H, W, C) with a scar of its own pasted, without jitter, and its box."""
    n_rows, n_columns, n_channels = image.shape
    for _ in range(N_ATTEMPTS):
        along_it, across_it = rng.uniform(length[0], length[1]), rng.uniform(width[0], width[1])
        angle = math.radians(rng.uniform(-45, 45))
        cos, sin = math.cos(angle), math.sin(angle)
        tall, wide = cos * along_it + abs(sin) * across_it, abs(sin) * along_it + cos * across_it
        shrink = min(1, n_rows / tall, n_columns / wide, n_rows / along_it, n_columns / across_it)
        along_it, across_it = max(shrink * along_it, 1.5), max(shrink * across_it, 1.5)
        tall, wide = cos * along_it + abs(sin) * across_it, abs(sin) * along_it + cos * across_it
        h, w = min(math.ceil(tall), n_rows), min(math.ceil(wide), n_columns)
        middle_row = rng.uniform(along_it / 2, n_rows - along_it / 2)
        middle_column = rng.uniform(across_it / 2, n_columns - across_it / 2)
        top, left = rng.integers(n_rows - h + 1), rng.integers(n_columns - w + 1)
        pasted, n_changed = image.copy(), 0
        for row in range(h):
            for column in range(w):
                y, x = row + 0.5 - h / 2, column + 0.5 - w / 2
                along, across = cos * y + sin * x, cos * x - sin * y
                if abs(along) > along_it / 2 or abs(across) > across_it / 2:
                    continue
                source_row = min(max(math.floor(middle_row + along), 0), n_rows - 1)
                source_column = min(max(math.floor(middle_column + across), 0), n_columns - 1)
                change = 0.0
                for channel in range(n_channels):
                    new = image[source_row, source_column, channel]
                    pasted[top + row, left + column, channel] = new
                    change = max(change, abs(new - image[top + row, left + column, channel]))
                n_changed += change > LEAST_CHANGE
        if n_changed >= LEAST_PIXELS:
            break
    return pasted, (top, left, top + h, left + w)
