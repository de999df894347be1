"""Masks of defects that are read from their files only when asked for."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from skanomaly._images import read_image

_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = {5, 6, 7, 8}
_LARGEST_CLASS_NUMBER = 127


class MaskFiles(Sequence):
    """Masks of images, read on access; scikit-learn may cut it by rows.

    Parameters
    ----------
    images : list of str
        Paths of the images, which give the masks their frame.
    masks : list of str, tuple of str, or None
        Path of each image's mask; several, of which any may say that a pixel is defective; None
        for a good image.

    Notes
    -----
    An int answers one (H, W) bool array, True on the defect; slices, lists and arrays of int or
    bool answer another `MaskFiles`. Nothing is kept in memory. A mask is True where its file is
    above half of its largest value, so that grey edges left by resizing or by JPEG stay outside.
    Where no value is above 127, or where there are colours, values stand for classes, and
    everything but 0 or black is a defect.
    """

    def __init__(self, images, masks):
        self.images = images
        self.masks = masks

    @property
    def shape(self):
        """(n,), which tells scikit-learn to index with arrays."""
        return (len(self.images),)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        if isinstance(key, tuple):  # scikit-learn asks for (key, ...)
            key = key[0]
        if isinstance(key, (int, np.integer)):
            return read_mask(self.masks[key], self.images[key])
        rows = np.arange(len(self))[key]
        return MaskFiles([self.images[i] for i in rows], [self.masks[i] for i in rows])

    def __repr__(self):
        n_defects = sum(mask is not None for mask in self.masks)
        return f"<masks of {len(self)} images, {n_defects} of them with a file>"


def read_mask(mask, image):
    """(H, W) bool from a mask's file or files, or all False in the image's frame where it is None.

    Raises ValueError where a mask is no image or has another size than its image.
    """
    frame = _image_size(image)
    files = () if mask is None else (mask,) if isinstance(mask, str) else mask
    defect = np.zeros(frame, dtype=bool)
    for file in files:
        values = read_image(file)  # (H, W, C)
        if values.shape[:2] != frame:
            raise ValueError(
                f"{file}: the mask is {values.shape[0]} x {values.shape[1]} pixels (height x "
                f"width), its image {image} is {frame[0]} x {frame[1]}; draw the mask in the "
                "image's own frame, as a viewer shows it"
            )
        defect |= is_defect(values)
    return defect


def is_defect(values):
    """(H, W) bool: where the pixels (H, W, C) of a mask's file mean a defect."""
    return (values > (values.max() / 2 if is_grey_scale(values) else 0)).any(axis=2)


def is_grey_scale(values):
    """Whether the values are shades between black and white, and not numbers of classes."""
    has_colours = (values != values[:, :, :1]).any()
    return not has_colours and values.max() > _LARGEST_CLASS_NUMBER


def _image_size(path):
    """(height, width) as a viewer shows the image; only the file's head is read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_sideways = image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image file, or an unknown format") from error
    return (width, height) if is_sideways else (height, width)
