"""The command line: a module for each command, such as fit, inspect, watch, serve and evaluate.

The module of a command has a ``SUMMARY`` of one line, a ``DESCRIPTION`` and an ``EPILOG`` for its
help, ``add_arguments(parser)``, and ``run(options)``, which returns the exit code. Modules that are
slow to import are imported in ``run``, so that help and argument errors appear at once.
"""

from skanomaly.cli._main import main

__all__ = ["main"]
