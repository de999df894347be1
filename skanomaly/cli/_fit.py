"""fit: from a folder of good pictures to a detector file."""

import time
from pathlib import Path

from skanomaly._files import whole_file
from skanomaly.cli._files import load_data, save_detector
from skanomaly.cli._names import DETECTORS, FROM_PICTURES
from skanomaly.cli._printing import shows_progress

SUMMARY = "learn from a folder of good pictures"
DESCRIPTION = """\
Learn what good parts look like and write a detector file for inspect and evaluate.

FOLDER holds nothing but good pictures, or good ones beside folders of defects, of which
only the good pictures for training are used. The threshold comes from good pictures held
out in turn, so that about the share --target-fpr of new good parts is called defective.
"""
EPILOG = """\
examples:
  skanomaly fit my_part/good -o my_part.joblib
  skanomaly fit my_part/good --detector padim --resize pad --target-fpr 0.05
  skanomaly fit my_part/good --features resnet18 --weights resnet18-f37072fd.pth

exit codes: 0 the file is written, 2 an error (nothing is written).
"""


def add_arguments(parser):
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="pictures of good parts, or a CSV table of them"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("detector.joblib"),
        help="the file to write (default: detector.joblib)",
    )
    parser.add_argument(
        "--detector",
        choices=DETECTORS,
        default="patchcore",
        help="default: patchcore; global_local trains for many minutes, once for each fold",
    )
    parser.add_argument(
        "--features",
        help="filter_bank (default: no weights, no internet), or a torchvision backbone",
    )
    parser.add_argument("--weights", help="of the backbone: a local file or a name")
    parser.add_argument("--image-size", type=int, help="pixels (default: 224; global_local: 256)")
    parser.add_argument("--resize", help="stretch (default), pad or crop")
    parser.add_argument("--coreset-ratio", type=float, help="of patchcore (default: 0.02)")
    parser.add_argument(
        "--target-fpr",
        type=float,
        default=0.01,
        help="share of good parts that may be called defective (default: 0.01)",
    )
    parser.add_argument("--folds", type=int, default=5, help="for the threshold (default: 5)")
    parser.add_argument("--random-state", type=int, default=0, help="default: 0")


def run(options):
    """Learn, set the threshold on held-out good pictures, and write one file."""
    from skanomaly.cli._models import learn, with_threshold

    began = time.perf_counter()
    with whole_file(options.output) as unfinished:
        images = load_data(options.folder).train.images
        pipe = _pipeline(options, len(images))
        model = with_threshold(pipe, options.target_fpr, options.folds, options.random_state)
        learn(model, images, options.detector, bars=shows_progress(options))
        save_detector(model, unfinished, images)
    low, high = model.fpr_interval_
    print(
        f"learned from {len(images)} good pictures in {time.perf_counter() - began:.0f} s; "
        f"false alarms on new good parts: {100 * low:.1f} to {100 * high:.1f} %"
    )
    print(f"written to {options.output}")
    return 0


def _pipeline(options, n_images):
    """The pipeline that the options ask for."""
    from skanomaly.cli._models import make_detector, make_features, make_pipeline

    n_learned = n_images - -(-n_images // max(options.folds, 2))  # by the model of a fold
    detector = make_detector(options.detector, options.random_state, n_learned)
    if options.coreset_ratio is not None:
        _refuse(options, "coreset_ratio", options.detector != "patchcore")
        detector.set_params(coreset_ratio=options.coreset_ratio)
    shape = {"image_size": options.image_size, "resize": options.resize}
    shape = {name: value for name, value in shape.items() if value is not None}
    if options.detector in FROM_PICTURES:
        for name in ("features", "weights"):
            _refuse(options, name, getattr(options, name) is not None)
        _refuse(options, "resize", "resize" in shape and "resize" not in detector.get_params())
        return make_pipeline(None, detector.set_params(**shape))
    features = make_features(
        options.features or "filter_bank", options.weights, options.random_state
    )
    return make_pipeline(features.set_params(**shape), detector)


def _refuse(options, name, is_foreign):
    """An option that the detector knows nothing of is no help."""
    if is_foreign:
        raise ValueError(
            f"--{name.replace('_', '-')} does not go with --detector {options.detector}; leave "
            "it out, or choose another detector"
        )
