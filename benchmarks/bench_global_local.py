"""GlobalLocal: speedup from shared computation, training time and time per image.

    python benchmarks/bench_global_local.py [--root DATA] [--dtype bfloat16] [--modes dense]

Shared computation, on an image of 256 x 256, median of three:
    Local-Net on the whole image against cropping every patch (in batches)
    exact Global-Net: the windows that holes touch against a masked pass for each hole (in batches)
The whole detector with the quick preset on 200 good images (generated plates, or with --root evenly
from all data sets): seconds of training, and milliseconds per image without reading it. Results of
modes that are not run are kept if images, dtype and machine are the same.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from _machine import machine
from _real_images import real_images
from _timing import ms_per_image

from skanomaly import FeatureMaps, GlobalLocal
from skanomaly.datasets import make_textures
from skanomaly.detectors.global_local._patch_comparison import PatchComparison
from skanomaly.detectors.global_local._patch_grid import PatchGrid
from skanomaly.images import load_batch

SIZE, N_TRAINING, BATCH = 256, 200, 64
SECONDS = 6
RESULT = Path(__file__).parent / "results" / "bench_global_local.json"


def seconds(call, rounds=3):
    """Median time of a call after one warm-up."""
    times = []
    with torch.inference_mode():
        call()
        for _ in range(rounds):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def shared_computation(image):
    """Seconds of both networks with and without shared work, the latter scaled from an eighth."""
    comparison = PatchComparison(33, 3, "exact").eval()
    dense, coarse = PatchGrid(33, SIZE, SIZE, 4), PatchGrid(33, SIZE, SIZE, 8)
    padded = torch.nn.functional.pad(image, (0, 33, 0, 33))

    def crop(origins):
        for part in np.array_split(origins, max(1, len(origins) // BATCH)):
            crops = [padded[0, :, y : y + 33, x : x + 33] for y, x in part]
            comparison.local_net(comparison.prepare(torch.stack(crops)))

    def masked(origins):
        for part in np.array_split(origins, max(1, len(origins) // BATCH)):
            masks = torch.ones(len(part), 1, SIZE, SIZE)
            for mask, (y, x) in zip(masks, part, strict=True):
                mask[:, y : y + 33, x : x + 33] = 0
            comparison.global_net(image.expand(len(part), -1, -1, -1), masks)

    holes = torch.from_numpy(coarse.origins())
    return {
        "local_dense_s": seconds(lambda: comparison.local_embeddings(image, dense)),
        "local_cropped_s": 8 * seconds(lambda: crop(dense.origins()[::8])),
        "exact_shared_s": seconds(lambda: comparison.global_net.predict_holes(image[0], holes, 33)),
        "exact_masked_s": 8 * seconds(lambda: masked(coarse.origins()[::8])),
    }


def whole(good, mode, dtype):
    """Seconds of training and milliseconds per image."""
    detector = GlobalLocal(global_mode=mode, dtype=dtype, device="cpu", verbose=1)
    began = time.perf_counter()
    detector.fit(good)
    training = time.perf_counter() - began
    pixels, _ = load_batch(good, range(2), detector.image_fit_, detector.n_channels_in_)
    X = FeatureMaps({"pixels": pixels})
    times = ms_per_image({"score": lambda: detector._score_maps(X)}, 2, SECONDS)
    return {"training_s": training, "score_ms": times["score"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of data sets")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--modes", nargs="+", default=["dense", "exact"])
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file")
    options = parser.parse_args()
    if options.root:
        good = real_images(options.root, N_TRAINING)
    else:
        good = make_textures(N_TRAINING, kind="grid", size=SIZE, random_state=0)
    torch.manual_seed(0)
    image = torch.rand(1, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    before = json.loads(options.output.read_text()) if options.output.exists() else {}
    record = {
        "benchmark": "global_local",
        "images": "real" if options.root else "made up",
        "dtype": options.dtype,
        **machine(),
    }
    kept_if_same = "images", "dtype", "processor", "threads"
    if all(before.get(name) == record[name] for name in kept_if_same):
        record |= {mode: before[mode] for mode in ("dense", "exact") if mode in before}
    record |= shared_computation(image)
    for name in ("local_cropped_s", "exact_masked_s"):
        fast = name.replace("cropped", "dense").replace("masked", "shared")
        print(f"{name} / {fast}: {record[name] / record[fast]:.1f}", flush=True)
    for mode in options.modes:
        record[mode] = whole(good, mode, options.dtype)
        found = record[mode]
        print(
            f"{mode}: {found['training_s']:.0f} s of training, {found['score_ms']:.0f} ms per image"
        )
        options.output.write_text(json.dumps(record) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
