"""One image at a time: what a pipeline takes beside the forward pass of its network.

    python benchmarks/bench_latency.py --root DATA

- Wide ResNet-50-2 with random weights and a memory bank of 16,384 x 1,536, in float32 and bfloat16:
  milliseconds an image from pixels to score and score map, and of the network's forward pass alone,
  as the extractor runs it, on an image that is ready for it.
- EfficientNet-Lite0 at two sizes and FilterBank, images in their own size, with PatchCore of 2,000
  rows, PaDiM
  and SPADE: the same. EfficientNet-Lite0 needs the package of its weights, or is left out.

All calls of a table take turns. Results are written to benchmarks/results as JSON.
"""

import argparse
import json
from pathlib import Path

# First: it tells torch's threads, which are counted when torch is loaded, not to wait for long.
import skanomaly  # noqa: F401  # isort: skip
import numpy as np
import torch
from _machine import machine
from _real_images import real_images
from _timing import ms_per_image
from torchvision import models

from skanomaly import SPADE, FeatureExtractor, FilterBank, PaDiM, PatchCore, Pipeline, load_folder
from skanomaly.images import read_image

DATASET = "casting"
N_LEARNED = 210  # images of which the large bank is selected: 784 patches each
BANK_ROWS, FEW_ROWS = 16_384, 2_000
N_GOOD, N_JUDGED = 60, 12
SECONDS = 15.0
RESULT = Path(__file__).parent / "results" / "bench_latency.json"


def forward_of(extractor, image):
    """A call of the extractor's network alone, on one image (H, W, C) uint8 of the input's size."""
    inference = extractor._ready_network()
    pixels = torch.from_numpy(image[None] / np.float32(255)).permute(0, 3, 1, 2)
    ready = pixels.to(inference.dtype).contiguous(memory_format=torch.channels_last)
    return lambda: inference.network.forward(ready)


def wide(images):
    """Rows of the two precisions, with a large bank."""
    torch.manual_seed(0)
    network = models.wide_resnet50_2(weights=None)
    learned, judged = images[:N_LEARNED], images[N_LEARNED:]
    extractors = {
        dtype: FeatureExtractor(network, layers=["layer2", "layer3"], dtype=dtype, device="cpu")
        for dtype in ("float32", "bfloat16")
    }
    features = extractors["float32"].fit_transform(learned)
    detector = PatchCore(bank_size=BANK_ROWS, random_state=0).fit(features)
    calls = {}
    for dtype, extractor in extractors.items():
        extractor.fit()
        calls[f"pipeline, {dtype}"] = in_turn(
            lambda one, extractor=extractor: detector.score_samples_and_map(
                extractor.transform(one)
            ),
            judged,
        )
        calls[f"network, {dtype}"] = forward_of(extractor, judged[0])
    found = ms_per_image(calls, 1, SECONDS)
    for dtype in extractors:
        name = f"wide_resnet50_2, {dtype}, PatchCore {BANK_ROWS}"
        yield name, found[f"pipeline, {dtype}"], found[f"network, {dtype}"]


def small(root):
    """Rows of the small extractors with three detectors, on images in their own size."""
    paths = load_folder(root / DATASET).train.images[: N_GOOD + N_JUDGED]
    images = [read_image(path) for path in paths]
    good, judged = images[:N_GOOD], images[N_GOOD:]
    extractors = {"FilterBank": FilterBank(random_state=0)}
    try:
        for size in (224, 320):
            lite = FeatureExtractor("efficientnet_lite0", image_size=size, device="cpu").fit()
            extractors[f"EfficientNet-Lite0, {size}"] = lite
    except ImportError as error:
        print(f"EfficientNet-Lite0 is left out: {error}")
    detectors = {
        f"PatchCore {FEW_ROWS}": PatchCore(bank_size=FEW_ROWS, random_state=0),
        "PaDiM": PaDiM(random_state=0),
        "SPADE": SPADE(),
    }
    for kind, extractor in extractors.items():
        calls = {}
        for name, detector in detectors.items():
            pipe = Pipeline([("features", extractor), ("detector", detector)]).fit(good)
            calls[name] = in_turn(
                lambda some, pipe=pipe: pipe[-1].score_samples_and_map(pipe[0].transform(some)),
                [[one] for one in judged],
            )
        calls["features"] = in_turn(extractor.transform, [[one] for one in judged])
        if isinstance(extractor, FeatureExtractor):
            size = extractor.image_fit.height
            calls["network"] = forward_of(extractor, np.zeros((size, size, 3), np.uint8))
        found = ms_per_image(calls, 1, SECONDS)
        for name in detectors:
            yield f"{kind}, {name}", found[name], found.get("network", found["features"])


def in_turn(function, inputs):
    """A call with the next of the inputs each time; arrays are cut to one image."""
    state = {"next": 0}

    def call():
        i = state["next"]
        state["next"] = (i + 1) % len(inputs)
        return function(inputs[i : i + 1] if isinstance(inputs, np.ndarray) else inputs[i])

    return call


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    root, rows = parser.parse_args().root, {}
    print(f"{'one image':<44} {'pipeline, ms':>14} {'network, ms':>14} {'ratio':>7}")
    for table in (small(root), wide(real_images(root, N_LEARNED + N_JUDGED))):
        for name, pipeline, network in table:
            rows[name] = {"pipeline_ms": pipeline, "network_ms": network}
            print(f"{name:<44} {pipeline:>14.2f} {network:>14.2f} {pipeline / network:>7.2f}")
    RESULT.write_text(json.dumps({"benchmark": "latency", **machine(), "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
