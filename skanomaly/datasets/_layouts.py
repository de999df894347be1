"""Which folders hold which class, which files are images, and which mask belongs to which image."""

import re
from pathlib import Path
from typing import NamedTuple

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

_MASK_FOLDERS = ("ground_truth", "masks", "mask")
_JUNK_FOLDERS = ("thumbs", "thumbnails", "@eadir", "__macosx")
_LAYOUTS = """
Understood are:
  1. train/good, test/good and test/<defect>, with masks ground_truth/<defect>/<stem>_mask.png;
  2. good and <defect> side by side, with masks in ground_truth/<defect> or <defect>_masks;
  3. a folder of nothing but good images."""


class Item(NamedTuple):
    """An image's file, the folder of its class, and the name of its class."""

    path: Path
    folder: Path
    defect: str

    @property
    def stem(self):
        """The path below the class's folder, without extension: what masks are found by."""
        return _stem(self.path, self.folder)

    @property
    def name(self):
        """What tables and plots call the image."""
        return f"{self.defect}/{self.path.relative_to(self.folder).as_posix()}"


class Parts(NamedTuple):
    """Folders of the good training images, of the good test images and of each defect."""

    train: list
    test: list | None  # None: the good images are not split yet
    defects: dict


def find_parts(root, good_names):
    """The parts of `root` in whichever layout it has. Raises ValueError if it has none."""
    if (root / "train").is_dir():
        return _split_parts(root, good_names)
    classes = _class_folders(root)
    good = [folder for folder in classes if folder.name.lower() in good_names]
    if good:
        return Parts(good, None, {f.name: f for f in classes if f not in good})
    if _image_files(root) and not any(_image_files(folder) for folder in classes):
        return Parts([root], [], {})
    raise ValueError(_unknown_layout(root, good_names))


def _split_parts(root, good_names):
    """Layout 1. The good training images may also lie in train itself."""
    train = _class_folders(root / "train")
    others = [folder.name for folder in train if folder.name.lower() not in good_names]
    if others:
        raise ValueError(
            f"{root / 'train'}: training images must all be good, but there are folders {others}. "
            f"Move them to {root / 'test'}, or name them in good_names={good_names} if they "
            "hold good images."
        )
    test = _class_folders(root / "test") if (root / "test").is_dir() else []
    if not test and (root / "test").is_dir() and _image_files(root / "test"):
        raise ValueError(
            f"{root / 'test'}: images lie in the folder itself, so good ones cannot be told from "
            f"defects. Move them to test/{good_names[0]} and test/<defect>."
        )
    good = [folder for folder in test if folder.name.lower() in good_names]
    return Parts(train or [root / "train"], good, {f.name: f for f in test if f not in good})


def list_items(folder, defect, mask_suffix):
    """Images of one class in natural order. Raises ValueError if there are none."""
    files = _image_files(folder)
    stems = {_stem(path, folder) for path in files}
    items = [
        Item(path, folder, defect)
        for path in files
        if not _is_mask_beside_image(_stem(path, folder), stems, mask_suffix)
    ]
    if not items:
        suffixes = sorted({path.suffix for path in folder.rglob("*") if path.is_file()})
        raise ValueError(
            f"{folder}: expected images ({', '.join(EXTENSIONS)}), "
            + (f"found only files ending in {suffixes}." if suffixes else "the folder is empty.")
        )
    return items


def find_masks(root, items, mask_suffix):
    """(mask or None of each item, whether the set has any masks at all)."""
    tables = {}  # folder of masks -> {stem: file}

    def lookup(folder, stem):
        if folder not in tables:
            files = _image_files(folder) if folder.is_dir() else []
            tables[folder] = {_stem(path, folder): path for path in files}
        return tables[folder].get(stem)

    masks = []
    for item in items:
        found = lookup(item.folder, item.stem + mask_suffix) if mask_suffix else None
        for folder in _mask_folders(root, item):
            found = found or lookup(folder, item.stem + mask_suffix) or lookup(folder, item.stem)
        masks.append(found)
    _refuse_shared_masks(items, masks)
    own = {item.folder for item in items}
    has_masks = any(masks) or any(table for folder, table in tables.items() if folder not in own)
    return masks, has_masks


def expected_mask(root, item, mask_suffix):
    """Where the mask of an image would be looked for first."""
    return _mask_folders(root, item)[0] / f"{item.stem}{mask_suffix}.png"


def _mask_folders(root, item):
    """Where masks of an image may lie, apart from beside it."""
    below = [root / name / item.folder.name for name in _MASK_FOLDERS]
    beside = [item.folder.with_name(f"{item.folder.name}_{end}") for end in ("masks", "mask")]
    return [*below, *beside, *(root / name for name in _MASK_FOLDERS)]


def _refuse_shared_masks(items, masks):
    owners = {}
    for item, mask in zip(items, masks, strict=True):
        if mask is not None and owners.setdefault(mask, item) is not item:
            raise ValueError(
                f"{mask}: the mask would belong to {owners[mask].path} and to {item.path}; "
                "give each class a folder of masks of its own, or the images different names"
            )


def _is_mask_beside_image(stem, stems, mask_suffix):
    return bool(mask_suffix) and stem.endswith(mask_suffix) and stem[: -len(mask_suffix)] in stems


def _class_folders(root):
    """Folders right below `root` in natural order, without masks, thumbnails and hidden ones."""
    folders = [path for path in root.iterdir() if path.is_dir() and not _is_junk(path.name)]
    names = {folder.name for folder in folders}
    mask_names = {f"{name}_{end}" for name in names for end in ("masks", "mask")}
    mask_names.update(_MASK_FOLDERS)
    return sorted((f for f in folders if f.name not in mask_names), key=lambda f: _natural(f.name))


def _image_files(folder):
    """All images in a folder and the folders inside it, in natural order."""
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and not any(map(_is_junk, path.relative_to(folder).parts))
        and path.is_file()
    ]
    return sorted(found, key=lambda path: _natural(path.relative_to(folder).as_posix()))


def _is_junk(name):
    return name.startswith(".") or name.lower() in _JUNK_FOLDERS


def _stem(path, folder):
    return path.relative_to(folder).with_suffix("").as_posix()


def _natural(name):
    """Sort key by which 2 comes before 10, and capitals do not matter before all else is equal."""
    pieces = re.split(r"(\d+)", name.lower())
    pieces[1::2] = map(int, pieces[1::2])
    return pieces, name


def _unknown_layout(root, good_names):
    found = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    message = f"{root}: found {', '.join(found[:10]) or 'nothing'}{more}. " + (
        f"No folder train and none of good images, called {good_names} (see good_names)."
    )
    sets = [path.name for path in sorted(root.iterdir()) if (path / "train").is_dir()]
    if sets:
        message += f" It holds data sets of its own; load one of them: {sets}."
    return message + _LAYOUTS
