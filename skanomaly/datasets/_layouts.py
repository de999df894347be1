"""Folders named after their classes, and the masks of their images."""

from skanomaly.datasets._listing import (
    Found,
    Item,
    choose,
    image_files,
    natural,
    no_images,
    stem_of,
    subfolders,
)

_MASK_FOLDERS = ("ground_truth", "masks", "mask")


def read_split(root, options, test="test"):
    """Layout 1: train/good, test/good, test/<defect> and optionally validation/good.

    The good training images may also be in train itself.
    """
    good_names = options.good_names
    train = _class_folders(root / "train")
    others = [folder.name for folder in train if folder.name.lower() not in good_names]
    if others:
        raise ValueError(
            f"{root / 'train'}: training images must all be good, but there are folders {others}. "
            f"Move them to {root / test}, or add them to good_names={good_names} if they "
            "contain good images."
        )
    classes = _class_folders(root / test) if (root / test).is_dir() else []
    if not classes and (root / test).is_dir() and image_files(root / test):
        raise ValueError(
            f"{root / test}: there are images in the folder itself, which are not labeled as good "
            f"or defective. Move them to {test}/{good_names[0]} and {test}/<defect>."
        )
    good, defects = _part(classes, good_names)
    held, unread = _part(
        _class_folders(root / "validation") if (root / "validation").is_dir() else [], good_names
    )
    return _find(
        root if test == "test" else root / test,
        options,
        train=train or [root / "train"],
        good=good,
        defects=defects,
        validation=held,
        notes=(f"Not read: {', '.join(f'validation/{name}' for name in unread)}.",) * bool(unread),
    )


def read_classes(root, options):
    """Layout 2: folders of good images and of any kinds of defects side by side."""
    good, defects = _part(_class_folders(root), options.good_names)
    if not good:
        raise ValueError(
            f"{root}: expected a folder of good images, called one of {options.good_names}, "
            f"found {[folder.name for folder in subfolders(root)]}. Rename it or pass good_names."
        )
    return _find(root, options, train=good, good=None, defects=defects)


def read_images(root, options):
    """Layout 3: good images only."""
    return _find(root, options, train=[root], good=None, defects={})


def is_classes(root, good_names):
    """Whether a folder has layout 2: it contains a folder of good images."""
    return any(folder.name.lower() in good_names for folder in _class_folders(root))


def is_images(root):
    """Whether a folder has layout 3: it contains images, but no folders with images."""
    return bool(image_files(root)) and not any(map(image_files, _class_folders(root)))


def list_items(folder, defect, mask_suffix):
    """Items of one class in natural order; ValueError if there are no images."""
    files = image_files(folder)
    stems = {stem_of(path, folder) for path in files}
    items = [
        Item(path, folder, defect)
        for path in files
        if not _is_mask_beside_image(stem_of(path, folder), stems, mask_suffix)
    ]
    if not items:
        raise no_images(folder)
    return items


def _find(root, options, *, train, good, defects, validation=(), notes=()):
    """The images of some folders, with the masks of defects; ``defects`` is {name: folder}."""
    suffix = options.mask_suffix

    def good_items(folders):
        return [item for folder in folders for item in list_items(folder, "good", suffix)]

    chosen = choose(defects, options.categories, root)
    defective = [item for name in chosen for item in list_items(defects[name], name, suffix)]
    defective, has_masks, unused = _match_masks(root, defective, suffix, defects.values())
    return Found(
        train=good_items(train),
        good=None if good is None else good_items(good),
        defective=defective,
        validation=good_items(validation),
        has_masks=has_masks,
        unused_masks=unused,
        advice=f"correct mask_suffix={suffix!r}, ",
        notes=notes,
    )


def _match_masks(root, items, mask_suffix, classes):
    """(items with their masks, whether there are any masks, masks without an image)."""
    tables = {}  # folder of masks -> ({stem: file}, {name of a subfolder: its files})

    def table(folder):
        if folder not in tables:
            tables[folder] = _mask_table(folder)
        return tables[folder]

    def find(item):
        beside = mask_suffix and table(item.folder)[0].get(item.stem + mask_suffix)
        if beside:
            return (beside,)
        for folder in _mask_folders(root, item.folder):
            single, several = table(folder)
            one = single.get(item.stem + mask_suffix) or single.get(item.stem)
            if one or item.stem in several:
                return (one,) if one else tuple(several[item.stem])
        return ()

    matched = []
    for item in items:
        expected = _mask_folders(root, item.folder)[0] / f"{item.stem}{mask_suffix}.png"
        matched.append(item._replace(masks=find(item), expected_mask=expected))
    _refuse_shared_masks(matched)
    own = {item.folder for item in items}
    has_masks = any(item.masks for item in matched)
    # Also if there are only masks that match no image: a wrong suffix must not go unnoticed.
    has_masks = has_masks or any(found[0] for folder, found in tables.items() if folder not in own)
    used = {path for item in matched for path in item.masks}
    return matched, has_masks, [path for path in _all_masks(root, classes) if path not in used]


def _mask_table(folder):
    """Masks in a folder by the stem of their image: one file, or several in a subfolder."""
    single, several = {}, {}
    for path in image_files(folder) if folder.is_dir() else []:
        single[stem_of(path, folder)] = path
        several.setdefault(path.parent.relative_to(folder).as_posix(), []).append(path)
    return single, several


def _mask_folders(root, folder):
    """Folders in which the masks of a class may be, apart from the folder of the images."""
    below = [root / name / folder.name for name in _MASK_FOLDERS]
    beside = [folder.with_name(f"{folder.name}_{end}") for end in ("masks", "mask")]
    return [*below, *beside, *(root / name for name in _MASK_FOLDERS)]


def _all_masks(root, classes):
    """All image files in folders of masks."""
    folders = [root / name for name in _MASK_FOLDERS]
    folders += [f.with_name(f"{f.name}_{end}") for f in classes for end in ("masks", "mask")]
    return [path for folder in folders if folder.is_dir() for path in image_files(folder)]


def _refuse_shared_masks(items):
    """Raise ValueError if a mask matches two images."""
    owners = {}
    for item in items:
        for mask in item.masks:
            if owners.setdefault(mask, item) is not item:
                raise ValueError(
                    f"{mask}: the mask matches both {owners[mask].path} and {item.path}; use "
                    "a separate folder of masks for each class, or rename the images"
                )


def _is_mask_beside_image(stem, stems, mask_suffix):
    """Whether a file is the mask of another file in the same folder."""
    return bool(mask_suffix) and stem.endswith(mask_suffix) and stem[: -len(mask_suffix)] in stems


def _part(folders, good_names):
    """(folders of good images, {name: folder} of the others)."""
    good = [folder for folder in folders if folder.name.lower() in good_names]
    return good, {folder.name: folder for folder in folders if folder not in good}


def _class_folders(root):
    """Direct subfolders of ``root`` in natural order, without those of masks."""
    folders = subfolders(root)
    names = {folder.name for folder in folders}
    mask_names = {f"{name}_{end}" for name in names for end in ("masks", "mask")}
    mask_names.update(_MASK_FOLDERS)
    return sorted((f for f in folders if f.name not in mask_names), key=lambda f: natural(f.name))
