"""Pixel and region metrics against scikit-learn and the usual loop over 200 thresholds.

Generated score maps of the size of a real test set: smooth noise, raised on round defects. Every
call runs once to warm up, then `REPEATS` times; the median is reported. skanomaly's metrics share
the work among as many threads as there are processors; scikit-learn's and the loop have one.

    python benchmarks/bench_metrics.py
"""

import json
import statistics
import time
from pathlib import Path

import numpy as np
from _machine import machine
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from skanomaly import metrics

N_IMAGES = 120
N_DEFECTIVE = 80
SIZE = 224
BLOBS = 3
REPEATS = 3
LOOP_IMAGES = 12  # the loop runs on these only: it is slow, and its time is proportional
LOOP_THRESHOLDS = 200
MAX_FPR = 0.3
N_BINS = 65_536
RESULT = Path(__file__).parent / "results" / "bench_metrics.json"


def make_set(random_state):
    """Masks (n, H, W) bool and maps (n, H, W) float32."""
    rng = np.random.default_rng(random_state)
    maps = rng.standard_normal((N_IMAGES, SIZE, SIZE), dtype=np.float32)
    maps = 12 * ndimage.gaussian_filter(maps, (0, 4, 4))
    masks = np.zeros(maps.shape, bool)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for mask in masks[:N_DEFECTIVE]:
        for row, column in rng.integers(SIZE, size=(BLOBS, 2)):
            mask |= np.hypot(rows - row, columns - column) < rng.integers(3, 17)
    return masks, maps + 4 * ndimage.gaussian_filter(masks.astype(np.float32), (0, 4, 4))


def aupro_by_loop(masks, maps):
    """AUPRO from evenly spaced thresholds, with a pass over all regions for each."""
    labels = [ndimage.label(mask, np.ones((3, 3)))[0] for mask in masks]
    good = ~masks
    points = [(0.0, 0.0)]
    for threshold in np.linspace(maps.max(), maps.min(), LOOP_THRESHOLDS):
        caught = maps >= threshold
        overlaps = [
            overlap
            for label, seen in zip(labels, caught, strict=True)
            if label.any()
            for overlap in ndimage.mean(seen, label, np.arange(1, label.max() + 1))
        ]
        points.append((np.count_nonzero(caught & good) / np.count_nonzero(good), np.mean(overlaps)))
    fpr, pro = np.array(points).T
    grid = np.append(fpr[fpr < MAX_FPR], MAX_FPR)
    heights = np.interp(grid, fpr, pro)
    return float(np.sum(np.diff(grid) * (heights[1:] + heights[:-1])) / 2 / MAX_FPR)


def streamed(masks, maps):
    """All three streamed metrics, image by image."""
    stream = metrics.StreamingPixelMetrics(maps.min(), maps.max(), n_bins=N_BINS)
    for mask, scores in zip(masks, maps, strict=True):
        stream.update([mask], [scores])
    return stream.roc_auc(), stream.average_precision(), stream.aupro(max_fpr=MAX_FPR)


def timed(call, *arguments):
    """Median seconds and the result."""
    answer, seconds = call(*arguments), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call(*arguments)
        seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds), 4), answer


def compare(name, ours, theirs):
    """One row of the table: seconds, ratio and the difference of the values."""
    row = {
        "skanomaly_s": ours[0],
        "competitor_s": theirs[0],
        "ratio": round(theirs[0] / ours[0], 1),
        "difference": abs(ours[1] - theirs[1]),
    }
    print(f"{name:34}" + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    return row


def main():
    """Run, print, write JSON; fail if an exact value differs from the competitor's."""
    masks, maps = make_set(0)
    flat = masks.ravel(), maps.ravel()
    few = masks[:LOOP_IMAGES], maps[:LOOP_IMAGES]
    rows = {
        "auroc_vs_scikit_learn": compare(
            "AUROC, scikit-learn",
            timed(metrics.pixel_roc_auc_score, masks, maps),
            timed(roc_auc_score, *flat),
        ),
        "average_precision_vs_scikit_learn": compare(
            "AP, scikit-learn",
            timed(metrics.pixel_average_precision_score, masks, maps),
            timed(average_precision_score, *flat),
        ),
        "aupro_vs_loop_on_a_part": compare(
            "AUPRO, loop, part of the images",
            timed(metrics.aupro_score, *few),
            timed(aupro_by_loop, *few),
        ),
    }
    exact_s, exact = timed(metrics.aupro_score, masks, maps)
    stream_s, bounded = timed(streamed, masks, maps)
    print(f"AUPRO, all images: {exact_s} s; streamed AUROC, AP and AUPRO: {stream_s} s {bounded}")
    result = {
        **machine(),
        "numpy": np.__version__,
        "shape": maps.shape,
        "defect_share": float(masks.mean()),
        **rows,
        "aupro_all_s": exact_s,
        "streaming": {"n_bins": N_BINS, "all_three_s": stream_s, "errors": [b[1] for b in bounded]},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result) + "\n")
    for name in ("auroc_vs_scikit_learn", "average_precision_vs_scikit_learn"):
        if rows[name]["difference"] > 1e-9:
            raise SystemExit(f"{name}: the values differ.")
    if abs(bounded[2].value - exact) > bounded[2].error:
        raise SystemExit("streamed AUPRO: the exact value lies outside the stated error.")


if __name__ == "__main__":
    main()
