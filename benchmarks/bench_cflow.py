"""CFlow against anomalib's, on the same features: seconds for a pass, image and pixel AUROC.

    python benchmarks/bench_cflow.py --root SET [--passes 10]

SET is one data set in the layout of MVTec AD. Both get FilterBank features of 128 x 128 images, of
up to 200 good ones drawn at random, and as many passes over them. anomalib's flows are trained as
its Cflow trains them: all vectors of 32 images at a time, shuffled, 64 vectors a step, one Adam at
1e-4; its maps are those of its generator, with the likelihoods' maximum taken over all test images
at once, as they are and smoothed as ours. Times are of the training alone, without features and
scores. Results are written to benchmarks/results as JSON.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _machine import machine

from skanomaly import CFlow, FilterBank, load_folder
from skanomaly.metrics import image_roc_auc_score, pixel_roc_auc_score

SIZE, N_GOOD, SIGMA = 128, 200, 4.0
GROUP, STEP, CONDITION, N_BLOCKS, CLAMP, RATE = 32, 64, 128, 8, 1.9, 1e-4  # anomalib's defaults
RESULT = Path(__file__).parent / "results" / "bench_cflow.json"


def timed(function):
    """Seconds and result of one call."""
    began = time.perf_counter()
    answer = function()
    return time.perf_counter() - began, answer


def anomalibs():
    """anomalib's parts of CFlow, or None if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from anomalib.models.image.cflow import anomaly_map, utils
    except ImportError as error:
        print(f"anomalib is left out: {error}")
        return None
    return utils, anomaly_map.AnomalyMapGenerator


class AnomalibFlows:
    """A decoder of anomalib for each layer, trained and read as its Cflow and CflowModel do."""

    def __init__(self, layer_shapes, parts):
        self.utils, generator = parts
        torch.manual_seed(0)
        self.names = list(layer_shapes)
        self.grids = [shape[:2] for shape in layer_shapes.values()]
        self.decoders = torch.nn.ModuleList(
            self.utils.cflow_head(CONDITION, N_BLOCKS, CLAMP, n_features)
            for _, _, n_features in layer_shapes.values()
        )
        self.optimizer = torch.optim.Adam(self.decoders.parameters(), lr=RATE)
        self.generator = generator(self.names)

    def vectors(self, X):
        """For each layer, vectors (n, C) and codes of their places (n, P)."""
        for name, (height, width) in zip(self.names, self.grids, strict=True):
            maps = torch.from_numpy(X.arrays()[name])
            codes = self.utils.positional_encoding_2d(CONDITION, height, width)
            codes = codes.permute(1, 2, 0).expand(len(maps), -1, -1, -1)
            yield maps.flatten(0, 2), codes.flatten(0, 2)

    def likelihoods(self, layer, vectors, codes):
        """log p / C (n,) of vectors of a layer."""
        z, log_det = self.decoders[layer](vectors, [codes])
        return self.utils.get_logp(vectors.shape[1], z, log_det) / vectors.shape[1]

    def train(self, X, n_passes):
        for _ in range(n_passes):
            for rows in torch.randperm(len(X)).split(GROUP):
                for layer, (vectors, codes) in enumerate(self.vectors(X[rows.numpy()])):
                    order = torch.randperm(len(vectors))
                    for i in range(max(1, len(vectors) // STEP)):
                        some = order[i * STEP : (i + 1) * STEP]
                        self.optimizer.zero_grad()
                        values = self.likelihoods(layer, vectors[some], codes[some])
                        (-F.logsigmoid(values)).mean().backward()
                        self.optimizer.step()

    @torch.no_grad()
    def maps(self, X):
        """Maps (n, SIZE, SIZE) of all test images at once."""
        found = [
            torch.cat(
                [
                    self.likelihoods(layer, *some)
                    for some in zip(vectors.split(4096), codes.split(4096), strict=True)
                ]
            )
            for layer, (vectors, codes) in enumerate(self.vectors(X))
        ]
        heights, widths = zip(*self.grids, strict=True)
        maps = self.generator(
            distribution=found, height=heights, width=widths, image_size=(SIZE, SIZE)
        )
        return maps.numpy()


def measure(data, scores, maps):
    """Image and pixel AUROC in %, of scores that are high for a defect."""
    row = {"image_auroc": 100 * image_roc_auc_score(data.test.target, scores)}
    if data.test.masks is not None:
        row["pixel_auroc"] = 100 * pixel_roc_auc_score(data.test.masks, maps)
    return row


def ours(data, good, X, n_passes):
    """Training time and results of the quick preset, by both measures."""
    # A fit also takes statistics and constants: the time of a pass is that of more passes.
    short = CFlow(n_epochs=1, contamination=None)
    short.fit(good[:GROUP])  # warm-up
    seconds = timed(lambda: short.fit(good))[0]
    detector = CFlow(n_epochs=1 + n_passes, contamination=None)
    longer = timed(lambda: detector.fit(good))[0]
    row = {"seconds_per_pass": (longer - seconds) / n_passes}
    detector = CFlow(n_epochs=n_passes, contamination=None).fit(good)
    for name in ("likelihood", "latent"):
        scores, maps = detector.set_params(measure=name).score_samples_and_map(X)
        row[name] = measure(data, -scores, maps)
    return row


def theirs(data, good, X, n_passes, parts):
    """Training time and results of anomalib's flows."""
    AnomalibFlows(good.layer_shapes, parts).train(good[:2], 1)  # warm-up
    flows = AnomalibFlows(good.layer_shapes, parts)
    seconds = timed(lambda: flows.train(good, n_passes))[0]
    row, grids = {"seconds_per_pass": seconds / n_passes}, flows.maps(X)
    for name, sigma in (("likelihood", 0.0), ("likelihood, smoothed", SIGMA)):
        maps = [
            X.image_fit.to_frame(one, frame, sigma)
            for one, frame in zip(grids, X.frames, strict=True)
        ]
        row[name] = measure(data, X.image_fit.smooth(grids, sigma).max(axis=(1, 2)), maps)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of one data set")
    parser.add_argument("--passes", type=int, default=10, help="over the good images")
    options = parser.parse_args()
    data = load_folder(options.root)
    rows = np.random.default_rng(0).permutation(len(data.train.images))[:N_GOOD]
    images = [data.train.images[i] for i in rows]
    extractor = FilterBank(image_size=SIZE, random_state=0)
    good, X = extractor.fit_transform(images).store(), extractor.transform(data.test.images).store()
    record = {
        "benchmark": "cflow",
        "dataset": options.root.name,
        "good_images": len(good),
        "passes": options.passes,
        "layers": {name: list(shape) for name, shape in good.layer_shapes.items()},
        **machine(),
        "skanomaly": ours(data, good, X, options.passes),
    }
    parts = anomalibs()
    if parts is not None:
        record["anomalib"] = theirs(data, good, X, options.passes, parts)
        times = [record[name]["seconds_per_pass"] for name in ("anomalib", "skanomaly")]
        record["x anomalib"] = times[0] / times[1]
    for name in ("skanomaly", "anomalib", "x anomalib"):
        print(f"{name:<10} {record.get(name)}", flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
