"""Files in a data set's folder that no reader has read, and why."""

import os
import stat
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from skanomaly.datasets._findings import Finding
from skanomaly.datasets._listing import Found, is_image_name, natural, walk

# Images of formats that are not read; a file without ending may be one of any format.
_OTHER_IMAGES = {
    *("", ".heic", ".heif", ".hif", ".avif", ".svg", ".psd", ".tga", ".dib", ".ico", ".pcx"),
    *(".exr", ".hdr", ".jxl", ".jxr", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf"),
    *(".rw2", ".dcm", ".dicom", ".npy", ".npz", ".mat", ".fits", ".bin", ".img", ".bmp~", ".eps"),
}
_NO_FILES = {
    stat.S_IFDIR: "links to a folder that contains them",
    stat.S_IFIFO: "named pipes",
    stat.S_IFSOCK: "sockets",
}


class NotRead(NamedTuple):
    """A file that is not read."""

    name: str  # relative to the root
    kind: str  # in the plural
    may_be_image: bool


def find_not_read(root: Path, found: Found) -> list[NotRead]:
    """The files below a folder that are neither images nor masks of what was found in it."""
    known = {path for item in found.items for path in (item.path, *item.masks)}
    known = set(map(os.path.abspath, known.union(found.unused_masks)))
    left_out = tuple(os.path.join(os.path.abspath(folder), "") for folder in found.left_out)
    rest = []
    for entry in walk(root):
        path = os.path.abspath(entry.path)
        if path not in known and not path.startswith(left_out):
            name = os.path.relpath(path, os.path.abspath(root)).replace(os.sep, "/")
            rest.append(NotRead(name, *_kind(entry)))
    return sorted(rest, key=lambda one: natural(one.name))


def describe_not_read(rest: list[NotRead]) -> str:
    """A sentence on the files that were not read; empty if there are none."""
    if not rest:
        return ""
    kinds = Counter(one.kind for one in rest)
    counts = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    files = "1 file" if len(rest) == 1 else f"{len(rest)} files"
    return f"Not read: {files} ({counts}), such as {rest[0].name}."


def report_not_read(rest: list[NotRead]) -> list[Finding]:
    """A finding for each kind of files that were not read."""
    findings = []
    for kind in dict.fromkeys((one.kind, one.may_be_image) for one in rest):
        names = [one.name for one in rest if (one.kind, one.may_be_image) == kind]
        text = f"not read: {len(names)} {kind[0]}"
        if kind[1]:
            text += "; convert or move them if they are images of the data set"
        findings.append(Finding("not_read", "warning" if kind[1] else "note", names, text))
    return findings


def _kind(entry):
    """(kind in the plural, whether the file may be an image)."""
    ending = os.path.splitext(entry.name)[1].lower()
    try:
        mode = stat.S_IFMT(entry.stat().st_mode)
    except OSError:
        return "links that lead nowhere", True
    if mode != stat.S_IFREG:
        return _NO_FILES.get(mode, "devices"), is_image_name(entry.name)
    if is_image_name(entry.name):
        return f"{ending} in no folder of the layout", True
    return ending or "without an ending", ending in _OTHER_IMAGES
