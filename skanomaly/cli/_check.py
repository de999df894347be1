"""check: what may be wrong with the pictures, before a fit."""

from pathlib import Path

from skanomaly.cli._printing import print_json, shows_progress

SUMMARY = "look for what is wrong with a folder of pictures"
DESCRIPTION = """\
Look for what spoils a training or flatters a test: pictures that cannot be read, are
there twice or show the same thing, contradicting labels, masks that do not fit, and
pictures unlike the others. It learns nothing and takes seconds.
"""
EPILOG = """\
examples:
  skanomaly check my_part
  skanomaly check my_part && skanomaly fit my_part

exit codes: 0 nothing found but notes, 1 errors or warnings found, 2 it could not check.
"""


def add_arguments(parser):
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="folder of pictures, or CSV file of their table"
    )
    parser.add_argument("--json", action="store_true", help="the findings as JSON on stdout")


def run(options):
    """Print the report."""
    from skanomaly.datasets import check_dataset

    report = check_dataset(options.folder, verbose=int(shows_progress(options)))
    if options.json:
        print_json([finding._asdict() for finding in report.findings])
    else:
        print(report)
    return int(any(finding.severity != "note" for finding in report.findings))
