"""compare: two detectors on the same images."""

from pathlib import Path

from skanomaly.cli._model_files import count_seen, find_images, load_data, load_detector
from skanomaly.cli._printing import announce, print_json, print_note, print_table, shows_progress
from skanomaly.cli._reviews import add_review, apply_review
from skanomaly.io import atomic_folder

OUTPUT = Path("skanomaly-comparison")
TABLE, PAGE = "comparison.csv", "comparison.html"
N_NAMED = 10  # images that are named

SUMMARY = "compare two detectors on the same images"
DESCRIPTION = """\
Predict the same images with two detectors, A and B, and show where their verdicts differ,
the strongest disagreement first. comparison.csv, with the verdicts and scores of all
images, and comparison.html, with both heat maps of those that differ, are written to
OUTPUT. With --labeled, it is counted which of the two is right.
"""
EPILOG = """\
examples:
  skanomaly compare old.skanomaly new.skanomaly images/ -o out
  skanomaly compare old.skanomaly new.skanomaly my_part --labeled
  skanomaly compare old.skanomaly new.skanomaly my_part --labeled --review review.json

The scores of two detectors are on scales of their own. Relative scores are on one: 0 at
the threshold, 1 at a typical good image, below 0 for a defect. How strongly verdicts
differ is the difference of these.

With --labeled, p is that of McNemar's exact test: how likely two detectors that are right
equally often differ as much as these two. A result is valid for images that neither fit
nor tune has used; a note says if a detector has used some.

exit codes: 0 done, whatever the results, 2 an error: then nothing is written.
"""


def add_arguments(parser):
    parser.add_argument("first", metavar="A", type=Path, help="detector file")
    parser.add_argument("second", metavar="B", type=Path, help="another one")
    parser.add_argument(
        "images", metavar="IMAGE", type=Path, nargs="+", help="images or folders of images"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=OUTPUT,
        help="folder to write to (default: %(default)s)",
    )
    parser.add_argument(
        "--labeled",
        action="store_true",
        help="IMAGE is a folder or table of labeled images, whose test images are predicted, as "
        "evaluate does",
    )
    add_review(parser, "with --labeled, labels that were wrong")
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="also load detectors that joblib or pickle has written, which may run any code",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON on stdout")


def run(options):
    """Predict, write both files, and print the counts."""
    from skanomaly.report import check_jinja, compare

    check_jinja("skanomaly compare")
    files = options.first, options.second
    models = [load_detector(file, options.trust_pickle) for file in files]
    images, labels = _find(options)
    announce(options, f"predicting {len(images)} images with two detectors")
    with atomic_folder(options.output, index=TABLE) as folder:
        found = compare(
            *models,
            images,
            labels,
            names=images,
            detector_names=_names(files),
            verbose=int(shows_progress(options)),
        )
        found.to_csv(folder / TABLE)
        found.save(folder / PAGE)
    if options.json:
        print_json(_as_json(found))
    else:
        _print(found)
        print(f"\nall images in {options.output / TABLE}, heat maps in {options.output / PAGE}")
    for file, model in zip(files, models, strict=True) if labels is not None else ():
        _note_seen(file, model, images)
    return 0


def _find(options):
    """The images, and their labels or None."""
    if not options.labeled:
        if options.review is not None:
            raise ValueError("--review needs --labeled: it corrects labels")
        return find_images(options.images, options.output), None
    if len(options.images) > 1:
        raise ValueError(
            f"--labeled: expected one folder or table of labeled images, got {len(options.images)}"
        )
    (folder,) = options.images
    test = load_data(folder).test
    if options.review is not None:
        test = apply_review(options.review, test)
    if not len(test.images):
        raise ValueError(
            f"{folder}: expected labeled test images, got none; put images of defects into a "
            "folder beside the good ones, such as scratch, or leave --labeled out"
        )
    return list(test.images), test.target


def _names(files):
    """What the detectors are called: by their files, in full where these are named alike."""
    stems = [file.stem for file in files]
    return [str(file) for file in files] if stems[0] == stems[1] else stems


def _as_json(found):
    return {
        "detectors": list(found.detectors),
        "n_images": len(found.names),
        "n_differing": int(found.differs.sum()),
        "counts": found.counts,
        "pvalue": found.pvalue,
        "images": found.records(),
    }


def _print(found):
    counts = found.counts
    print(f"A: {found.detectors[0]}\nB: {found.detectors[1]}\n")
    print_table(
        [
            ["verdicts", "B: good", "B: defect"],
            ["A: good", str(counts["both_good"]), str(counts["only_b_defect"])],
            ["A: defect", str(counts["only_a_defect"]), str(counts["both_defect"])],
        ]
    )
    if found.pvalue is not None:
        print()
        kinds = ("both_right", "only_a_right", "only_b_right", "both_wrong")
        table = [["right are", "both", "A alone", "B alone", "neither"]]
        for name, key in (("good images", "good"), ("defects", "defects")):
            table.append([name, *(str(counts[key][kind]) for kind in kinds)])
        print_table(table)
        print(f"\nMcNemar's exact test: p = {found.pvalue:.3g}")
    n_differing = int(found.differs.sum())
    print(f"\nverdicts differ on {n_differing} of {len(found.names)} images")
    for one in found.records()[: min(n_differing, N_NAMED)]:
        print(
            f"  {one['name']}: A {one['verdict_a']} ({one['relative_a']:+.3g}), "
            f"B {one['verdict_b']} ({one['relative_b']:+.3g})"
        )
    if n_differing > N_NAMED:
        print(f"  and {n_differing - N_NAMED} more")


def _note_seen(file, model, images):
    n_seen = count_seen(model, images)
    if n_seen:
        print_note(
            f"{file}: fit or tune has used {n_seen} of these images, so that this detector looks "
            "better here than on new images"
        )
