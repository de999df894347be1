"""The command line: python -m skanomaly {demo, fit, inspect, watch, serve, evaluate, ...}."""

import os
import signal
import sys
import threading
from collections.abc import Sequence

from skanomaly import cli

# Before torch and numba are loaded, with the first command that needs them: threads that wait for
# each other are to sleep. They spin for milliseconds otherwise, which beside other busy processes
# takes several times the CPU time. Where images come one by one they spin a few microseconds: if
# they sleep at once, a network takes nearly twice as long for a single image.
if sys.argv[1:2] in (["serve"], ["watch"]) and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
else:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    if threading.current_thread() is threading.main_thread():
        # SIGTERM is handled like Ctrl-C, so that unfinished files are removed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
