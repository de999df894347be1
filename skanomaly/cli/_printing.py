"""The output of commands: tables, JSON, notes and progress bars."""

import json
import sys
from contextlib import contextmanager


def shows_progress(options):
    """Whether progress bars are shown: on a terminal, unless --quiet."""
    return sys.stderr.isatty() and not options.quiet


def progress(options, total, what):
    """A progress bar on stderr."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, disable=not shows_progress(options))


def announce(options, text):
    """Say in a log what begins now, where a terminal shows a progress bar; not with --quiet."""
    if not sys.stderr.isatty() and not options.quiet:
        print(f"{text} ...", file=sys.stderr, flush=True)


def print_note(text):
    """Print a note on stderr, apart from the results on stdout."""
    print(f"note: {text}", file=sys.stderr)


def shorten(names, n_shown=10):
    """The first of some names, and the number of the others."""
    more = f" and {len(names) - n_shown} more" if len(names) > n_shown else ""
    return ", ".join(names[:n_shown]) + more


@contextmanager
def escaped_output():
    """Context in which stdout shows what its encoding lacks as escapes, such as \\u51fa."""
    stream = sys.stdout
    if not hasattr(stream, "reconfigure"):  # one that takes any text, or none at all
        yield
        return
    errors = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors=errors)


def print_json(value):
    """Print one JSON value on stdout; ValueError for NaN and infinity, which JSON lacks."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(rows):
    """Print rows of texts under a row of headings: the first column aligned left, others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip())
