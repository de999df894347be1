"""inspect: verdicts, scores, heat maps and reports of new pictures."""

from contextlib import ExitStack
from pathlib import Path

from skanomaly._files import whole_file
from skanomaly.cli._files import find_images, load_detector, whole_folder

OUTPUT = Path("skanomaly-out")

SUMMARY = "judge new pictures"
DESCRIPTION = """\
Judge pictures by a detector file. OUTPUT gets scores.csv, with name, score, verdict and
heat map of each picture, and the heat maps as PNG files. A score below 0 means defect.
All heat maps of a detector share one colour scale.
"""
EPILOG = """\
examples:
  skanomaly inspect my_part.joblib new_pictures/ -o out
  skanomaly inspect my_part.joblib new_pictures/ --report out.html --good my_part/good
  skanomaly inspect my_part.joblib one.png --json

--json prints a list with a record for each picture: name, score, verdict ("good" or
"defect") and regions, the places above the detector's threshold on maps, each with top,
left, bottom, right (the last two lie outside), area, peak, mean and centroid. Nothing
else is on stdout, and no folder is written unless -o names one.

A detector file is a pickle, which can run code: load only files you trust.

exit codes: 0 all pictures are good, 1 some look defective, 2 an error, such as a picture
that cannot be read: then nothing is written.
"""


def add_arguments(parser):
    parser.add_argument(
        "detector", metavar="DETECTOR", type=Path, help="file written by fit or tune"
    )
    parser.add_argument(
        "images", metavar="IMAGE", type=Path, nargs="+", help="pictures or folders of pictures"
    )
    parser.add_argument(
        "-o", "--output", type=Path, help=f"folder to write into (default: {OUTPUT})"
    )
    parser.add_argument("--no-maps", action="store_true", help="scores.csv alone, no heat maps")
    parser.add_argument("--report", type=Path, help="also write one HTML file to look at")
    parser.add_argument(
        "--good",
        type=Path,
        help="the folder that fit was given: the report then shows which good place each hot "
        "spot is nearest to (patchcore and spade)",
    )
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")


def run(options):
    """Judge each picture once, a few at a time; what is written appears when all is done."""
    from skanomaly.cli._judging import judge

    if options.good is not None and options.report is None:
        raise ValueError("--good is for the report: add --report out.html, or leave it out")
    if options.output is None and not options.json:
        options.output = OUTPUT
    model = load_detector(options.detector)
    images = find_images(options.images, options.output)
    n_defects = 0
    with ExitStack() as stack:
        results = _results(options, model, images, stack)
        for pictures in judge(model, images, options):
            n_defects += sum(picture.decision < 0 for picture in pictures)
            for result in results:
                result.add(pictures)
        for result in results:
            result.finish()
    if options.json:
        results[-1].print()
    else:
        _print_summary(options, n_defects, len(images))
    return int(n_defects > 0)


def _results(options, model, images, stack):
    """Where the results go; JSON comes last."""
    from skanomaly.cli._results import FolderResults, HtmlResults, JsonResults

    results = []
    if options.output is not None:
        folder = stack.enter_context(whole_folder(options.output))
        results.append(FolderResults(folder, model, images, has_maps=not options.no_maps))
    if options.report is not None:
        path = stack.enter_context(whole_file(options.report))
        results.append(HtmlResults(path, model, options.good, f"detector: {options.detector.name}"))
    if options.json:
        results.append(JsonResults())
    return results


def _print_summary(options, n_defects, n_images):
    beside = "" if options.no_maps else ", heat maps beside it"
    print(f"{n_defects} of {n_images} pictures look defective (score below 0)")
    print(f"scores in {options.output / 'scores.csv'}{beside}")
    if options.report is not None:
        print(f"report in {options.report}")
