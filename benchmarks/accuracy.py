"""Accuracy on real data sets in MVTec layout: one table, one JSON line.

    python benchmarks/accuracy.py --root DATA --features filter_bank --set sigma=4.0
    python benchmarks/accuracy.py --root DATA --features squeezenet1_1 --weights FILE \\
        --detector SPADE --layers features.4 features.7 features.12
    python benchmarks/accuracy.py --root DATA --features ensemble
    python benchmarks/accuracy.py --root DATA --detector CutPaste

"ensemble" is an EnsembleDetector of FilterBank and EfficientNet-Lite0, each with the detector.
Detectors of images go without features, but for GlobalLocal, whose teacher they are, MKD, whose
source they are, and RegAD, which learns from them without registration.

Fits on train/good, scores test/, and prints per set the means over the random states: image AUROC
of the paper's score and of the map's maximum and, if there are masks, pixel AUROC and AUPRO up to a
false positive rate of 0.3, in the images' own pixels. Times, of a fit and of a test image with its
score map, features included, are of the processor: run it on one thread. Published figures are
printed if DATA holds categories of MVTec AD or MPDD.
"""

import argparse
import ast
import json
import pickle
import time
from pathlib import Path

import numpy as np
from _machine import machine
from _published import full_data

import skanomaly
from skanomaly import EnsembleDetector, FeatureExtractor, FilterBank, Pipeline, load_folder
from skanomaly.metrics import aupro_score, image_roc_auc_score, pixel_roc_auc_score
from skanomaly.registry import DETECTORS

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    "image_auroc", "map_max_auroc", "pixel_auroc", "aupro",
    "fit_cpu_s", "cpu_ms_an_image", "megabytes",
)  # fmt: skip
# Detectors of images that have an extractor inside: the parameter, and the features it has anyway.
INNER = {
    "GlobalLocal": ("teacher", "filter_bank"),
    "MKD": ("source", "efficientnet_lite0"),
    "RegAD": ("registration", "filter_bank"),
}


def build(options, random_state):
    """The pipeline that the options describe."""
    shape = {"resize": options.resize}
    if options.image_size is not None:
        shape["image_size"] = options.image_size
    if options.features == "filter_bank":
        extractor = FilterBank(random_state=random_state, **shape)
    else:
        extractor = FeatureExtractor(
            options.features,
            weights=options.weights,
            layers=options.layers,
            dtype=options.dtype,
            **shape,
        )
    if options.features == "ensemble":
        members = [
            (name, build(argparse.Namespace(**{**vars(options), "features": name}), random_state))
            for name in ("filter_bank", "efficientnet_lite0")
        ]
        return EnsembleDetector(members)
    detector = getattr(skanomaly, options.detector)(**dict(options.set))
    if takes_images(options.detector):
        settings = {"checkpoint": options.checkpoint, "random_state": random_state, **shape}
        known = detector.get_params()  # RegAD itself trains nothing
        detector.set_params(**{k: v for k, v in settings.items() if k in known})
        default = INNER.get(options.detector, (None, options.features))
        if options.features != default[1] or options.layers is not None:
            detector.set_params(**{default[0]: extractor})
        return detector
    if "random_state" in detector.get_params():
        detector.set_params(random_state=random_state)
    return Pipeline([("features", extractor), ("detector", detector)])


def takes_images(detector):
    """Whether a detector takes images rather than features."""
    return {entry.name: entry.takes for entry in DETECTORS}[detector] == "images"


def spaced(images, n):
    """At most n of the images, evenly spaced."""
    if n is None or n >= len(images):
        return images
    return [images[i] for i in np.linspace(0, len(images) - 1, n).round().astype(int)]


def measure(pipe, data, n_train=None):
    """One fit, and the test images by both scores; an ensemble has one."""
    began, train = time.process_time(), spaced(data.train.images, n_train)
    for name, _ in INNER.values():
        if getattr(pipe, name, None) is not None:
            getattr(pipe, name).fit(train)
    pipe.fit(train)
    fitted = time.process_time()
    is_pipe = isinstance(pipe, Pipeline)
    detector = pipe[-1] if is_pipe else pipe
    X = pipe[:-1].transform(data.test.images) if is_pipe else data.test.images
    has_scores = "image_score" in detector.get_params()
    if has_scores:
        detector.set_params(image_score="map_max")
    map_max, maps = detector.score_samples_and_map(X)
    scored = time.process_time()
    if has_scores:
        detector.set_params(image_score="paper")
    paper = detector.score_samples(X) if has_scores else map_max
    row = {
        "image_auroc": 100 * image_roc_auc_score(data.test.target, -paper),
        "map_max_auroc": 100 * image_roc_auc_score(data.test.target, -map_max),
        "pixel_auroc": None,
        "aupro": None,
        "fit_cpu_s": fitted - began,
        "cpu_ms_an_image": 1000 * (scored - fitted) / len(data.test.images),
        "megabytes": len(pickle.dumps(pipe)) / 1e6,
    }
    if data.test.masks is not None:
        row["pixel_auroc"] = 100 * pixel_roc_auc_score(data.test.masks, maps)
        row["aupro"] = 100 * aupro_score(data.test.masks, maps)
    return row


def mean(rows, column):
    """Mean of a column over the rows that have a value, or None."""
    values = [row[column] for row in rows if row[column] is not None]
    return float(np.mean(values)) if values else None


def show(name, row):
    cells = ["      -" if row[c] is None else f"{row[c]:7.1f}" for c in COLUMNS]
    print(f"{name:<18}" + "  ".join(f"{cell:>15}" for cell in cells), flush=True)


def parameter(text):
    """ "sigma=4.0" -> ("sigma", 4.0)."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a string
        return name, value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--sets", nargs="+", help="their names; default: every folder of the root")
    parser.add_argument("--features", default="filter_bank", help="or a backbone")
    parser.add_argument("--weights", default="DEFAULT", help="local file or a name")
    parser.add_argument("--layers", nargs="+", help="of the backbone; default: its own")
    parser.add_argument("--detector", default="PatchCore", help="its class")
    parser.add_argument(
        "--set", nargs="*", type=parameter, default=[], help="its parameters, as name=value"
    )
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--image-size", type=int, help="default: the features' own")
    parser.add_argument("--resize", default="stretch")
    parser.add_argument("--train", type=int, help="good images of a set; default: all")
    parser.add_argument("--random-states", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--checkpoint", help="of a detector that trains, so that it resumes if interrupted"
    )
    parser.add_argument("--output", type=Path, help="JSON file; default: in benchmarks/results")
    options = parser.parse_args()

    sets = options.sets or sorted(p.name for p in options.root.iterdir() if p.is_dir())
    print(f"{'set':<18}" + "  ".join(f"{c:>15}" for c in COLUMNS))
    table = {}
    for name in sets:
        data = load_folder(options.root / name)
        rows = [
            measure(build(options, state), data, options.train) for state in options.random_states
        ]
        table[name] = {column: mean(rows, column) for column in COLUMNS}
        show(name, table[name])
    table["mean"] = {column: mean(list(table.values()), column) for column in COLUMNS}
    show("mean", table["mean"])
    for name, published in full_data(options.detector, sets).items():
        show(f"{name}, published", {**dict.fromkeys(COLUMNS), **published})

    paths = ("root", "output", "weights", "checkpoint")
    settings = {k: v for k, v in vars(options).items() if k not in paths}
    record = {
        "benchmark": "accuracy",
        **settings,
        "weights": Path(options.weights).name,
        **machine(),
        "table": table,
    }
    has_features = not takes_images(options.detector) or options.detector in INNER
    name = f"{options.features}_" * has_features + options.detector.lower()
    output = options.output or RESULTS / f"accuracy_{name}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, default=str) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()
