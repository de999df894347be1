"""check: find problems in the images before a fit."""

from pathlib import Path

from skanomaly.cli._printing import announce, print_json, shows_progress
from skanomaly.cli._shell_words import in_shell_words

SUMMARY = "find problems in a folder of images"
DESCRIPTION = """\
Find what harms a fit or biases an evaluation: images that cannot be read, files that are left
out, duplicates and near duplicates, contradictory labels, masks that do not match their
images, and images unlike the others. Nothing is fitted; the check takes seconds.
"""
EPILOG = """\
examples:
  skanomaly check my_part
  skanomaly check my_part --all
  skanomaly check my_part && skanomaly fit my_part

What harms a fit is each error, and these warnings: files that are not read, images of
other channels, unused bits, transparency, no contrast, and folders named as masks. Other
warnings bias an evaluation, or are looked at by fit itself: images unlike the others.

exit codes: 0 nothing found that harms a fit, 1 something found that does, 2 the check
failed.
"""

# Kinds of warnings; an error always does.
HARMS_A_FIT = {
    *("not_read", "named_as_masks", "mixed_modes", "unused_bits", "transparency", "even_image")
}


def add_arguments(parser):
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="folder of images, or CSV table of images"
    )
    parser.add_argument("--all", action="store_true", help="print all findings, with all names")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON on stdout")


def run(options):
    """Print the report; returns the exit code."""
    from skanomaly.datasets import check_dataset

    if options.folder.exists():
        announce(options, f"reading the images of {options.folder}")
    report = check_dataset(options.folder, verbose=int(shows_progress(options)))
    harmful = [finding for finding in report.findings if _harms_a_fit(finding)]
    if options.json:
        print_json([_record(finding) for finding in report.findings])
        return int(bool(harmful))
    text = report.text() if options.all else repr(report)
    print(in_shell_words(text))
    if not options.all and " more" in text:
        print("--all prints all findings and names")
    kinds = ", ".join(dict.fromkeys(finding.kind for finding in harmful))
    print(f"harms a fit: {kinds}" if kinds else "nothing found that harms a fit")
    return int(bool(harmful))


def _harms_a_fit(finding):
    is_harmful = finding.severity == "warning" and finding.kind in HARMS_A_FIT
    return is_harmful or finding.severity == "error"


def _record(finding):
    message = in_shell_words(finding.message)
    return {**finding._asdict(), "message": message, "harms_fit": _harms_a_fit(finding)}
