"""Reports for people who look at parts: verdicts, heat maps and reasons in one HTML file."""

from skanomaly.report._report import Report
from skanomaly.report._write import write

__all__ = ["Report", "write"]
