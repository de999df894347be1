"""Fits and scores beside other busy processes, against a quiet machine.

    python benchmarks/bench_busy.py --root DATA [--set casting] [--busy 2]

`skanomaly fit` runs in a process of its own, once to warm up, then in turn alone and beside so many
processes that compute without pause, each in a session of its own, as other programs are. Reported
are the CPU time and the wall time of each, and their ratios. Threads that spin while they wait for
each other show as CPU time. And in Python: the seconds of a fit of PatchCore, with its features,
and the milliseconds of one image, alone and beside one busy process; with threads that spin as
skanomaly has them, and as OpenMP has them by default. Results are written to benchmarks/results as
JSON.
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
SPINNING = {"skanomaly": {}, "OpenMP's default": {"GOMP_SPINCOUNT": "300000"}}
N_GOOD, N_SCORED = 30, 20
IN_PYTHON = f"""
import json, time
import numpy as np
from skanomaly import FeatureExtractor, FilterBank, PatchCore, Pipeline
from skanomaly.datasets import make_textures
images, found = make_textures({N_GOOD}, size=224, random_state=0), {{}}
network = FeatureExtractor("efficientnet_lite0", image_size=224)
for extractor in (FilterBank(random_state=0), network):
    pipe = Pipeline([("features", extractor), ("detector", PatchCore(random_state=0))])
    pipe.fit(images[:4]).score_samples(images[:1])  # compiles
    began = time.perf_counter()
    pipe.fit(images)
    fitted, seconds = time.perf_counter(), []
    for i in range({N_SCORED}):
        pipe.score_samples(images[i : i + 1])
        seconds.append(time.perf_counter() - fitted - sum(seconds))
    found[type(extractor).__name__] = fitted - began, 1000 * float(np.median(seconds))
print(json.dumps(found))
"""


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
    others = [
        # As another program has it: the system shares processors among sessions first.
        subprocess.Popen([sys.executable, "-c", SPIN], start_new_session=True)
        for _ in range(n_busy)
    ]
    try:
        return work()
    finally:
        for other in others:
            other.kill()
            other.wait()  # its CPU time is counted now, not during the next fit


def in_python(variables):
    """{extractor: (seconds of a fit, milliseconds of an image)} of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", IN_PYTHON], check=True, capture_output=True,
        env={**os.environ, **variables},
    )  # fmt: skip
    return json.loads(done.stdout)


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
    result = {
        "set": options.set, "busy": options.busy, "processors": os.cpu_count(),
        "wall": wall, "cpu": cpu, "busy_wall": busy_wall, "busy_cpu": busy_cpu,
        "cpu_ratio": busy_cpu / cpu, "wall_ratio": busy_wall / wall,
        **machine(),
    }  # fmt: skip
    result["in_python"] = {
        name: {"alone": in_python(values), "busy": beside(1, lambda v=values: in_python(v))}
        for name, values in SPINNING.items()
    }
    for name, value in result.items():
        print(f"{name:12} {value:.3g}" if isinstance(value, float) else f"{name:12} {value}")
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
