"""evaluate: how well a detector finds the defects of a labeled data set."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from skanomaly.cli._image_options import read_region
from skanomaly.cli._model_files import (
    add_detector,
    count_seen,
    load_data,
    load_detector,
)
from skanomaly.cli._operating_points import BALANCE, OWN, operating_points
from skanomaly.cli._printing import print_json, print_note, print_table, shorten
from skanomaly.cli._reviews import add_review, apply_review
from skanomaly.io import atomic_file

SUMMARY = "measure a detector on labeled images"
DESCRIPTION = """\
Predict the test images of a labeled folder and measure how well defects are found: by
image and, if there are masks, by pixel and by region; and for each kind of defect. Other
thresholds are compared, and missed defects and false alarms are named. FOLDER has good
and defective images in folders of their own.

The results are valid only for images that neither fit nor tune has used. A note says if
the detector has used some of them. Evaluate a tuned detector on another folder.
"""
EPILOG = """\
examples:
  skanomaly fit my_part -o my_part.skanomaly && skanomaly evaluate my_part.skanomaly my_part
  skanomaly evaluate my_part.skanomaly my_part --report mistakes.html
  skanomaly evaluate my_part.skanomaly my_part --roi region.png
  skanomaly evaluate my_part.skanomaly my_part --json

skanomaly threshold my_part.skanomaly --offset X sets a threshold of the table, whose X is
in the last column.

fit my_part uses only the good training images and leaves the others for evaluate: those
in test/good, or a fifth of the good images if they are all in one folder. The metrics of
pixels need the score maps of all images in memory.

exit codes: 0 done, whatever the results, 2 an error.
"""

N_NAMED = 10  # missed defects and false alarms that are named
LOW_AUROC, LOW_FOUND = 0.9, 0.8  # below which there is advice
MANY = 200  # good images, beyond which more of them help little

_HEADINGS = {
    "image_auroc": "image AUROC",
    "image_ap": "image average precision",
    "f1": "F1 at the threshold",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO up to 30 %",
    "pixel_ap": "pixel average precision",
}


def add_arguments(parser):
    add_detector(parser)
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="labeled images: good, scratch, ..."
    )
    parser.add_argument(
        "--roi",
        metavar="FILE|foreground",
        help="measure pixels only inside, as --roi of fit has it; not the detector's own region, "
        "which is set by fit",
    )
    parser.add_argument(
        "--report", type=Path, help="also write an HTML report to this file, mistakes first"
    )
    add_review(parser, "labels that were wrong")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON on stdout")


def run(options):
    """Predict the test images and print the metrics."""
    model = load_detector(options.detector, options.trust_pickle)
    data = load_data(options.folder)
    if options.review is not None:
        data.test = apply_review(options.review, data.test)
    test = data.test
    _check_labels(options.folder, data)
    regions = _regions(options, test)
    decisions, maps = _predict(options, model, test)
    masks = None if test.masks is None else list(test.masks)
    metrics = _compute_metrics(test, decisions, masks, maps, regions)
    metrics["thresholds"] = operating_points(test.target, decisions, model.offset_)
    metrics |= _name_mistakes(test, decisions)
    metrics["n_seen"] = count_seen(model, test.images)
    if options.json:
        print_json(metrics)
    else:
        _print_metrics(options.folder, metrics)
        _print_thresholds(metrics)
        _print_mistakes(metrics)
        _print_advice(model, test, metrics)
        if options.report is not None:
            print(f"\nreport in {options.report}")
    if metrics["n_seen"]:
        print_note(
            f"fit or tune has used {metrics['n_seen']} of these images, so that the results are "
            "optimistically biased; evaluate the detector on other images"
        )
    return 0


def _check_labels(folder, data):
    n_good, n_defects = (int(np.sum(data.test.target == label)) for label in (1, -1))
    if n_good and n_defects:
        return
    if n_defects:
        found, way = "no good ones", "add good images that fit has not used, in test/good"
    else:
        found = "good ones only" if n_good or data.train.images else "none"
        way = "put images of defects into a folder beside the good ones, such as scratch"
    raise ValueError(
        f"{folder}: expected good and defective test images, got {found}; {way}, or "
        "look at verdicts without labels with skanomaly inspect"
    )


def _regions(options, test):
    """The pixels to measure, a mask (H, W) for each test image, or None for all pixels."""
    if options.roi is None:
        return None
    if test.masks is None:
        raise ValueError(
            f"--roi {options.roi}: expected masks of the defects in {options.folder}, as the "
            "metrics of pixels need them, got none; leave --roi out"
        )
    from skanomaly.base import region_of
    from skanomaly.images import check_own_size, image_frame, read_image

    region = read_region(options.roi)
    if callable(region):
        return [region_of(region, read_image(image), image) for image in test.images]
    for image in test.images:  # before they are scored
        check_own_size(region, image_frame(image), f"--roi {options.roi}, {image}")
    return [region] * len(test.images)


def _predict(options, model, test):
    """Decisions, and score maps where they are needed; the report is written on the way."""
    from skanomaly.cli._predictions import predict

    decisions, maps = [], []
    with ExitStack() as stack:
        report = None
        if options.report is not None:
            from skanomaly.cli._reports import HtmlResults

            path = stack.enter_context(atomic_file(options.report))
            note = f"detector: {options.detector.name}, images: {options.folder.name}"
            report = HtmlResults(path, model, note, first="mistakes")
        for predictions in predict(model, test.images, options):
            part = slice(len(decisions), len(decisions) + len(predictions))
            decisions += [prediction.decision for prediction in predictions]
            if test.masks is not None:  # without masks, maps are not needed
                maps += [prediction.score_map for prediction in predictions]
            if report is not None:
                masks = None if test.masks is None else list(test.masks[part])
                report.add(predictions, test.target[part].tolist(), masks)
        if report is not None:
            report.finish()
    return np.array(decisions), maps


def _name_mistakes(test, decisions):
    """Names of missed defects and of false alarms, the worst mistakes first."""
    order = np.argsort(decisions, kind="stable")
    alarms = [test.names[i] for i in order if decisions[i] < 0 and test.target[i] == 1]
    missed = [test.names[i] for i in order[::-1] if decisions[i] >= 0 and test.target[i] == -1]
    return {"missed": missed, "false_alarms": alarms}


def _compute_metrics(test, decisions, masks, maps, regions):
    """All metrics of all images, and the main ones for each kind of defect."""
    from skanomaly.metrics import image_average_precision_score, pixel_average_precision_score

    good, flagged = test.target == 1, decisions < 0
    all_rows = np.arange(len(good))
    metrics = {
        "n_good": int(good.sum()),
        "n_defects": int((~good).sum()),
        "good_flagged": float(flagged[good].mean()),
        "defects_found": float(flagged[~good].mean()),
        "f1": _f1(test.target, flagged),
        "image_ap": float(image_average_precision_score(test.target, -decisions)),
        **_compute_areas(all_rows, test.target, decisions, masks, maps, regions),
    }
    if masks is not None:
        metrics["pixel_ap"] = float(pixel_average_precision_score(masks, maps, roi=regions))
    kinds = np.array(test.defects)
    metrics["by_kind"] = {}
    for kind in dict.fromkeys(kinds[~good].tolist()):
        of_kind = ~good & (kinds == kind)
        rows = np.flatnonzero(good | of_kind)  # each kind against all good images
        metrics["by_kind"][kind] = {
            "n_defects": int(of_kind.sum()),
            "defects_found": float(flagged[of_kind].mean()),
            **_compute_areas(rows, test.target, decisions, masks, maps, regions),
        }
    return metrics


def _f1(target, flagged):
    """F1 of the predictions, with defects as the positive class."""
    from sklearn.metrics import f1_score

    predicted = np.where(flagged, -1, 1)
    return float(f1_score(target, predicted, pos_label=-1, zero_division=0.0))


def _compute_areas(rows, target, decisions, masks, maps, regions):
    """Image AUROC and, if there are masks, pixel AUROC and AUPRO of the images of some rows."""
    from skanomaly.metrics import aupro_score, image_roc_auc_score, pixel_roc_auc_score

    areas = {"image_auroc": float(image_roc_auc_score(target[rows], -decisions[rows]))}
    if masks is not None:
        masks, maps = [masks[i] for i in rows], [maps[i] for i in rows]
        roi = None if regions is None else [regions[i] for i in rows]
        if roi is not None and not _meet(masks, roi):  # a kind of defects that lie outside
            return areas | {"pixel_auroc": None, "aupro": None}
        areas["pixel_auroc"] = float(pixel_roc_auc_score(masks, maps, roi=roi))
        areas["aupro"] = float(aupro_score(masks, maps, roi=roi))
    return areas


def _meet(masks, regions):
    """Whether a pixel of a defect lies in a region, or they do not fit, which metrics refuse."""
    pairs = [pair for pair in zip(masks, regions, strict=True) if pair[0] is not None]
    return any(
        mask.shape != region.shape or bool((mask.astype(bool) & region).any())
        for mask, region in pairs
    )


def _print_metrics(folder, metrics):
    n_good, n_defects = metrics["n_good"], metrics["n_defects"]
    print(f"{folder}: {n_good} good and {n_defects} defective images\n")
    rows = [(text, f"{metrics[key]:.3f}") for key, text in _HEADINGS.items() if key in metrics]
    rows.append(("good images flagged", _format_share(metrics["good_flagged"], n_good)))
    rows.append(("defects found", _format_share(metrics["defects_found"], n_defects)))
    for text, value in rows:
        print(f"{text:<24}  {value}")
    print()
    shown = [key for key in ("image_auroc", "pixel_auroc", "aupro") if key in metrics]
    table = [["kind of defect", "images", "found", *(_HEADINGS[key] for key in shown)]]
    for kind, of_kind in metrics["by_kind"].items():
        found = _format_share(of_kind["defects_found"], of_kind["n_defects"])
        values = ["-" if of_kind[key] is None else f"{of_kind[key]:.3f}" for key in shown]
        table.append([kind, str(of_kind["n_defects"]), found, *values])
    print_table(table)


def _print_thresholds(metrics):
    n_good, n_defects = metrics["n_good"], metrics["n_defects"]
    names = {OWN: "of the detector", BALANCE: "fewest errors of both kinds *"}
    print("\nother thresholds, of which those with * are chosen on these very images:")
    table = [["threshold", "score", "false alarms", "defects found", "offset"]]
    for one in metrics["thresholds"]:
        alarms = _format_share(one["good_flagged"], n_good)
        name = names.get(one["chosen_by"], f"for {100 * one['good_flagged']:.1f} % false alarms *")
        found = _format_share(one["defects_found"], n_defects)
        table.append([name, f"{one['score']:+.4g}", alarms, found, f"{one['offset']:.6g}"])
    print_table(table)


def _print_mistakes(metrics):
    for key, what, order in (
        ("missed", "missed defects", "the most normal looking first"),
        ("false_alarms", "false alarms", "the strangest first"),
    ):
        names = metrics[key]
        if names:
            print(f"\n{what} ({len(names)}, {order}): {shorten(names, N_NAMED)}")


def _print_advice(model, test, metrics):
    """What to try next where defects are missed; what has helped on real parts."""
    from skanomaly.images import read_image

    if metrics["image_auroc"] >= LOW_AUROC and metrics["defects_found"] >= LOW_FOUND:
        return
    steps = [step for _, step in getattr(model.estimator_, "steps", ())]
    fits = [getattr(step, "image_fit_", None) for step in steps]
    sizes = [max(fit.height, fit.width) for fit in fits if fit is not None]
    ways = []
    if sizes and max(read_image(test.images[-1]).shape[:2]) > sizes[0]:
        ways.append(f"a larger --image-size than {sizes[0]} in fit")
    if len(model.oof_scores_) < MANY:
        ways.append(f"more good images than {len(model.oof_scores_)}")
    if metrics["image_auroc"] >= LOW_AUROC or not ways:
        ways.append("a higher --target-fpr (skanomaly threshold sets it without a fit)")
    print(f"\nto find more defects, try: {', or '.join(ways)}")


def _format_share(share, n):
    return f"{round(share * n)} of {n} ({100 * share:.1f} %)"
