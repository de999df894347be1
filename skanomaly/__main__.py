"""The command line: python -m skanomaly {demo, fit, inspect, watch, serve, evaluate, ...}."""

import signal
import sys
import threading
from collections.abc import Sequence

from skanomaly import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    if threading.current_thread() is threading.main_thread():
        # SIGTERM is handled like Ctrl-C, so that unfinished files are removed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
