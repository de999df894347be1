"""Image files in natural order, and the records that the readers return."""

import re
from pathlib import Path
from typing import NamedTuple

GOOD_NAMES = ("good", "ok", "normal")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

_JUNK_FOLDERS = ("thumbs", "thumbnails", "@eadir", "__macosx")


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


def image_files(folder):
    """All image files in a folder and its subfolders, in natural order."""
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and not any(map(is_junk, path.relative_to(folder).parts))
        and path.is_file()
    ]
    return sorted(found, key=lambda path: natural(path.relative_to(folder).as_posix()))


def own_files(folder):
    """The image files in a folder, without subfolders, in natural order."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and not is_junk(p.name)]
    return sorted((p for p in found if p.is_file()), key=lambda path: natural(path.name))


def subfolders(folder):
    """Direct subfolders in natural order, without hidden ones and thumbnails."""
    found = [path for path in folder.iterdir() if path.is_dir() and not is_junk(path.name)]
    return sorted(found, key=lambda path: natural(path.name))


def is_junk(name):
    """Whether a file or folder is hidden, or a folder of thumbnails."""
    return name.startswith(".") or name.lower() in _JUNK_FOLDERS


def stem_of(path, folder):
    """Path relative to the folder, without extension."""
    return path.relative_to(folder).with_suffix("").as_posix()


def natural(name):
    """Sort key by which 2 comes before 10; capitalization only breaks ties."""
    pieces = re.split(r"(\d+)", name.lower())
    pieces[1::2] = map(int, pieces[1::2])
    return pieces, name


def no_images(folder):
    """The error for a folder without images."""
    suffixes = sorted({path.suffix for path in folder.rglob("*") if path.is_file()})
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
