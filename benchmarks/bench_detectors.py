"""PaDiM against anomalib's, and SPADE against its definition in plain torch.

    python benchmarks/bench_detectors.py --root DATA

PaDiM: one ResNet-18 with random weights, the same 100 channels and the same images for both; fit
and scoring end to end, from images to scores and maps; once more with the network in bfloat16,
which anomalib does not offer. SPADE: K = 50 good images, layers 1 to 3 of
a ResNet-50 with random weights at 224 x 224; all methods get the same features. Its definition is
implemented twice: with the differences of all pairs of patches, timed on a few positions of each
layer and scaled up, and with torch.cdist; once with good images of one data set, and once with
images of all, so that the galleries hold unlike ones. Results are written to benchmarks/results as
JSON.
"""

import argparse
import json
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _machine import machine
from _real_images import real_images
from _timing import ms_per_image
from torchvision import models

from skanomaly import SPADE, FeatureExtractor, PaDiM

DATASET = "casting"
N_GOOD, N_JUDGED = 100, 16
N_NEIGHBORS = 50
LAYERS = ("layer1", "layer2", "layer3")
BATCH_SIZES = (1, 16)
TIMED_POSITIONS = 16
CDIST_ROWS = 256
SECONDS = 9.0
RESULT = Path(__file__).parent / "results" / "bench_detectors.json"


def timed(function):
    """Seconds and result of one call."""
    began = time.perf_counter()
    answer = function()
    return time.perf_counter() - began, answer


def normalised(images):
    """(n, H, W, 3) uint8 -> (n, 3, H, W) as networks take it."""
    mean, std = (np.array(v, np.float32) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    values = (images / np.float32(255) - mean) / std
    return torch.from_numpy(values.transpose(0, 3, 1, 2).copy())


def anomalib_padim(network, channels):
    """anomalib's model with the same network and channels, or None if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from anomalib.models.image.padim.torch_model import PadimModel
    except ImportError as error:
        print(f"anomalib is left out: {error}")
        return None
    model = PadimModel(backbone="resnet18", layers=list(LAYERS), pre_trained=False)
    inner = model.feature_extractor.feature_extractor
    missing, _ = inner.load_state_dict(network.state_dict(), strict=False)
    if missing:
        raise RuntimeError(f"anomalib's network has other tensors than torchvision's: {missing}")
    model.idx = torch.from_numpy(channels)
    return model


def padim(good, judged):
    """Fit and scoring of both, end to end."""
    torch.manual_seed(0)
    network = models.resnet18(weights=None)
    extractor = FeatureExtractor(network, layers=list(LAYERS), device="cpu").fit()
    narrow = FeatureExtractor(network, layers=list(LAYERS), dtype="bfloat16", device="cpu").fit()
    detector = PaDiM(random_state=0)
    warm_up = extractor.transform(good[:4])
    detector.fit(warm_up)
    row = {"fit_s": {"skanomaly": timed(lambda: detector.fit(extractor.transform(good)))[0]}}
    model = anomalib_padim(network, detector.channels_)
    if model is not None:
        row["fit_s"]["anomalib"] = timed(lambda: fit_anomalib(model, normalised(good)))[0]
    for batch_size in BATCH_SIZES:
        images = judged[:batch_size]
        tensor = normalised(images)

        def ours(images=images, extractor=extractor):
            return detector.score_samples_and_map(extractor.transform(images))

        calls = {"skanomaly": ours, "skanomaly, bfloat16": partial(ours, extractor=narrow)}
        if model is not None:
            calls["anomalib"] = lambda tensor=tensor: model(tensor)
        row[f"batch {batch_size}, ms_per_image"] = ms_per_image(calls, batch_size, SECONDS)
        features = extractor.transform(images)
        calls = {"skanomaly": lambda features=features: detector.score_samples_and_map(features)}
        if model is not None:
            calls["anomalib"] = from_embedding(model, tensor)
        row[f"batch {batch_size}, without the network"] = ms_per_image(calls, batch_size, SECONDS)
    if model is not None:
        with torch.inference_mode():
            theirs = model(tensor).anomaly_map[:, 0].numpy()
        row["largest relative difference of maps"] = float(np.abs(ours()[1] / theirs - 1).max())
    return row


def from_embedding(model, tensor):
    """anomalib's scores and maps from the network's features."""
    with torch.inference_mode():
        embedding = model.generate_embedding(model.feature_extractor(tensor))

    def score():
        maps = model.anomaly_map_generator(
            embedding=embedding,
            mean=model.gaussian.mean,
            inv_covariance=model.gaussian.inv_covariance,
            image_size=tensor.shape[-2:],
        )
        return torch.amax(maps, dim=(-2, -1)), maps

    return score


def fit_anomalib(model, tensor):
    model.train()
    with torch.inference_mode():
        for batch in tensor.split(16):
            model(batch)
        model.fit()
    model.eval()


def spade(good, judged):
    """Fit and scoring from given features."""
    torch.manual_seed(0)
    extractor = FeatureExtractor(
        models.resnet50(weights=None), layers=list(LAYERS), device="cpu"
    ).fit()
    features, X = extractor.transform(good), extractor.transform(judged)
    # Layers as they are, as its definition has them.
    detector = SPADE(n_neighbors=N_NEIGHBORS, sigma=0, balance_layers=False)
    detector.fit(features).score_map(X[:1])  # warm-up: compiles
    row = {"fit_s": timed(lambda: detector.fit(features))[0]}
    row["index_s"] = timed(lambda: detector.score_map(X[:1]))[0]  # prepared on first use
    for batch_size in BATCH_SIZES:  # all images: some are harder than others
        parts = [X[first : first + batch_size] for first in range(0, len(X), batch_size)]
        calls = {"skanomaly": lambda parts=parts: [detector.score_map(part) for part in parts]}
        row[f"batch {batch_size}, ms_per_image"] = ms_per_image(calls, len(X), SECONDS)
    seconds, plain = timed(lambda: transcription(features, X[:1], with_cdist))
    row["torch.cdist, ms_per_image"] = 1000 * seconds
    row["differences, ms_per_image (scaled up)"] = 1000 * all_differences(features, X[:1])
    ours = detector.score_map(X[:1])[0]
    row["largest relative difference of maps"] = float(np.abs(ours / plain - 1).max())
    for name in ("torch.cdist", "differences"):
        key = next(k for k in row if k.startswith(name))
        for batch_size in BATCH_SIZES:
            ours = row[f"batch {batch_size}, ms_per_image"]["skanomaly"]
            row[f"x {name}, batch {batch_size}"] = row[key] / ours
    return row


def galleries(features, X):
    """{layer: (rows of one image (p, C), gallery (K * p, C))} as torch tensors."""
    deep = LAYERS[-1]
    stored, image = features.arrays(), X.arrays()
    pooled = torch.from_numpy(stored[deep].mean((1, 2))), torch.from_numpy(image[deep].mean((1, 2)))
    nearest = torch.cdist(pooled[1], pooled[0])[0].topk(N_NEIGHBORS, largest=False).indices.numpy()
    for name in LAYERS:
        c = image[name].shape[3]
        gallery = torch.from_numpy(stored[name][nearest].reshape(-1, c))
        yield name, torch.from_numpy(image[name].reshape(-1, c)), gallery


def transcription(features, X, distances):
    """SPADE's map (H, W) of one image at the input's size, by the definition."""
    layers = []
    for _, rows, gallery in galleries(features, X):
        side = round(len(rows) ** 0.5)
        scores = distances(rows, gallery).view(1, 1, side, side)
        layers.append(F.interpolate(scores, size=(56, 56), mode="bilinear", align_corners=False))
    scores = torch.cat(layers).mean(0, keepdim=True)
    scores = F.interpolate(scores, size=(224, 224), mode="bilinear", align_corners=False)
    return scores[0, 0].numpy()


def with_cdist(rows, gallery):
    """Distance of each row to its nearest gallery row."""
    return torch.cat([torch.cdist(part, gallery).amin(1) for part in rows.split(CDIST_ROWS)])


def all_differences(features, X):
    """Seconds for one image, extrapolated from a few positions of each layer."""
    total = 0.0
    for _, rows, gallery in galleries(features, X):
        few = rows[:: len(rows) // TIMED_POSITIONS][:TIMED_POSITIONS]

        def nearest(few=few, gallery=gallery):
            return [((gallery - row) ** 2).sum(1).sqrt().min() for row in few]

        nearest()
        total += timed(nearest)[0] * len(rows) / len(few)
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    root = parser.parse_args().root
    alike, mixed = (real_images(root, N_GOOD + N_JUDGED, one) for one in (DATASET, None))
    record = {
        "benchmark": "detectors",
        "dataset": DATASET,
        "good_images": N_GOOD,
        **machine(),
    }
    runs = {"padim": (padim, alike), "spade": (spade, alike), "spade, mixed": (spade, mixed)}
    for name, (measure, images) in runs.items():
        record[name] = measure(images[:N_GOOD], images[N_GOOD:])
        for what, figure in record[name].items():
            print(f"{name:<12} {what:<40} {figure}", flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
