"""Speed of the nearest-neighbor search, against faiss, scikit-learn, pynndescent and anomalib.

    python benchmarks/bench_neighbors.py [--data FOLDER --weights SQUEEZENET_STATE_DICT]

Real features (a coreset of SqueezeNet patches as bank, patches of other images as queries) need a
folder of data sets and weights; without them only random data are timed. Competitors that are not
installed are named and skipped. Results are written to benchmarks/results as JSON.
"""

import argparse
import contextlib
import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import torch
from _machine import machine
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from skanomaly.neighbors import PatchIndex

N_IMAGES = 240
QUERY_IMAGE_EVERY = 6  # every sixth image is a query, the others form the bank
PATCHES = 729
COLUMNS = 768
BANK_ROWS = (1_000, 15_000, 100_000)
N_QUERIES = 4_096  # for the random banks
QUERY_EVERY = 7  # of the real queries, for the banks of random rows
N_NEIGHBORS = (1, 9)
THREADS = (1, 2)
REPEATS = 3
GRAPH_ROWS = 15_000  # larger banks: building the graph takes minutes
SLOW_QUERIES = 512  # for much slower competitors, extrapolated
RESULT = Path(__file__).parent / "results" / "bench_neighbors.json"


def main():
    """Time every bank, thread count and number of neighbors; print and save the results."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", help="folder of data sets, each with train/good")
    arguments.add_argument("--weights", help="state dict of torchvision's squeezenet1_1")
    arguments.add_argument("--dataset", help="only this data set")
    arguments.add_argument("--rows", type=int, nargs="*", default=BANK_ROWS)
    arguments.add_argument("--output", type=Path, default=RESULT, help="JSON file")
    options = arguments.parse_args()
    for name in ("faiss", "anomalib"):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed and is left out")
    results = []
    for name, rows, queries in banks(options):
        for n_threads in THREADS:
            for n_neighbors in N_NEIGHBORS:
                figures = measure(rows, queries, n_neighbors, n_threads)
                results.append(
                    {"bank": name, "rows": len(rows), "queries": len(queries), **figures}
                )
                report(results[-1])
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps({**machine(), "results": results}, indent=1) + "\n")


def banks(options):
    """Yield name, rows and queries of each bank."""
    if options.data:
        yield from real_banks(options)
    else:
        print("no --data: random data only, which no screen can prune")
    generator = np.random.default_rng(0)
    queries = generator.standard_normal((N_QUERIES, COLUMNS), dtype=np.float32)
    for n_rows in options.rows:
        rows = generator.standard_normal((n_rows, COLUMNS), dtype=np.float32)
        yield f"gaussian {n_rows}", rows, queries[: N_QUERIES if n_rows < 50_000 else SLOW_QUERIES]


def real_banks(options):
    """A coreset of a tenth, and random rows of the training patches at the requested sizes."""
    from _real_features import real_features

    from skanomaly.coreset import greedy_coreset

    features = real_features(options.data, options.weights, N_IMAGES, options.dataset)
    features = features.reshape(N_IMAGES, PATCHES, COLUMNS)
    asked = np.arange(N_IMAGES) % QUERY_IMAGE_EVERY == QUERY_IMAGE_EVERY - 1
    queries = features[asked].reshape(-1, COLUMNS)  # 40 images: 29,160
    patches = features[~asked].reshape(-1, COLUMNS)
    picks = greedy_coreset(patches, len(patches) // 10, random_state=0)
    yield "real, coreset", patches[picks], queries
    order = np.random.default_rng(0).permutation(len(patches))
    for n_rows in options.rows:
        yield f"real, random {n_rows}", patches[order[:n_rows]], queries[::QUERY_EVERY]


def measure(rows, queries, n_neighbors, n_threads):
    """Seconds of every search on one bank, and the recall of the approximate one."""
    torch.set_num_threads(n_threads)
    seconds = {}
    with threadpool_limits(n_threads):
        ours = PatchIndex(n_jobs=n_threads).fit(rows)
        start = time.perf_counter()
        truth = ours.kneighbors(queries, n_neighbors)[1]  # builds and warms up
        seconds["first call"] = time.perf_counter() - start
        seconds["skanomaly"] = timed(lambda: ours.kneighbors(queries, n_neighbors))
        with contextlib.suppress(ImportError):
            seconds["faiss"] = time_faiss(rows, queries, n_neighbors, n_threads)
        few = queries[:SLOW_QUERIES]
        scale = len(queries) / len(few)
        brute = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(rows)
        seconds["scikit-learn"] = scale * timed(lambda: brute.kneighbors(few))
        with contextlib.suppress(ImportError):
            seconds["anomalib"] = scale * time_anomalib(rows, few, n_neighbors)
        figures = {"threads": n_threads, "k": n_neighbors, "seconds": seconds}
        if len(rows) <= GRAPH_ROWS and n_threads == THREADS[0]:
            figures |= time_graph(rows, queries, n_neighbors, n_threads, truth, seconds)
    return figures


def timed(call):
    """Shortest of a few runs, in seconds."""
    runs = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        runs.append(time.perf_counter() - start)
    return min(runs)


def time_faiss(rows, queries, n_neighbors, n_threads):
    """IndexFlatL2, warmed up."""
    import faiss

    faiss.omp_set_num_threads(n_threads)
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows)
    index.search(queries[:64], n_neighbors)
    return timed(lambda: index.search(queries, n_neighbors))


def time_anomalib(rows, queries, n_neighbors):
    """The search inside anomalib's PatchCore, on its own."""
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchcoreModel.__new__(PatchcoreModel)
    torch.nn.Module.__init__(model)
    model.register_buffer("memory_bank", torch.from_numpy(rows))
    embedding = torch.from_numpy(queries)
    return timed(lambda: model.nearest_neighbors(embedding, n_neighbors))


def time_graph(rows, queries, n_neighbors, n_threads, truth, seconds):
    """pynndescent: seconds to build and to query, and the share of true neighbors found."""
    start = time.perf_counter()
    index = PatchIndex("pynndescent", n_jobs=n_threads, random_state=0).fit(rows)
    found = index.kneighbors(queries, n_neighbors)[1]
    build = time.perf_counter() - start
    seconds["pynndescent"] = timed(lambda: index.kneighbors(queries, n_neighbors))
    hits = (found[:, :, None] == truth[:, None, :]).any(axis=2)
    return {"graph build": build - seconds["pynndescent"], "graph recall": float(hits.mean())}


def report(figures):
    """Print one line: seconds, and how many times longer the others take."""
    seconds = figures["seconds"]
    ours = seconds["skanomaly"]
    others = ", ".join(
        f"{name} x{taken / ours:.1f}" for name, taken in seconds.items() if name != "skanomaly"
    )
    recall = f", graph recall {figures['graph recall']:.3f}" if "graph recall" in figures else ""
    print(
        f"{figures['bank']}: {figures['rows']} rows, {figures['queries']} queries, "
        f"k={figures['k']}, {figures['threads']} threads: {ours:.3f} s; {others}{recall}",
        flush=True,
    )


if __name__ == "__main__":
    main()
