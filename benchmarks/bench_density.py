"""PaDiM's Gaussians against a loop over positions, and against anomalib if it is installed.

Generated features of the size of PaDiM with ResNet-18: correlated values on a 56 x 56 grid. Times
are single-threaded. Peak memory is measured in a separate process, which fits a stream of few or
of many images.

    python benchmarks/bench_density.py
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.update(OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_NUM_THREADS="1")

import numpy as np
from _machine import machine
from scipy.spatial.distance import mahalanobis

from skanomaly.density import PositionwiseGaussian

GRID = 56
CHANNELS = 100
TRAIN, TEST = 208, 16  # images
BATCH = 16
EPSILON = 0.01
REPEATS = 3
LOOP_POSITIONS = 392  # the loop runs on these only: its time is proportional
LOW_RANK = (44, 448)  # vectors and channels: two images, each augmented to 22
LOW_RANK_GRID = 14
PEAK_IMAGES = (200, 2000)
PEAK_GROWTH = 1.1
TOLERANCE = 1e-5
RESULT = Path(__file__).parent / "results" / "bench_density.json"


def features(n, rng, channels=CHANNELS, grid=GRID):
    """Maps (n, grid, grid, channels) float32, channels correlated with their neighbors."""
    maps = rng.standard_normal((n, grid, grid, channels), dtype=np.float32)
    maps[..., 1:] += maps[..., :-1]
    return maps


def seconds(call, repeats=REPEATS):
    """Shortest time of several runs in seconds, and the result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        answer = call()
        times.append(time.perf_counter() - start)
    return min(times), answer


def fitted(maps, **parameters):
    """A Gaussian fitted in batches and ready to score."""
    gaussian = PositionwiseGaussian(epsilon=EPSILON, **parameters)
    for first in range(0, len(maps), BATCH):
        gaussian.partial_fit(maps[first : first + BATCH])
    gaussian.mahalanobis(maps[:1])
    return gaussian


def loop_fit(vectors):
    """Mean and covariance by a loop over positions; the inverses are computed when scoring."""
    d = vectors.shape[2]
    covariances = np.empty((d, d, vectors.shape[1]))
    for i in range(vectors.shape[1]):
        covariances[:, :, i] = np.cov(vectors[:, i], rowvar=False) + EPSILON * np.eye(d)
    return vectors.mean(axis=0), covariances


def loop_score(vectors, mean, covariances):
    """Distances of vectors (n, positions, d) by a loop over positions and images."""
    distances = np.empty(vectors.shape[:2])
    for i in range(vectors.shape[1]):
        inverse = np.linalg.inv(covariances[:, :, i])
        distances[:, i] = [mahalanobis(vector, mean[i], inverse) for vector in vectors[:, i]]
    return distances


def against_the_loop(train, test):
    """Times of ours and of the loop on some of the positions, and the difference of the results."""
    fit_s, gaussian = seconds(lambda: fitted(train))
    batch_s, ours = seconds(lambda: gaussian.mahalanobis(test))
    single_s, _ = seconds(lambda: gaussian.mahalanobis(test[:1]))
    some = np.linspace(0, GRID * GRID - 1, LOOP_POSITIONS).astype(int)
    part_train, part_test = (x.reshape(len(x), -1, CHANNELS)[:, some] for x in (train, test))
    share = LOOP_POSITIONS / GRID**2
    loop_fit_s, model = seconds(lambda: loop_fit(part_train), 1)
    loop_batch_s, theirs = seconds(lambda: loop_score(part_test, *model), 1)
    loop_single_s, _ = seconds(lambda: loop_score(part_test[:1], *model), 1)
    difference = np.abs(ours.reshape(TEST, -1)[:, some] / theirs - 1).max()
    return gaussian, {
        "fit_s": fit_s,
        "loop_fit_s": loop_fit_s / share,
        "score_ms_per_image": 1000 * batch_s / TEST,
        "loop_score_ms_per_image": 1000 * loop_batch_s / share / TEST,
        "score_single_ms": 1000 * single_s,
        "loop_score_single_ms": 1000 * loop_single_s / share,
        "relative_difference": float(difference),
    }


def against_anomalib(train, test, ours):
    """The same with anomalib's Gaussian, or None if it is not installed."""
    try:
        import torch
        from anomalib.models.components import MultiVariateGaussian
        from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator
    except ImportError as error:
        print(f"anomalib is left out: {error}")
        return None
    torch.set_num_threads(1)
    as_torch = [torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in (train, test)]
    with torch.inference_mode():
        fit_s, model = seconds(lambda: MultiVariateGaussian().fit(as_torch[0]), 1)
        score = AnomalyMapGenerator.compute_distance
        batch_s, theirs = seconds(lambda: score(as_torch[1], model))
        single_s, _ = seconds(lambda: score(as_torch[1][:1], model))
    return {
        "fit_s": fit_s,
        "score_ms_per_image": 1000 * batch_s / TEST,
        "score_single_ms": 1000 * single_s,
        "relative_difference": float(np.abs(ours / theirs[:, 0].numpy() - 1).max()),
    }


def low_rank(rng):
    """Low-rank and dense form on few vectors of many channels."""
    n, channels = LOW_RANK
    train = features(n, rng, channels, LOW_RANK_GRID)
    test = features(1, rng, channels, LOW_RANK_GRID)
    row = {"n": n, "channels": channels, "grid": LOW_RANK_GRID}
    answers = []
    for name, choice in (("low_rank", True), ("dense", False)):
        fit_s, gaussian = seconds(lambda choice=choice: fitted(train, low_rank=choice), 1)
        score_s, distances = seconds(lambda gaussian=gaussian: gaussian.mahalanobis(test))
        answers.append(distances)
        row[name] = {
            "fit_s": fit_s,
            "score_ms": 1000 * score_s,
            "megabytes": held_bytes(gaussian) / 1e6,
        }
    row["covariance_float32_megabytes"] = LOW_RANK_GRID**2 * channels**2 * 4 / 1e6
    row["relative_difference"] = float(np.abs(answers[0] / answers[1] - 1).max())
    return row


def held_bytes(gaussian):
    """Bytes of all arrays a Gaussian holds, each counted once."""
    arrays = {}
    for value in vars(gaussian._state).values():
        for array in value if isinstance(value, list) else [value]:
            if isinstance(array, np.ndarray):
                arrays[id(array)] = array.nbytes
    return sum(arrays.values())


def stream(n_images):
    """Fit a stream of images and print the peak memory of this process in megabytes."""
    rng = np.random.default_rng(0)
    gaussian = PositionwiseGaussian(epsilon=EPSILON)
    for first in range(0, n_images, BATCH):
        maps = features(min(BATCH, n_images - first), rng)
        gaussian.partial_fit(maps)
    gaussian.mahalanobis(maps)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(kilobytes / (1000 if sys.platform == "linux" else 1e6))


def peak(n_images):
    """Peak memory in megabytes of a process that fits `n_images` images."""
    command = [sys.executable, __file__, "--stream", str(n_images)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def rounded(tree):
    """Numbers to 4 digits."""
    if isinstance(tree, dict):
        return {key: rounded(value) for key, value in tree.items()}
    return float(f"{tree:.4g}") if isinstance(tree, float) else tree


def main():
    """Run, print, write JSON; fail if the results differ or memory grows."""
    # This comes first: the peak of a child process starts from the size of its parent.
    peaks = {str(n): peak(n) for n in PEAK_IMAGES}
    rng = np.random.default_rng(0)
    train, test = features(TRAIN, rng), features(TEST, rng)
    gaussian, loop = against_the_loop(train, test)
    anomalib = against_anomalib(train, test, gaussian.mahalanobis(test))
    del train, test
    result = rounded(
        {
            **machine(),
            "numpy": np.__version__,
            "shape": [TRAIN, GRID, GRID, CHANNELS],
            "against_the_loop": loop,
            "anomalib": anomalib,
            "held_megabytes": held_bytes(gaussian) / 1e6,
            "low_rank": low_rank(rng),
            "peak_megabytes": peaks,
        }
    )
    print(json.dumps(result, indent=1))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result) + "\n")
    if result["against_the_loop"]["relative_difference"] > TOLERANCE:
        raise SystemExit("the distances differ from the loop's.")
    few, many = result["peak_megabytes"].values()
    if many > PEAK_GROWTH * few:
        raise SystemExit("the peak of memory grows with the number of images.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stream"]:
        stream(int(sys.argv[2]))
    else:
        main()
