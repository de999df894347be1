"""Does selection by painted defects agree with selection by real ones?

    python benchmarks/selection.py --root DATA [--weights SQUEEZENET_STATE_DICT] [--sets NAME ...]

For each data set of DATA some good training images are held out. Candidates (features, image size,
layers, detector, sigma) are fitted on the other ones, and each is measured twice: by its image
AUROC on the real test images, and by its image AUROC on the held-out good images with defects
painted into them, in several sizes. Printed are, by set and size, what the choice by painted
defects leads to, the real AUROC of the candidate chosen, and Spearman's rank correlation of the two
over all candidates, both as means over bootstrap samples of the held-out images. To compare: the
best candidate, the mean of all, and fixed ones. Nothing is fitted on, or chosen by, a test image.
Features are computed once for each set and extractor, and each score map serves all values of
sigma. The same is printed for those candidates alone that skanomaly tune tries. Results are written
to benchmarks/results as JSON, after each set.
"""

import argparse
import json
import re
import time
from itertools import product
from pathlib import Path

import numpy as np
from _machine import machine
from scipy.stats import spearmanr

from skanomaly import FeatureExtractor, FeatureMaps, FilterBank, PaDiM, PatchCore, load_folder
from skanomaly.datasets import make_defects
from skanomaly.metrics import image_roc_auc_score

N_TRAIN, N_HELD_OUT, N_TEST = 120, 60, 120
SIZES = (0.25, 0.4, 0.6, 1.0, 1.5, 2.0)  # of painted defects
MIXTURES = ((0.4, 1.5), (0.6, 1.5), (0.6, 2.0), (1.5, 2.0), (0.6, 1.5, 2.0), SIZES)
SIGMAS = (2.0, 4.0, 8.0)
FIXED = tuple(f"{name} 224, PatchCore, sigma 4" for name in ("FilterBank", "EfficientNet-Lite0"))
OF_TUNE = re.compile(r"(FilterBank|EfficientNet-Lite0) (224|320),")  # without a grid
N_RESAMPLED = 100
RESULT = Path(__file__).parent / "results" / "selection.json"


def extractors(weights):
    """{name: extractor}; SqueezeNet only with a file of weights."""
    filters = {f"FilterBank {size}": FilterBank(image_size=size) for size in (128, 224, 320)}
    layers = {"": None, " shallow": ("features.2", "features.3"), " deep": ("features.5",)}
    lite = {
        f"EfficientNet-Lite0 {size}{name}": FeatureExtractor(
            "efficientnet_lite0", weights="DEFAULT", image_size=size, layers=chosen
        )
        for size, (name, chosen) in product((224, 320), layers.items())
        if size == 224 or name != " shallow"  # the finest grid, four times as large
    }
    squeeze = {}
    if weights is not None:
        squeeze["SqueezeNet 224"] = FeatureExtractor("squeezenet1_1", weights=weights)
    return {
        name: one.set_params(random_state=0, n_jobs=1, memory_limit="8GB")
        for name, one in (filters | lite | squeeze).items()
    }


def detectors():
    """{name: detector}, without thresholds and without smoothing."""
    options = {"image_score": "map_max", "sigma": 0.0, "contamination": None, "random_state": 0}
    return {"PatchCore": PatchCore(coreset_ratio=0.02, **options), "PaDiM": PaDiM(**options)}


def images_of(folder):
    """Training images, held-out good ones, test images and their labels: random ones of each."""
    data, rng = load_folder(folder, missing_masks="ignore"), np.random.default_rng(0)
    good = [data.train.images[i] for i in rng.permutation(len(data.train.images))]
    n_held_out = min(N_HELD_OUT, len(good) // 3)
    chosen = rng.permutation(len(data.test.images))[:N_TEST]
    test = [data.test.images[i] for i in chosen]
    train = good[n_held_out:][:N_TRAIN]
    return train, good[:n_held_out], test, data.test.target[chosen]


def map_maxima(features, n_train):
    """{(detector, sigma): maxima (n,) of the smoothed score maps of the other images}."""
    on_grid = FeatureMaps(features.arrays())  # whose score maps are those of the patches
    maxima = {}
    for name, detector in detectors().items():
        detector.fit(on_grid[:n_train])
        patch_scores = detector.score_map(on_grid[n_train:])
        for sigma in SIGMAS:
            smooth = [features.image_fit.smooth(one[None], sigma).max() for one in patch_scores]
            maxima[name, sigma] = np.array(smooth, dtype=np.float64)
    return maxima


def measure(folder, weights):
    """Labels of the test images, and {candidate: [maxima of test, held out, painted, ...]}."""
    train, held_out, test, target = images_of(folder)
    painted = [make_defects(held_out, size=size, random_state=0)[0] for size in SIZES]
    others = [test, held_out, *painted]
    ends = np.cumsum([len(part) for part in others])[:-1]
    images = train + [image for part in others for image in part]
    sizes = f"{len(train)} train, {len(held_out)} held out, {len(test)} test"
    print(f"{folder.name}: {sizes}", flush=True)
    found = {}
    for name, extractor in extractors(weights).items():
        began = time.process_time()
        features = extractor.fit(train).transform(images)
        for (detector, sigma), maxima in map_maxima(features, len(train)).items():
            found[f"{name}, {detector}, sigma {sigma:g}"] = np.split(maxima, ends)
        print(f"  {name:<32} {time.process_time() - began:6.1f} s of CPU", flush=True)
    return target, found


def painted_aurocs(good, painted):
    """(n_sizes,) image AUROC of good images against painted ones, by their maxima."""
    target = np.repeat([1, -1], len(good))  # as many defects as good images
    return [image_roc_auc_score(target, np.concatenate([good, some])) for some in painted]


def agreement(real, aurocs):
    """What each way to choose leads to.

    Parameters
    ----------
    real : dict of str to float
        AUROC of the candidates on the test images.
    aurocs : ndarray of shape (n_samples, n_candidates, n_sizes)
        On painted defects, of all held-out images and of bootstrap samples of them.
    """
    names, values = list(real), np.array(list(real.values()))
    summary = {
        "best": {"real": values.max(), "candidate": names[values.argmax()]},
        "mean": {"real": values.mean()},
        **{name: {"real": real[name]} for name in FIXED},
    }
    for sizes in (*((size,) for size in SIZES), *MIXTURES):
        by_painted = aurocs[:, :, [SIZES.index(size) for size in sizes]].mean(axis=2)
        summary["size " + "+".join(map(str, sizes))] = {
            "real": values[by_painted[1:].argmax(axis=1)].mean(),
            "spearman": np.mean([spearmanr(values, one).statistic for one in by_painted[1:]]),
            "candidate": names[by_painted[0].argmax()],  # by all images
        }
    return summary


def summarize(target, maxima):
    """All that is kept of one data set."""
    rng = np.random.default_rng(0)
    n = len(next(iter(maxima.values()))[1])
    samples = [np.arange(n), *rng.integers(n, size=(N_RESAMPLED, n))]
    real = {name: image_roc_auc_score(target, found[0]) for name, found in maxima.items()}
    aurocs = np.array(
        [
            [painted_aurocs(found[1][rows], [one[rows] for one in found[2:]]) for found in
             maxima.values()]
            for rows in samples
        ]
    )  # fmt: skip
    is_tuned = [OF_TUNE.match(name) is not None for name in real]
    tuned = {name: real[name] for name in real if OF_TUNE.match(name)}
    return {
        "candidates": {
            name: {"real": real[name], "painted": dict(zip(map(str, SIZES), row, strict=True))}
            for name, row in zip(real, aurocs[0].tolist(), strict=True)
        },
        "agreement": agreement(real, aurocs),
        "agreement, tune": agreement(tuned, aurocs[:, is_tuned]),
    }


def show(table, key):
    """One line for each way to choose: real AUROCs and correlations by set, and their means."""
    sets = list(table)
    print(f"\n{key:<40}" + "".join(f"{name[:15]:>17}" for name in [*sets, "mean"]))
    means = {}
    for how in table[sets[0]][key]:
        found = [table[name][key][how] for name in sets]
        means[how] = mean(found)
        cells = ""
        for part in [*found, means[how]]:
            cells += f"{100 * part['real']:9.1f}"
            cells += f" ({part['spearman']:+.2f})" if "spearman" in part else " " * 8
        print(f"{how:<40}{cells}", flush=True)
    return means


def mean(found):
    """Means of the figures over the sets."""
    keys = [key for key in ("real", "spearman") if key in found[0]]
    return {key: float(np.mean([part[key] for part in found])) for key in keys}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--sets", nargs="+", help="their names; default: every folder of the root")
    parser.add_argument("--weights", help="state dict of torchvision's squeezenet1_1")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file")
    options = parser.parse_args()
    sets = options.sets or sorted(p.name for p in options.root.iterdir() if p.is_dir())
    record = {
        "benchmark": "selection",
        **machine(),
        "images": {"train": N_TRAIN, "held_out": N_HELD_OUT, "test": N_TEST},
        "table": {},
    }
    for name in sets:
        record["table"][name] = summarize(*measure(options.root / name, options.weights))
        options.output.write_text(json.dumps(record) + "\n")
    record["mean"] = {key: show(record["table"], key) for key in ("agreement", "agreement, tune")}
    options.output.write_text(json.dumps(record) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
