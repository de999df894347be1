"""Accuracy on real data sets in MVTec layout: one table, one JSON line.

    python benchmarks/accuracy.py --root DATA --features filter_bank --coreset-ratio 0.02
    python benchmarks/accuracy.py --root DATA --features squeezenet1_1 --weights FILE

Fits on train/good, scores test/, and prints per set: image AUROC, pixel AUROC (in the images' own
pixels, where there are masks), seconds to fit and milliseconds to score an image, each the mean
over the random states.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from skanomaly import FeatureExtractor, FilterBank, PatchCore, Pipeline, load_folder
from skanomaly.metrics import image_roc_auc_score, pixel_roc_auc_score

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("image_auroc", "pixel_auroc", "fit_s", "ms_per_image")


def build(options, random_state):
    """The pipeline that the options describe."""
    shape = {"image_size": options.image_size, "resize": options.resize}
    if options.features == "filter_bank":
        extractor = FilterBank(random_state=random_state, **shape)
    else:
        extractor = FeatureExtractor(
            options.features, weights=options.weights, dtype=options.dtype, **shape
        )
    detector = PatchCore(
        coreset_ratio=options.coreset_ratio,
        n_reweight=options.n_reweight,
        image_score=options.image_score,
        random_state=random_state,
    )
    return Pipeline([("features", extractor), ("detector", detector)])


def measure(pipe, data):
    """One fit and one pass over the test images."""
    began = time.perf_counter()
    pipe.fit(data.train.images)
    fitted = time.perf_counter()
    features = pipe[:-1].transform(data.test.images)
    scores = -pipe[-1].decision_function(features)
    scored = time.perf_counter()
    pixel_auroc = None
    if data.test.masks is not None:
        maps = pipe[-1].score_map(features)
        pixel_auroc = 100 * pixel_roc_auc_score(data.test.masks, maps)
    return {
        "image_auroc": 100 * image_roc_auc_score(data.test.target, scores),
        "pixel_auroc": pixel_auroc,
        "fit_s": fitted - began,
        "ms_per_image": 1000 * (scored - fitted) / len(scores),
    }


def mean(rows, column):
    """Mean of a column over the rows that have it, or None."""
    values = [row[column] for row in rows if row[column] is not None]
    return float(np.mean(values)) if values else None


def show(name, row):
    cells = ["      -" if row[c] is None else f"{row[c]:7.1f}" for c in COLUMNS]
    print(f"{name:<18}" + "  ".join(f"{cell:>12}" for cell in cells), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--sets", nargs="+", help="their names; default: every folder of the root")
    parser.add_argument("--features", default="filter_bank", help="or a torchvision backbone")
    parser.add_argument("--weights", default="DEFAULT", help="local file or torchvision's name")
    parser.add_argument("--detector", choices=["patchcore"], default="patchcore")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--resize", default="stretch")
    parser.add_argument("--coreset-ratio", type=float, default=0.01)
    parser.add_argument("--n-reweight", type=int, default=0)
    parser.add_argument("--image-score", default="paper")
    parser.add_argument("--random-states", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, help="JSON file; default: in benchmarks/results")
    options = parser.parse_args()

    sets = options.sets or sorted(p.name for p in options.root.iterdir() if p.is_dir())
    print(f"{'set':<18}" + "  ".join(f"{c:>12}" for c in COLUMNS))
    table = {}
    for name in sets:
        data = load_folder(options.root / name)
        rows = [measure(build(options, state), data) for state in options.random_states]
        table[name] = {column: mean(rows, column) for column in COLUMNS}
        show(name, table[name])
    table["mean"] = {column: mean(list(table.values()), column) for column in COLUMNS}
    show("mean", table["mean"])

    settings = {k: v for k, v in vars(options).items() if k not in ("root", "output", "weights")}
    record = {
        "benchmark": "accuracy",
        **settings,
        "weights": Path(options.weights).name,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "table": table,
    }
    output = options.output or RESULTS / f"accuracy_{options.features}_{options.detector}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, default=str) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()
