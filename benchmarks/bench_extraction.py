"""Speed of a backbone's features, against the eager module that computes the same layers.

    python benchmarks/bench_extraction.py

Weights are random. The competitor is torchvision's feature extractor around the unchanged network
(float32, no folding, default memory format), on normalized images; ours starts from images in
[0, 1] and ends at numpy arrays. Results are written to benchmarks/results as JSON.
"""

import json
from pathlib import Path

import numpy as np
import torch
from _machine import machine
from _timing import ms_per_image
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from skanomaly import FeatureExtractor

BACKBONES = ("resnet18", "wide_resnet50_2")
LAYERS = ("layer2", "layer3")
BATCH_SIZES = (1, 16)
SECONDS = 5.0  # per method, after two warm-up calls
RESULT = Path(__file__).parent / "results" / "bench_extraction.json"


def measure(backbone, batch_size):
    images = np.random.default_rng(0).random((batch_size, 224, 224, 3), dtype=np.float32)
    torch.manual_seed(0)
    network = models.get_model(backbone, weights=None).eval()
    eager = create_feature_extractor(network, list(LAYERS)).eval()
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    ours = {
        dtype: FeatureExtractor(network, layers=LAYERS, dtype=dtype, device="cpu").fit()
        for dtype in ("float32", "bfloat16")
    }
    times = ms_per_image(
        {
            "eager, whole network": lambda: network(tensor),
            "eager, same layers": lambda: eager(tensor),
            "float32": lambda: ours["float32"]._features(images),
            "bfloat16": lambda: ours["bfloat16"]._features(images),
        },
        batch_size,
        SECONDS,
    )
    row = {"backbone": backbone, "batch_size": batch_size, "ms_per_image": times}
    for dtype in ours:
        row[f"ratio, {dtype}"] = times["eager, same layers"] / times[dtype]
    print(
        f"{backbone:<18} batch {batch_size:<3}"
        + "  ".join(f"{name} {t:.1f} ms" for name, t in times.items())
        + f"   float32 {row['ratio, float32']:.2f}x, bfloat16 {row['ratio, bfloat16']:.2f}x",
        flush=True,
    )
    return row


def main():
    results = [measure(name, size) for name in BACKBONES for size in BATCH_SIZES]
    record = {
        "benchmark": "extraction",
        "torch": torch.__version__,
        **machine(),
        "results": results,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
