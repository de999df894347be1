"""Pieces of HTML by which notebooks show results: small tables and embedded images."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

__all__ = ["html_image", "html_table", "html_text"]

_LEFT = ' style="text-align: left; vertical-align: top"'


def html_text(text: Any) -> str:
    """A text without markup; bytes of a name that are not UTF-8 become question marks.

    Parameters
    ----------
    text : object
        Shown as ``str`` has it.

    Returns
    -------
    str
    """
    return escape(str(text).encode("utf-8", errors="replace").decode())


def html_image(content: bytes, mime: str, text: str) -> str:
    """An image that is part of the page.

    Parameters
    ----------
    content : bytes
        Of its file.
    mime : str
        Such as "image/png".
    text : str
        What is shown in place of it.

    Returns
    -------
    str
    """
    source = f"data:{mime};base64,{b64encode(content).decode()}"
    return f'<img alt="{html_text(text)}" style="max-width: 160px" src="{source}">'


def html_table(title: Any, headings: Sequence[Any], rows: Iterable[Sequence[str]]) -> str:
    """A table under a title.

    Parameters
    ----------
    title : object
    headings : sequence of str
        Texts of the columns' heads.
    rows : iterable of sequences of str
        HTML of the cells, from :func:`html_text` and :func:`html_image`.

    Returns
    -------
    str
    """
    heads = "".join(f"<th{_LEFT}>{html_text(heading)}</th>" for heading in headings)
    lines = ["".join(f"<td{_LEFT}>{cell}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f"<div><p><strong>{html_text(title)}</strong></p>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )
