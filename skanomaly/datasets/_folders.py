"""Read the folder layouts in which inspection images usually come."""

from pathlib import Path

from skanomaly.datasets._bunch import check_options, make_bunch, split
from skanomaly.datasets._files import GOOD_NAMES
from skanomaly.datasets._readers import Options, read_folder


def load_folder(
    root,
    *,
    layout="auto",
    good_names=GOOD_NAMES,
    categories=None,
    mask_suffix="_mask",
    missing_masks="error",
    test_size=0.2,
    random_state=0,
):
    """Find the images, labels and masks in a folder.

    Only file names are read here: images are paths, which every extractor takes, and masks are
    read when they are asked for. Only where the label is in the mask (layouts "kolektor_sdd" and
    "kolektor_sdd2") are masks read at once.

    Parameters
    ----------
    root : str or Path
        A folder with the images of one kind of part.
    layout : str, default="auto"
        "auto" recognises the layouts below. A layout asked for by its name must be there in full:
        what is missing is an error.

        1. "mvtec_ad": `train/good`, `test/good`, `test/<defect>` and, where there are masks,
           `ground_truth/<defect>/<stem>_mask.png`, or several masks of an image in
           `ground_truth/<defect>/<stem>/`, which are united. With `validation/good`, these
           images are in `validation`. "mvtec_loco", "btad" and "mpdd" are the same but for the
           folders that must be there;
        2. "classes", side by side: `good` and any others, each of which is a kind of defect. Masks
           may lie in `ground_truth/<defect>`, `masks/<defect>`, `<defect>_masks` or `masks`, or
           with their suffix beside the images;
        3. "images" only: all are good and all are for training;
        4. data sets as they were published, one category of them:

           - "mvtec_ad_2": `test_public` is the test part; the private parts have no labels and are
             not read;
           - "visa": the folder of one object, with `../split_csv/1cls.csv`. Its other tables are
             for :func:`load_manifest`;
           - "kolektor_sdd": `kosNN/PartN.jpg`, `PartN_label.bmp`. No split is published: a share
             `test_size` of the items gives its good views to testing, and the good views of the
             others are for training; every defective view is for testing, also of items that
             have good views in training;
           - "kolektor_sdd2": `train` and `test` with `NNNNN.png`, `NNNNN_GT.png`;
           - "magnetic_tile": `MT_<defect>/Imgs` and `MT_Free/Imgs` with `.jpg` and masks `.png`.
             No split is published;
           - "dagm": `Train` and `Test` with masks `Label/NNNN_label.PNG`.

           The published training parts of "kolektor_sdd2" and "dagm" hold defective images: they
           are in `train_defects`, and neither in `train` nor in `test`.

        Folders inside a class belong to it. Images are files ending in png, jpg, jpeg, bmp, tif,
        tiff or webp, in small or capital letters; hidden files and thumbnails are passed over.
    good_names : sequence of str, default=("good", "ok", "normal")
        Names of folders of good images, in small or capital letters, in layouts 1 and 2.
    categories : sequence of str or None, default=None
        The kinds of defects to load; all of them with None.
    mask_suffix : str, default="_mask"
        What a mask's name has after its image's, in layouts 1 and 2. A mask with exactly the
        image's name is found too, in a folder of its own.
    missing_masks : {"error", "drop", "ignore"}, default="error"
        What to do with a defective image without mask where there are masks for others: raise an
        error, leave the image out, or load the images without any masks.
    test_size : float, default=0.2
        Share of the good images held out for testing where the layout does not part them and there
        are defects; at least one image, unless it is 0.
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
        validation : Bunch or None
            As `train`: further good images, of a part that the layout sets aside.
        train_defects : Bunch or None
            As `test`: defective images of the published training part.
        defect_names : list of str
            The kinds of defects for testing.
        DESCR : str
            What was found, and what was not read.

    Raises
    ------
    FileNotFoundError
        If `root` is no folder.
    ValueError
        If `root` has none of the layouts, or only a part of the one asked for or recognised; if a
        folder of a class is empty, a category does not exist, or a mask is missing.

    See Also
    --------
    load_manifest : The same from a table of files.
    check_dataset : What may be wrong with the images.

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
        hint = " Read a table of images with load_manifest." if root.suffix == ".csv" else ""
        raise FileNotFoundError(f"{root}: expected a folder of images, there is none.{hint}")
    check_options(missing_masks, test_size)
    found = find_folder(root, layout, good_names, categories, mask_suffix)
    found = split(found, test_size, random_state, root)
    return make_bunch(root.resolve().name, found, missing_masks)


def find_folder(root, layout, good_names, categories, mask_suffix):
    """What :func:`load_folder` finds before good images are held out and masks demanded."""
    good_names = [good_names] if isinstance(good_names, str) else good_names
    options = Options([name.lower() for name in good_names], categories, mask_suffix)
    return read_folder(root, layout, options)
