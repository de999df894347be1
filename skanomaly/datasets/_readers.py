"""Selection of the reader for a folder, by its layout."""

from typing import NamedTuple

from skanomaly.datasets import _layouts, _published
from skanomaly.datasets._bunch import select
from skanomaly.datasets._listing import entry_names, subfolders
from skanomaly.datasets._not_read import find_not_read

_GROUND_TRUTH = "ground_truth"

# What must exist in a layout that is requested by name; the other readers check it themselves.
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
_READERS = {
    **dict.fromkeys(_SPLIT_LAYOUTS, _layouts.read_split),
    **_OWN_READERS,
    "classes": _layouts.read_classes,
    "images": _layouts.read_images,
}
LAYOUTS = ("auto", *_READERS)

_SUPPORTED = (
    """
Supported layouts:
  1. train/good, test/good and test/<defect>, with masks ground_truth/<defect>/<stem>_mask.png;
  2. good and <defect> side by side, with masks in ground_truth/<defect> or <defect>_masks;
  3. a folder of good images only;
  4. one category of the data sets """
    + ", ".join(_OWN_READERS)
    + "."
)


class Options(NamedTuple):
    """Options of the readers of folders."""

    good_names: list  # in lower case
    categories: list | None
    mask_suffix: str


def read_folder(root, layout, options):
    """The images in a folder; ValueError if it does not have the layout, or any layout."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {LAYOUTS}, got {layout!r}.")
    is_named = layout != "auto"
    layout = layout if is_named else recognize(root, options.good_names)
    if layout is None:
        raise ValueError(_unknown_layout(root, options.good_names))
    if layout in _SPLIT_LAYOUTS and is_named:
        _published.check_folders(root, *_SPLIT_LAYOUTS[layout])
    found = _READERS[layout](root, options)
    found = found._replace(not_read=find_not_read(root, found))
    return select(found, options.categories, root) if layout in _OWN_READERS else found


def recognize(root, good_names):
    """Name of the layout of a folder, or None."""
    return _recognize_set(root, good_names) or ("images" if _layouts.is_images(root) else None)


def _recognize_set(root, good_names):
    """The same for layouts other than "images"."""
    if (root / "train").is_dir() or not _layouts.is_classes(root, good_names):
        for name, is_this in _SIGNS.items():
            if is_this(root):
                return name
        return None
    return "classes"


# By what each layout is recognized, the most specific first.
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
    """Message for a folder without a known layout."""
    found = entry_names(root)
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    message = f"{root}: found {', '.join(found[:10]) or 'nothing'}{more}. " + (
        f"There is no folder train and no folder of good images, {good_names} (see good_names)."
    )
    sets = [folder.name for folder in subfolders(root) if _recognize_set(folder, good_names)]
    if sets:
        message += f" It contains several data sets; load one of them: {sets}."
    return message + _SUPPORTED
