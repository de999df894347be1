"""Memory and time of a fit against the number of images, under a memory limit.

    python benchmarks/bench_memory.py [--limit 2GB] [--images 100 500 1000 2000 4000]

Each fit runs in a process of its own, on generated pictures: FilterBank + PatchCore, coreset 1 %,
both steps with the same limit. Reported is the peak of the process's memory above what it held
after importing everything and compiling the kernels in a small fit. A fit that is refused, as its
forecast is above the limit, is run again with twice the limit, and said to be. One JSON goes to
benchmarks/results.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import time
from pathlib import Path

import numpy as np

from skanomaly._memory import parse_memory

N_IMAGES = (100, 500, 1000, 2000, 4000)
SIZE = 256
CORESET_RATIO = 0.01
RESULT = Path(__file__).parent / "results" / "bench_memory.json"


class Pictures:
    """n pictures made when they are asked for, so that they take no memory themselves."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, key):
        if not isinstance(key, (int, np.integer)):
            return [self[i] for i in np.arange(self.n)[key]]
        rng = np.random.default_rng(key)
        coarse = rng.integers(60, 200, (SIZE // 16, SIZE // 16, 3), dtype=np.uint8)
        picture = coarse.repeat(16, 0).repeat(16, 1)
        return picture + rng.integers(0, 40, picture.shape, dtype=np.uint8)


def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fit(n_images, limit, answers):
    """In a process of its own: bytes above the baseline, and seconds."""
    from skanomaly import FilterBank, PatchCore, Pipeline, estimate_memory

    def pipeline():
        features = FilterBank(memory_limit=limit, random_state=0)
        detector = PatchCore(coreset_ratio=CORESET_RATIO, memory_limit=limit, random_state=0)
        return Pipeline([("features", features), ("detector", detector)])

    pipeline().fit(Pictures(20))
    baseline = peak()
    forecast = estimate_memory(pipeline(), Pictures(n_images))["total"]
    began = time.perf_counter()
    try:
        pipeline().fit(Pictures(n_images))
    except MemoryError as refusal:
        print(f"{n_images:5} images: refused: {refusal}", flush=True)
        answers.put(None)
    else:
        answers.put((peak() - baseline, time.perf_counter() - began, forecast))


def measure(n_images, limit):
    """The answer of a fit in a process of its own, None where it was refused."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=fit, args=(n_images, limit, answers))
    process.start()
    answer = answers.get(timeout=1800)
    process.join()
    return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", default="2GB")
    parser.add_argument("--images", type=int, nargs="+", default=N_IMAGES)
    options = parser.parse_args()
    results = []
    for n_images in options.images:
        limit = parse_memory(options.limit)
        while (answer := measure(n_images, limit)) is None:
            limit *= 2
        n_bytes, seconds, forecast = answer
        results.append(
            {
                "n_images": n_images,
                "limit": limit,
                "bytes": n_bytes,
                "forecast": forecast,
                "seconds": seconds,
            }
        )
        print(
            f"{n_images:5} images, limit {limit / 1e9:g} GB: {n_bytes / 1e6:6.0f} MB above the "
            f"baseline (forecast {forecast / 1e6:.0f}), {seconds:6.1f} s, "
            f"{1000 * seconds / n_images:.1f} ms an image",
            flush=True,
        )
    record = {
        "benchmark": "memory",
        "limit": options.limit,
        "coreset_ratio": CORESET_RATIO,
        "processor": platform.machine(),
        "results": results,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
