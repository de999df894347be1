"""inspect: verdicts, scores, heat maps and reports of new images."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from skanomaly.cli._model_files import add_detector, find_images, load_detector
from skanomaly.cli._on_cluster import add_cluster, inspect_on_cluster
from skanomaly.cli._printing import print_note
from skanomaly.io import atomic_file, atomic_folder

OUTPUT = Path("skanomaly-out")
NOT_READ = 3  # exit code

SUMMARY = "predict new images"
DESCRIPTION = """\
Predict images with a detector file. scores.csv, with the name, score, verdict and heat
map of each image, and the heat maps as PNG files are written to OUTPUT. A score below 0
means defect. All heat maps of a detector share one color scale.
"""
EPILOG = """\
examples:
  skanomaly inspect my_part.skanomaly new_images/ -o out
  skanomaly inspect my_part.skanomaly new_images/ --report out.html --good my_part/good
  skanomaly inspect my_part.skanomaly one.png --json
  skanomaly inspect my_part.skanomaly new_images/ -o out --cluster tcp://HOST:8786

--json prints a list with a record for each image: name, score, verdict ("good", "defect"
or "error"), error, and regions, the areas above the detector's threshold on score maps,
each with top, left, bottom, right (bottom and right are exclusive), area, peak, mean and
centroid. Nothing else is printed on stdout, and no folder is written without -o.

An image that cannot be read has no score (null in JSON) and the verdict "error", and all
others are predicted. With --strict the first such image is an error, and nothing is
written. Files in a folder that are no images are counted in a note.

In the report verdicts can be corrected and saved as a review file for skanomaly update.
The region of interest that fit was given is outlined in it.

Earlier results in OUTPUT are replaced when all images are done; other files are kept. In
scores.csv and JSON, bytes of a name that are not UTF-8 are written as \\udc80 to \\udcff.

With --cluster the results are a table in Parquet files in OUTPUT, which are written as they
come and hold score, verdict, the largest region and error of each image, without heat maps. A
call that was stopped goes on where it was: give the same command again.

exit codes: 0 all images are good, 1 some are predicted as defective, 2 an error: then
nothing is written, 3 some images could not be read, whatever the others are.
"""


def add_arguments(parser):
    add_detector(parser)
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
    parser.add_argument(
        "--strict", action="store_true", help="stop at an image that cannot be read (exit code 2)"
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="with --cluster: begin anew rather than go on with the files of an earlier call",
    )
    add_cluster(parser)
    parser.add_argument("--json", action="store_true", help="print the results as JSON on stdout")


def run(options):
    """Predict a few images at a time; output files appear when all images are done."""
    from skanomaly.cli._predictions import predict

    if options.good is not None and options.report is None:
        raise ValueError("--good needs --report: add --report out.html, or leave --good out")
    if options.restart and not options.cluster:
        raise ValueError("--restart needs --cluster; without it nothing is left of an earlier call")
    if options.output is None and not options.json:
        options.output = OUTPUT
    model = load_detector(options.detector, options.trust_pickle)
    if options.cluster:
        counts = inspect_on_cluster(options, model)
        _print_counts(options, counts)
        return NOT_READ if counts.n_errors else int(counts.n_defects > 0)
    images = find_images(options.images, options.output)
    verdicts, errors = Counter(), []
    with ExitStack() as stack:
        results, explainer = _make_results(options, model, images, stack)
        for predictions in predict(
            model, images, options, explainer, keeps_going=not options.strict
        ):
            verdicts.update(prediction.verdict for prediction in predictions)
            errors += [prediction.error for prediction in predictions if prediction.error]
            for result in results:
                result.add(predictions)
        for result in results:
            result.finish()
    for error in errors:  # not among the progress bars
        print_note(error)
    if not options.json:
        _print_summary(options, verdicts)
    return NOT_READ if verdicts["error"] else int(verdicts["defect"] > 0)


def _make_results(options, model, images, stack):
    """The outputs, and the explainer of the report or None."""
    from skanomaly.cli._reports import HtmlResults
    from skanomaly.cli._results import (
        SCORES_FILE,
        FolderResults,
        JsonResults,
        listed_heat_maps,
        make_explainer,
    )

    results, explainer, folder = [], None, None
    if options.json:  # first, so that it prints when all files are in place
        results.append(stack.enter_context(JsonResults()))
    if options.output is not None:
        folder = stack.enter_context(
            atomic_folder(options.output, index=SCORES_FILE, listed=listed_heat_maps)
        )
        has_maps = not options.no_maps
        results.append(stack.enter_context(FolderResults(folder, model, images, has_maps)))
    if options.report is not None:
        is_inside = folder is not None and _is_same(options.report.parent, options.output)
        path = folder / options.report.name if is_inside else options.report
        path = stack.enter_context(atomic_file(path))
        results.append(HtmlResults(path, model, f"detector: {options.detector.name}"))
        if options.good is not None:
            explainer = make_explainer(model, options.good)
    return results, explainer


def _is_same(one, other):
    """Whether two folders are one, of which the second exists."""
    return one.exists() and one.samefile(other)


def _print_counts(options, counts):
    n_defects, n_images = counts.n_defects, counts.n_images
    print(f"{n_defects} of {n_images} images are predicted as defective (score below 0)")
    if counts.n_errors:
        print(f"{counts.n_errors} of {n_images} could not be read (column error)")
    print(f"scores in {options.output}, a table in Parquet files")


def _print_summary(options, verdicts):
    maps = "" if options.no_maps else ", heat maps in the same folder"
    n_defects, n_images = verdicts["defect"], verdicts.total()
    print(f"{n_defects} of {n_images} images are predicted as defective (score below 0)")
    if verdicts["error"]:
        print(f'{verdicts["error"]} of {n_images} could not be read (verdict "error")')
    print(f"scores in {options.output / 'scores.csv'}{maps}")
    if options.report is not None:
        print(f"report in {options.report}")
