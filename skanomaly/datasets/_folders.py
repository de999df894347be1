"""Load images from the usual folder layouts of inspection data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skanomaly.datasets._bunch import check_options, make_bunch, split
from skanomaly.datasets._listing import GOOD_NAMES
from skanomaly.datasets._readers import Options, read_folder


def load_folder(
    root: str | Path,
    *,
    layout: str = "auto",
    good_names: Sequence[str] = GOOD_NAMES,
    categories: Sequence[str] | None = None,
    mask_suffix: str = "_mask",
    missing_masks: str = "error",
    test_size: float = 0.2,
    random_state: int | np.random.RandomState | None = 0,
) -> Bunch:
    """Load the images, labels and masks of a folder.

    Only the file names are read: images are returned as paths, which every extractor accepts, and
    masks are read on access. Only if the labels are in the masks (layouts "kolektor_sdd" and
    "kolektor_sdd2") the masks are read immediately; and a few files of folders that may be of masks
    or of images.

    Parameters
    ----------
    root : str or Path
        A folder with the images of one kind of part.
    layout : str, default="auto"
        "auto" recognizes the layouts below. If a layout is requested by name, all of its folders
        must exist.

        1. "mvtec_ad": `train/good`, `test/good`, `test/<defect>` and, if there are masks,
           `ground_truth/<defect>/<stem>_mask.png`, or several masks of an image in
           `ground_truth/<defect>/<stem>/`, whose union is used. The images in `validation/good`,
           if there are any, are in `validation`. "mvtec_loco", "btad" and "mpdd" are the same
           except for the folders that must exist;
        2. "classes", side by side: `good` and any other folders, one for each kind of defect. Masks
           may be in `ground_truth/<defect>`, `masks/<defect>`, `<defect>_masks` or `masks`, or
           next to the images with their suffix;
        3. "images" only: all are good and used for training;
        4. one category of a published data set:

           - "mvtec_ad_2": `test_public` is the test part; the private parts have no labels and are
             not read;
           - "visa": the folder of one object, with `../split_csv/1cls.csv`. Use
             :func:`load_manifest` for the other tables;
           - "kolektor_sdd": `kosNN/PartN.jpg`, `PartN_label.bmp`. There is no published split: the
             good views of a fraction `test_size` of the items are for testing, those of the other
             items for training. All defective views are for testing, also those of items with good
             views in the training part;
           - "kolektor_sdd2": `train` and `test` with `NNNNN.png`, `NNNNN_GT.png`;
           - "magnetic_tile": `MT_<defect>/Imgs` and `MT_Free/Imgs` with `.jpg` and masks `.png`.
             There is no published split;
           - "dagm": `Train` and `Test` with masks `Label/NNNN_label.PNG`.

           The published training parts of "kolektor_sdd2" and "dagm" contain defective images:
           they are in `train_defects`, neither in `train` nor in `test`.

        Subfolders of a class belong to it, and links are followed. Images are files ending in png,
        jpg, jpeg, jpe, jfif, bmp, tif, tiff, webp, gif, ppm, pgm, pbm, pnm, pfm, jp2, j2k, j2c,
        jpc, jpf or jpx, in any capitalization; hidden files and thumbnails are ignored, and other
        files are in `not_read`.
    good_names : sequence of str, default=("good", "ok", "normal")
        Names of folders of good images, in any capitalization, in layouts 1 and 2.
    categories : sequence of str or None, default=None
        The kinds of defects to load; None: all of them. Of the folders whose names are those of
        masks, such as `solder_mask` beside `solder`, the ones named here are kinds of defects. By
        default they are if their files look like images rather than masks.
    mask_suffix : str, default="_mask"
        What is appended to the name of an image in the name of its mask, in layouts 1 and 2. A mask
        with exactly the name of the image is found as well, if it is in a folder of masks. "": no
        mask is next to its image.
    missing_masks : {"error", "drop", "ignore"}, default="error"
        How defective images without a mask are handled if others have one: raise an error, leave
        these images out, or load all images without masks.
    test_size : float, default=0.2
        Fraction of the good images that are held out for testing if the layout does not split them
        and there are defects; at least one image, unless it is 0.
    random_state : int, RandomState instance or None, default=0
        Draws the images that are held out.

    Returns
    -------
    data : Bunch
        name : str
            Name of the folder.
        train : Bunch
            images : list of str, the paths;
            target : ndarray of shape (n,), int, all +1;
            names : list of str, such as "good/007.png".
        test : Bunch
            images, names : as above, good images first, each class in natural order (2 before 10);
            target : ndarray of shape (n,), int, +1 good and -1 defect;
            defects : list of str, the class of each image, "good" for good ones;
            masks : sequence of n arrays (H, W) bool, True on the defect, read on access; or None
            if no defective image has a mask.
        validation : Bunch or None
            As `train`: further good images, if the layout has a validation part.
        train_defects : Bunch or None
            As `test`: defective images of the published training part.
        defect_names : list of str
            The kinds of defects in the test part.
        not_read : list of str
            Files that are neither an image nor a mask of what was found, relative to `root`, such
            as images of a format that is not read. Hidden files are left out.
        DESCR : str
            What was found, and what was not read.

    Raises
    ------
    FileNotFoundError
        If `root` is not a folder.
    PermissionError
        If a folder cannot be read.
    ValueError
        If `root` has none of the layouts, or a folder of the layout is missing; if the folder of a
        class is empty, a category does not exist, a mask is missing or matches several images, or
        a folder may contain masks as well as images.

    See Also
    --------
    load_manifest : The same for a table of files.
    check_dataset : Find problems of the images.

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
        hint = " Use load_manifest for a table of images." if root.is_file() else ""
        raise FileNotFoundError(f"{root}: expected a folder of images, there is none.{hint}")
    check_options(missing_masks, test_size)
    found = find_folder(root, layout, good_names, categories, mask_suffix)
    found = split(found, test_size, random_state, root)
    return make_bunch(root.resolve().name, found, missing_masks)


def find_folder(root, layout, good_names, categories, mask_suffix):
    """The images that :func:`load_folder` finds, before good images are held out."""
    good_names = [good_names] if isinstance(good_names, str) else good_names
    options = Options([name.lower() for name in good_names], categories, mask_suffix)
    return read_folder(root, layout, options)
