"""ScoreMonitor: false alarms against the stated rate, and how soon a change of light is found.

    python benchmarks/bench_monitor.py [--runs 20000] [--sets 3] [--images 500]

- `simulated`: false alarms within 1,000 scores over many sets of held-out scores, drawn anew, with
  no defects and with the share of defects that is allowed for; beside the stated rate, and the
  interval that holds 99 % of such counts if the rate is as stated. And the median number of images
  until the alarm if all scores are one standard deviation lower.
- `images`: made-up surfaces. A detector is fitted on N_GOOD images, the monitor on its held-out
  scores; new images come as they are, or all with one change, in brightness or focus. Reported is
  the number of images until the alarm, over N_ORDERS orders of the new images, median and 90th
  percentile, None where fewer orders have an alarm; and the share of orders with a false alarm
  within the new images as they are, alone and with 5 % of defects among them.
- `gray`: the same, with the mean gray values of the images in place of their scores.

Results are written to benchmarks/results as JSON; with other counts than these, only printed.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from _machine import machine
from scipy.ndimage import gaussian_filter
from scipy.stats import binom

from skanomaly import FilterBank, PatchCore, Pipeline
from skanomaly.datasets import make_defects, make_textures
from skanomaly.model_selection import HeldOutThreshold, ScoreMonitor

IMAGE_SIZE = 128
N_GOOD = 60
N_ORDERS = 500
RATES = (0.01, 0.05)
N_HELD_OUT = (20, 60, 200)
KINDS = ("brushed", "weave", "grid")
DEFECTS = 0.05  # the monitor's own default
COUNTS = {"runs": 20_000, "sets": 3, "images": 500}
RESULT = Path(__file__).parent / "results" / "bench_monitor.json"

CHANGES = {
    "brightness -5 %": lambda image: np.rint(0.95 * image),
    "brightness +5 %": lambda image: np.rint(np.minimum(1.05 * image, 255)),
    "brightness -10 %": lambda image: np.rint(0.9 * image),
    "blur of 1 pixel": lambda image: gaussian_filter(image.astype(float), (1, 1, 0)),
}


def simulate(rate, n_held_out, n_runs):
    """False alarms of n_runs sets of held-out scores, each with 1,000 further scores."""
    rng = np.random.default_rng(1)
    monitor = ScoreMonitor(false_alarm_rate=rate).fit(np.arange(n_held_out))
    counts = {"no defects": 0, "defects": 0}
    for _ in range(n_runs):
        held_out, scores = rng.normal(size=n_held_out), rng.normal(size=1000)
        for name in counts:
            if name == "defects":
                scores = np.where(rng.uniform(size=1000) < DEFECTS, -100, scores)
            monitor.reference_ = np.sort(held_out)
            monitor.statistic_ = np.zeros(2)
            counts[name] += monitor.update(scores)
            monitor.alarms_ = []
    delays = []
    for _ in range(N_ORDERS):  # of scores that are one standard deviation lower
        monitor.reference_ = np.sort(rng.normal(size=n_held_out))
        monitor.statistic_, monitor.n_seen_, monitor.alarms_ = np.zeros(2), 0, []
        monitor.update(rng.normal(size=1000) - 1)
        delays.append(monitor.alarms_[0][0] if monitor.alarms_ else np.inf)
    low, high = map(float, binom(n_runs, rate).interval(0.99))
    return {
        "rate": rate,
        "n_held_out": n_held_out,
        "n_runs": n_runs,
        "allowance": monitor.allowance_,
        "limit": monitor.limit_,
        "measured": {name: count / n_runs for name, count in counts.items()},
        "median_delay_of_one_deviation": float(np.median(delays)),
        "interval": [low / n_runs, high / n_runs],
    }


def measure_images(kind, seed, n_images):
    """Of one detector: held-out scores, those of new images by change, and those of defects.

    And the same of gray values.
    """
    images = make_textures(N_GOOD + n_images, kind=kind, size=IMAGE_SIZE, random_state=seed)
    features = FilterBank(image_size=IMAGE_SIZE, random_state=0)
    pipe = Pipeline([("features", features), ("detector", PatchCore(random_state=0))])
    model = HeldOutThreshold(pipe, target_fpr=0.05).fit(images[:N_GOOD])
    new = images[N_GOOD:]
    changed = {"as they are": new}
    for name, change in CHANGES.items():
        changed[name] = np.stack([change(image) for image in new]).astype(np.uint8)
    defects = make_defects(new[:50], random_state=seed)[0]
    return [
        (held_out, {name: score(some) for name, some in changed.items()}, score(defects))
        for held_out, score in (
            (model.oof_scores_, model.score_samples),
            (gray(images[:N_GOOD]), gray),
        )
    ]


def gray(images):
    """Mean gray value of each image."""
    return images.mean(axis=(1, 2, 3))


def follow(held_out, scores, defects, rate):
    """Delays and false alarms over orders of the images."""
    rng = np.random.default_rng(0)
    monitor = ScoreMonitor(false_alarm_rate=rate).fit(held_out)

    def first_alarm(stream):
        monitor.statistic_, monitor.n_seen_, monitor.alarms_ = np.zeros(2), 0, []
        monitor.update(stream)
        return monitor.alarms_[0][0] if monitor.alarms_ else np.inf

    found = {}
    for name, values in scores.items():
        found[name] = [first_alarm(rng.permutation(values)) for _ in range(N_ORDERS)]
    mixed = []
    for _ in range(N_ORDERS):
        stream = rng.permutation(scores["as they are"])
        is_bad = rng.uniform(size=len(stream)) < DEFECTS
        stream[is_bad] = rng.choice(defects, is_bad.sum())
        mixed.append(first_alarm(stream))
    found["5 % defects"] = mixed
    return found


def summarize(found):
    """Of all detectors: shares of false alarms, medians and percentiles of delays."""
    record = {}
    for name in found[0]:
        delays = np.concatenate([one[name] for one in found])
        if name in ("as they are", "5 % defects"):
            record[name] = {"share_with_false_alarm": float(np.isfinite(delays).mean())}
        else:
            quantiles = np.quantile(delays, [0.5, 0.9], method="higher")
            record[name] = {
                "median_delay": float(quantiles[0]) if np.isfinite(quantiles[0]) else None,
                "p90_delay": float(quantiles[1]) if np.isfinite(quantiles[1]) else None,
                "share_found": float(np.isfinite(delays).mean()),
            }
    return record


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, count in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    counts = vars(parser.parse_args())
    record = {"benchmark": "monitor", **machine(), "image_size": IMAGE_SIZE, "n_good": N_GOOD}
    record["simulated"] = [simulate(rate, n, counts["runs"]) for rate in RATES for n in N_HELD_OUT]
    for one in record["simulated"]:
        print(one)
    record |= {"images": {}, "gray": {}}
    for kind in KINDS:
        measured = [measure_images(kind, seed, counts["images"]) for seed in range(counts["sets"])]
        for what, some in zip(("images", "gray"), zip(*measured, strict=True), strict=True):
            found = {str(r): summarize([follow(*one, r) for one in some]) for r in RATES}
            record[what][kind] = found
            for rate, one in found.items():
                print(what, kind, rate, json.dumps(one, indent=1))
    if counts == COUNTS:
        RESULT.write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
