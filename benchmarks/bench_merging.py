"""PatchCore fitted in parts against one fit: how well the bank covers, and what it finds.

    python benchmarks/bench_merging.py --root DATA [--sets NAME ...] [--seeds 5]

Each data set's good images are cut into 2 to 16 parts, in the order of their paths; each part
chooses a coreset, and the bank is the coreset of these. Reported for each number of parts, as
means over the random states of the detector: the covering radius, after the projection, as a
multiple of that of one fit with the same random state (mean and largest), and the image AUROC of
the paper's score and of the map's maximum, less the mean of one fit. Features are those of a
FilterBank. Written to benchmarks/results as JSON.
"""

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from _machine import machine
from sklearn.base import clone

from skanomaly import FilterBank, PatchCore, load_folder
from skanomaly.coreset import RandomProjection
from skanomaly.metrics import image_roc_auc_score
from skanomaly.neighbors import PatchIndex

IMAGE_SIZE = 224
CORESET_RATIO = 0.01
PARTS = (1, 2, 4, 8, 16)  # 1: one fit
RESULT = Path(__file__).parent / "results" / "bench_merging.json"


def fit_in_parts(detector, X, n_parts):
    """The detector of so many parts of as many images each, joined at once."""
    plan = clone(detector)
    plan._plan_parts(X[plan._plan_places(len(X))], len(X))
    edges = np.linspace(0, len(X), n_parts + 1).astype(int).tolist()
    states = [plan._learn_part(X[first:end], first) for first, end in pairwise(edges)]
    plan._fit_from(plan._join_parts(states))
    return plan


def radius_of(detector, X, seed):
    """Largest distance of a patch to its nearest row of the bank, after the projection."""
    bank = detector.memory_bank_
    projection = RandomProjection(128, random_state=seed).fit(bank.shape[1], origin=bank[0])
    index = PatchIndex().fit(projection.transform(bank))
    radii = [
        index.kneighbors(projection.transform(detector._patches(batch)))[0].max()
        for batch in X.batches()
    ]
    return float(max(radii))


def measure(X, test, labels, seed, n_parts):
    """Radius, its bound, and AUROC of the paper's score and of the map's maximum, for one fit."""
    options = {"image_score": "paper", "contamination": None, "random_state": seed}
    detector = PatchCore(coreset_ratio=CORESET_RATIO, **options)
    began = time.process_time()
    fitted = detector.fit(X) if n_parts == 1 else fit_in_parts(detector, X, n_parts)
    seconds = time.process_time() - began
    scores, maps = fitted.score_samples_and_map(test)
    maxima = [one.max() for one in maps]
    return {
        "rows": len(fitted.memory_bank_),
        "cpu_seconds": seconds,
        "radius": radius_of(fitted, X, seed),
        "bound": float(fitted.covering_radius_),
        "paper": image_roc_auc_score(labels, -scores),
        "map_max": image_roc_auc_score(labels, maxima),
    }


def compare(runs):
    """{parts: means over the random states, against one fit}."""
    single = runs[1]
    table = {}
    for n_parts, rows in runs.items():
        ratios = [a["radius"] / b["radius"] for a, b in zip(rows, single, strict=True)]
        table[n_parts] = {"radius": np.mean(ratios), "largest_radius": max(ratios)}
        for score in ("paper", "map_max"):
            values = [row[score] for row in rows]
            base = [row[score] for row in single]
            table[n_parts] |= {
                score: np.mean(values),
                f"{score}_gain": np.mean(values) - np.mean(base),
                f"{score}_deviation": np.std(values),
            }
    return table


def show(name, table):
    for n_parts, row in table.items():
        print(
            f"{name:16} {n_parts:2} parts: radius x {row['radius']:.3f} (at most "
            f"{row['largest_radius']:.3f}), AUROC paper {row['paper']:.4f} "
            f"({row['paper_gain']:+.4f}), map_max {row['map_max']:.4f} "
            f"({row['map_max_gain']:+.4f})",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--sets", nargs="+", help="their names; default: every folder of the root")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    sets = options.sets or sorted(p.name for p in options.root.iterdir() if p.is_dir())
    tables, all_runs = {}, {}
    for name in sets:
        data = load_folder(options.root / name, missing_masks="ignore")
        bank = FilterBank(image_size=IMAGE_SIZE, random_state=0)
        X = bank.fit_transform(data.train.images)
        test, labels = bank.transform(data.test.images), data.test.target
        all_runs[name] = {
            n_parts: [measure(X, test, labels, seed, n_parts) for seed in range(options.seeds)]
            for n_parts in PARTS
        }
        tables[name] = compare(all_runs[name])
        show(name, tables[name])
    means = {
        n_parts: {
            key: np.mean([table[n_parts][key] for table in tables.values()])
            for key in tables[sets[0]][n_parts]
        }
        for n_parts in PARTS
    }
    show("mean of sets", means)
    record = {
        "benchmark": "merging",
        "image_size": IMAGE_SIZE,
        "coreset_ratio": CORESET_RATIO,
        **machine(),
        "table": tables,
        "mean": means,
        "runs": all_runs,
    }
    RESULT.write_text(json.dumps(record) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
