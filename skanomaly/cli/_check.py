"""check: find problems in the images before a fit."""

from pathlib import Path

from skanomaly.cli._printing import print_json, shows_progress

SUMMARY = "find problems in a folder of images"
DESCRIPTION = """\
Find what harms a fit or biases an evaluation: images that cannot be read, files that are left
out, duplicates and near duplicates, contradictory labels, masks that do not match their
images, and images unlike the others. Nothing is fitted; the check takes seconds.
"""
EPILOG = """\
examples:
  skanomaly check my_part
  skanomaly check my_part && skanomaly fit my_part

exit codes: 0 nothing but notes found, 1 errors or warnings found, 2 the check failed.
"""


def add_arguments(parser):
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="folder of images, or CSV table of images"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON on stdout")


def run(options):
    """Print the report; returns the exit code."""
    from skanomaly.datasets import check_dataset

    report = check_dataset(options.folder, verbose=int(shows_progress(options)))
    if options.json:
        print_json([finding._asdict() for finding in report.findings])
    else:
        print(report)
    return int(any(finding.severity != "note" for finding in report.findings))
