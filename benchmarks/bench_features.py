"""Milliseconds an image of features and PatchCore, by kind of features.

    python benchmarks/bench_features.py

Images in memory, of 224 x 224 or in one row 320 x 320, a bank of 2,000 rows, two threads. Networks
have random weights:
times do not depend on them. "features" is the extractor's transform, "PatchCore" all from images
to scores and maps. Results are written to benchmarks/results as JSON.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _machine import machine
from _timing import ms_per_image

from skanomaly import FeatureExtractor, FilterBank, PatchCore, Pipeline
from skanomaly.datasets import make_textures

N_GOOD = 40
BANK_ROWS = 2_000
BATCH_SIZES = (1, 16)
SECONDS = 4.0  # per method
RESULT = Path(__file__).parent / "results" / "bench_features.json"


def extractors():
    """{name: extractor}; the device is the processor."""
    options = {"weights": None, "device": "cpu", "random_state": 0}
    return {
        "FilterBank": FilterBank(random_state=0),
        "efficientnet_lite0": FeatureExtractor("efficientnet_lite0", image_size=224, **options),
        "efficientnet_lite0, 320": FeatureExtractor("efficientnet_lite0", **options),
        "squeezenet1_1": FeatureExtractor("squeezenet1_1", **options),
        "resnet18": FeatureExtractor("resnet18", **options),
        "wide_resnet50_2": FeatureExtractor("wide_resnet50_2", **options),
        "wide_resnet50_2, bfloat16": FeatureExtractor(
            "wide_resnet50_2", dtype="bfloat16", **options
        ),
    }


def fitted(extractor, images):
    """A pipeline whose bank has BANK_ROWS rows."""
    maps = extractor.fit(images).transform(images[:1])
    n_patches = len(images) * max(shape[0] * shape[1] for shape in maps.layer_shapes.values())
    ratio = min(1.0, (BANK_ROWS + 0.5) / n_patches)
    return Pipeline(
        [("features", extractor), ("detector", PatchCore(coreset_ratio=ratio, random_state=0))]
    ).fit(images)


def score(pipe, images):
    """Scores and score maps."""
    return pipe[-1].score_samples_and_map(pipe[0].transform(images))


def main():
    torch.set_num_threads(2)
    good = make_textures(N_GOOD, size=(224, 224), random_state=0)
    rows = []
    for name, extractor in extractors().items():
        pipe = fitted(extractor, good)
        for batch_size in BATCH_SIZES:
            images = good[:batch_size]
            times = ms_per_image(
                {
                    "features": partial(pipe[0].transform, images),
                    "PatchCore": partial(score, pipe, images),
                },
                batch_size,
                SECONDS,
            )
            rows.append(
                {
                    "features": name,
                    "batch_size": batch_size,
                    "bank": list(np.shape(pipe[-1].memory_bank_)),
                    "ms_per_image": times,
                }
            )
            print(
                f"{name:<26} batch {batch_size:<3} bank {rows[-1]['bank']!s:<13}"
                + "  ".join(f"{kind} {t:.1f} ms" for kind, t in times.items()),
                flush=True,
            )
    record = {
        "benchmark": "bench_features",
        **machine(),
        "rows": rows,
    }
    RESULT.write_text(json.dumps(record) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
