"""One fitted pipeline behind a service: threads that share it, a refit meanwhile, and many calls.

    python benchmarks/bench_service.py [--images 1000] [--reads 10000] [--calls 5000]

- `threads`: single images scored by 8 threads that share the pipeline, against the same images
  scored one after the other in one thread. The scores must be equal to the last bit.
- `refits`: reads by 4 threads while the pipeline is fitted on two sets of images in turn. Counted
  are the answers that belong to neither model (`mixtures`).
- `calls`: single-image calls one after the other. Reported are the growth of the process's memory
  after the first tenth of them, and the times' median and 99th percentile.

Targets: 1.5 times the throughput of one thread where there are two processors; no mixture; growth
below 20 MB, and a 99th percentile of at most 3 medians. Results are written to benchmarks/results
as JSON; with other counts than these, they are only printed.
"""

import argparse
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
from _machine import machine

from skanomaly import FilterBank, PatchCore, Pipeline
from skanomaly.datasets import make_textures

IMAGE_SIZE = 224
N_GOOD = 20
N_THREADS = 8
N_READERS = 4
ROUNDS = 3  # of each way in turn, so that a busy moment of the machine affects both
COUNTS = {"images": 1_000, "reads": 10_000, "calls": 5_000}
RESULT = Path(__file__).parent / "results" / "bench_service.json"


def make_pipeline():
    features = FilterBank(image_size=IMAGE_SIZE, random_state=0)
    detector = PatchCore(coreset_ratio=0.05, random_state=0)
    return Pipeline([("features", features), ("detector", detector)])


def measure_threads(pipe, images):
    """Images per second in one thread and in several, and whether the scores are equal."""

    def score(i):
        return pipe.score_samples(images[i : i + 1])[0]

    seconds, scores = {"one": [], "several": []}, {"one": [], "several": []}
    with ThreadPoolExecutor(N_THREADS) as pool:
        list(pool.map(score, range(N_THREADS)))
        for part in np.array_split(np.arange(len(images)), ROUNDS):
            for name, run in (("one", map), ("several", pool.map)):
                began = time.perf_counter()
                scores[name] += list(run(score, part))
                seconds[name].append(time.perf_counter() - began)
    one, several = (len(images) / sum(seconds[name]) for name in ("one", "several"))
    return {
        "n_images": len(images),
        "n_threads": N_THREADS,
        "images_per_s_one": one,
        "images_per_s_several": several,
        "ratio": several / one,
        "is_equal": scores["one"] == scores["several"],
    }


def measure_refits(first, second, n_reads):
    """Answers of neither model while a pipeline is fitted on one set and the other in turn."""
    pipe, seen, expected = make_pipeline(), second[:1], []
    for images in (first, second):
        expected.append(pipe.fit(images).decision_function(seen)[0])
    left, lock, answers = [n_reads], threading.Lock(), []

    def read():
        while True:
            with lock:
                if left[0] == 0:
                    return
                left[0] -= 1
            answers.append(pipe.decision_function(seen)[0])

    n_fits = 0
    with ThreadPoolExecutor(N_READERS) as pool:
        readers = [pool.submit(read) for _ in range(N_READERS)]
        while not all(reader.done() for reader in readers):
            pipe.fit((first, second)[n_fits % 2])
            n_fits += 1
        for reader in readers:
            reader.result()
    counts = [answers.count(one) for one in expected]
    return {
        "n_reads": len(answers),
        "n_fits": n_fits,
        "of_first": counts[0],
        "of_second": counts[1],
        "mixtures": len(answers) - sum(counts),
    }


def measure_calls(pipe, images, n_calls):
    """Growth of memory and the spread of times over many calls."""
    seconds, settled = [], n_calls // 10
    for i in range(n_calls):
        if i == settled:
            before = resident_bytes()
        began = time.perf_counter()
        pipe.predict(images[i % len(images)][None])
        seconds.append(time.perf_counter() - began)
    median, p99 = np.percentile(seconds[settled:], [50, 99])
    return {
        "n_calls": n_calls,
        "growth_mb": (resident_bytes() - before) / 1e6,
        "median_ms": 1000 * median,
        "p99_ms": 1000 * p99,
        "p99_to_median": p99 / median,
    }


def resident_bytes():
    """Memory that the process holds, as Linux has it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, count in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    counts = vars(parser.parse_args())
    good = make_textures(N_GOOD, size=IMAGE_SIZE, random_state=0)
    images = make_textures(min(counts["images"], 100), size=IMAGE_SIZE, random_state=1)
    images = images[np.arange(counts["images"]) % len(images)]
    pipe = make_pipeline().fit(good)
    record = {
        "benchmark": "service",
        "image_size": IMAGE_SIZE,
        **machine(),
        "n_processors": joblib.cpu_count(),
        "threads": measure_threads(pipe, images),
        "refits": measure_refits(good, 255 - good, counts["reads"]),
        "calls": measure_calls(pipe, images, counts["calls"]),
    }
    for name in ("threads", "refits", "calls"):
        print(name, {k: round(v, 3) for k, v in record[name].items()})
    if counts == COUNTS:
        RESULT.write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
