"""From arguments to an exit code: the parser of all commands, and the handling of errors."""

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from skanomaly.cli import (
    _check,
    _compare,
    _demo,
    _evaluate,
    _export,
    _fit,
    _inspect,
    _serve,
    _threshold_command,
    _tune,
    _update,
    _watch,
)
from skanomaly.cli._printing import escaped_output

COMMANDS = {
    "demo": _demo,
    "fit": _fit,
    "inspect": _inspect,
    "watch": _watch,
    "serve": _serve,
    "export": _export,
    "evaluate": _evaluate,
    "compare": _compare,
    "threshold": _threshold_command,
    "tune": _tune,
    "check": _check,
    "update": _update,
}
ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141  # the last two as shells have it: 128 + the signal

DESCRIPTION = "Learn from images of good parts, find defects in new ones."
EPILOG = """\
the usual order:
  skanomaly check my_part                            find problems in the images
  skanomaly fit my_part -o my_part.skanomaly         fit on the good ones
  skanomaly evaluate my_part.skanomaly my_part       measure how well known defects are found
  skanomaly inspect my_part.skanomaly new/ -o out    predict new images
  skanomaly compare my_part.skanomaly other.skanomaly new/   see where two detectors differ
  skanomaly update my_part.skanomaly false_alarms/   learn from good ones that were flagged

exit codes: 0 done, 1 inspect or check found something, 2 an error, 3 inspect could not read
some images, 130 interrupted.
`skanomaly COMMAND --help` describes a command; `python -m skanomaly` is the same program.
"""

# Errors that users can fix are printed as one line; others are bugs, printed with a traceback.
_USER_ERRORS = (ValueError, OSError, ImportError, MemoryError, RuntimeError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str or None, default=None
        The command line without the program's name; None: that of this process.

    Returns
    -------
    int
        The exit code.
    """
    with escaped_output(), warnings.catch_warnings():
        options = _parser().parse_args(arguments)
        # Warnings are printed as notes, without the place in the code that users need not know.
        warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
        try:
            code = options.run(options)
            _flush()
            return code
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:  # the reader of a pipe is gone, such as head
            _discard_output()
            return BROKEN_PIPE
        except _USER_ERRORS as error:
            print(f"error: {_one_line(error)}", file=sys.stderr)
            _discard_output()
            return ERROR
        except Exception:  # Python's own exit code would be 1, which means defects here
            traceback.print_exc()
            return ERROR


def _flush():
    """Write what is printed, now that a failure still has an exit code."""
    try:
        if sys.stdout is not None:  # closed from the start
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"standard output cannot be written: {error.strerror}") from error


def _discard_output():
    """Drop what is printed and cannot be written: the interpreter would try it again."""
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error):
    """The message of an error without line breaks."""
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(filter(None, lines)) or type(error).__name__


def _parser():
    parser = argparse.ArgumentParser(
        prog="skanomaly",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"skanomaly {_version()}")
    commands = parser.add_subparsers(required=True, metavar=f"{{{','.join(COMMANDS)}}}")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.DESCRIPTION,
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
        command.set_defaults(run=module.run)
    return parser


def _version():
    try:
        return version("skanomaly")
    except PackageNotFoundError:  # run from the source tree
        return "(not installed)"
