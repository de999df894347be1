"""demo: from synthetic images of a surface to verdicts and heat maps."""

import time
from pathlib import Path

import numpy as np

from skanomaly.cli._printing import progress
from skanomaly.io import atomic_folder, name_disk_errors

SUMMARY = "fit and predict on a small synthetic data set"
DESCRIPTION = """\
Generate images of a surface, fit a detector on 60 good ones, predict 20 good and 20
defective ones, and draw a heat map of each. No images, weights or internet are needed.
"""
EPILOG = """\
example:
  skanomaly demo -o my-demo --kind wood

exit codes: 0 the demo is finished, 2 an error.
"""


def add_arguments(parser):
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("skanomaly-demo"),
        help="folder for the heat maps (default: skanomaly-demo)",
    )
    parser.add_argument(
        "--kind", default="weave", help="surface: brushed, weave (default), wood, speckle or grid"
    )


def run(options):
    """Generate images, fit, predict, print metrics and draw heat maps."""
    from skanomaly.cli._predictions import color_limits
    from skanomaly.datasets import make_inspection

    began = time.perf_counter()
    with atomic_folder(options.output) as folder:
        data = make_inspection(60, 20, 20, kind=options.kind, size=192, random_state=0)
        n_good = len(data.train.images)
        print(f"generated {n_good} good images to fit, and 20 good and 20 defective ones to test")
        print(
            f"fitting PatchCore on the features of a filter bank, with {n_good} images ...",
            flush=True,
        )
        model = _make_model().fit(data.train.images)
        print(f"predicting {len(data.test.images)} images that it has not seen ...", flush=True)
        decisions, maps = _predict(options, model, data.test.images)
        _print_metrics(data.test, decisions, maps)
        print("drawing heat maps ...", flush=True)
        with progress(options, len(maps), "heat maps") as bar:
            _draw(folder, data.test, maps, *color_limits(model), bar)
    seconds = time.perf_counter() - began
    print(f"heat maps are in {options.output}/, a selection in overview.png ({seconds:.0f} s)")
    return 0


def _make_model():
    from skanomaly.cli._pipelines import (
        make_detector,
        make_features,
        make_pipeline,
        with_threshold,
    )

    features = make_features("filter_bank", None, 0).set_params(image_size=192)
    pipe = make_pipeline(features, make_detector("patchcore", 0, 60))
    return with_threshold(pipe, 0.05, None, 0)


def _predict(options, model, images):
    """Decisions and score maps of all images, a few at a time."""
    from sklearn.utils import gen_batches

    decisions, maps = [], []
    with progress(options, len(images), "images") as bar:
        for part in gen_batches(len(images), 8):
            scores, some = model.score_samples_and_map(images[part])
            decisions += (scores - model.offset_).tolist()
            maps += list(some)
            bar.update(len(some))
    return np.array(decisions), maps


def _print_metrics(test, decisions, maps):
    from skanomaly.metrics import image_roc_auc_score, pixel_roc_auc_score

    good, defective = test.target == 1, test.target == -1
    print(f"image AUROC {image_roc_auc_score(test.target, -decisions):.3f}")
    print(f"pixel AUROC {pixel_roc_auc_score(test.masks, maps):.3f}")
    print(f"{(decisions[defective] < 0).sum()} of {defective.sum()} defective images found")
    print(f"{(decisions[good] < 0).sum()} of {good.sum()} good images flagged")


def _draw(folder, test, maps, vmin, vmax, bar):
    """Write a heat map of each image, and overview.png."""
    from skanomaly.images import save_score_map

    files = [folder / (name.replace("/", "_") + ".png") for name in test.names]
    for file, image, score_map, mask in zip(files, test.images, maps, test.masks, strict=True):
        with name_disk_errors(folder.parent / file.name):
            save_score_map(file, image, score_map, vmin=vmin, vmax=vmax, mask=mask)
        bar.update()
    kinds = [kind for kind in dict.fromkeys(test.defects) if kind != "good"]
    chosen = [0, 1, *(test.defects.index(kind) for kind in kinds)]  # good images come first
    with name_disk_errors(folder.parent / "overview.png"):
        _save_overview(folder / "overview.png", [files[i] for i in chosen])


def _save_overview(path, files):
    """Write one image of several ones of the same size, three in a row."""
    from PIL import Image

    images = [Image.open(file) for file in files]
    width, height = images[0].size
    columns = 3
    rows = -(-len(images) // columns)
    overview = Image.new("RGB", (columns * (width + 12) - 12, rows * (height + 12) - 12), "white")
    for i, image in enumerate(images):
        overview.paste(image, (i % columns * (width + 12), i // columns * (height + 12)))
    overview.save(path)
