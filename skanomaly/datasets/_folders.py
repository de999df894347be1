"""Read the folder layouts in which inspection images usually come."""

from pathlib import Path

import numpy as np
from sklearn.utils import Bunch, check_random_state

from skanomaly.datasets._layouts import expected_mask, find_masks, find_parts, list_items
from skanomaly.datasets._masks import MaskFiles

GOOD_NAMES = ("good", "ok", "normal")

_MISSING_MASKS = ("error", "drop", "ignore")


def load_folder(
    root,
    *,
    good_names=GOOD_NAMES,
    categories=None,
    mask_suffix="_mask",
    missing_masks="error",
    test_size=0.2,
    random_state=0,
):
    """Find the images, labels and masks in a folder.

    Nothing but file names is read here: images are paths, which every extractor takes, and masks
    are read when they are asked for.

    Parameters
    ----------
    root : str or Path
        A folder in one of three layouts:

        1. the layout of MVTec AD: `train/good`, `test/good`, `test/<defect>` and, where there are
           masks, `ground_truth/<defect>/<stem>_mask.png`;
        2. classes side by side: `good` and any others, each of which is a kind of defect. Masks
           may lie in `ground_truth/<defect>`, `masks/<defect>`, `<defect>_masks` or `masks`, or
           with their suffix beside the images;
        3. images only: all are good and all are for training.

        Folders inside a class belong to it. Images are files ending in png, jpg, jpeg, bmp, tif,
        tiff or webp, in small or capital letters; hidden files and thumbnails are passed over.
    good_names : sequence of str, default=("good", "ok", "normal")
        Names of folders of good images, in small or capital letters.
    categories : sequence of str or None, default=None
        The kinds of defects to load; all of them with None.
    mask_suffix : str, default="_mask"
        What a mask's name has after its image's. A mask with exactly the image's name is found
        too, in a folder of its own.
    missing_masks : {"error", "drop", "ignore"}, default="error"
        What to do with a defective image without mask where there are masks for others: raise an
        error, leave the image out, or load the images without any masks.
    test_size : float, default=0.2
        Share of the good images held out for testing in layout 2, where there are defects;
        at least one image, unless it is 0.
    random_state : int, RandomState instance or None, default=0
        Draws the images held out.

    Returns
    -------
    data : Bunch
        name : str
            The folder's name.
        train : Bunch
            images : list of str, the paths;
            target : ndarray of shape (n,), int, all +1;
            names : list of str, as "good/007.png".
        test : Bunch
            images, names : as above, good images first, each class in natural order (2 before 10);
            target : ndarray of shape (n,), int, +1 good, -1 defect;
            defects : list of str, the class of each image, "good" for good ones;
            masks : sequence of n arrays (H, W) bool, True on the defect, read on access; or None
            where no defective image has one.
        defect_names : list of str
            The kinds of defects.
        DESCR : str
            What was found.

    Raises
    ------
    FileNotFoundError
        If `root` is no folder.
    ValueError
        If `root` has none of the layouts, a folder of a class is empty, a category does not
        exist, or a mask is missing.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> from skanomaly.datasets import load_folder
    >>> with TemporaryDirectory() as root:
    ...     for name in ["train/good/1.png", "test/good/2.png", "test/crack/3.png"]:
    ...         path = Path(root, name)
    ...         path.parent.mkdir(parents=True)
    ...         Image.new("L", (32, 24)).save(path)
    ...     data = load_folder(root)
    >>> data.train.names, data.test.names, data.test.target
    (['good/1.png'], ['good/2.png', 'crack/3.png'], array([ 1, -1]))
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: expected a folder of images, there is none.")
    if missing_masks not in _MISSING_MASKS:
        raise ValueError(f"missing_masks must be one of {_MISSING_MASKS}, got {missing_masks!r}.")
    if not 0 <= test_size < 1:
        raise ValueError(f"test_size must be a share in [0, 1), got {test_size!r}.")
    good_names = [good_names] if isinstance(good_names, str) else good_names
    parts = find_parts(root, [name.lower() for name in good_names])
    chosen = _choose(parts.defects, categories, root)
    defective = [
        item for name, folder in chosen.items() for item in list_items(folder, name, mask_suffix)
    ]
    train, good = (
        [item for folder in folders for item in list_items(folder, "good", mask_suffix)]
        for folders in (parts.train, parts.test or [])
    )
    if parts.test is None and defective:
        train, good = _hold_out(train, test_size, random_state, root)
    defective, masks = _match_masks(root, defective, mask_suffix, missing_masks)
    return _bunch(root, train, good, defective, masks)


def _choose(defects, categories, root):
    """The folders of the defects asked for."""
    if categories is None:
        return defects
    categories = [categories] if isinstance(categories, str) else list(categories)
    unknown = [name for name in categories if name not in defects]
    if unknown:
        raise ValueError(f"{root}: no defects called {unknown}; there are {list(defects)}.")
    return {name: folder for name, folder in defects.items() if name in categories}


def _hold_out(items, test_size, random_state, root):
    """Good images as (train, test), both in their old order; one goes to each part at least."""
    if test_size == 0:
        return items, []
    if len(items) < 2:
        raise ValueError(
            f"{root}: expected at least two good images, one to train on and one to test on, "
            "got one. Add images, or pass test_size=0 to train on it."
        )
    n_test = min(max(round(test_size * len(items)), 1), len(items) - 1)
    rows = check_random_state(random_state).permutation(len(items))
    train, test = np.sort(rows[n_test:]), np.sort(rows[:n_test])
    return [items[i] for i in train], [items[i] for i in test]


def _match_masks(root, items, mask_suffix, missing_masks):
    """(items, mask of each), the latter None where there are none or they are to be ignored."""
    masks, has_masks = find_masks(root, items, mask_suffix)
    missing = [item for item, mask in zip(items, masks, strict=True) if mask is None]
    if not has_masks or (missing and missing_masks == "ignore"):
        return items, None
    # Dropping every defect would hide a wrong suffix.
    if missing and (missing_masks == "error" or len(missing) == len(items)):
        raise ValueError(
            f"{len(missing)} of {len(items)} defective images have no mask. "
            f"First: {missing[0].path}, expected "
            f"{expected_mask(root, missing[0], mask_suffix)}. Add the masks, correct "
            f"mask_suffix={mask_suffix!r}, or pass missing_masks='drop' to leave these images "
            "out or 'ignore' to load all without masks."
        )
    pairs = [(item, mask) for item, mask in zip(items, masks, strict=True) if mask is not None]
    return [item for item, _ in pairs], [str(mask) for _, mask in pairs]


def _bunch(root, train, good, defective, masks):
    test = good + defective
    images = [str(item.path) for item in test]
    defects = [item.defect for item in test]
    data = Bunch(
        name=root.resolve().name,
        train=Bunch(
            images=[str(item.path) for item in train],
            target=np.ones(len(train), dtype=int),
            names=[item.name for item in train],
        ),
        test=Bunch(
            images=images,
            target=np.repeat([1, -1], [len(good), len(defective)]),
            masks=None if masks is None else MaskFiles(images, [None] * len(good) + masks),
            names=[item.name for item in test],
            defects=defects,
        ),
        defect_names=list(dict.fromkeys(item.defect for item in defective)),
    )
    data.DESCR = _describe(data)
    return data


def _describe(data):
    counts = ", ".join(f"{name} {data.test.defects.count(name)}" for name in data.defect_names)
    n_good = int((data.test.target == 1).sum())
    masks = "without masks" if data.test.masks is None else "with masks"
    return (
        f"{data.name}: {len(data.train.images)} good images for training; {n_good} good and "
        f"{len(data.test.images) - n_good} defective ones for testing"
        + (f" ({counts}), {masks}." if counts else ".")
    )
