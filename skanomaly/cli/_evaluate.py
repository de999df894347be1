"""evaluate: how well a detector finds the defects of a labeled data set."""

from pathlib import Path

import numpy as np

from skanomaly.cli._model_files import (
    add_detector,
    fingerprint,
    load_data,
    load_detector,
    seen_images,
)
from skanomaly.cli._printing import print_json, print_note, print_table

SUMMARY = "measure a detector on labeled images"
DESCRIPTION = """\
Predict the test images of a labeled folder and measure how well defects are found: by
image and, if there are masks, by pixel and by region; and for each kind of defect.
FOLDER has good and defective images in folders of their own.

The results are valid only for images that neither fit nor tune has used. A note says if
the detector has used some of them. Evaluate a tuned detector on another folder.
"""
EPILOG = """\
examples:
  skanomaly fit my_part -o my_part.skanomaly && skanomaly evaluate my_part.skanomaly my_part
  skanomaly evaluate my_part.skanomaly my_part --json

fit my_part uses only the good training images and leaves the others for evaluate: those
in test/good, or a fifth of the good images if they are all in one folder. The metrics of
pixels need the score maps of all images in memory.

exit codes: 0 done, whatever the results, 2 an error.
"""

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
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON on stdout")


def run(options):
    """Predict the test images and print the metrics."""
    from skanomaly.cli._predictions import predict

    model = load_detector(options.detector, options.trust_pickle)
    test = load_data(options.folder).test
    if not {1, -1} <= set(test.target.tolist()):
        raise ValueError(
            f"{options.folder}: expected good and defective test images, got "
            f"{np.sum(test.target == 1)} good and {np.sum(test.target == -1)} defective ones; "
            "pass a folder that has both, such as good and scratch"
        )
    decisions, maps = [], []
    for predictions in predict(model, test.images, options):
        decisions += [prediction.decision for prediction in predictions]
        if test.masks is not None:  # without masks, maps are not needed
            maps += [prediction.score_map for prediction in predictions]
    masks = None if test.masks is None else list(test.masks)
    metrics = _compute_metrics(test, np.array(decisions), masks, maps)
    seen = seen_images(model) or ()
    metrics["n_seen"] = sum(fingerprint(image) in seen for image in test.images)
    if options.json:
        print_json(metrics)
    else:
        _print_metrics(options.folder, metrics)
    if metrics["n_seen"]:
        print_note(
            f"fit or tune has used {metrics['n_seen']} of these images, so that the results are "
            "optimistically biased; evaluate the detector on other images"
        )
    return 0


def _compute_metrics(test, decisions, masks, maps):
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
        **_compute_areas(all_rows, test.target, decisions, masks, maps),
    }
    if masks is not None:
        metrics["pixel_ap"] = float(pixel_average_precision_score(masks, maps))
    kinds = np.array(test.defects)
    metrics["by_kind"] = {}
    for kind in dict.fromkeys(kinds[~good].tolist()):
        of_kind = ~good & (kinds == kind)
        rows = np.flatnonzero(good | of_kind)  # each kind against all good images
        metrics["by_kind"][kind] = {
            "n_defects": int(of_kind.sum()),
            "defects_found": float(flagged[of_kind].mean()),
            **_compute_areas(rows, test.target, decisions, masks, maps),
        }
    return metrics


def _f1(target, flagged):
    """F1 of the predictions, with defects as the positive class."""
    from sklearn.metrics import f1_score

    predicted = np.where(flagged, -1, 1)
    return float(f1_score(target, predicted, pos_label=-1, zero_division=0.0))


def _compute_areas(rows, target, decisions, masks, maps):
    """Image AUROC and, if there are masks, pixel AUROC and AUPRO of the images of some rows."""
    from skanomaly.metrics import aupro_score, image_roc_auc_score, pixel_roc_auc_score

    areas = {"image_auroc": float(image_roc_auc_score(target[rows], -decisions[rows]))}
    if masks is not None:
        masks, maps = [masks[i] for i in rows], [maps[i] for i in rows]
        areas["pixel_auroc"] = float(pixel_roc_auc_score(masks, maps))
        areas["aupro"] = float(aupro_score(masks, maps))
    return areas


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
        values = [f"{of_kind[key]:.3f}" for key in shown]
        table.append([kind, str(of_kind["n_defects"]), found, *values])
    print_table(table)


def _format_share(share, n):
    return f"{round(share * n)} of {n} ({100 * share:.1f} %)"
