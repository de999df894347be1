"""Which reader understands a folder."""

from typing import NamedTuple

from skanomaly.datasets import _layouts, _published
from skanomaly.datasets._bunch import select
from skanomaly.datasets._files import subfolders

_GROUND_TRUTH = "ground_truth"

# What a layout that is asked for by name must have; the others check for themselves.
_SPLIT_LAYOUTS = {
    "mvtec_ad": ("a category of MVTec AD", ["train/good", "test/good", _GROUND_TRUTH]),
    "mvtec_loco": (
        "a category of MVTec LOCO AD",
        ["train/good", "validation/good", "test/good", _GROUND_TRUTH],
    ),
    "btad": ("a product of BTAD", ["train/ok", "test/ok", "test/ko", "ground_truth/ko"]),
    "mpdd": ("a category of MPDD", ["train/good", "test/good", _GROUND_TRUTH]),
}
_OWN_READERS = {
    "mvtec_ad_2": _published.read_mvtec_ad_2,
    "visa": _published.read_visa,
    "kolektor_sdd": _published.read_kolektor_sdd,
    "kolektor_sdd2": _published.read_kolektor_sdd2,
    "magnetic_tile": _published.read_magnetic_tile,
    "dagm": _published.read_dagm,
}
LAYOUTS = ("auto", *_SPLIT_LAYOUTS, *_OWN_READERS, "classes", "images")

_UNDERSTOOD = (
    """
Understood are:
  1. train/good, test/good and test/<defect>, with masks ground_truth/<defect>/<stem>_mask.png;
  2. good and <defect> side by side, with masks in ground_truth/<defect> or <defect>_masks;
  3. a folder of nothing but good images;
  4. one category of the data sets """
    + ", ".join(_OWN_READERS)
    + "."
)


class Options(NamedTuple):
    """What the readers of folders are told."""

    good_names: list  # in small letters
    categories: list | None
    mask_suffix: str


def read_folder(root, layout, options):
    """The images in a folder. Raises ValueError where it has not the layout, or none."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {LAYOUTS}, got {layout!r}.")
    named = layout != "auto"
    layout = layout if named else recognise(root, options.good_names)
    if layout is None:
        raise ValueError(_unknown_layout(root, options.good_names))
    if layout in _OWN_READERS:
        return select(_OWN_READERS[layout](root, options), options.categories, root)
    if layout in _SPLIT_LAYOUTS:
        if named:
            _published.check_folders(root, *_SPLIT_LAYOUTS[layout])
        return _layouts.read_split(root, options)
    return (_layouts.read_classes if layout == "classes" else _layouts.read_images)(root, options)


def recognise(root, good_names):
    """The layout of a folder, or None."""
    return _recognise_set(root, good_names) or ("images" if _layouts.is_images(root) else None)


def _recognise_set(root, good_names):
    """The same of folders that are more than a heap of images."""
    if (root / "train").is_dir() or not _layouts.is_classes(root, good_names):
        for name, is_this in _SIGNS.items():
            if is_this(root):
                return name
        return None
    return "classes"


_SIGNS = {
    "visa": lambda root: (root / "Data" / "Images").is_dir(),
    "magnetic_tile": _published.tile_folders,
    "kolektor_sdd": _published.kolektor_folders,
    "mvtec_ad_2": lambda root: (root / "test_public").is_dir(),
    "dagm": _published.is_dagm,
    "kolektor_sdd2": _published.is_kolektor_sdd2,
    "mvtec_ad": lambda root: (root / "train").is_dir(),
}


def _unknown_layout(root, good_names):
    found = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    message = f"{root}: found {', '.join(found[:10]) or 'nothing'}{more}. " + (
        f"No folder train and none of good images, called {good_names} (see good_names)."
    )
    sets = [folder.name for folder in subfolders(root) if _recognise_set(folder, good_names)]
    if sets:
        message += f" It holds data sets of its own; load one of them: {sets}."
    return message + _UNDERSTOOD
