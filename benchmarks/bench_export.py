"""Exported models beside the pipelines: the same scores, and how fast.

    python benchmarks/bench_export.py [--image-size 224] [--good 40]

- Parity: each supported extractor, way of resizing and detector is exported; listed are the largest
  relative differences of scores and score maps on good and defective images, by onnxruntime (the
  export's own check) and by OpenVINO in float32.
- Latency: time per image of the exported model over that of `score_samples_and_map` of the pipeline
  on the same arrays, at batch 1 and 16, the median of REPEATS rounds in which all take turns.

Target: no difference above 1e-3. Results are written to benchmarks/results as JSON; with another
size or number of images they are only printed.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
from _machine import machine

from skanomaly import FeatureExtractor, FilterBank, PaDiM, PatchCore, Pipeline, export_onnx
from skanomaly.datasets import make_defects, make_textures
from skanomaly.feature_extraction.backbones import has_weights

FRAME = (300, 400)
DEFAULTS = {"image_size": 224, "good": 40}
N_CHECKED = 16
BATCHES = (1, 16)
REPEATS = 9
LARGEST = 1e-3
EXTRACTORS = {
    "FilterBank": lambda **options: FilterBank(random_state=0, **options),
    "squeezenet1_1": lambda **options: network("squeezenet1_1", **options),
    "resnet18": lambda **options: network("resnet18", **options),
    "efficientnet_lite0": lambda **options: network("efficientnet_lite0", **options),
}
DETECTORS = {
    "PatchCore": lambda: PatchCore(random_state=0),
    "PatchCore, paper": lambda: PatchCore(
        coreset_ratio=0.01, image_score="paper", balance_layers=False, random_state=0
    ),
    "PatchCore, 3 neighbors": lambda: PatchCore(n_neighbors=3, random_state=0),
    "PaDiM": lambda: PaDiM(n_components=16, random_state=0),  # fewer than images: dense
    "PaDiM, few images": lambda: PaDiM(random_state=0),  # fewer images than channels: low rank
}
RESIZES = ("stretch", "pad", "crop")
TIMED = ("PatchCore", "PaDiM, few images")
RESULT = Path(__file__).parent / "results" / "bench_export.json"


def network(name, **options):
    weights = "DEFAULT" if name.startswith("efficientnet") and has_weights(name) else None
    return FeatureExtractor(name, weights=weights, device="cpu", random_state=0, **options)


def runners(path):
    """{engine: function of images that returns scores and maps}"""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = ["score_samples", "score_map"]

    def by_openvino(images):
        found = compiled(images)
        return [found[name] for name in names]

    return {
        "onnxruntime": lambda images: session.run(names, {"images": images}),
        "openvino": by_openvino,
    }


def differences(found, expected):
    """Largest relative difference of scores and of maps, as export_onnx has it."""
    scores, maps = found
    sizes = np.abs(expected[0])
    peaks = np.abs(expected[1]).max(axis=(1, 2))
    apart = np.abs(maps - expected[1]).max(axis=(1, 2))
    return {
        "score_samples": float((np.abs(scores - expected[0]) / sizes).max()),
        "score_map": float((apart / np.maximum(peaks, np.median(peaks))).max()),
    }


def milliseconds(functions, images):
    """{name: median time per image}, all taking turns."""
    times = {name: [] for name in functions}
    for function in functions.values():
        function(images)  # warm-up
    for _ in range(REPEATS):
        for name, function in functions.items():
            start = time.perf_counter()
            function(images)
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(t) / len(images) for name, t in times.items()}


def measure(image_size, n_good, path):
    good = make_textures(n_good, size=FRAME, random_state=0)
    bad = make_defects(good[: N_CHECKED // 2], random_state=0)[0]
    images = np.concatenate([good[: N_CHECKED - len(bad)], bad])
    rows = []
    for name, make in EXTRACTORS.items():
        for resize in RESIZES:
            extractor = make(image_size=image_size, resize=resize).fit(good)
            features = extractor.transform(good)
            for detector_name, make_detector in DETECTORS.items():
                if resize != "stretch" and detector_name != TIMED[0]:
                    continue  # resizing comes before the detector and knows nothing of it
                detector = make_detector().fit(features)
                pipe = Pipeline([("features", extractor), ("detector", detector)])
                row = {"features": name, "resize": resize, "detector": detector_name}
                row["onnxruntime"] = export_onnx(pipe, path, images)
                row["megabytes"] = path.stat().st_size / 1e6
                engines = runners(path)

                def ours(some, pipe=pipe):
                    return pipe[-1].score_samples_and_map(pipe[:-1].transform(some))

                row["openvino"] = differences(engines["openvino"](images), ours(images))
                if resize == "stretch" and detector_name in TIMED:
                    for batch in BATCHES:
                        found = milliseconds({"ours": ours, **engines}, images[:batch])
                        row[f"ms per image, batch {batch}"] = found
                rows.append(row)
                report(row)
    return rows


def report(row):
    worst = {e: max(row[e].values()) for e in ("onnxruntime", "openvino")}
    line = f"{row['features']:<19}{row['resize']:<9}{row['detector']:<24}"
    line += f"{row['megabytes']:6.1f} MB  " + "  ".join(f"{e} {v:.1e}" for e, v in worst.items())
    for batch in BATCHES:
        times = row.get(f"ms per image, batch {batch}")
        if times:
            ratios = ", ".join(f"{e} {times[e] / times['ours']:.2f}" for e in worst)
            line += f"\n    batch {batch}: ours {times['ours']:.1f} ms an image; ratio {ratios}"
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image-size", type=int, default=DEFAULTS["image_size"])
    parser.add_argument("--good", type=int, default=DEFAULTS["good"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options.image_size, options.good, Path(folder) / "model.onnx")
    worst = max(max(row[e].values()) for row in rows for e in ("onnxruntime", "openvino"))
    print(f"{len(rows)} combinations, largest difference {worst:.1e} (target below {LARGEST})")
    if vars(options) == DEFAULTS:
        summary = {
            "largest_difference": worst,
            "rows": rows,
            **machine(),
        }
        RESULT.write_text(json.dumps(summary) + "\n")
    return int(worst > LARGEST)


if __name__ == "__main__":
    sys.exit(main())
