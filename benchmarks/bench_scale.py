"""Fits and scores of many small images on a cluster of two processes, and what that predicts.

    python benchmarks/bench_scale.py [--images 20000] [--folder FOLDER]

Small images are generated as files. FilterBank and PatchCore with a bank of fixed size are fitted
by Distributed on 100, 1,000 and 10,000 of them, and on all; all are scored. Reported are the CPU
seconds of the workers for an image, the peak memory of this process, which is client and scheduler,
and of the workers, and the parallel efficiency: the wall time of one process over twice that of
two. Fits with coreset="exact" are measured beside. The constants of a greedy selection are measured
in the same run; with them, and the seconds to learn and to score an image of 224 pixels in MODELED,
the curve to 10^6 images is drawn. It needs matplotlib; results are written to benchmarks/results as
JSON and as a plot.

Times count on a quiet machine only. A first fit, whose times are not used, loads and compiles.
"""

import argparse
import json
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from _machine import machine
from PIL import Image

from skanomaly import FilterBank, PatchCore, Pipeline
from skanomaly.coreset import greedy_coreset
from skanomaly.datasets import make_textures
from skanomaly.distributed import Distributed, connect

SIDE = 64  # pixels
N_FITTED = (100, 1_000, 10_000)
N_EXACT = (1_000, 10_000)
N_EFFICIENCY = 2_000  # images that one process and two are compared with
BANK_SIZE = 1_000
PARTITION_SIZE = 256
OVERSAMPLING, MIN_ROWS, FAN_IN = 4, 1_000, 8  # as skanomaly.coreset and the graph have them
GREEDY = ((20_000, 500), (20_000, 4_000), (60_000, 500), (60_000, 4_000))  # patches, chosen
# The curve: images of 224 pixels, 784 patches, as docs/guide/scale.md has them.
N_MODELED = np.geomspace(1e2, 1e6, 33)
WORKERS = (1, 4, 16, 64)
MODELED = {"bank": 20_000, "patches": 784, "learn": 0.0137, "score": 0.045, "threshold": 20_000}
RESULTS = Path(__file__).parent / "results"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "scale.png"


def make_images(folder, n):
    """Paths of n images of noise on coarse squares, written where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:06d}.png" for i in range(n)]
    for i, path in enumerate(paths):
        if not path.exists():
            rng = np.random.default_rng(i)
            coarse = rng.integers(60, 200, (SIDE // 16, SIDE // 16, 3), dtype=np.uint8)
            image = coarse.repeat(16, 0).repeat(16, 1)
            Image.fromarray(image + rng.integers(0, 40, image.shape, dtype=np.uint8)).save(path)
    return list(map(str, paths))


def make_model(coreset="merged"):
    features = FilterBank(n_filters=4, image_size=SIDE, random_state=0)
    detector = PatchCore(bank_size=BANK_SIZE, random_state=0)
    pipe = Pipeline([("features", features), ("detector", detector)])
    # The threshold is that of all images here: of a fixed number, few images would cost more each.
    return Distributed(pipe, coreset=coreset, partition_size=PARTITION_SIZE)


def peak():
    """Bytes that this process has held at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(client, n, call, *arguments):
    """Wall and CPU seconds of a call about n images, and what it has held."""
    cpu = sum(client.run(time.process_time).values())
    here, began = time.process_time(), time.perf_counter()
    call(*arguments)
    wall = time.perf_counter() - began
    cpu = sum(client.run(time.process_time).values()) - cpu
    record = {
        "n_images": n,
        "wall": wall,
        "cpu_workers": cpu,
        "cpu_here": time.process_time() - here,
        "cpu_ms_an_image": 1000 * cpu / n,
        "peak_here": peak(),
        "peak_workers": list(client.run(peak).values()),
    }
    print(
        f"{call.__name__:12} {n:7,} images: {wall:7.1f} s, {record['cpu_ms_an_image']:6.2f} CPU ms "
        f"an image; at most {record['peak_here'] / 1e6:.0f} MB here, "
        f"{max(record['peak_workers']) / 1e6:.0f} MB a worker",
        flush=True,
    )
    return record


def measure(paths, folder):
    """Fits by number of images, scores of all, and the efficiency of two processes."""
    result = {"fits": []}
    with connect("local:2") as client:
        make_model().fit(paths[: 2 * PARTITION_SIZE])
        for n in sorted({n for n in (*N_FITTED, len(paths)) if n <= len(paths)}):
            result["fits"].append(measured(client, n, make_model().fit, paths[:n]))
        make_model("exact").fit(paths[: 2 * PARTITION_SIZE])
        print("exact:")
        result["exact_fits"] = [
            measured(client, n, make_model("exact").fit, paths[:n])
            for n in N_EXACT
            if n <= len(paths)
        ]
        model = make_model().fit(paths[:1_000])
        arguments = model.score_files, paths, folder
        result["scores"] = measured(client, len(paths), *arguments)
        two = measured(client, N_EFFICIENCY, make_model().fit, paths[:N_EFFICIENCY])
    with connect("local:1") as client:
        make_model().fit(paths[: 2 * PARTITION_SIZE])
        one = measured(client, N_EFFICIENCY, make_model().fit, paths[:N_EFFICIENCY])
    result["efficiency"] = one["wall"] / (2 * two["wall"])
    costs = [one["cpu_ms_an_image"] for one in result["fits"] if one["n_images"] in N_FITTED]
    result["spread_of_cpu"] = max(costs) / min(costs) - 1
    print(f"efficiency of two processes {result['efficiency']:.2f}")
    print(f"CPU seconds an image differ by {100 * result['spread_of_cpu']:.0f} %")
    return result


def greedy_constants():
    """a and b of the CPU seconds N (a + b k) of a selection of k among N rows."""
    kinds = enumerate(("weave", "brushed", "grid"))
    images = [make_textures(27, kind=kind, size=224, random_state=seed) for seed, kind in kinds]
    maps = FilterBank(random_state=0).fit_transform(np.concatenate(images)).arrays()["energies"]
    rows, seconds = maps.reshape(-1, maps.shape[3]), []
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    greedy_coreset(rows[:1_000], 10, random_state=0)  # compiles
    for n, k in GREEDY:
        runs = []
        for _ in range(3):
            began = time.process_time()
            greedy_coreset(rows[:n], k, random_state=0)
            runs.append(time.process_time() - began)
        seconds.append(min(runs))
    terms = np.array([[n, n * k] for n, k in GREEDY], dtype=float)
    a, b = np.linalg.lstsq(terms, np.array(seconds), rcond=None)[0]
    return float(a), float(b)


def modeled(n, n_workers, a, b):
    """Seconds of a fit of n images of 224 pixels with a bank of fixed size."""
    parts = np.maximum(n / PARTITION_SIZE, 1)
    bank, patches = MODELED["bank"], n * MODELED["patches"]
    sent = np.maximum(OVERSAMPLING * bank * (n / parts) / n, MIN_ROWS)
    learn = n * MODELED["learn"] + patches * (a + b * sent)
    rows, most = parts * sent, OVERSAMPLING * bank
    nodes = np.maximum(rows / (FAN_IN * most), 1)
    thinning = np.where(rows > 1.001 * most, rows * (a + b * most), 0) / np.minimum(
        nodes, n_workers
    )
    last = np.minimum(rows, most) * (a + b * bank)
    threshold = np.minimum(n, MODELED["threshold"]) * MODELED["score"]
    tasks = np.minimum(n_workers, parts)
    return learn / tasks + thinning + last + threshold / tasks


def draw(path, a, b):
    """The curve to 10^6 images; beside it one process whose bank grows with their number."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for n_workers in WORKERS:
        seconds = modeled(N_MODELED, n_workers, a, b)
        axes.loglog(N_MODELED, seconds / 3600, label=f"bank of 20,000, on {n_workers}")
    patches = N_MODELED * MODELED["patches"]
    growing = N_MODELED * MODELED["learn"] + patches * (a + b * 0.01 * patches)
    axes.loglog(N_MODELED, growing / 3600, "k--", label="coreset_ratio=0.01, one process")
    axes.set(xlabel="images", ylabel="hours of a fit (modeled)")
    axes.legend()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument(
        "--folder", type=Path, help="keep the images here; default: a temporary one"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp()) if options.folder is None else options.folder
    scores = Path(tempfile.mkdtemp())
    try:
        result = measure(make_images(folder, options.images), scores)
    finally:
        shutil.rmtree(scores)
        if options.folder is None:
            shutil.rmtree(folder)
    a, b = greedy_constants()
    print(f"greedy selection: N ({1e6 * a:.2f} us + {1e9 * b:.2f} ns k)")
    curve = {str(w): modeled(N_MODELED, w, a, b).tolist() for w in WORKERS}
    record = {
        "benchmark": "scale",
        "side": SIDE,
        "bank_size": BANK_SIZE,
        "partition_size": PARTITION_SIZE,
        **machine(),
        **result,
        "greedy": {"a": a, "b": b},
        "model": {**MODELED, "n_images": N_MODELED.tolist(), "seconds_by_workers": curve},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench_scale.json").write_text(json.dumps(record) + "\n")
    draw(FIGURE, a, b)
    print(f"written to {RESULTS / 'bench_scale.json'} and {FIGURE}")


if __name__ == "__main__":
    main()
