"""Time of a search over 24 settings with the feature cache, against a single setting.

    python benchmarks/bench_search.py --root DATA [--weights SQUEEZENET_STATE_DICT]

GridSearchCV with 5 folds over 4 coreset ratios x 2 numbers of neighbors x 3 sigmas of PatchCore
on 200 real images of 640 x 640 (150 good, 50 defective). The default --metrics are image AUROC of
the map's maximum and AUPRO; the latter is computed for each of the 24 settings whatever is cached.
Timed: the largest setting alone over the same folds without a cache; the search with an empty
cache; the search again with the cache it left; and, unless --no-plain is given, the search without
a cache, whose results must be the same. Previous results of configurations not run now are kept.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from _machine import machine
from sklearn.model_selection import GridSearchCV, cross_validate

from skanomaly import FeatureExtractor, FilterBank, PatchCore, Pipeline, load_folder
from skanomaly.model_selection import GoodOnlyKFold, scorers

DATASET = "printed_circuit"
N_GOOD, N_DEFECTS = 150, 50
GRID = {
    "detector__coreset_ratio": [0.01, 0.02, 0.05, 0.1],
    "detector__n_neighbors": [1, 9],
    "detector__sigma": [2.0, 4.0, 8.0],
}
LARGEST = {name: values[-1] for name, values in GRID.items()}
FOLDS = 5
RESULT = Path(__file__).parent / "results" / "bench_search.json"


def load(root):
    """Images, and their masks as y."""
    data = load_folder(root / DATASET)
    defects = np.flatnonzero(np.asarray(data.test.target) == -1)[:N_DEFECTS]
    images = [*data.train.images[:N_GOOD], *(data.test.images[i] for i in defects)]
    masks = [None] * N_GOOD + [data.test.masks[i] for i in defects]
    return images, masks


def pipeline(weights, cache=None):
    if weights is None:
        features = FilterBank(random_state=0, cache=cache)
    else:
        features = FeatureExtractor("squeezenet1_1", weights=weights, cache=cache)
    # A search compares scores and needs no threshold.
    detector = PatchCore(image_score="map_max", contamination=None, random_state=0)
    return Pipeline([("features", features), ("detector", detector)])


def search(weights, metrics, X, y, cache=None):
    """Seconds and cv_results_ of a search."""
    began = time.perf_counter()
    found = GridSearchCV(
        pipeline(weights, cache),
        GRID,
        cv=GoodOnlyKFold(FOLDS),
        scoring=scorers(*metrics),
        refit=False,
        error_score="raise",
    ).fit(X, y)
    return time.perf_counter() - began, found.cv_results_


def measure(weights, metrics, X, y, has_plain):
    """All timings for one kind of features and one set of metrics."""
    largest = pipeline(weights).set_params(**LARGEST)
    options = {"cv": GoodOnlyKFold(FOLDS), "scoring": scorers(*metrics)}
    cross_validate(largest, X, y, **options)  # warm-up: compiles
    began = time.perf_counter()
    cross_validate(largest, X, y, error_score="raise", **options)
    figures = {"one_setting_s": time.perf_counter() - began}
    with tempfile.TemporaryDirectory() as folder:
        figures["search_s"], results = search(weights, metrics, X, y, folder)
        figures["search_again_s"], again = search(weights, metrics, X, y, folder)
        sizes = [path.stat().st_size for path in Path(folder).glob("*/*")]
        figures["cache_megabytes"] = sum(sizes) / 1e6
    figures["ratio"] = figures["search_s"] / figures["one_setting_s"]
    figures["again_is_same"] = is_same(results, again)
    if has_plain:
        figures["plain_search_s"], plain = search(weights, metrics, X, y)
        figures["is_same"] = is_same(results, plain)
    return figures


def is_same(results, others):
    """Whether two cv_results_ agree in everything but times."""
    names = [name for name in results if "time" not in name]
    return all(np.array_equal(results[name], others[name]) for name in names)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--weights", help="SqueezeNet's features instead of a FilterBank's")
    parser.add_argument("--metrics", nargs="+", default=["image_auroc", "aupro"])
    parser.add_argument("--no-plain", action="store_true", help="leave out the slowest search")
    options = parser.parse_args()
    X, y = load(options.root)
    record = {
        "benchmark": "search",
        "dataset": DATASET,
        "images": len(X),
        "folds": FOLDS,
        "results": json.loads(RESULT.read_text())["results"] if RESULT.exists() else {},
    }
    kind = "filter_bank" if options.weights is None else "squeezenet1_1"
    name = f"{kind}, {' + '.join(options.metrics)}"
    row = measure(options.weights, options.metrics, X, y, not options.no_plain)
    record["results"][name] = {**row, **machine()}
    cells = [f"{k} {v if isinstance(v, bool) else round(v, 2)}" for k, v in row.items()]
    print(f"{name}: {', '.join(cells)}", flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
