"""inspect: verdicts, scores, heat maps and reports of new images."""

from contextlib import ExitStack
from pathlib import Path

from skanomaly.cli._model_files import atomic_folder, find_images, load_detector
from skanomaly.io import atomic_file

OUTPUT = Path("skanomaly-out")

SUMMARY = "predict new images"
DESCRIPTION = """\
Predict images with a detector file. scores.csv, with the name, score, verdict and heat
map of each image, and the heat maps as PNG files are written to OUTPUT. A score below 0
means defect. All heat maps of a detector share one color scale.
"""
EPILOG = """\
examples:
  skanomaly inspect my_part.joblib new_images/ -o out
  skanomaly inspect my_part.joblib new_images/ --report out.html --good my_part/good
  skanomaly inspect my_part.joblib one.png --json

--json prints a list with a record for each image: name, score, verdict ("good" or
"defect") and regions, the areas above the detector's threshold on score maps, each with
top, left, bottom, right (bottom and right are exclusive), area, peak, mean and centroid.
Nothing else is printed on stdout, and no folder is written without -o.

A detector file is a pickle, which can run code: load only files that you trust.

exit codes: 0 all images are good, 1 some are predicted as defective, 2 an error, such as
an image that cannot be read: then nothing is written.
"""


def add_arguments(parser):
    parser.add_argument(
        "detector", metavar="DETECTOR", type=Path, help="file written by fit or tune"
    )
    parser.add_argument(
        "images", metavar="IMAGE", type=Path, nargs="+", help="images or folders of images"
    )
    parser.add_argument("-o", "--output", type=Path, help=f"folder to write to (default: {OUTPUT})")
    parser.add_argument("--no-maps", action="store_true", help="write scores.csv without heat maps")
    parser.add_argument("--report", type=Path, help="also write an HTML report to this file")
    parser.add_argument(
        "--good",
        type=Path,
        help="the folder passed to fit: the report then shows the good patch nearest to each hot "
        "spot (patchcore and spade)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON on stdout")


def run(options):
    """Predict a few images at a time; output files appear when all images are done."""
    from skanomaly.cli._predictions import predict

    if options.good is not None and options.report is None:
        raise ValueError("--good needs --report: add --report out.html, or leave --good out")
    if options.output is None and not options.json:
        options.output = OUTPUT
    model = load_detector(options.detector)
    images = find_images(options.images, options.output)
    n_defects = 0
    with ExitStack() as stack:
        results, explainer = _make_results(options, model, images, stack)
        for predictions in predict(model, images, options, explainer):
            n_defects += sum(prediction.decision < 0 for prediction in predictions)
            for result in results:
                result.add(predictions)
        for result in results:
            result.finish()
    if options.json:
        results[-1].print()
    else:
        _print_summary(options, n_defects, len(images))
    return int(n_defects > 0)


def _make_results(options, model, images, stack):
    """The outputs, JSON as the last one, and the explainer of the report or None."""
    from skanomaly.cli._results import FolderResults, HtmlResults, JsonResults, make_explainer

    results, explainer = [], None
    if options.output is not None:
        folder = stack.enter_context(atomic_folder(options.output))
        results.append(FolderResults(folder, model, images, has_maps=not options.no_maps))
    if options.report is not None:
        path = stack.enter_context(atomic_file(options.report))
        results.append(HtmlResults(path, model, f"detector: {options.detector.name}"))
        if options.good is not None:
            explainer = make_explainer(model, options.good)
    if options.json:
        results.append(JsonResults())
    return results, explainer


def _print_summary(options, n_defects, n_images):
    maps = "" if options.no_maps else ", heat maps in the same folder"
    print(f"{n_defects} of {n_images} images are predicted as defective (score below 0)")
    print(f"scores in {options.output / 'scores.csv'}{maps}")
    if options.report is not None:
        print(f"report in {options.report}")
