"""Readers of published data sets whose folders are not named after their classes.

All have the call ``read(root, options) -> Found`` and say what is missing where a part is.
"""

import re

from skanomaly._images import read_image
from skanomaly.datasets._files import (
    Found,
    Item,
    image_files,
    no_images,
    own_files,
    subfolders,
)
from skanomaly.datasets._layouts import read_split
from skanomaly.datasets._manifest import read_manifest


def check_folders(root, title, names):
    """Raise ValueError unless `root` has all of the folders or files."""
    missing = [name for name in names if not (root / name).exists()]
    if missing:
        found = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())[:10]
        raise ValueError(
            f"{root}: expected {title}, with {', '.join(names)}; there is no "
            f"{', no '.join(missing)}. Found {', '.join(found) or 'nothing'}. Pass the folder "
            "that holds them, or get the rest of the data set."
        )


def read_mvtec_ad_2(root, options):
    """train/good, validation/good, test_public/{good, bad, ground_truth/bad}."""
    names = ["train/good", "validation/good", "test_public/good", "test_public/bad"]
    check_folders(root, "a category of MVTec AD 2", [*names, "test_public/ground_truth/bad"])
    found = read_split(root, options, test="test_public")
    private = [name for name in ("test_private", "test_private_mixed") if (root / name).is_dir()]
    note = f"Not read, as their labels are not published: {', '.join(private)}."
    return found._replace(notes=(*found.notes, *[note] * bool(private)))


def read_visa(root, options):
    """Images as the split file of one class lists them."""
    root = root.absolute()  # its name and the folder above it are needed
    table = root.parent / "split_csv" / "1cls.csv"
    check_folders(root, "an object of VisA", ["Data/Images/Normal"])
    if not table.is_file():
        raise ValueError(
            f"{root}: expected an object of VisA, whose images are listed in {table}; there is no "
            "such file. Get it, or write a table of your own for load_manifest."
        )
    only = {"object": root.name}
    found = read_manifest(table, root=root.parent, only=only, good_names=("normal",))
    if found.good is None:
        raise ValueError(f"{table}: expected a column split, which says what is for testing.")
    parts = ("train", "good", "defective", "train_defects")
    short = {  # names start from the folder of a class, as in the other layouts
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
    """kosNN/PartN.jpg with kosNN/PartN_label.bmp, which is black where the part is good.

    There is no split: the good views of some commutators are held out, none of which is in
    training with another view; every defective view is for testing.
    """
    folders = kolektor_folders(root)
    if not folders:
        raise ValueError(
            f"{root}: expected KolektorSDD, with folders kos01, kos02 and so on, found "
            f"{[folder.name for folder in subfolders(root)][:10]}. Pass the folder that holds them."
        )
    items, unused = [], []
    for folder in folders:
        pairs, rest = _labelled(own_files(folder), "_label", folder)
        unused += rest
        items += [
            _judged(Item(path, root, "defect", (mask,), mask, folder.name)) for path, mask in pairs
        ]
    good, defective = _by_class(items)
    return Found(train=good, good=None, defective=defective, unused_masks=unused)


def read_kolektor_sdd2(root, options):
    """{train, test}/NNNNN.png with NNNNN_GT.png, which is black where the surface is good."""
    check_folders(root, "KolektorSDD2", ["train", "test"])
    parts, unused = {}, []
    for part in ("train", "test"):
        folder = root / part
        pairs, rest = _labelled(own_files(folder), "_GT", folder)
        unused += rest
        items = [_judged(Item(path, folder, "defect", (mask,), mask)) for path, mask in pairs]
        parts[part] = _by_class(items)
    return _parted(parts, unused)


def read_magnetic_tile(root, options):
    """MT_<defect>/Imgs/<name>.jpg with <name>.png as mask; MT_Free holds the good images."""
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
        notes=("Pieces were photographed under several exposures: see check_dataset.",),
    )


def read_dagm(root, options):
    """{Train, Test}/NNNN.PNG; those with a mask Label/NNNN_label.PNG are defective."""
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
    return _parted(parts, unused)


def kolektor_folders(root):
    return [folder for folder in subfolders(root) if re.fullmatch(r"kos\d+", folder.name)]


def tile_folders(root):
    """Folders of one kind of tile each."""
    return [f for f in subfolders(root) if f.name.startswith("MT_") and (f / "Imgs").is_dir()]


def is_kolektor_sdd2(root):
    folders = [root / part for part in ("train", "test") if (root / part).is_dir()]
    return any(path.stem.endswith("_GT") for folder in folders for path in own_files(folder))


def is_dagm(root):
    # As the file system spells them: some find Train under the name of train, too.
    names = {folder.name for folder in subfolders(root)}
    return any((root / part / "Label").is_dir() for part in {"Train", "Test"} & names)


def _labelled(files, suffix, folder):
    """((image, its mask) for each image, masks without image). Each image must have a mask."""
    masks = {path.stem: path for path in files if path.stem.endswith(suffix)}
    images = [path for path in files if path.stem not in masks]
    if not files:
        raise no_images(folder)
    if not images:
        raise ValueError(f"{folder}: expected images beside the masks called <name>{suffix}.")
    pairs = [(path, masks.pop(path.stem + suffix, None)) for path in images]
    missing = [path for path, mask in pairs if mask is None]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(images)} images in {folder} have no mask. "
            f"First: {missing[0]}, expected {missing[0].stem}{suffix} beside it. The masks tell "
            "good images from defects here: get them, or move these images away."
        )
    return pairs, list(masks.values())


def _judged(item):
    """The item as it is, or as a good one where its mask is black."""
    return item if read_image(item.masks[0]).any() else item._replace(defect="good")


def _by_class(items):
    good = [item for item in items if item.defect == "good"]
    return good, [item for item in items if item.defect != "good"]


def _parted(parts, unused):
    """From {"train" or "test": (good, defective)}."""
    (train, train_defects), (good, defective) = parts["train"], parts["test"]
    return Found(train, good, defective, train_defects=train_defects, unused_masks=unused)


def _check_dagm_list(path, masks):
    """Where there is the list of masks, none of them may be missing: such images pass for good."""
    if not path.is_file():
        return
    words = path.read_text(errors="replace").split()
    listed = {word.rpartition(".")[0].lower() for word in words if "_label." in word.lower()}
    missing = sorted(listed - set(masks))
    if missing:
        raise ValueError(
            f"{path} lists {len(listed)} masks, but {len(missing)} of them are missing, first "
            f"{missing[0]}. Without them defective images would pass for good: get the masks."
        )
