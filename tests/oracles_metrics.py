"""Slow, obvious metrics: loops over regions, thresholds and pairs, by the definitions."""

import itertools

import numpy as np


def regions(mask):
    """The 8-connected regions of a mask, each a set of (row, column), by flood fill."""
    todo = {(int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)}
    found = []
    while todo:
        region, border = set(), [todo.pop()]
        while border:
            row, column = border.pop()
            region.add((row, column))
            for step in itertools.product((-1, 0, 1), repeat=2):
                neighbor = (row + step[0], column + step[1])
                if neighbor in todo:
                    todo.remove(neighbor)
                    border.append(neighbor)
        found.append(region)
    return found


def flat(masks, maps):
    """All pixels of all images: truth (bool) and scores."""
    truth = [np.zeros_like(s, bool) if m is None else m for m, s in zip(masks, maps, strict=True)]
    return np.concatenate([np.ravel(m) > 0 for m in truth]), np.concatenate(
        [np.ravel(s) for s in maps]
    )


def pro_points(masks, maps):
    """[(fpr, pro, threshold), ...] for every distinct score as a threshold, after (0, 0, inf)."""
    truth, scores = flat(masks, maps)
    found = [[] if mask is None else regions(mask) for mask in masks]
    points = [(0.0, 0.0, np.inf)]
    for threshold in np.unique(scores)[::-1]:
        overlaps = [
            np.mean([scores_of_image[pixel] >= threshold for pixel in region])
            for regions_of_image, scores_of_image in zip(found, maps, strict=True)
            for region in regions_of_image
        ]
        points.append((np.mean(scores[~truth] >= threshold), np.mean(overlaps), threshold))
    return points


def aupro(masks, maps, max_fpr):
    """Trapezoids under the points up to `max_fpr`, the last one cut by linear interpolation."""
    area, points = 0.0, pro_points(masks, maps)
    for (x0, y0, _), (x1, y1, _) in itertools.pairwise(points):
        if x0 >= max_fpr:
            break
        if x1 > max_fpr:
            y1 = y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0)
            x1 = max_fpr
        area += (x1 - x0) * (y0 + y1) / 2
    return area / max_fpr


def roc_auc(truth, scores):
    """Share of the pairs (defect, good) that are in order; a tie counts one half."""
    wins = [(d > g) + (d == g) / 2 for d in scores[truth] for g in scores[~truth]]
    return np.mean(wins)


def average_precision(truth, scores):
    """Mean, over the defect pixels, of the precision at their own score."""
    return np.mean([truth[scores >= score].mean() for score in scores[truth]])


def f1_max(truth, scores):
    """(F1, threshold) of the best distinct score as a threshold; of equals the highest score."""
    found = []
    for threshold in np.unique(scores):
        caught = scores >= threshold
        both = np.sum(caught & truth)
        found.append((2 * both / (caught.sum() + truth.sum()), threshold))
    return max(found)
