"""An ensemble against its members, on real images.

    python benchmarks/ensembles.py --root DATA [--backbone efficientnet_lite0]

For each data set of DATA, PatchCore is fitted on FilterBank features and on those of a pretrained
network, at 224 pixels, and an EnsembleDetector combines the two by its "mean" and its "max". Beside
these stands what one would do by hand, "z-scores": the members' scores of images less their mean,
in standard deviations, both of the good training images as if they were new, are added. Printed are
the image AUROC on the test images, and the pixel AUROC where there are masks. Results are written
to benchmarks/results as JSON.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from skanomaly import (
    EnsembleDetector,
    FeatureExtractor,
    FilterBank,
    PatchCore,
    Pipeline,
    load_folder,
)
from skanomaly.metrics import image_roc_auc_score, pixel_roc_auc_score

RESULT = Path(__file__).parent / "results" / "ensembles.json"
SIZE = 224
RATIO = 0.02  # of the coreset: 784 patches an image


def members(backbone, cache):
    extractors = {
        "FilterBank": FilterBank(image_size=SIZE, random_state=0, cache=cache),
        backbone: FeatureExtractor(backbone, image_size=SIZE, cache=cache),
    }
    detector = PatchCore(coreset_ratio=RATIO, image_score="map_max", random_state=0)
    return [
        (name, Pipeline([("features", extractor), ("detector", detector)]))
        for name, extractor in extractors.items()
    ]


def results(data, backbone, cache):
    """Yields (name, scores of the test images, high for a defect, and score maps or None)."""
    images, test = data.train.images, data.test.images
    model = EnsembleDetector(members(backbone, cache)).fit(images)
    total = 0
    for name, member in model.named_estimators_.items():
        scores, maps = member[-1].score_samples_and_map(member[:-1].transform(test))
        yield name, -scores, maps
        held_out, _ = member[-1].leave_one_out(member[:-1].transform(images))
        total = total - (scores - held_out.mean()) / held_out.std()
    yield "z-scores", total, None
    for combination in ("mean", "max"):
        scores, maps = model.set_params(combination=combination).score_samples_and_map(test)
        yield combination, -scores, maps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    options = parser.parse_args()
    record = {"benchmark": "ensembles", "backbone": options.backbone, "table": {}}
    for root in sorted(path for path in options.root.iterdir() if path.is_dir()):
        data, rows = load_folder(root), {}
        with tempfile.TemporaryDirectory() as cache:
            for name, scores, maps in results(data, options.backbone, cache):
                rows[name] = {"image_auroc": 100 * image_roc_auc_score(data.test.target, scores)}
                if maps is not None and data.test.masks is not None:
                    rows[name]["pixel_auroc"] = 100 * pixel_roc_auc_score(data.test.masks, maps)
                cells = " ".join(f"{key} {value:5.1f}" for key, value in rows[name].items())
                print(f"{root.name:<16} {name:<20} {cells}", flush=True)
        record["table"][root.name] = rows
        RESULT.write_text(json.dumps(record) + "\n")
    for name in next(iter(record["table"].values())):
        mean = np.mean([rows[name]["image_auroc"] for rows in record["table"].values()])
        print(f"{'mean':<16} {name:<20} image_auroc {mean:5.1f}")


if __name__ == "__main__":
    main()
