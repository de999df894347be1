"""Memory and time of a fit by number of images, under a memory limit.

    python benchmarks/bench_memory.py [--limit 2GB] [--detectors patchcore regad global_local]

Each fit runs in a separate process, on generated images: FilterBank + PatchCore, coreset 1 %, both
steps with the same limit; RegAD and GlobalLocal, which have none, the latter with few iterations,
on whose number memory does not depend; and the pipeline in a HeldOutThreshold. The reported value
is the peak memory of the process above that after importing everything and compiling the kernels
in a small fit. A fit that is refused, because its forecast exceeds the limit, is reported and
repeated with twice the limit. Results are written to benchmarks/results as JSON, beside those of
detectors that were not run.
"""

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np
from _machine import machine

from skanomaly.utils.memory_budget import parse_memory

N_IMAGES = {
    "patchcore": (100, 500, 1000, 2000, 4000),
    "held_out": (100, 500),
    "regad": (4, 8, 32),
    "global_local": (20, 100, 200),
}
SIZE = 256
CORESET_RATIO = 0.01
RESULT = Path(__file__).parent / "results" / "bench_memory.json"


class Images:
    """n images generated on access, so that they take no memory themselves."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, key):
        if not isinstance(key, (int, np.integer)):
            return [self[i] for i in np.arange(self.n)[key]]
        rng = np.random.default_rng(key)
        coarse = rng.integers(60, 200, (SIZE // 16, SIZE // 16, 3), dtype=np.uint8)
        image = coarse.repeat(16, 0).repeat(16, 1)
        return image + rng.integers(0, 40, image.shape, dtype=np.uint8)


def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def make_estimator(detector, limit, image_size=224):
    from skanomaly import FilterBank, GlobalLocal, PatchCore, Pipeline, RegAD
    from skanomaly.model_selection import HeldOutThreshold

    if detector == "regad":
        return RegAD(image_size=image_size, random_state=0)
    if detector == "global_local":
        return GlobalLocal(image_size=image_size, n_iter=2, random_state=0)
    features = FilterBank(memory_limit=limit, random_state=0)
    last = PatchCore(coreset_ratio=CORESET_RATIO, memory_limit=limit, random_state=0)
    pipe = Pipeline([("features", features), ("detector", last)])
    return pipe if detector == "patchcore" else HeldOutThreshold(pipe, target_fpr=0.1, cv=2)


def fit(detector, n_images, limit, answers):
    """Runs in a separate process: bytes above the baseline, seconds and forecast."""
    from skanomaly import estimate_memory

    is_network = detector in ("regad", "global_local")
    make_estimator(detector, limit, 64).fit(Images(2 if is_network else 20))
    baseline = peak()
    estimator = make_estimator(detector, limit)
    forecast = estimate_memory(estimator, Images(n_images))["total"]
    began = time.perf_counter()
    try:
        estimator.fit(Images(n_images))
    except MemoryError as refusal:
        print(f"{n_images:5} images: refused: {refusal}", flush=True)
        answers.put(None)
    else:
        answers.put((peak() - baseline, time.perf_counter() - began, forecast))


def measure(detector, n_images, limit):
    """The result of a fit in a separate process, None if it was refused."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=fit, args=(detector, n_images, limit, answers))
    process.start()
    answer = answers.get(timeout=1800)
    process.join()
    return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", default="2GB")
    parser.add_argument("--detectors", nargs="+", choices=N_IMAGES, default=list(N_IMAGES))
    options = parser.parse_args()
    before = json.loads(RESULT.read_text())["results"] if RESULT.exists() else []
    results = [{"detector": "patchcore", **result} for result in before]
    results = [result for result in results if result["detector"] not in options.detectors]
    for detector, n_images in [(d, n) for d in options.detectors for n in N_IMAGES[d]]:
        limit = parse_memory(options.limit)
        while (answer := measure(detector, n_images, limit)) is None:
            limit *= 2
        n_bytes, seconds, forecast = answer
        results.append(
            {
                "detector": detector,
                "n_images": n_images,
                "limit": limit,
                "bytes": n_bytes,
                "forecast": forecast,
                "seconds": seconds,
                **machine(),
            }
        )
        print(
            f"{detector}: {n_images:5} images, limit {limit / 1e9:g} GB: {n_bytes / 1e6:6.0f} MB "
            f"above the baseline (forecast {forecast / 1e6:.0f}), {seconds:6.1f} s, "
            f"{1000 * seconds / n_images:.1f} ms an image",
            flush=True,
        )
    record = {
        "benchmark": "memory",
        "limit": options.limit,
        "coreset_ratio": CORESET_RATIO,
        "results": results,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
