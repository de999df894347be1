"""The command line: python -m skanomaly {demo, fit, inspect}."""

import argparse
import csv
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import joblib
import numpy as np
from PIL import Image

from skanomaly._heat_maps import save_score_map
from skanomaly.datasets import load_folder, make_inspection
from skanomaly.datasets._layouts import list_items
from skanomaly.detectors import PatchCore
from skanomaly.feature_extraction import FeatureExtractor, FilterBank
from skanomaly.metrics import image_roc_auc_score, pixel_roc_auc_score
from skanomaly.model_selection import HeldOutThreshold
from skanomaly.pipeline import Pipeline

SCORES_FILE = "scores.csv"
FULL_GLOW = 1.25  # score, in multiples of the map's threshold, of the brightest colour
CHUNK = 64  # images inspected at a time: their maps are never all in memory


def main(arguments=None):
    """Run one command; the answer is the exit code, 2 for an error."""
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        # A warning is a sentence for the user here, not a place in the code.
        warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
        try:
            return options.run(options)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m skanomaly",
        description="Learn from pictures of good parts, find defects in new ones.",
    )
    commands = parser.add_subparsers(required=True, metavar="{demo,fit,inspect}")

    demo = commands.add_parser(
        "demo", help="make a small data set, learn, judge, and draw heat maps"
    )
    demo.add_argument("-o", "--output", type=Path, default=Path("skanomaly-demo"))
    demo.add_argument("--kind", default="weave", help="surface: brushed, weave, wood, ...")
    demo.set_defaults(run=run_demo)

    fit = commands.add_parser("fit", help="learn from a folder of good pictures")
    fit.add_argument("folder", type=Path, help="pictures of good parts, no defects")
    fit.add_argument("-o", "--output", type=Path, default=Path("detector.joblib"))
    fit.add_argument(
        "--features",
        default="filter_bank",
        help="filter_bank (default: no weights, no internet), or a torchvision backbone",
    )
    fit.add_argument("--weights", default="DEFAULT", help="of the backbone: a local file or a name")
    fit.add_argument("--image-size", type=int, default=224, help="pixels (default: 224)")
    fit.add_argument("--resize", default="stretch", help="stretch (default), pad or crop")
    fit.add_argument("--coreset-ratio", type=float, default=0.02, help="default: 0.02")
    fit.add_argument(
        "--target-fpr",
        type=float,
        default=0.01,
        help="share of good parts that may be called defective (default: 0.01)",
    )
    fit.add_argument("--random-state", type=int, default=0)
    fit.set_defaults(run=run_fit)

    inspect = commands.add_parser("inspect", help="judge new pictures")
    inspect.add_argument("detector", type=Path, help="file written by fit")
    inspect.add_argument("images", type=Path, nargs="+", help="pictures or folders of pictures")
    inspect.add_argument("-o", "--output", type=Path, default=Path("skanomaly-out"))
    inspect.set_defaults(run=run_inspect)
    return parser


def run_demo(options):
    """A made-up surface with made-up defects, from pictures to verdicts."""
    began = time.perf_counter()
    _make_folder(options.output)
    data = make_inspection(60, 20, 20, kind=options.kind, size=192, random_state=0)
    print(f"made {len(data.train.images)} good pictures to learn from, 20 good and 20 bad to judge")
    model = _model(FilterBank(image_size=192, random_state=0), 0.02, 0.02, 0)
    model.fit(data.train.images)
    scores, maps = model.score_samples_and_map(data.test.images)
    decision = scores - model.offset_
    verdicts = np.where(decision < 0, -1, 1)

    good, bad = data.test.target == 1, data.test.target == -1
    print(f"image AUROC {image_roc_auc_score(data.test.target, -decision):.3f}")
    print(f"pixel AUROC {pixel_roc_auc_score(data.test.masks, maps):.3f}")
    print(f"{(verdicts[bad] == -1).sum()} of {bad.sum()} bad pictures found")
    print(f"{(verdicts[good] == -1).sum()} of {good.sum()} good pictures flagged")

    vmin, vmax = _colour_limits(model)
    for name, image, one_map, mask in zip(
        data.test.names, data.test.images, maps, data.test.masks, strict=True
    ):
        file = options.output / (name.replace("/", "_") + ".png")
        save_score_map(file, image, one_map, vmin=vmin, vmax=vmax, mask=mask)
    _contact_sheet(options.output, data.test)
    seconds = time.perf_counter() - began
    print(f"heat maps are in {options.output}/, all at a glance in overview.png ({seconds:.0f} s)")
    return 0


def run_fit(options):
    """Learn, set the threshold on held-out good pictures, and write one file."""
    if not options.output.parent.is_dir():
        raise FileNotFoundError(f"{options.output.parent}: no such folder to write to")
    images = load_folder(options.folder).train.images
    shape = {"image_size": options.image_size, "resize": options.resize}
    if options.features == "filter_bank":
        features = FilterBank(random_state=options.random_state, **shape)
    else:
        features = FeatureExtractor(options.features, weights=options.weights, **shape)
    began = time.perf_counter()
    model = _model(features, options.coreset_ratio, options.target_fpr, options.random_state)
    model.set_params(verbose=1).fit(images)
    low, high = model.fpr_interval_
    print(
        f"learned from {len(images)} good pictures in {time.perf_counter() - began:.0f} s; "
        f"false alarms on new good parts: {100 * low:.1f} to {100 * high:.1f} %"
    )
    joblib.dump(model, options.output, compress=1)
    print(f"written to {options.output}")
    return 0


def run_inspect(options):
    """A verdict, a score and a heat map for each picture."""
    model = _load(options.detector)
    images = _find_images(options.images)
    n_alike = Counter(Path(image).stem for image in images)
    _make_folder(options.output)
    vmin, vmax = _colour_limits(model)
    n_defects = 0
    with open(options.output / SCORES_FILE, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "score", "verdict", "heat_map"])
        for first in range(0, len(images), CHUNK):
            part = images[first : first + CHUNK]
            scores, maps = model.score_samples_and_map(part)
            for image, score, one_map in zip(part, scores - model.offset_, maps, strict=True):
                heat_map = _heat_map_name(Path(image), n_alike)
                save_score_map(options.output / heat_map, image, one_map, vmin=vmin, vmax=vmax)
                verdict = "defect" if score < 0 else "good"
                n_defects += score < 0
                table.writerow([image, f"{score:.6g}", verdict, heat_map])
    print(f"{n_defects} of {len(images)} pictures look defective (score below 0)")
    print(f"scores in {options.output / SCORES_FILE}, heat maps beside it")
    return 0


def _model(features, coreset_ratio, target_fpr, random_state):
    """The pipeline of the command line, with an honest threshold."""
    detector = PatchCore(
        coreset_ratio=coreset_ratio, image_score="map_max", random_state=random_state
    )
    pipe = Pipeline([("features", features), ("detector", detector)])
    return HeldOutThreshold(pipe, target_fpr=target_fpr, random_state=random_state)


def _colour_limits(model):
    """One colour scale for all pictures of a detector: what good parts reach stays dark."""
    return float(np.median(model.oof_map_maxima_)), FULL_GLOW * float(model.map_offset_)


def _load(path):
    """The detector in a file that fit wrote."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such detector file; write one with the command fit")
    try:
        model = joblib.load(path)
    except Exception as error:  # unpickling a foreign file can raise anything at all
        raise ValueError(f"{path}: not a detector file ({error}); write one with fit") from error
    if not isinstance(model, HeldOutThreshold):
        raise ValueError(
            f"{path}: expected a detector written by fit, got {type(model).__name__}; "
            "use it in Python, or write one with the command fit"
        )
    return model


def _find_images(paths):
    """The pictures named, and those in the folders named."""
    found = []
    for path in paths:
        files = [i.path for i in list_items(path, path.name, None)] if path.is_dir() else [path]
        found += map(str, files)
    return found


def _heat_map_name(path, n_alike):
    """File name of a picture's heat map, with its folder's name where two have the same."""
    twin = n_alike[path.stem] > 1
    return f"{path.parent.name}_{path.stem}.png" if twin else f"{path.stem}.png"


def _make_folder(path):
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{path}: cannot be made or written to ({error.strerror})") from error


def _contact_sheet(folder, test):
    """overview.png: heat maps of two good pictures and of one with each kind of defect."""
    kinds = [kind for kind in dict.fromkeys(test.defects) if kind != "good"]
    chosen = [0, 1, *(test.defects.index(kind) for kind in kinds)]  # good pictures come first
    pictures = [Image.open(folder / (test.names[i].replace("/", "_") + ".png")) for i in chosen]
    width, height = pictures[0].size
    columns = 3
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + 12) - 12, rows * (height + 12) - 12), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (width + 12), i // columns * (height + 12)))
    sheet.save(folder / "overview.png")


if __name__ == "__main__":
    sys.exit(main())
