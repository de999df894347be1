"""False alarm rate of HeldOutThreshold on unseen good images, against its target.

    python benchmarks/bench_threshold.py --root DATA [--sets NAME ...] [--folds 5]

For each data set the features of all its good images are computed once. The images are then split
at random into two halves `N_SPLITS` times: a threshold for `TARGET_FPR` is fitted on one half, and
the false alarms are counted on the other. Reported are the shares of splits in which the observed
rate lies in `fpr_interval_` (`in_interval`), or not above it (`not_above`). Since the count on m
images varies even at a known rate, `as_predicted` is the share in which it lies in the interval
that the beta-binomial distribution gives for m images. In the same run, on the same scores: the
rate at the detector's own `contamination`. Results are written to benchmarks/results as JSON, and
a figure to docs.
"""

import argparse
import json
import platform
from pathlib import Path

import numpy as np
from scipy.stats import betabinom

from skanomaly import FilterBank, PatchCore, load_folder
from skanomaly.model_selection import HeldOutThreshold

TARGET_FPR = 0.05
CONFIDENCE = 0.95
N_SPLITS = 20
IMAGE_SIZE = 128
RESULT = Path(__file__).parent / "results" / "bench_threshold.json"
COLUMNS = (
    *("n_fit", "n_other", "held_out_fpr", "map_fpr", "contamination_fpr"),
    *("in_interval", "not_above", "as_predicted", "map_as_predicted", "contamination_as_predicted"),
)
DRAWN = {"held_out_fpr": "HeldOutThreshold", "contamination_fpr": "contamination"}
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "false_alarms.png"


def good_features(folder):
    """Features of all good images of a data set, for training and for testing."""
    data = load_folder(folder, missing_masks="ignore")
    of_test = [data.test.images[i] for i in np.flatnonzero(data.test.target == 1)]
    return FilterBank(image_size=IMAGE_SIZE, random_state=0).fit_transform(
        [*data.train.images, *of_test]
    )


def one_split(X, n_folds, random_state):
    """Rates on the half that was not used for fitting, and whether they are as predicted."""
    order = np.random.default_rng(random_state).permutation(len(X))
    half, other = np.sort(order[: len(X) // 2]), np.sort(order[len(X) // 2 :])
    detector = PatchCore(
        coreset_ratio=0.02, n_reweight=0, contamination=TARGET_FPR, random_state=random_state
    )
    model = HeldOutThreshold(
        detector,
        target_fpr=TARGET_FPR,
        cv=n_folds,
        confidence=CONFIDENCE,
        random_state=random_state,
    ).fit(X[half])
    scores = model.score_samples(X[other])
    maxima = np.array([heat_map.max() for heat_map in model.score_map(X[other])])
    alarms = {
        "held_out": np.sum(scores < model.offset_),
        "map": np.sum(maxima > model.map_offset_),
        "contamination": np.sum(scores < model.estimator_.offset_),
    }
    k = int(np.sum(model.oof_scores_ <= model.offset_))
    low, high = betabinom(len(other), k, len(half) + 1 - k).interval(CONFIDENCE)
    rates = {f"{name}_fpr": count / len(other) for name, count in alarms.items()}
    predicted = {name: bool(low <= count <= high) for name, count in alarms.items()}
    return {
        "n_fit": len(half),
        "n_other": len(other),
        **rates,
        "in_interval": bool(
            model.fpr_interval_[0] <= rates["held_out_fpr"] <= model.fpr_interval_[1]
        ),
        "not_above": bool(rates["held_out_fpr"] <= model.fpr_interval_[1]),
        "as_predicted": predicted["held_out"],
        "map_as_predicted": predicted["map"],
        "contamination_as_predicted": predicted["contamination"],
    }


def measure(X, n_folds):
    """Means over the splits."""
    rows = [one_split(X, n_folds, random_state) for random_state in range(N_SPLITS)]
    means = {column: float(np.mean([row[column] for row in rows])) for column in COLUMNS}
    return {**means, **{f"each_{name}": [row[name] for row in rows] for name in DRAWN}}


def show(name, row):
    print(f"{name:<18}" + "".join(f"{row[c]:>{len(c) + 2}.3g}" for c in COLUMNS), flush=True)


def draw(table, n_folds):
    """A dot for each split, against the target rate."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for i, (name, label) in enumerate(DRAWN.items()):
        for place, row in enumerate(table.values()):
            rates = 100 * np.array(row[f"cv={n_folds}"][f"each_{name}"])
            across = place + 0.35 * (i - 0.5) + np.linspace(-0.12, 0.12, len(rates))
            axes.plot(across, rates, ".", color=f"C{i}", label=label if place == 0 else None)
    axes.axhline(100 * TARGET_FPR, color="grey", linewidth=1, label="asked for")
    axes.set_xticks(range(len(table)), list(table))
    axes.set_ylabel("false alarms on unseen\ngood images, %")
    axes.set_ylim(bottom=-1)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(FIGURE, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--sets", nargs="+", help="their names; default: every folder of the root")
    parser.add_argument("--folds", type=int, default=5, help="cv of HeldOutThreshold")
    options = parser.parse_args()
    sets = options.sets or sorted(p.name for p in options.root.iterdir() if p.is_dir())
    print(f"{'set, folds':<18}" + "".join(f"{c:>{len(c) + 2}}" for c in COLUMNS))
    table = json.loads(RESULT.read_text())["table"] if RESULT.exists() else {}
    for name in sets:  # previous results of sets that are not run are kept
        row = measure(good_features(options.root / name), options.folds)
        table.setdefault(name, {})[f"cv={options.folds}"] = row
        show(f"{name} {options.folds}", row)
    record = {
        "benchmark": "threshold",
        "target_fpr": TARGET_FPR,
        "confidence": CONFIDENCE,
        "n_splits": N_SPLITS,
        "image_size": IMAGE_SIZE,
        "processor": platform.machine(),
        "table": table,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(record) + "\n")
    draw(table, options.folds)
    print(f"written to {RESULT} and {FIGURE}")


if __name__ == "__main__":
    main()
