"""What a detector that trains has learned: painted defects, with its training and without.

    python benchmarks/painted.py --set-folder DATA/casting --detector CutPaste

Trains on train/good, then scores the test images, and the good ones of them with and without a
painted defect (``make_defects``). Printed are the image AUROC of both scores on real and on painted
defects, of the second also by kind, and the pixel AUROC on the painted ones; with --untrained
"n_iter=0" the same of the detector with that parameter.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from _machine import machine
from accuracy import parameter

import skanomaly
from skanomaly import load_folder
from skanomaly.datasets import make_defects
from skanomaly.images import read_image
from skanomaly.metrics import image_roc_auc_score, pixel_roc_auc_score

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("real", "real_map_max", "painted", "painted_map_max", "painted_pixel")


def measure(detector, data):
    """{column: value in %} and the seconds of a fit and of an image's map."""
    began = time.perf_counter()
    detector.fit(data.train.images)
    fitted = time.perf_counter()
    good = [read_image(data.test.images[i]) for i in np.flatnonzero(data.test.target == 1)]
    painted, masks, kinds = make_defects(good, random_state=0)
    both, target = [*good, *painted], np.repeat([1, -1], len(good))
    every_mask = [*(np.zeros(one.shape, dtype=bool) for one in masks), *masks]
    row = {}
    for score in ("paper", "map_max"):
        detector.set_params(image_score=score)
        suffix = "_map_max" if score == "map_max" else ""
        real = detector.score_samples(data.test.images)
        row[f"real{suffix}"] = 100 * image_roc_auc_score(data.test.target, -real)
        scored = time.perf_counter()
        scores, maps = detector.score_samples_and_map(both)
        row["ms_an_image"] = 1000 * (time.perf_counter() - scored) / len(both)
        row[f"painted{suffix}"] = 100 * image_roc_auc_score(target, -scores)
        row[f"by_kind{suffix}"] = by_kind(np.array(kinds), -scores)
    row["painted_pixel"] = 100 * pixel_roc_auc_score(every_mask, maps)
    row["fit_s"] = fitted - began
    return row


def by_kind(kinds, scores):
    """{kind: image AUROC in %} of painted defects, whose scores follow those of as many good."""
    n, found = len(kinds), {}
    for kind in np.unique(kinds).tolist():
        some = np.concatenate([scores[:n], scores[n:][kinds == kind]])
        target = np.repeat([1, -1], [n, len(some) - n])
        found[kind] = 100 * image_roc_auc_score(target, some)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set-folder", type=Path, required=True, help="in MVTec layout")
    parser.add_argument("--detector", required=True, help="its class, a detector of images")
    parser.add_argument("--set", nargs="*", type=parameter, default=[], help="name=value")
    parser.add_argument("--untrained", nargs="*", type=parameter, help="name=value, of no training")
    parser.add_argument("--output", type=Path, help="JSON file; default: in benchmarks/results")
    options = parser.parse_args()
    data = load_folder(options.set_folder, missing_masks="ignore")
    table = {}
    trainings = {"trained": {}} | (
        {"untrained": dict(options.untrained)} if options.untrained else {}
    )
    for name, changes in trainings.items():
        detector = getattr(skanomaly, options.detector)(**dict(options.set), **changes)
        table[name] = measure(detector, data)
        row = table[name]
        kinds = {f"of {kind}": value for kind, value in row["by_kind_map_max"].items()}
        cells = {column: row[column] for column in COLUMNS} | kinds
        cells = "  ".join(f"{column} {value:.1f}" for column, value in cells.items())
        print(f"{options.set_folder.name}, {options.detector} {name}: {cells}", flush=True)
    record = {
        "benchmark": "painted",
        "data": options.set_folder.name,
        "detector": options.detector,
        "set": options.set,
        "untrained": options.untrained,
        **machine(),
        "table": table,
    }
    output = options.output or RESULTS / f"painted_{options.detector.lower()}.json"
    output.write_text(json.dumps(record) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()
