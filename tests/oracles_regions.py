"""Slow, obvious loops for tables of places in score maps."""

import numpy as np


def flood_regions(score_map, threshold):
    """Lists of pixels (row, column), each filled from its first pixel over the 8 neighbors."""
    height, width = score_map.shape
    left = {(y, x) for y in range(height) for x in range(width) if score_map[y, x] > threshold}
    regions = []
    for start in sorted(left):
        if start not in left:
            continue
        left.remove(start)
        region, waiting = [], [start]
        while waiting:
            y, x = waiting.pop()
            region.append((y, x))
            for near in [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    waiting.append(near)
        regions.append(sorted(region))
    return regions


def region_table(maps, threshold):
    """What map_regions returns."""
    table = []
    for i, score_map in enumerate(maps):
        records = []
        for region in flood_regions(score_map, threshold):
            scores = [float(score_map[pixel]) for pixel in region]
            rows, columns = zip(*region, strict=True)
            peak_row, peak_column = region[scores.index(max(scores))]
            record = {
                "image": i,
                "top": min(rows),
                "left": min(columns),
                "bottom": max(rows) + 1,
                "right": max(columns) + 1,
                "area": len(region),
                "peak": max(scores),
                "peak_row": peak_row,
                "peak_column": peak_column,
                "mean": sum(scores) / len(scores),
                "centroid_row": sum(rows) / len(rows),
                "centroid_column": sum(columns) / len(columns),
            }
            records.append(record)
        records.sort(key=lambda r: (-r["peak"], r["peak_row"], r["peak_column"]))
        table += records
    return table


def peaks(score_map, n_peaks, reach):
    """Pixels that no pixel within reach exceeds, nearer ones of equal height left out."""
    height, width = score_map.shape
    found = []
    for y in range(height):
        for x in range(width):
            near = [
                (v, u)
                for v in range(max(0, y - reach[0]), min(height, y + reach[0] + 1))
                for u in range(max(0, x - reach[1]), min(width, x + reach[1] + 1))
            ]
            if score_map[y, x] == max(score_map[pixel] for pixel in near):
                found.append((y, x))
    found.sort(key=lambda pixel: -score_map[pixel])
    kept = []
    for pixel in found:
        if all((np.abs(np.subtract(pixel, other)) > reach).any() for other in kept):
            kept.append(pixel)
    return kept[:n_peaks]
