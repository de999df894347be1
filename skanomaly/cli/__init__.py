"""The command line: demo, fit, inspect, evaluate, tune, check; a file for each.

A command is a module with a ``SUMMARY`` of one line, a ``DESCRIPTION`` and an ``EPILOG`` for its
help, ``add_arguments(parser)`` and ``run(options)``, which answers the exit code. Whatever takes
long to import is imported in ``run``: help and refusals come at once.
"""

from skanomaly.cli._main import main

__all__ = ["main"]
