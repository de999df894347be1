"""Readers of published data sets whose folders are not named after their classes.

All have the signature ``read(root, options) -> Found`` and raise ValueError naming what is missing.
"""

import re

from skanomaly.datasets._layouts import read_split
from skanomaly.datasets._listing import (
    Found,
    Item,
    entry_names,
    image_files,
    no_images,
    own_files,
    subfolders,
)
from skanomaly.datasets._manifest import read_manifest
from skanomaly.images import read_image


def check_folders(root, title, names):
    """Raise ValueError unless ``root`` contains all of the folders or files."""
    missing = [name for name in names if not (root / name).exists()]
    if missing:
        found = entry_names(root)[:10]
        raise ValueError(
            f"{root}: expected {title}, with {', '.join(names)}; there is no "
            f"{', no '.join(missing)}. Found {', '.join(found) or 'nothing'}. Pass the folder "
            "that contains them, or download the missing part of the data set."
        )


def read_mvtec_ad_2(root, options):
    """train/good, validation/good, test_public/{good, bad, ground_truth/bad}."""
    names = ["train/good", "validation/good", "test_public/good", "test_public/bad"]
    check_folders(root, "a category of MVTec AD 2", [*names, "test_public/ground_truth/bad"])
    found = read_split(root, options, test="test_public")
    private = [name for name in ("test_private", "test_private_mixed") if (root / name).is_dir()]
    note = f"Not read, because their labels are not published: {', '.join(private)}."
    left_out = tuple(root / name for name in private)
    return found._replace(notes=(*found.notes, *[note] * bool(private)), left_out=left_out)


def read_visa(root, options):
    """Images as listed in the split file 1cls.csv."""
    root = root.absolute()  # its name and its parent are needed
    table = root.parent / "split_csv" / "1cls.csv"
    check_folders(root, "an object of VisA", ["Data/Images/Normal"])
    if not table.is_file():
        raise ValueError(
            f"{root}: expected an object of VisA, whose images are listed in {table}; there is no "
            "such file. Download it, or write your own table for load_manifest."
        )
    only = {"object": root.name}
    found = read_manifest(table, root=root.parent, only=only, good_names=("normal",))
    if found.good is None:
        raise ValueError(f"{table}: expected a column split with the part of each image.")
    parts = ("train", "good", "defective", "train_defects")
    short = {  # names are relative to the folder of a class, as in the other layouts
        part: [item._replace(folder=item.path.parent) for item in getattr(found, part)]
        for part in parts
    }
    used = {path for part in parts for item in short[part] for path in item.masks}
    folder = root / "Data" / "Masks"
    masks = image_files(folder) if folder.is_dir() else []
    return found._replace(
        **short, has_masks=True, unused_masks=[path for path in masks if path not in used]
    )


def read_kolektor_sdd(root, options):
    """kosNN/PartN.jpg with masks kosNN/PartN_label.bmp, which are black if the view is good.

    There is no published split. The good views of some commutators are held out, so that no
    commutator has good views in both parts; every defective view is for testing.
    """
    folders = kolektor_folders(root)
    if not folders:
        raise ValueError(
            f"{root}: expected KolektorSDD, with folders kos01, kos02 and so on, found "
            f"{[folder.name for folder in subfolders(root)][:10]}. Pass the folder that contains "
            "them."
        )
    items, unused = [], []
    for folder in folders:
        pairs, rest = _labeled(own_files(folder), "_label", folder)
        unused += rest
        items += [
            _relabel(Item(path, root, "defect", (mask,), mask, folder.name)) for path, mask in pairs
        ]
    good, defective = _by_class(items)
    return Found(train=good, good=None, defective=defective, unused_masks=unused)


def read_kolektor_sdd2(root, options):
    """{train, test}/NNNNN.png with masks NNNNN_GT.png, which are black if the surface is good."""
    check_folders(root, "KolektorSDD2", ["train", "test"])
    parts, unused = {}, []
    for part in ("train", "test"):
        folder = root / part
        pairs, rest = _labeled(own_files(folder), "_GT", folder)
        unused += rest
        items = [_relabel(Item(path, folder, "defect", (mask,), mask)) for path, mask in pairs]
        parts[part] = _by_class(items)
    return _found_in_parts(parts, unused)


def read_magnetic_tile(root, options):
    """MT_<defect>/Imgs/<name>.jpg with masks <name>.png; MT_Free contains the good images."""
    check_folders(root, "the Magnetic Tile Defects", ["MT_Free/Imgs"])
    good, defective, unused = [], [], []
    for folder in tile_folders(root):
        files = own_files(folder / "Imgs")
        masks = {path.stem: path for path in files if path.suffix.lower() == ".png"}
        images = [path for path in files if path.suffix.lower() != ".png"]
        if not images:
            raise ValueError(
                f"{folder / 'Imgs'}: expected images ending in .jpg with masks of the same name "
                f"ending in .png, found {len(masks)} masks and no image."
            )
        is_good = folder.name == "MT_Free"
        for path in images:
            mask, expected = masks.pop(path.stem, None), path.with_suffix(".png")
            found = (mask,) if mask else ()
            name = "good" if is_good else folder.name
            (good if is_good else defective).append(Item(path, path.parent, name, found, expected))
        unused += masks.values()
    return Found(
        train=good,
        good=None,
        defective=defective,
        unused_masks=unused,
        notes=("Tiles were photographed with several exposures: see check_dataset.",),
    )


def read_dagm(root, options):
    """{Train, Test}/NNNN.PNG; images with a mask Label/NNNN_label.PNG are defective."""
    needed = [f"{part}{below}" for part in ("Train", "Test") for below in ("", "/Label")]
    check_folders(root, "a class of DAGM 2007", needed)
    parts, unused = {}, []
    for part in ("Train", "Test"):
        folder = root / part
        masks = {path.stem.lower(): path for path in own_files(folder / "Label")}
        _check_dagm_list(folder / "Label" / "Labels.txt", masks)
        files = own_files(folder)
        if not files:
            raise no_images(folder)
        good, defective = [], []
        for path in files:
            mask = masks.pop(f"{path.stem}_label".lower(), None)
            if mask:
                defective.append(Item(path, folder, "defect", (mask,), mask))
            else:
                good.append(Item(path, folder, "good"))
        parts[part.lower()] = good, defective
        unused += masks.values()
    return _found_in_parts(parts, unused)


def kolektor_folders(root):
    """Folders of one commutator each."""
    return [folder for folder in subfolders(root) if re.fullmatch(r"kos\d+", folder.name)]


def tile_folders(root):
    """Folders of one class of tiles each."""
    return [f for f in subfolders(root) if f.name.startswith("MT_") and (f / "Imgs").is_dir()]


def is_kolektor_sdd2(root):
    """Whether a folder has the layout of KolektorSDD2."""
    folders = [root / part for part in ("train", "test") if (root / part).is_dir()]
    for folder in folders:
        stems = {path.stem for path in own_files(folder)}
        if any(stem.endswith("_GT") and stem.removesuffix("_GT") in stems for stem in stems):
            return True
    return False


def is_dagm(root):
    """Whether a folder has the layout of a class of DAGM 2007."""
    # Names are compared exactly: some file systems also find Train as train.
    names = {folder.name for folder in subfolders(root)}
    return any((root / part / "Label").is_dir() for part in {"Train", "Test"} & names)


def _labeled(files, suffix, folder):
    """((image, mask) pairs, masks without an image); ValueError for an image without a mask."""
    masks = {path.stem: path for path in files if path.stem.endswith(suffix)}
    images = [path for path in files if path.stem not in masks]
    if not files:
        raise no_images(folder)
    if not images:
        raise ValueError(f"{folder}: expected images next to the masks <name>{suffix}.")
    pairs = [(path, masks.pop(path.stem + suffix, None)) for path in images]
    missing = [path for path, mask in pairs if mask is None]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(images)} images in {folder} have no mask. "
            f"First: {missing[0]}, expected {missing[0].stem}{suffix} next to it. Here the labels "
            "are in the masks: download the masks, or remove these images."
        )
    return pairs, list(masks.values())


def _relabel(item):
    """The item, labeled good if its mask is black."""
    return item if read_image(item.masks[0]).any() else item._replace(defect="good")


def _by_class(items):
    good = [item for item in items if item.defect == "good"]
    return good, [item for item in items if item.defect != "good"]


def _found_in_parts(parts, unused):
    """The images found, from {"train" or "test": (good, defective)}."""
    (train, train_defects), (good, defective) = parts["train"], parts["test"]
    return Found(train, good, defective, train_defects=train_defects, unused_masks=unused)


def _check_dagm_list(path, masks):
    """Raise ValueError if a mask in the list of masks is missing: its image would count as good."""
    if not path.is_file():
        return
    words = path.read_text(errors="replace").split()
    listed = {word.rpartition(".")[0].lower() for word in words if "_label." in word.lower()}
    missing = sorted(listed - set(masks))
    if missing:
        raise ValueError(
            f"{path} lists {len(listed)} masks, but {len(missing)} of them are missing, first "
            f"{missing[0]}. Their defective images would count as good: download the masks."
        )
