"""Image files in natural order, and what readers of folders and of manifests hand on."""

import re
from pathlib import Path
from typing import NamedTuple

GOOD_NAMES = ("good", "ok", "normal")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

_JUNK_FOLDERS = ("thumbs", "thumbnails", "@eadir", "__macosx")


class Item(NamedTuple):
    """An image's file, the folder that its name starts from, and the name of its class."""

    path: Path
    folder: Path
    defect: str
    masks: tuple = ()  # files; the defect is where any of them says so
    expected_mask: Path | None = None  # where a mask was looked for first
    group: str | None = None  # images of one group are not parted into training and testing

    @property
    def stem(self):
        """The path below the class's folder, without extension: what masks are found by."""
        return stem_of(self.path, self.folder)

    @property
    def name(self):
        """What tables and plots call the image."""
        return f"{self.defect}/{self.path.relative_to(self.folder).as_posix()}"


class Found(NamedTuple):
    """The images that a reader found, as lists of items."""

    train: list
    good: list | None  # for testing; None: the good images are not split yet
    defective: list
    validation: list | tuple = ()  # good
    train_defects: list | tuple = ()
    has_masks: bool = True
    unused_masks: list | tuple = ()  # files that no image asked for
    way_out: str = ""  # what else to do where masks are missing
    notes: tuple = ()  # sentences for the description


def image_files(folder):
    """All images in a folder and the folders inside it, in natural order."""
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and not any(map(is_junk, path.relative_to(folder).parts))
        and path.is_file()
    ]
    return sorted(found, key=lambda path: natural(path.relative_to(folder).as_posix()))


def own_files(folder):
    """The images in a folder itself, in natural order."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and not is_junk(p.name)]
    return sorted((p for p in found if p.is_file()), key=lambda path: natural(path.name))


def subfolders(folder):
    """Folders right below one in natural order, without hidden ones and thumbnails."""
    found = [path for path in folder.iterdir() if path.is_dir() and not is_junk(path.name)]
    return sorted(found, key=lambda path: natural(path.name))


def is_junk(name):
    return name.startswith(".") or name.lower() in _JUNK_FOLDERS


def stem_of(path, folder):
    return path.relative_to(folder).with_suffix("").as_posix()


def natural(name):
    """Sort key by which 2 comes before 10, and capitals do not matter before all else is equal."""
    pieces = re.split(r"(\d+)", name.lower())
    pieces[1::2] = map(int, pieces[1::2])
    return pieces, name


def no_images(folder):
    """The error to raise where a folder holds no images."""
    suffixes = sorted({path.suffix for path in folder.rglob("*") if path.is_file()})
    return ValueError(
        f"{folder}: expected images ({', '.join(EXTENSIONS)}), "
        + (f"found only files ending in {suffixes}." if suffixes else "the folder is empty.")
    )


def choose(names, categories, root):
    """Those of the kinds of defects that are asked for; all of them with None."""
    if categories is None:
        return list(names)
    categories = [categories] if isinstance(categories, str) else list(categories)
    unknown = [name for name in categories if name not in names]
    if unknown:
        raise ValueError(f"{root}: no defects called {unknown}; there are {list(names)}.")
    return [name for name in names if name in categories]
