"""threshold: show the threshold of a detector file, or set another one without a fit."""

from pathlib import Path

import numpy as np

from skanomaly.cli._model_files import add_detector, load_detector
from skanomaly.cli._printing import print_json, print_table
from skanomaly.io import atomic_file

SUMMARY = "show or change the threshold of a detector file"
DESCRIPTION = """\
Show the threshold of a detector, how many false alarms to expect of it, and the scores
that the good images of fit would get if they were new; or set another threshold. The
scores are stored in the detector file: no images are needed, and nothing is fitted again.
"""
EPILOG = """\
examples:
  skanomaly threshold my_part.skanomaly
  skanomaly threshold my_part.skanomaly --target-fpr 0.02
  skanomaly threshold my_part.skanomaly --offset -2.5 -o strict.skanomaly

A score as in scores.csv is an image's own one minus the offset. To flag images with a
score in scores.csv below S, set the printed offset plus S. --target-fpr also sets the
threshold on score maps, --offset leaves that one as it is.

exit codes: 0 done, 2 an error (nothing is written).
"""

_SHARES = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
_METHODS = {"leave_one_out": "leaving each image out", "folds": "models of other folds"}


def add_arguments(parser):
    add_detector(parser)
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--target-fpr", type=float, help="wanted share of false alarms, up to 0.5")
    change.add_argument("--offset", type=float, help="the threshold itself, set by hand")
    parser.add_argument(
        "-o", "--output", type=Path, help="the file to write (default: DETECTOR is replaced)"
    )
    parser.add_argument("--json", action="store_true", help="print the threshold as JSON on stdout")


def run(options):
    """Set the threshold that the options ask for, if any, and print it."""
    import skanomaly

    is_changed = options.target_fpr is not None or options.offset is not None
    if options.output is not None and not is_changed:
        raise ValueError("-o needs another threshold to write: add --target-fpr or --offset")
    model = load_detector(options.detector, options.trust_pickle)
    if not hasattr(model, "expected_fpr_"):
        raise ValueError(
            f"{options.detector}: written by an earlier version, without what is known of its "
            "false alarms; fit it again"
        )
    path = options.detector
    if is_changed:
        path = options.output or options.detector
        with atomic_file(path) as unfinished:
            _change(model, options)
            skanomaly.dump(model, unfinished)
    facts = _describe(model)
    if options.json:
        print_json({"file": str(path), **facts})
    else:
        _print_facts(path, facts, is_changed)
    return 0


def _change(model, options):
    if options.offset is not None:
        model.set_offset(options.offset)
        return
    if not 0 < options.target_fpr <= 0.5:
        raise ValueError(
            f"--target-fpr must be a share above 0 and up to 0.5, such as 0.02 for 2 %, got "
            f"{options.target_fpr:g}"
        )
    model.set_target(options.target_fpr)


def _describe(model):
    """What is known of the threshold, for JSON."""
    scores = np.sort(model.oof_scores_)
    places = [round(share * (len(scores) - 1)) for share in _SHARES]
    low, high = model.fpr_interval_
    return {
        "offset": float(model.offset_),
        "map_offset": float(model.map_offset_),
        "target_fpr": None if _is_by_hand(model) else float(model.target_fpr),
        "expected_fpr": float(model.expected_fpr_),
        "fpr_interval": [low, high],
        "confidence": float(model.confidence),
        "false_alarms_per_1000": list(model.false_alarms_per_1000_),
        "method": model.method_,
        "n_good": len(scores),
        "n_independent": int(model.n_independent_),
        "n_flagged": int((scores < model.offset_).sum()),
        "scores": [
            {"share": share, "offset": float(scores[i]), "score": float(scores[i] - model.offset_)}
            for share, i in zip(_SHARES, places, strict=True)
        ],
    }


def _is_by_hand(model):
    return model.expected_fpr_ != model.target_fpr


def _print_facts(path, facts, is_changed):
    low, high = (f"{100 * rate:.1f}" for rate in facts["fpr_interval"])
    fewest, most = facts["false_alarms_per_1000"]
    n, n_independent = facts["n_good"], facts["n_independent"]
    target = facts["target_fpr"]
    wanted = "set by hand" if target is None else f"for {100 * target:g} % false alarms"
    pieces = "" if n == n_independent else f" of {n_independent} different objects"
    print(f"{path}: {'written' if is_changed else 'as it is'}\n")
    rows = [
        ("threshold", f"offset {facts['offset']:.6g}, {wanted}"),
        ("threshold on maps", f"{facts['map_offset']:.6g}"),
        ("judged by", f"{n} good images{pieces}, {_METHODS[facts['method']]}"),
        ("of these flagged", f"{facts['n_flagged']}"),
        ("expected rate", f"{100 * facts['expected_fpr']:.2g} % of new good images"),
        ("true rate", f"{low} to {high} % (probability {100 * facts['confidence']:g} %)"),
        ("false alarms", f"{fewest} to {most} of 1,000 new good images"),
    ]
    for name, text in rows:
        print(f"{name:<18}  {text}")
    print()
    table = [["good images below", "score", "offset"]]
    for row in facts["scores"]:
        name = {0: "lowest", 1: "highest"}.get(row["share"], f"{100 * row['share']:g} %")
        table.append([name, f"{row['score']:+.4g}", f"{row['offset']:.6g}"])
    print_table(table)
