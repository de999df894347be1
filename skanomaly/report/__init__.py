"""Reports for inspectors of parts: verdicts, heat maps and explanations in one HTML file."""

from skanomaly.report._builder import Report
from skanomaly.report._comparison import Comparison, compare
from skanomaly.report._explanations import Explainer
from skanomaly.report._page import check_jinja
from skanomaly.report._write import write

__all__ = ["Comparison", "Explainer", "Report", "compare", "write"]
