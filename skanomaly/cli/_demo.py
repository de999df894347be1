"""demo: made-up surfaces with made-up defects, from pictures to verdicts."""

import time
from pathlib import Path

from skanomaly.cli._files import whole_folder

SUMMARY = "make a small data set, learn, judge, and draw heat maps"
DESCRIPTION = """\
Make pictures of a surface, learn from 60 good ones, judge 20 good and 20 bad ones, and
draw a heat map of each. It needs no pictures, no weights and no internet.
"""
EPILOG = """\
example:
  skanomaly demo -o my-demo --kind wood

exit codes: 0 the demo ran, 2 an error.
"""


def add_arguments(parser):
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("skanomaly-demo"),
        help="folder of the heat maps (default: skanomaly-demo)",
    )
    parser.add_argument(
        "--kind", default="weave", help="surface: brushed, weave (default), wood, speckle or grid"
    )


def run(options):
    """From pictures to verdicts."""
    from skanomaly.cli._judging import colour_limits
    from skanomaly.datasets import make_inspection

    began = time.perf_counter()
    with whole_folder(options.output) as folder:
        data = make_inspection(60, 20, 20, kind=options.kind, size=192, random_state=0)
        n_good = len(data.train.images)
        print(f"made {n_good} good pictures to learn from, 20 good and 20 bad to judge")
        model = _model().fit(data.train.images)
        scores, maps = model.score_samples_and_map(data.test.images)
        _print_figures(data.test, scores - model.offset_, maps)
        _draw(folder, data.test, maps, *colour_limits(model))
    seconds = time.perf_counter() - began
    print(f"heat maps are in {options.output}/, all at a glance in overview.png ({seconds:.0f} s)")
    return 0


def _model():
    from skanomaly.cli._models import (
        make_detector,
        make_features,
        make_pipeline,
        with_threshold,
    )

    features = make_features("filter_bank", None, 0).set_params(image_size=192)
    return with_threshold(make_pipeline(features, make_detector("patchcore", 0, 60)), 0.02, 5, 0)


def _print_figures(test, decision, maps):
    from skanomaly.metrics import image_roc_auc_score, pixel_roc_auc_score

    good, bad = test.target == 1, test.target == -1
    print(f"image AUROC {image_roc_auc_score(test.target, -decision):.3f}")
    print(f"pixel AUROC {pixel_roc_auc_score(test.masks, maps):.3f}")
    print(f"{(decision[bad] < 0).sum()} of {bad.sum()} bad pictures found")
    print(f"{(decision[good] < 0).sum()} of {good.sum()} good pictures flagged")


def _draw(folder, test, maps, vmin, vmax):
    """A heat map of each picture, and overview.png."""
    from skanomaly._heat_maps import save_score_map

    files = [folder / (name.replace("/", "_") + ".png") for name in test.names]
    for file, image, one_map, mask in zip(files, test.images, maps, test.masks, strict=True):
        save_score_map(file, image, one_map, vmin=vmin, vmax=vmax, mask=mask)
    kinds = [kind for kind in dict.fromkeys(test.defects) if kind != "good"]
    chosen = [0, 1, *(test.defects.index(kind) for kind in kinds)]  # good pictures come first
    _save_sheet(folder / "overview.png", [files[i] for i in chosen])


def _save_sheet(path, files):
    """Pictures of one size, three in a row."""
    from PIL import Image

    pictures = [Image.open(file) for file in files]
    width, height = pictures[0].size
    columns = 3
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + 12) - 12, rows * (height + 12) - 12), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (width + 12), i // columns * (height + 12)))
    sheet.save(path)
