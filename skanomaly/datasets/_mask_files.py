"""Which files are masks, and to which image each of them belongs."""

from pathlib import Path

import numpy as np

from skanomaly.datasets._findings import Finding
from skanomaly.datasets._listing import (
    Item,
    image_files,
    name_in_folder,
    natural,
    stem_of,
    subfolders,
)
from skanomaly.exceptions import ImageError
from skanomaly.images import read_image

MASK_FOLDERS = ("ground_truth", "masks", "mask")
_ENDINGS = ("masks", "mask")  # <defect>_masks
_N_SAMPLES = 5  # files by which a folder is judged
_GRID = 256  # rows and columns of an image that are looked at
_FEW_LEVELS = 8  # colors of a mask of classes
_NEAR, _MOSTLY = 1 / 8, 0.95  # of the range of values; of the pixels


def class_folders(root: Path, categories: list | None) -> tuple[list, tuple]:
    """The folders of images in a folder, in natural order, and notes on doubtful ones.

    A folder whose name is that of a folder of masks is one of images if `categories` names it, or
    if its files look like images.

    Raises
    ------
    ValueError
        If it may be either.
    """
    folders = subfolders(root)
    by_name = {folder.name: folder for folder in folders}
    named = [categories] if isinstance(categories, str) else categories or ()
    classes, notes = [], []
    for folder in folders:
        owner = _owner(folder.name, by_name)
        if owner is None or folder.name in named:
            classes.append(folder)
        elif folder.name != MASK_FOLDERS[0] and not _is_of_masks(folder, by_name.get(owner)):
            classes.append(folder)
            notes.append(f"The files in {folder.name} look like images, and are no masks.")
    return sorted(classes, key=lambda folder: natural(folder.name)), tuple(notes)


def report_mask_names(kinds: list) -> list[Finding]:
    """Findings on kinds of defects that are called as masks of another kind would be."""
    text = "its files look like images, and are read as a kind of defect, not as masks"
    return [
        Finding("named_as_masks", "note", [name], text)
        for name in kinds
        if _owner(name, kinds) is not None
    ]


def possible_classes(root: Path) -> list:
    """The folders in a folder whose names are not those of masks."""
    folders = subfolders(root)
    names = {folder.name for folder in folders}
    return [folder for folder in folders if _owner(folder.name, names) is None]


def images_beside_masks(folder: Path, files: list, mask_suffix: str) -> list:
    """The files of a class, without the masks next to their images; ValueError in doubt."""
    if not mask_suffix:
        return files
    stems = {path: stem_of(path, folder) for path in files}
    owners = {stem: path for path, stem in stems.items()}
    masks = {
        path: owners[stem[: -len(mask_suffix)]]
        for path, stem in stems.items()
        if stem.endswith(mask_suffix) and stem[: -len(mask_suffix)] in owners
    }
    for path in _some(list(masks)):
        if _looks_like_mask(path) is False:
            raise ValueError(
                f"{path}: expected the mask of {masks[path].name}, with two gray levels, because "
                f"its name ends in mask_suffix={mask_suffix!r}, got an image. If it is an image, "
                "pass mask_suffix='', or rename it."
            )
    return [path for path in files if path not in masks]


class MaskFinder:
    """Finds the masks of images in the folders of a data set.

    Parameters
    ----------
    root : Path
    mask_suffix : str
    classes : iterable of Path
        The folders of images.
    """

    def __init__(self, root, mask_suffix, classes):
        self.root = root
        self.mask_suffix = mask_suffix
        self.classes = set(classes) - {root}
        self.shared = [root / name for name in MASK_FOLDERS]  # by all classes
        self.tables = {}  # folder of masks -> ({stem: files}, {name of a subfolder: its files})

    def match(self, items: list, *, good: bool = False) -> list:
        """The items with their masks; those of good images are in folders of their class alone."""
        matched, folders, expected = [], {}, {}
        for folder in {item.folder for item in items}:
            folders[folder] = self._folders(folder)
            expected[folder] = folders[folder][0]
            if good:  # numbers are often the names of good and of defective images
                own = folders[folder] if folder in self.classes else []
                folders[folder] = [one for one in own if one not in self.shared]
        for item in items:
            stem = item.stem
            path = expected[item.folder] / f"{stem}{self.mask_suffix}.png"
            masks = self._find(item, stem, folders[item.folder])
            matched.append(item._replace(masks=masks, expected_mask=path))
        return matched

    def has_masks(self) -> bool:
        """Whether there are files where masks were looked for, whatever their names."""
        return any(table[0] for folder, table in self.tables.items() if folder not in self.classes)

    def all_files(self) -> list:
        """All image files in folders of masks."""
        folders = list(self.shared)
        folders += [f.with_name(f"{f.name}_{end}") for f in self.classes for end in _ENDINGS]
        own = dict.fromkeys(f for f in folders if f not in self.classes and f.is_dir())
        return [path for folder in own for path in image_files(folder)]

    def _folders(self, folder):
        """Folders in which the masks of a class may be, apart from the folder of the images."""
        below = [self.root / name / folder.name for name in MASK_FOLDERS]
        is_root = folder == self.root  # beside it is another data set
        beside = [] if is_root else [folder.with_name(f"{folder.name}_{end}") for end in _ENDINGS]
        return [one for one in (*below, *beside, *self.shared) if one not in self.classes]

    def _find(self, item, stem, folders):
        wanted = stem + self.mask_suffix
        if self.mask_suffix and (beside := self._table(item.folder)[0].get(wanted)):
            return (_only(beside, item),)
        for folder in folders:
            single, several = self._table(folder)
            files = single.get(wanted) or single.get(stem)
            if files or stem in several:
                return (_only(files, item),) if files else tuple(several[stem])
        return ()

    def _table(self, folder):
        """Masks in a folder by the stem of their image, and those in a subfolder for each image."""
        if folder not in self.tables:
            single, several = {}, {}
            for path in image_files(folder) if folder.is_dir() else []:
                single.setdefault(stem_of(path, folder), []).append(path)
                several.setdefault(name_in_folder(path.parent, folder), []).append(path)
            self.tables[folder] = single, several
        return self.tables[folder]


def refuse_shared_masks(items: list[Item]) -> None:
    """Raise ValueError if a mask matches two images."""
    owners: dict = {}
    for item in items:
        for mask in item.masks:
            if owners.setdefault(mask, item) is not item:
                raise ValueError(
                    f"{mask}: the mask matches both {owners[mask].path} and {item.path}; use "
                    "a separate folder of masks for each class, or rename the images"
                )


def _only(files, item):
    if len(files) > 1:
        raise ValueError(
            f"{item.path}: expected one mask, got {' and '.join(map(str, files))}. Remove one; "
            f"several masks of an image are put into a folder named {item.path.stem!r}, which is "
            "in the folder of masks."
        )
    return files[0]


def _owner(name, names):
    """The class whose masks are in a folder of this name, "" for all classes, or None."""
    if name in MASK_FOLDERS:
        return ""
    owners = [name.removesuffix(f"_{end}") for end in _ENDINGS if name.endswith(f"_{end}")]
    return next((owner for owner in owners if owner in names), None)


def _is_of_masks(folder, owner):
    """Whether the files in a folder look like masks; ValueError if they may be images as well."""
    files = image_files(folder)
    looks = {_looks_like_mask(path) for path in _some(files)} - {None}
    if looks == {False}:
        return False
    reason = "some of its files look like masks, others like images" if len(looks) > 1 else ""
    # Images of two gray levels, with the names of those of the other kind, could be either.
    if owner is not None and folder.name.endswith(f"_{_ENDINGS[1]}") and looks == {True}:
        images = image_files(owner)
        same = {stem_of(p, folder) for p in files} & {stem_of(p, owner) for p in images}
        if same and all(_looks_like_mask(path) for path in _some(images)):
            reason = f"images of {owner.name} have two gray levels, too"
    if reason:
        masks = folder.parent / MASK_FOLDERS[0] / (owner.name if owner else "<defect>")
        raise ValueError(
            f"{folder}: expected masks or a kind of defect, got what may be either: {reason}. If "
            f"these are masks, move them to {masks}; if {folder.name!r} is a kind of defect, name "
            "it in categories, with the others, or rename the folder."
        )
    return True


def _some(files):
    """A few of the files, the first and the last included."""
    places = np.linspace(0, len(files) - 1, min(_N_SAMPLES, len(files)))
    return [files[int(place)] for place in places]


def _looks_like_mask(path):
    """Whether an image has two gray levels, the way JPEG and resizing leave them, or few colors.

    None: it cannot be read.
    """
    try:
        values = read_image(path)  # (H, W, C)
    except ImageError:  # reported where it is used, as an image or as a mask
        return None
    rows, columns = (-(-n // _GRID) for n in values.shape[:2])
    pixels = values[::rows, ::columns].reshape(-1, values.shape[2])
    if len(np.unique(pixels, axis=0)) <= _FEW_LEVELS:
        return True
    pixels = pixels.astype(np.float32)
    low, high = pixels.min(), pixels.max()
    near = np.minimum(pixels - low, high - pixels) <= _NEAR * (high - low)
    return bool(near.all(axis=1).mean() >= _MOSTLY)
