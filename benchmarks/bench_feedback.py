"""What a PatchCore learns from false alarms, beside a fit on all images again.

    python benchmarks/bench_feedback.py FOLDER [--features filter_bank] [--splits 5] [--fitted 60]

FOLDER is a data set in a layout that load_folder reads. In each split some good images are drawn,
on which features, detector and threshold are fitted (HeldOutThreshold). All other good images are
split in two: the stream, of which up to ten that are flagged are learned (`update`), and the rest,
which is new to all. Reported: how many of the learned ones are flagged still; false alarms on the
rest of the stream and on the new images, recall on all defects, and image AUROC (new images against
defects), before, after the update, and of a fit on all images again, with its own threshold; the
seconds of both beyond the features; and the seconds to add 100 images. Nothing is chosen by new
images or defects. Results are written to benchmarks/results as JSON.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from _machine import machine
from sklearn.metrics import roc_auc_score

from skanomaly import FeatureExtractor, FilterBank, PatchCore, load_folder
from skanomaly.feature_maps import concatenate
from skanomaly.model_selection import HeldOutThreshold

TARGET = 0.06
N_LEARNED, N_TIMED = 10, 100
RESULT = Path(__file__).parent / "results" / "bench_feedback.json"


def make_features(name, image_size, seed):
    if name == "filter_bank":
        return FilterBank(image_size=image_size or 224, random_state=seed)
    return FeatureExtractor(name, image_size=image_size)


def seconds_of(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def rates(model, old, new, bad):
    """False alarms and recall at the model's threshold, and image AUROC."""
    scores, bad_scores = model.score_samples(new), model.score_samples(bad)
    truth = np.repeat([0, 1], [len(scores), len(bad_scores)])
    return {
        "stream_flagged": float(np.mean(model.predict(old) == -1)),
        "new_flagged": float(np.mean(scores < model.offset_)),
        "recall": float(np.mean(bad_scores < model.offset_)),
        "auroc": float(roc_auc_score(truth, -np.concatenate([scores, bad_scores]))),
    }


def one_split(options, good, defects, seed):
    order = np.random.default_rng(seed).permutation(len(good))
    fitted, others = np.split(order, [options.fitted])
    features = make_features(options.features, options.image_size, seed)
    known = features.fit_transform([good[i] for i in fitted])
    others, bad = features.transform([good[i] for i in others]), features.transform(defects)
    half = len(others) // 2
    stream, new = others[:half], others[half:]
    model = HeldOutThreshold(PatchCore(random_state=seed), target_fpr=TARGET).fit(known)
    flagged = np.flatnonzero(model.predict(stream) == -1)
    learned, rest = stream[flagged[:N_LEARNED]], np.setdiff1d(np.arange(half), flagged[:N_LEARNED])
    result = {"n_learned": len(learned), "before": rates(model, stream[rest], new, bad)}
    bank = model.estimator_.memory_bank_
    result["add_100_seconds"] = seconds_of(lambda: model.estimator_.partial_fit(stream[:N_TIMED]))
    result["n_timed"] = min(half, N_TIMED)
    again = HeldOutThreshold(PatchCore(random_state=seed), target_fpr=TARGET)
    both = concatenate([known, learned]) if len(learned) else known
    result["refit_seconds"] = seconds_of(lambda: again.fit(both))
    result["refit"] = rates(again, stream[rest], new, bad)
    model = HeldOutThreshold(PatchCore(random_state=seed), target_fpr=TARGET).fit(known)
    result["update_seconds"] = seconds_of(lambda: model.update(learned)) if len(learned) else 0.0
    result["rows_added"] = len(model.estimator_.memory_bank_) - len(bank)
    result["still_flagged"] = int((model.predict(learned) == -1).sum()) if len(learned) else 0
    result["after"] = rates(model, stream[rest], new, bad)
    return result


def mean_of(splits):
    """Means over the splits of all numbers."""
    return {
        name: mean_of([one[name] for one in splits])
        if isinstance(value, dict)
        else float(np.mean([one[name] for one in splits]))
        for name, value in splits[0].items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--features", default="filter_bank")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--fitted", type=int, default=60)
    options = parser.parse_args()
    data = load_folder(options.folder, missing_masks="ignore")
    is_good = data.test.target == 1
    good = [*data.train.images, *(data.test.images[i] for i in np.flatnonzero(is_good))]
    defects = [data.test.images[i] for i in np.flatnonzero(~is_good)]
    splits = [one_split(options, good, defects, seed) for seed in range(options.splits)]
    line = {
        **machine(),
        "data": options.folder.name,
        "features": options.features,
        "image_size": options.image_size,
        "fitted": options.fitted,
        "splits": options.splits,
        **mean_of(splits),
    }
    print(json.dumps(line))
    lines = RESULT.read_text(encoding="utf-8").splitlines() if RESULT.exists() else []
    keys = ("data", "features", "image_size", "fitted")
    lines = [one for one in lines if any(json.loads(one)[k] != line[k] for k in keys)]
    RESULT.write_text("\n".join([*lines, json.dumps(line)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
