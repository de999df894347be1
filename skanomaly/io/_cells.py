"""Texts in the cells of CSV files, which a spreadsheet takes for texts."""

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # begins a formula, or what has been marked as none


def text_cell(text: str) -> str:
    """A text as a cell: what a spreadsheet would take for a formula has an apostrophe in front."""
    return f"'{text}" if _FORMULA.match(text) else text


def cell_text(cell: str) -> str:
    """The text of a cell that ``text_cell`` has made."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
