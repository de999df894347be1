"""What commands print: tables, JSON and progress."""

import json
import sys


def shows_progress(options):
    """Whether anyone looks at bars."""
    return sys.stderr.isatty() and not options.quiet


def progress(options, total, what):
    """A bar on stderr."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, disable=not shows_progress(options))


def print_note(text):
    """A sentence for the user that is no part of the answer."""
    print(f"note: {text}", file=sys.stderr)


def print_json(value):
    """One JSON value on stdout; NaN and infinity are no JSON."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(rows):
    """Rows of texts under a row of headings, the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip())
