"""Image files in natural order, and the records that the readers return."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

GOOD_NAMES = ("good", "ok", "normal")
EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
)

_JUNK_FOLDERS = ("thumbs", "thumbnails", "@eadir", "__macosx")
_JUNK_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")


class Item(NamedTuple):
    """An image file, the folder to which its name is relative, and its class."""

    path: Path
    folder: Path
    defect: str  # "good" or the kind of defect
    masks: tuple = ()  # paths; a pixel is defective if any of these masks marks it
    expected_mask: Path | None = None  # where the mask was expected
    group: str | None = None  # images of a group are not split into training and testing

    @property
    def stem(self):
        """Path relative to the folder, without extension, by which masks are found."""
        return stem_of(self.path, self.folder)

    @property
    def name(self):
        """Name of the image in tables and plots."""
        return f"{self.defect}/{self.path.relative_to(self.folder).as_posix()}"


class Found(NamedTuple):
    """The images that a reader found, as lists of items."""

    train: list  # good
    good: list | None  # for testing; None: the good images are not split yet
    defective: list  # for testing
    validation: list | tuple = ()  # good
    train_defects: list | tuple = ()  # defective images of the training part
    has_masks: bool = True
    unused_masks: list | tuple = ()  # mask files without an image
    advice: str = ""  # what else to do if masks are missing; part of a sentence
    notes: tuple = ()  # sentences for the description
    left_out: tuple = ()  # folders that are not read on purpose
    not_read: list | tuple = ()  # other files that are not read

    @property
    def items(self):
        """All items."""
        parts = (self.train, self.good or [], self.defective, self.validation, self.train_defects)
        return [item for part in parts for item in part]


def walk(folder: str | Path, key: Callable | None = None) -> Iterator[os.DirEntry]:
    """The files below a folder; hidden files, thumbnails and the like are left out.

    Each folder's are in the order of a key of their names, or in none.

    Links are followed, but one into a folder that contains it counts as a file. Nothing is asked of
    the disk but the lists of names, which takes seconds for a million files.
    """
    real = Path(os.path.realpath(folder))
    yield from _walk(os.fspath(folder), tuple(map(_identity, (real, *real.parents))), key)


def _walk(folder, above, key):
    entries = _entries(folder)
    if key is not None:
        entries.sort(key=lambda entry: key(entry.name))
    for entry in entries:
        if is_junk(entry.name):
            continue
        if not is_folder(entry) or (identity := _identity(entry.path)) in above:
            yield entry
        else:
            yield from _walk(entry.path, (*above, identity), key)


def _entries(folder):
    """The list of a folder; an OSError that names it if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise type(error)(
            f"{folder}: the folder cannot be read ({error.strerror}); allow it, or move it away"
        ) from error


def entry_names(folder):
    """Names of all that is in a folder, those of folders with a slash."""
    return sorted(entry.name + "/" * is_folder(entry) for entry in _entries(folder))


def _identity(folder):
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry of a folder is a folder itself, or a link to one."""
    return _has_kind(entry.is_dir)


def _is_image(entry):
    return is_image_name(entry.name) and _has_kind(entry.is_file)


def _has_kind(is_kind):
    try:
        return is_kind()
    except OSError:  # a link that leads to itself, or to where one may not look: neither of them
        return False


def is_image_name(name):
    """Whether a file name ends as that of an image that can be read."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def image_files(folder):
    """All image files in a folder and its subfolders, in natural order."""
    found = [entry.path for entry in filter(_is_image, walk(folder))]
    n = len(os.path.join(folder, ""))
    return list(map(Path, sorted(found, key=lambda path: natural(path[n:].replace(os.sep, "/")))))


def iterate_images(folder: str | Path, without: str | Path | None = None) -> Iterator[str]:
    """Paths of the image files below a folder, of which one subfolder at a time is listed.

    In natural order, the files of a folder among its subfolders. Those in ``without`` are left out.
    """
    inside = os.path.join(os.path.abspath(without), "") if without is not None else None
    for entry in filter(_is_image, walk(folder, natural)):
        if inside is None or not os.path.abspath(entry.path).startswith(inside):
            yield entry.path


def has_images(folder):
    """Whether there is an image file in a folder or its subfolders."""
    return any(map(_is_image, walk(folder)))


def own_files(folder):
    """The image files in a folder, without subfolders, in natural order."""
    found = [entry for entry in _entries(folder) if _is_image(entry) and not is_junk(entry.name)]
    return [Path(entry.path) for entry in sorted(found, key=lambda entry: natural(entry.name))]


def subfolders(folder):
    """Direct subfolders in natural order, without hidden ones and thumbnails."""
    found = [entry for entry in _entries(folder) if is_folder(entry) and not is_junk(entry.name)]
    return [Path(entry.path) for entry in sorted(found, key=lambda entry: natural(entry.name))]


def is_junk(name):
    """Whether a file or folder is hidden, or made by a viewer of files."""
    return name.startswith(".") or name.lower() in (*_JUNK_FOLDERS, *_JUNK_FILES)


def stem_of(path, folder):
    """Path relative to the folder, without extension."""
    return os.path.splitext(name_in_folder(path, folder))[0]


def name_in_folder(path, folder):
    """Path relative to the folder, in which an umlaut is one letter, which a Mac writes as two."""
    text, start = str(path), os.path.join(folder, "")
    if text.startswith(start):  # the usual case, ten times as fast as pathlib
        name = text[len(start) :].replace(os.sep, "/")
    else:
        name = path.relative_to(folder).as_posix()
    return unicodedata.normalize("NFC", name)


def printable(text):
    """The text with escapes for bytes of file names that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def natural(name):
    """Sort key by which 2 comes before 10; capitalization only breaks ties."""
    pieces = re.split(r"(\d+)", name.lower())
    pieces[1::2] = map(int, pieces[1::2])
    return pieces, name


def no_images(folder):
    """The error for a folder without images."""
    suffixes = sorted({os.path.splitext(entry.name)[1] for entry in walk(folder)})
    return ValueError(
        f"{folder}: expected images ({', '.join(EXTENSIONS)}), "
        + (f"found only files ending in {suffixes}." if suffixes else "the folder is empty.")
    )


def choose(names, categories, root):
    """The requested kinds of defects; all of them if None."""
    if categories is None:
        return list(names)
    categories = [categories] if isinstance(categories, str) else list(categories)
    unknown = [name for name in categories if name not in names]
    if unknown:
        raise ValueError(f"{root}: no defects called {unknown}; there are {list(names)}.")
    return [name for name in names if name in categories]
