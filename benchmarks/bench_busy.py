"""A fit beside other busy processes: CPU time and wall time against a quiet machine.

    python benchmarks/bench_busy.py --root DATA [--set casting] [--busy 2]

`skanomaly fit` runs in a process of its own, once to warm up, then in turn alone and beside so many
processes that compute without pause. Reported are the CPU time and the wall time of each, and their
ratios. A fit that keeps u processors busy, beside b others on p processors, takes (u + b) / p times
as long where they are shared fairly: `fair_wall`. Threads that spin while they wait for each other
show as CPU time. Results are written to benchmarks/results as JSON.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _machine import machine

ROUNDS = 3
RESULT = Path(__file__).parent / "results" / "bench_busy.json"
SPIN = "while True: pass"


def fit(folder, output):
    """Wall and CPU seconds of one fit."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    arguments = [sys.executable, "-m", "skanomaly", "fit", folder, "-o", output, "-q"]
    subprocess.run(arguments, check=True, capture_output=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def beside(n_busy, work):
    """What the work returns while other processes compute."""
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(n_busy)]
    try:
        return work()
    finally:
        for other in others:
            other.kill()
            other.wait()  # its CPU time is counted now, not during the next fit


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--set", default="casting")
    parser.add_argument("--busy", type=int, default=2)
    options = parser.parse_args()
    times = {"alone": [], "busy": []}
    with tempfile.TemporaryDirectory() as folder:
        arguments = options.root / options.set, Path(folder, "part.skanomaly")
        fit(*arguments)
        for _ in range(ROUNDS):
            times["alone"].append(fit(*arguments))
            times["busy"].append(beside(options.busy, lambda: fit(*arguments)))
    (wall, cpu), (busy_wall, busy_cpu) = (np.median(times[name], axis=0) for name in times)
    n_processors = os.cpu_count()
    fair_wall = wall * max(1, (cpu / wall + options.busy) / n_processors)
    result = {
        "set": options.set, "busy": options.busy, "processors": n_processors,
        "wall": wall, "cpu": cpu, "busy_wall": busy_wall, "busy_cpu": busy_cpu,
        "cpu_ratio": busy_cpu / cpu, "wall_ratio": busy_wall / wall,
        "fair_wall": fair_wall, **machine(),
    }  # fmt: skip
    for name, value in result.items():
        print(f"{name:12} {value:.3g}" if isinstance(value, float) else f"{name:12} {value}")
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
