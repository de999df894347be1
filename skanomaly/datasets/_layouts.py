"""Folders named after their classes, and the masks of their images."""

from skanomaly.datasets._listing import (
    Found,
    Item,
    choose,
    has_images,
    image_files,
    no_images,
    subfolders,
)
from skanomaly.datasets._mask_files import (
    MaskFinder,
    class_folders,
    images_beside_masks,
    possible_classes,
    refuse_shared_masks,
)


def read_split(root, options, test="test"):
    """Layout 1: train/good, test/good, test/<defect> and optionally validation/good.

    The good training images may also be in train itself.
    """
    good_names = options.good_names
    train = possible_classes(root / "train")
    others = [folder.name for folder in train if folder.name.lower() not in good_names]
    if others:
        raise ValueError(
            f"{root / 'train'}: training images must all be good, but there are folders {others}. "
            f"Move them to {root / test}, or add them to good_names={good_names} if they "
            "contain good images."
        )
    has_test = (root / test).is_dir()
    classes, notes = class_folders(root / test, options.categories) if has_test else ([], ())
    if not classes and has_test and has_images(root / test):
        raise ValueError(
            f"{root / test}: there are images in the folder itself, which are not labeled as good "
            f"or defective. Move them to {test}/{good_names[0]} and {test}/<defect>."
        )
    good, defects = _part(classes, good_names)
    held, unread = _part(
        possible_classes(root / "validation") if (root / "validation").is_dir() else [], good_names
    )
    notes += (f"Not read: {', '.join(f'validation/{name}' for name in unread)}.",) * bool(unread)
    return _find(
        root if test == "test" else root / test,
        options,
        train=train or [root / "train"],
        good=good,
        defects=defects,
        validation=held,
        notes=notes,
    )


def read_classes(root, options):
    """Layout 2: folders of good images and of any kinds of defects side by side."""
    classes, notes = class_folders(root, options.categories)
    good, defects = _part(classes, options.good_names)
    if not good:
        raise ValueError(
            f"{root}: expected a folder of good images, called one of {options.good_names}, "
            f"found {[folder.name for folder in subfolders(root)]}. Rename it or pass good_names."
        )
    return _find(root, options, train=good, good=None, defects=defects, notes=notes)


def read_images(root, options):
    """Layout 3: good images only."""
    return _find(root, options, train=[root], good=None, defects={})


def is_classes(root, good_names):
    """Whether a folder has layout 2: it contains a folder of good images."""
    return any(folder.name.lower() in good_names for folder in possible_classes(root))


def is_images(root):
    """Whether a folder has layout 3: it contains images, but no folders with images."""
    return has_images(root) and not any(map(has_images, possible_classes(root)))


def list_items(folder, defect, mask_suffix):
    """Items of one class in natural order; ValueError if there are no images."""
    files = images_beside_masks(folder, image_files(folder), mask_suffix)
    items = [Item(path, folder, defect) for path in files]
    if not items:
        raise no_images(folder)
    return items


def _find(root, options, *, train, good, defects, validation=(), notes=()):
    """The images of some folders, with the masks of defects; ``defects`` is {name: folder}."""
    suffix = options.mask_suffix
    masks = MaskFinder(root, suffix, [*train, *(good or ()), *defects.values()])

    def good_items(folders):
        return [item for folder in folders for item in list_items(folder, "good", suffix)]

    chosen = choose(defects, options.categories, root)
    defective = [item for name in chosen for item in list_items(defects[name], name, suffix)]
    train, good = good_items(train), None if good is None else good_items(good)
    defective = masks.match(defective)
    has_masks = any(item.masks for item in defective)
    # Also if there are only masks that match no image: a wrong suffix must not go unnoticed.
    has_masks = has_masks or masks.has_masks()
    if good is None:
        train = masks.match(train, good=True)
    else:
        good = masks.match(good, good=True)
    known = [*train, *(good or []), *defective]
    refuse_shared_masks(known)
    used = {path for item in known for path in item.masks}
    return Found(
        train=train,
        good=good,
        defective=defective,
        validation=good_items(validation),
        has_masks=has_masks,
        unused_masks=[path for path in masks.all_files() if path not in used],
        advice=f"correct mask_suffix={suffix!r}, ",
        notes=notes,
        left_out=tuple(folder for name, folder in defects.items() if name not in chosen),
    )


def _part(folders, good_names):
    """(folders of good images, {name: folder} of the others)."""
    good = [folder for folder in folders if folder.name.lower() in good_names]
    return good, {folder.name: folder for folder in folders if folder not in good}
