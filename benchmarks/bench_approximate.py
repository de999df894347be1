"""PatchIndex, which is exact, beside approximate graphs: time at equal recall.

    python benchmarks/bench_approximate.py --data FOLDER --weights SQUEEZENET_STATE_DICT

A bank is a coreset of a tenth of the SqueezeNet patches of real images, or as many random patches;
queries are patches of other images. faiss's HNSW and pynndescent are built once and searched
with several breadths; of each the fastest search that finds a share of the true nearest neighbors
is reported, as a multiple of the exact search's time, with the seconds to build it. Searches of one
bank take turns. Those not installed are named and left out. Results are written to
benchmarks/results as JSON.
"""

import argparse
import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import torch
from _machine import machine
from _real_features import real_features
from threadpoolctl import threadpool_limits

from skanomaly.coreset import greedy_coreset
from skanomaly.neighbors import PatchIndex

N_IMAGES, PATCHES, COLUMNS = 240, 729, 768
QUERY_IMAGE_EVERY = 6  # every sixth image is a query, the others form the bank
QUERY_EVERY = 4  # of their patches
N_NEIGHBORS, N_THREADS = 1, 1
LINKS, BUILD_BREADTH = 32, 200  # of HNSW
BREADTHS = (4, 8, 16, 32, 64, 128, 256, 512)
EPSILONS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)  # of pynndescent
RECALLS = (0.9, 0.95, 0.99, 0.999)
REPEATS = 3
RESULT = Path(__file__).parent / "results" / "bench_approximate.json"


def hnsw(rows):
    """{breadth: search} of faiss's HNSW."""
    import faiss

    faiss.omp_set_num_threads(N_THREADS)
    index = faiss.IndexHNSWFlat(rows.shape[1], LINKS)
    index.hnsw.efConstruction = BUILD_BREADTH
    index.add(rows)

    def search(queries, breadth):
        index.hnsw.efSearch = breadth
        return index.search(queries, N_NEIGHBORS)[1]

    return {b: lambda queries, b=b: search(queries, b) for b in BREADTHS}


def descent(rows):
    """{epsilon: search} of pynndescent."""
    import pynndescent

    index = pynndescent.NNDescent(rows, n_jobs=N_THREADS, random_state=0)
    index.prepare()
    return {e: lambda queries, e=e: index.query(queries, N_NEIGHBORS, e)[0] for e in EPSILONS}


GRAPHS = {"faiss HNSW": ("faiss", hnsw), "pynndescent": ("pynndescent", descent)}


def measure(rows, queries):
    """Seconds of the exact search, and of each graph those to build it and by recall."""
    exact = PatchIndex(n_jobs=N_THREADS).fit(rows)
    truth = exact.kneighbors(queries, N_NEIGHBORS)[1]
    searches = {"exact": lambda queries: exact.kneighbors(queries, N_NEIGHBORS)[1]}
    result = {"rows": len(rows), "queries": len(queries), "built": {}, "recall": {}}
    for name, (module, build) in GRAPHS.items():
        if importlib.util.find_spec(module) is None:
            print(f"{module} is not installed and is left out")
            continue
        began = time.perf_counter()
        found = build(rows)
        result["built"][name] = time.perf_counter() - began
        searches |= {f"{name}, {breadth}": search for breadth, search in found.items()}
    for name, search in searches.items():
        result["recall"][name] = float((search(queries) == truth).mean())  # and compiles
    seconds = dict.fromkeys(searches, np.inf)
    for _ in range(REPEATS):
        for name, search in searches.items():
            began = time.perf_counter()
            search(queries)
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    result["seconds"] = seconds
    result["at_recall"] = {
        graph: {str(least): fastest(result, graph, least) for least in RECALLS}
        for graph in result["built"]
    }
    return result


def fastest(result, graph, least):
    """Time of the fastest search of a graph with such a recall over the exact one's, or None."""
    times = [
        seconds
        for name, seconds in result["seconds"].items()
        if name.startswith(f"{graph}, ") and result["recall"][name] >= least
    ]
    return min(times) / result["seconds"]["exact"] if times else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of data sets, each with train/good")
    parser.add_argument("--weights", required=True, help="state dict of squeezenet1_1")
    options = parser.parse_args()
    torch.set_num_threads(N_THREADS)
    features = real_features(options.data, options.weights, N_IMAGES, None)
    features = features.reshape(N_IMAGES, PATCHES, COLUMNS)
    asked = np.arange(N_IMAGES) % QUERY_IMAGE_EVERY == QUERY_IMAGE_EVERY - 1
    queries = features[asked].reshape(-1, COLUMNS)[::QUERY_EVERY]
    patches = features[~asked].reshape(-1, COLUMNS)
    picks = greedy_coreset(patches, len(patches) // 10, random_state=0)
    few = np.random.default_rng(0).permutation(len(patches))[: len(picks)]
    results = {}
    with threadpool_limits(N_THREADS):
        for name, chosen in (("coreset", picks), ("random", few)):
            results[name] = found = measure(patches[chosen], queries)
            exact = found["seconds"]["exact"]
            print(f"{name}: {found['rows']} rows, {found['queries']} queries, exact {exact:.2f} s")
            for graph, by_recall in found["at_recall"].items():
                times = ", ".join(
                    f"{least}: {'not reached' if ratio is None else f'x {ratio:.2f}'}"
                    for least, ratio in by_recall.items()
                )
                print(f"  {graph}, built in {found['built'][graph]:.1f} s; at a recall of {times}")
    record = {"benchmark": "approximate", "k": N_NEIGHBORS, **machine(), "results": results}
    RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
