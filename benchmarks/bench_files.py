"""Detector files: time and size beside joblib's, and what hostile files cost.

    python benchmarks/bench_files.py [--megabytes 100]

A PatchCore with a large memory bank is written by skanomaly.dump and by joblib.dump without
compression, and each file is loaded in turn, from the page cache, in one process. Each hostile file
of the tests is loaded in a process of its own: seconds until the refusal, and how much the
largest memory of the process grew. Results are written to benchmarks/results as JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
from _machine import machine

import skanomaly

ROUNDS = 15
RESULT = Path(__file__).parent / "results" / "bench_files.json"
TESTS = Path(__file__).parents[1] / "tests"
REFUSE = """
import resource, sys, time
import skanomaly
from skanomaly.persistence import load  # what is imported once is not counted
from skanomaly.exceptions import DamagedFileError, NotTrustedError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, began = peak(), time.perf_counter()
try:
    load(sys.argv[1])
except (DamagedFileError, NotTrustedError) as error:
    print(time.perf_counter() - began, (peak() - before) / 1024)
"""


def large_detector(megabytes):
    """A PatchCore on rows of features, whose bank takes so much memory."""
    rows = np.random.default_rng(0).normal(size=(megabytes * 250_000 // 512, 512))
    detector = skanomaly.PatchCore(coreset_ratio=1.0, contamination=None)
    return detector.fit(rows.astype(np.float32))


def timed(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def load_times(folder, megabytes):
    """Seconds of loading by library, and bytes of the files and of the arrays."""
    detector, ours, theirs = large_detector(megabytes), folder / "ours", folder / "theirs"
    times = {"dump": [], "joblib_dump": [], "load": [], "joblib_load": [], "load_mapped": []}
    for _ in range(ROUNDS):
        times["dump"].append(timed(lambda: skanomaly.dump(detector, ours)))
        times["joblib_dump"].append(timed(lambda: joblib.dump(detector, theirs)))
        times["load"].append(timed(lambda: skanomaly.load(ours)))
        times["joblib_load"].append(timed(lambda: joblib.load(theirs)))
        times["load_mapped"].append(timed(lambda: skanomaly.load(ours, mmap_mode="r")))
    seconds = {name: float(np.median(values)) for name, values in times.items()}
    arrays = sum(a.nbytes for a in vars(detector).values() if isinstance(a, np.ndarray))
    return seconds, {"file": ours.stat().st_size, "arrays": arrays}


def refusals(folder):
    """{name: (seconds, megabytes)} of the hostile files."""
    sys.path.insert(0, str(TESTS))
    from hostile_files import hostile_files

    found = {}
    for name, content in hostile_files(folder / "victim").items():
        file = folder / "hostile.skanomaly"
        file.write_bytes(content)
        arguments = [sys.executable, "-c", REFUSE, file]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        found[name] = tuple(map(float, done.stdout.split()))
    assert not (folder / "victim").exists()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds, sizes = load_times(Path(folder), options.megabytes)
        refused = refusals(Path(folder))
    ratios = {
        "load": seconds["load"] / seconds["joblib_load"],
        "dump": seconds["dump"] / seconds["joblib_dump"],
        "size": sizes["file"] / sizes["arrays"],
    }
    for name, value in seconds.items():
        print(f"{name:12} {1000 * value:8.1f} ms")
    print("ratios: " + ", ".join(f"{name} {value:.3f}" for name, value in ratios.items()))
    worst = [max(column) for column in zip(*refused.values(), strict=True)]
    print(f"{len(refused)} hostile files refused; worst {worst[0]:.3f} s, {worst[1]:.0f} MB")
    result = {
        "megabytes": options.megabytes, "seconds": seconds, "ratios": ratios, "sizes": sizes,
        "refused": refused, **machine(),
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
