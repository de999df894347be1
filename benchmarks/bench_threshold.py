"""False alarms of HeldOutThreshold on unseen good images against its promise, and defects found.

    python benchmarks/bench_threshold.py --root DATA [--sets NAME ...] [--splits 50]

The good images of each data set are split at random into two halves: features, detector and
thresholds are fitted on one half, false alarms are counted on the other, and defects among all
defective images. Nothing is learned or chosen by the other half or by defects. Compared,
on the same splits: method="leave_one_out", method="folds" (five folds), and the detector's own
`contamination`. Reported by method and target: the mean rate of false alarms as a multiple of the
target, the share of splits in which their number lies in the 95 % prediction interval
(`false_alarm_interval`), and the share of defects found. Results are written to benchmarks/results
as JSON, and a figure to docs.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from _machine import machine

from skanomaly import FilterBank, PatchCore, load_folder
from skanomaly.images import ImageFit, read_image
from skanomaly.model_selection import HeldOutThreshold

TARGETS = (0.01, 0.05, 0.1)
IMAGE_SIZE = 128
CORESET_RATIO = 0.02
RESULT = Path(__file__).parent / "results" / "bench_threshold.json"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "false_alarms.png"
METHODS = ("leave_one_out", "folds", "contamination")


def images_of(folder):
    """The good images, for training and testing, and the defective ones, at the input's size."""
    data = load_folder(folder, missing_masks="ignore")
    size = ImageFit(IMAGE_SIZE, IMAGE_SIZE)
    train, test = (
        [size.apply(read_image(image)) for image in part.images] for part in (data.train, data.test)
    )
    is_good = data.test.target == 1
    good = train + [image for image, good in zip(test, is_good, strict=True) if good]
    return good, [image for image, good in zip(test, is_good, strict=True) if not good]


def one_split(good, defects, seed):
    """{method: {target: (false alarms, whether as predicted, share of defects found)}}."""
    order = np.random.default_rng(seed).permutation(len(good))
    extractor = FilterBank(image_size=IMAGE_SIZE, random_state=seed)
    half = extractor.fit_transform([good[i] for i in np.sort(order[: len(good) // 2])])
    other = extractor.transform([good[i] for i in np.sort(order[len(good) // 2 :])])
    defects = extractor.transform(defects)
    detector = PatchCore(coreset_ratio=CORESET_RATIO, image_score="map_max", random_state=seed)
    rows, seconds = {}, {}
    for method in METHODS[:2]:
        began = time.perf_counter()
        model = HeldOutThreshold(detector, target_fpr=0.1, method=method, random_state=seed)
        model.fit(half)
        seconds[method] = time.perf_counter() - began
        scores = model.score_samples(other), model.score_samples(defects)
        rows[method] = {}
        for target in TARGETS:
            model.set_target(target)
            interval = model.false_alarm_interval(len(other))
            rows[method][target] = outcome(model.offset_, interval, *scores)
    in_sample = model.score_samples(half)
    rows["contamination"] = {
        target: outcome(np.percentile(in_sample, 100 * target), (np.nan, np.nan), *scores)
        for target in TARGETS
    }
    return rows, seconds


def outcome(offset, interval, good_scores, defect_scores):
    alarms = int(np.sum(good_scores < offset))
    return {
        "rate": alarms / len(good_scores),
        "as_predicted": bool(interval[0] <= alarms <= interval[1]),
        "found": float(np.mean(defect_scores < offset)),
    }


def measure(good, defects, n_splits):
    """{method: {target: means over the splits, and each split's rate}}."""
    splits = [one_split(good, defects, seed) for seed in range(n_splits)]
    table = {}
    for method in METHODS:
        for target in TARGETS:
            rows = [rows[method][target] for rows, _ in splits]
            table.setdefault(method, {})[str(target)] = {
                "rate": float(np.mean([row["rate"] for row in rows])),
                "as_predicted": float(np.mean([row["as_predicted"] for row in rows])),
                "found": float(np.mean([row["found"] for row in rows])),
                "rates": [row["rate"] for row in rows],
            }
    seconds = {m: float(np.median([s[m] for _, s in splits])) for m in METHODS[:2]}
    return {"n_fit": len(good) // 2, "n_splits": n_splits, "seconds": seconds, "methods": table}


def show(name, row):
    for method, targets in row["methods"].items():
        cells = [
            f"{100 * float(target):3.0f} %: x {one['rate'] / float(target):4.2f}, "
            f"predicted {100 * one['as_predicted']:3.0f} %, found {100 * one['found']:3.0f} %"
            for target, one in targets.items()
        ]
        print(f"{name:16} n={row['n_fit']:3} {method:14}" + "   ".join(cells), flush=True)


def draw(table, target="0.05"):
    """A dot for each split, against the target rate."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
    for i, method in enumerate(METHODS):
        for place, row in enumerate(table.values()):
            rates = 100 * np.array(row["methods"][method][target]["rates"])
            across = place + 0.27 * (i - 1) + np.linspace(-0.1, 0.1, len(rates))
            label = method if place == 0 else None
            axes.plot(across, rates, ".", markersize=4, color=f"C{i}", label=label)
    axes.axhline(100 * float(target), color="grey", linewidth=1, label="asked for")
    axes.set_xticks(range(len(table)), list(table))
    axes.set_ylabel("false alarms on unseen\ngood images, %")
    axes.set_ylim(-0.5, 25)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(FIGURE, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--sets", nargs="+", help="their names; default: every folder of the root")
    parser.add_argument("--splits", type=int, default=50)
    options = parser.parse_args()
    sets = options.sets or sorted(p.name for p in options.root.iterdir() if p.is_dir())
    table = {}
    for name in sets:
        table[name] = measure(*images_of(options.root / name), options.splits)
        show(name, table[name])
    record = {
        "benchmark": "threshold",
        "targets": TARGETS,
        "image_size": IMAGE_SIZE,
        "coreset_ratio": CORESET_RATIO,
        **machine(),
        "table": table,
    }
    RESULT.write_text(json.dumps(record) + "\n")
    draw(table)
    print(f"written to {RESULT} and {FIGURE}")


if __name__ == "__main__":
    main()
