"""The command line: python -m skanomaly {demo, fit, inspect, evaluate, tune, check}."""

import signal
import sys
import threading

from skanomaly import cli


def main(arguments=None):
    """Run one command; the answer is the exit code."""
    if threading.current_thread() is threading.main_thread():
        # To be terminated is to be interrupted: what is unfinished is tidied away.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
