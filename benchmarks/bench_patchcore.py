"""PatchCore against anomalib's, end to end: from images to scores and maps.

    python benchmarks/bench_patchcore.py --root DATA

One Wide ResNet-50-2 with random weights for both. The memory bank holds 16,384 patch vectors of
1,536 features: a greedy coreset of that network's features of real images from DATA, so that
distances are distributed as in real use. anomalib gets the same network and the same bank. Images
are in memory and already have the input's size. Results are written to benchmarks/results as JSON.
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from _machine import machine
from _real_images import real_images
from _timing import ms_per_image
from torchvision import models

from skanomaly import FeatureExtractor, PatchCore

N_IMAGES = 210  # good images the bank is selected from: 784 patches each
BANK_ROWS = 16_384
BATCH_SIZES = (1, 16)
LAYERS = ("layer2", "layer3")
SECONDS = 12.0
RESULT = Path(__file__).parent / "results" / "bench_patchcore.json"


def fitted(images, weights):
    """Extractors in both precisions and a detector with the memory bank."""
    extractors = {
        dtype: FeatureExtractor("wide_resnet50_2", weights=weights, dtype=dtype, device="cpu").fit()
        for dtype in ("float32", "bfloat16")
    }
    features = extractors["float32"].transform(images)
    ratio = (BANK_ROWS + 0.5) / (len(images) * 28 * 28)
    detector = PatchCore(coreset_ratio=ratio, random_state=0).fit(features)
    return extractors, detector


def anomalibs(weights, bank):
    """anomalib's model with the same network and bank, or None if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from anomalib.models.image.patchcore.torch_model import PatchcoreModel
    except ImportError as error:
        print(f"anomalib is left out: {error}")
        return None
    model = PatchcoreModel(layers=LAYERS, backbone="wide_resnet50_2", pre_trained=False)
    state = torch.load(weights, weights_only=True)
    inner = model.feature_extractor.feature_extractor
    missing, _ = inner.load_state_dict(state, strict=False)
    if missing:
        raise RuntimeError(f"anomalib's network has other tensors than torchvision's: {missing}")
    model.memory_bank = torch.from_numpy(bank.copy())
    return model.eval()


class Plain(torch.nn.Module):
    """anomalib's model, returning a tuple of tensors so that it can be traced."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        answer = self.model(images)
        return answer.pred_score, answer.anomaly_map


def openvinos(model, tensor, precision):
    """anomalib's model compiled by OpenVINO, or None if it is not installed."""
    try:
        import openvino
    except ImportError as error:
        print(f"OpenVINO is left out: {error}")
        return None
    converted = openvino.convert_model(Plain(model), example_input=tensor)
    compiled = openvino.Core().compile_model(
        converted, "CPU", {"INFERENCE_PRECISION_HINT": precision}
    )
    return lambda: compiled([tensor.numpy()])


def measure(images, extractors, detector, model):
    """One batch size: time of each method, and the difference of the scores."""

    def ours(dtype):
        return detector.score_samples_and_map(extractors[dtype].transform(images))

    mean, std = (np.array(v, np.float32) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    normalised = (images / np.float32(255) - mean) / std
    tensor = torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy())
    calls = {f"skanomaly, {dtype}": lambda dtype=dtype: ours(dtype) for dtype in extractors}
    if model is not None:
        calls["anomalib"] = lambda: model(tensor)
        for precision in ("f32", "bf16"):
            call = openvinos(model, tensor, precision)
            if call is not None:
                calls[f"anomalib, OpenVINO {precision}"] = call
    row = {"batch_size": len(images), "ms_per_image": ms_per_image(calls, len(images), SECONDS)}
    if model is not None:
        with torch.inference_mode():
            theirs = model(tensor).pred_score.flatten().numpy()
        scores = -ours("float32")[0]
        row["largest relative difference of scores"] = float(np.abs(theirs / scores - 1).max())
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    images = real_images(parser.parse_args().root, N_IMAGES + max(BATCH_SIZES))
    learn, judge = images[:N_IMAGES], images[N_IMAGES:]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pth"
        torch.save(models.wide_resnet50_2(weights=None).state_dict(), weights)
        extractors, detector = fitted(learn, weights)
        model = anomalibs(weights, detector.memory_bank_)
    print(f"memory bank {detector.memory_bank_.shape}, {torch.get_num_threads()} threads")
    results = []
    for batch_size in BATCH_SIZES:
        row = measure(judge[:batch_size], extractors, detector, model)
        results.append(row)
        for name, ms in row["ms_per_image"].items():
            ratios = ", ".join(
                f"{other / ms:.1f}x faster than {rival}"
                for rival, other in row["ms_per_image"].items()
                if rival.startswith("anomalib") and name.startswith("skanomaly")
            )
            print(f"batch {batch_size:<3} {name:<26} {ms:7.1f} ms an image  {ratios}", flush=True)
        print({k: v for k, v in row.items() if k.startswith("largest")})
    record = {
        "benchmark": "patchcore",
        "bank": list(detector.memory_bank_.shape),
        **machine(),
        "results": results,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
