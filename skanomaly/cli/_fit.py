"""fit: from a folder of good images to a detector file."""

import time
from pathlib import Path

from skanomaly import registry
from skanomaly.cli._model_files import load_data, save_detector
from skanomaly.cli._printing import shows_progress
from skanomaly.io import atomic_file

SUMMARY = "fit a detector on a folder of good images"
DESCRIPTION = """\
Fit a detector on images of good parts and write a detector file for inspect and evaluate.

FOLDER has only good images, or folders of good and of defective ones, of which only the
good training images are used. The threshold comes from held-out good images: about the
share --target-fpr of new good parts is predicted as defective.
"""
EPILOG = """\
examples:
  skanomaly fit my_part/good -o my_part.skanomaly
  skanomaly fit my_part/good --detector padim --resize pad --target-fpr 0.05
  skanomaly fit my_part/good --features resnet18 --weights resnet18-f37072fd.pth

exit codes: 0 the file is written, 2 an error (nothing is written).
"""


def add_arguments(parser):
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="images of good parts, or a CSV table of images"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("detector.skanomaly"),
        help="the file to write (default: detector.skanomaly)",
    )
    parser.add_argument(
        "--detector",
        choices=[entry.command for entry in registry.DETECTORS],
        default="patchcore",
        help="default: patchcore; global_local trains for many minutes, once in each fold",
    )
    parser.add_argument(
        "--features",
        help="filter_bank (default; needs no weights), or a torchvision backbone",
    )
    parser.add_argument("--weights", help="weights of the backbone: a local file or a name")
    parser.add_argument("--image-size", type=int, help="default: 224 pixels; global_local: 256")
    parser.add_argument("--resize", help="stretch (default), pad or crop")
    parser.add_argument("--coreset-ratio", type=float, help="for patchcore (default: 0.02)")
    parser.add_argument(
        "--target-fpr",
        type=float,
        default=0.01,
        help="wanted share of false alarms on good parts (default: 0.01)",
    )
    parser.add_argument(
        "--folds", type=int, default=5, help="folds of the held-out images (default: 5)"
    )
    parser.add_argument("--random-state", type=int, default=0, help="seed (default: 0)")


def run(options):
    """Fit, set the threshold on held-out good images, and write one file."""
    from skanomaly.cli._pipelines import fit_model, with_threshold

    began = time.perf_counter()
    with atomic_file(options.output) as unfinished:
        images = load_data(options.folder).train.images
        pipe = _make_pipeline(options, len(images))
        model = with_threshold(pipe, options.target_fpr, options.folds, options.random_state)
        fit_model(model, images, bars=shows_progress(options))
        save_detector(model, unfinished, images)
    low, high = model.fpr_interval_
    print(
        f"fitted on {len(images)} good images in {time.perf_counter() - began:.0f} s; "
        f"expected false alarms on new good parts: {100 * low:.1f} to {100 * high:.1f} %"
    )
    print(f"written to {options.output}")
    return 0


def _make_pipeline(options, n_images):
    """The pipeline that the options ask for."""
    from skanomaly.cli._pipelines import make_detector, make_features, make_pipeline

    n_fitted = n_images - -(-n_images // max(options.folds, 2))  # on these a fold's model is fitted
    detector = make_detector(options.detector, options.random_state, n_fitted)
    parameters = detector.get_params(deep=False)
    if options.coreset_ratio is not None:
        _check_option(options, "coreset_ratio", "coreset_ratio" in parameters)
        detector.set_params(coreset_ratio=options.coreset_ratio)
    sizes = {"image_size": options.image_size, "resize": options.resize}
    sizes = {name: value for name, value in sizes.items() if value is not None}
    if registry.find_detector(options.detector).takes == "images":
        for name in ("features", "weights"):
            _check_option(options, name, getattr(options, name) is None)
        for name in sizes:
            _check_option(options, name, name in parameters)
        return make_pipeline(None, detector.set_params(**sizes))
    features = make_features(
        options.features or "filter_bank", options.weights, options.random_state
    )
    return make_pipeline(features.set_params(**sizes), detector)


def _check_option(options, name, is_applicable):
    """Refuse an option that the detector does not have, rather than ignore it."""
    if not is_applicable:
        raise ValueError(
            f"--{name.replace('_', '-')} is not an option of --detector {options.detector}; leave "
            "it out, or choose another detector"
        )
