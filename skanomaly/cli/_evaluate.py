"""evaluate: how well a detector finds defects that are known."""

from pathlib import Path

import numpy as np

from skanomaly.cli._files import fingerprint, load_data, load_detector
from skanomaly.cli._printing import print_json, print_note, print_table

SUMMARY = "measure a detector on pictures of known good and defective parts"
DESCRIPTION = """\
Judge the test pictures of a labelled folder and say how well the defects are found:
over pictures, and where there are masks over pixels and regions, for each kind of
defect. FOLDER has good and defective pictures in folders of their own.

The figures mean something only on pictures that neither fit nor tune has seen. Where the
detector knows some of them, that is said; judge a tuned detector on another folder.
"""
EPILOG = """\
examples:
  skanomaly fit my_part -o my_part.joblib && skanomaly evaluate my_part.joblib my_part
  skanomaly evaluate my_part.joblib my_part --json

fit my_part learns from the good pictures for training alone, and the others are left for
evaluate: those in test/good, or a fifth where good ones lie in one folder. For the figures
of pixels the score maps of all pictures are held in memory.

exit codes: 0 done, whatever the figures, 2 an error.
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
    parser.add_argument(
        "detector", metavar="DETECTOR", type=Path, help="file written by fit or tune"
    )
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="labelled pictures: good, scratch, ..."
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")


def run(options):
    """Judge the test part and print the figures."""
    from skanomaly.cli._judging import judge

    model = load_detector(options.detector)
    test = load_data(options.folder).test
    if not {1, -1} <= set(test.target.tolist()):
        raise ValueError(
            f"{options.folder}: expected good and defective pictures to test on, got "
            f"{np.sum(test.target == 1)} good and {np.sum(test.target == -1)} defective ones; "
            "name a folder that holds both, such as good and scratch"
        )
    decisions, maps = [], []
    for pictures in judge(model, test.images, options):
        decisions += [picture.decision for picture in pictures]
        if test.masks is not None:  # else no map is needed
            maps += [picture.score_map for picture in pictures]
    masks = None if test.masks is None else list(test.masks)
    figures = _figures(test, np.array(decisions), masks, maps)
    known = getattr(model, "seen_pictures_", frozenset())
    figures["n_seen"] = sum(fingerprint(image) in known for image in test.images)
    if options.json:
        print_json(figures)
    else:
        _print_figures(options.folder, figures)
    if figures["n_seen"]:
        print_note(
            f"fit or tune has seen {figures['n_seen']} of these pictures, so that the figures "
            "flatter the detector; measure it on others"
        )
    return 0


def _figures(test, decisions, masks, maps):
    """All figures of all pictures, and the main ones by kind of defect."""
    from skanomaly.metrics import image_average_precision_score, pixel_average_precision_score

    good, called = test.target == 1, decisions < 0
    everything = np.arange(len(good))
    figures = {
        "n_good": int(good.sum()),
        "n_defects": int((~good).sum()),
        "good_flagged": float(called[good].mean()),
        "defects_found": float(called[~good].mean()),
        "f1": _f1(test.target, called),
        "image_ap": float(image_average_precision_score(test.target, -decisions)),
        **_areas(everything, test.target, decisions, masks, maps),
    }
    if masks is not None:
        figures["pixel_ap"] = float(pixel_average_precision_score(masks, maps))
    kinds = np.array(test.defects)
    figures["by_kind"] = {}
    for kind in dict.fromkeys(kinds[~good].tolist()):
        of_kind = ~good & (kinds == kind)
        figures["by_kind"][kind] = {
            "n_defects": int(of_kind.sum()),
            "defects_found": float(called[of_kind].mean()),
            # Against all good pictures, which every kind must be told from.
            **_areas(np.flatnonzero(good | of_kind), test.target, decisions, masks, maps),
        }
    return figures


def _f1(target, called):
    """F1 of the verdicts; a defect is what is to be found."""
    from sklearn.metrics import f1_score

    verdicts = np.where(called, -1, 1)
    return float(f1_score(target, verdicts, pos_label=-1, zero_division=0.0))


def _areas(rows, target, decisions, masks, maps):
    """Image AUROC and, where there are masks, pixel AUROC and AUPRO, of some pictures."""
    from skanomaly.metrics import aupro_score, image_roc_auc_score, pixel_roc_auc_score

    areas = {"image_auroc": float(image_roc_auc_score(target[rows], -decisions[rows]))}
    if masks is not None:
        masks, maps = [masks[i] for i in rows], [maps[i] for i in rows]
        areas["pixel_auroc"] = float(pixel_roc_auc_score(masks, maps))
        areas["aupro"] = float(aupro_score(masks, maps))
    return areas


def _print_figures(folder, figures):
    n_good, n_defects = figures["n_good"], figures["n_defects"]
    print(f"{folder}: {n_good} good and {n_defects} defective pictures\n")
    rows = [(text, f"{figures[key]:.3f}") for key, text in _HEADINGS.items() if key in figures]
    rows.append(_share("good ones flagged", figures["good_flagged"], n_good))
    rows.append(_share("defects found", figures["defects_found"], n_defects))
    for text, value in rows:
        print(f"{text:<24}  {value}")
    print()
    measures = [key for key in ("image_auroc", "pixel_auroc", "aupro") if key in figures]
    table = [["kind of defect", "pictures", "found", *(_HEADINGS[key] for key in measures)]]
    for kind, of_kind in figures["by_kind"].items():
        _, found = _share("", of_kind["defects_found"], of_kind["n_defects"])
        values = [f"{of_kind[key]:.3f}" for key in measures]
        table.append([kind, str(of_kind["n_defects"]), found, *values])
    print_table(table)


def _share(text, share, n):
    return text, f"{round(share * n)} of {n} ({100 * share:.1f} %)"
