"""Greedy coreset of real features against other implementations.

python benchmarks/bench_coreset.py --root DATA --weights squeezenet1_1.pth
All methods select from the same projected rows, with the same number of threads.
"""

import argparse
import json
import os
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--root", required=True, help="folder of data sets, each with train/good")
parser.add_argument("--weights", required=True, help="state dict of torchvision's squeezenet1_1")
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--images", type=int, default=200)
ARGUMENTS = parser.parse_args()
for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):  # read once, when the libraries are loaded
    os.environ[f"{library}_NUM_THREADS"] = str(ARGUMENTS.threads)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from _machine import machine  # noqa: E402
from _real_features import real_features  # noqa: E402

from skanomaly.coreset import RandomProjection, greedy_order  # noqa: E402

RATIO = 0.1
N_PROJECTIONS = 128
TIMED_PICKS = 300  # of the slow methods, whose time per pick is constant
WARM_UP_PICKS = 20
COMPARED_PICKS = 5_000
REPEATS = 3
GROWTH_PARTS = (1 / 4, 1 / 2, 1)
GROWTH_RATIOS = (0.01, 0.05, 0.1)
RESULT = Path(__file__).parent / "results" / "bench_coreset.json"


def main():
    torch.set_num_threads(ARGUMENTS.threads)
    features = real_features(ARGUMENTS.root, ARGUMENTS.weights, ARGUMENTS.images)
    projection = RandomProjection(N_PROJECTIONS, random_state=0)
    projection.fit(features.shape[1], origin=features[0])
    seconds_projection, Z = timed(lambda: projection.transform(features))
    n_picks = round(RATIO * len(Z))
    greedy_order(Z[:10_000], 300, 0)  # warm-up: compiles
    seconds, picks = best_of(REPEATS, lambda: greedy_order(Z, n_picks, 0))
    report = {
        **machine(),
        "rows": list(Z.shape),
        "picks": n_picks,
        "seconds": seconds,
        "seconds_projection": seconds_projection,
    }
    print(f"{len(Z)} rows x {Z.shape[1]}, {n_picks} picks, {ARGUMENTS.threads} thread(s)")
    print(f"projection from {features.shape[1]} columns: {seconds_projection:.2f} s")
    print(f"skanomaly greedy_order: {seconds:.2f} s for all picks")

    for name, per_pick in (
        ("gemv", timed(lambda: gemv_greedy(Z, TIMED_PICKS))[0] / TIMED_PICKS),
        ("anomalib", anomalib_per_pick(features)),
    ):
        if per_pick is None:
            continue
        estimate = per_pick * n_picks
        report[name] = {"seconds_per_pick": per_pick, "seconds_estimated": estimate}
        report[name]["ratio"] = estimate / seconds
        print(
            f"{name}: {1e3 * per_pick:.2f} ms a pick over the first {TIMED_PICKS}, so about "
            f"{estimate:.0f} s for all (extrapolated): {estimate / seconds:.0f} times as long"
        )

    report["growth"] = growth(Z)
    report["picks_equal_to_gemv"] = compare(Z, picks)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report) + "\n")


def timed(function):
    """Seconds and result of one call."""
    begin = time.perf_counter()
    answer = function()
    return time.perf_counter() - begin, answer


def best_of(repeats, function):
    """Shortest time in seconds, and the result."""
    runs = [timed(function) for _ in range(repeats)]
    return min(seconds for seconds, _ in runs), runs[0][1]


def gemv_greedy(Z, n_picks):
    """Plain sequential greedy: cached norms and one matrix-vector product per pick."""
    norms = np.einsum("ij,ij->i", Z, Z)
    nearest = np.full(len(Z), np.inf, dtype=np.float32)
    picks = np.zeros(n_picks, dtype=np.int64)
    for n in range(1, n_picks):
        last = picks[n - 1]
        np.minimum(nearest, norms + norms[last] - 2 * (Z @ Z[last]), out=nearest)
        nearest[picks[:n]] = -1
        picks[n] = nearest.argmax()
    return picks


def anomalib_per_pick(features):
    """Seconds per pick of anomalib's KCenterGreedy, without its own initial projection."""
    try:
        from anomalib.models.components.sampling.k_center_greedy import KCenterGreedy
    except ImportError:
        print("anomalib: not installed, left out")
        return None

    def seconds(n_picks):
        sampler = KCenterGreedy(torch.from_numpy(features), (n_picks + 0.5) / len(features))
        return timed(sampler.select_coreset_idxs)[0]

    seconds(WARM_UP_PICKS)
    return (seconds(WARM_UP_PICKS + TIMED_PICKS) - seconds(WARM_UP_PICKS)) / TIMED_PICKS


def compare(Z, picks):
    """Share of the first picks that equal those of the plain loop."""
    n_picks = min(COMPARED_PICKS, len(picks))
    part = float((gemv_greedy(Z, n_picks) == picks[:n_picks]).mean())
    print(f"same rows in the same places as gemv among the first {n_picks}: {part:.4f}")
    print("  (its norms round differently, so near ties may swap)")
    return part


def growth(Z):
    """Seconds by number of rows and ratio."""
    print("seconds      " + "".join(f"{ratio:>8.0%}" for ratio in GROWTH_RATIOS))
    table = {}
    for part in GROWTH_PARTS:
        rows = np.random.RandomState(0).permutation(len(Z))[: round(part * len(Z))]
        some = Z[np.sort(rows)]
        cells = [timed(lambda r=ratio, s=some: greedy_order(s, r, 0))[0] for ratio in GROWTH_RATIOS]
        table[len(some)] = dict(zip(map(str, GROWTH_RATIOS), cells, strict=True))
        print(f"{len(some):>8} rows" + "".join(f"{cell:8.2f}" for cell in cells))
    return table


if __name__ == "__main__":
    main()
