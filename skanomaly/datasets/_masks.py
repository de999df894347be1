"""Masks of defects that are read from their files on access."""

from collections.abc import Sequence

import numpy as np

from skanomaly.images import image_frame, read_image

_LARGEST_CLASS_NUMBER = 127


class MaskFiles(Sequence):
    """Masks of images, read on access; scikit-learn can index it like an array.

    Parameters
    ----------
    images : list of str
        Paths of the images, which determine the size of the masks.
    masks : list of str, tuple of str, or None
        For each image the path of its mask; several paths, if any of these masks may mark a pixel;
        None for a good image.

    Notes
    -----
    Indexing with an int returns an (H, W) bool array, True on the defect. Slices, lists and arrays
    of int or bool return another `MaskFiles`. Nothing is kept in memory. A mask is True where its
    file exceeds half of its largest value, which excludes gray edges that are due to resizing or
    JPEG. If no value exceeds 127, or if there are colors, the values are class numbers or colors of
    classes, and everything except 0 or black is a defect.
    """

    def __init__(self, images, masks):
        self.images = images
        self.masks = masks

    @property
    def shape(self):
        """(n,), so that scikit-learn indexes with arrays."""
        return (len(self.images),)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        if isinstance(key, tuple):  # scikit-learn indexes with (key, ...)
            key = key[0]
        if isinstance(key, (int, np.integer)):
            return read_mask(self.masks[key], self.images[key])
        rows = np.arange(len(self))[key]
        return MaskFiles([self.images[i] for i in rows], [self.masks[i] for i in rows])

    def __repr__(self):
        n_defects = sum(mask is not None for mask in self.masks)
        return f"<masks of {len(self)} images, {n_defects} of them with a file>"


def read_mask(mask, image):
    """(H, W) bool from the file or files of a mask; all False if it is None.

    Raises ValueError if a mask is not an image or has another size than its image.
    """
    frame = image_frame(image)
    files = () if mask is None else (mask,) if isinstance(mask, str) else mask
    defect = np.zeros(frame, dtype=bool)
    for file in files:
        values = read_image(file)  # (H, W, C)
        if values.shape[:2] != frame:
            raise ValueError(
                f"{file}: the mask is {values.shape[0]} x {values.shape[1]} pixels (height x "
                f"width), its image {image} is {frame[0]} x {frame[1]}; draw the mask in the size "
                "of the image as a viewer shows it"
            )
        defect |= defect_pixels(values)
    return defect


def defect_pixels(values):
    """(H, W) bool, True on the defect, from the pixels (H, W, C) of a mask file."""
    return (values > (values.max() / 2 if is_gray_scale(values) else 0)).any(axis=2)


def is_gray_scale(values):
    """Whether the values are shades between black and white rather than class numbers."""
    has_colors = (values != values[:, :, :1]).any()
    return not has_colors and values.max() > _LARGEST_CLASS_NUMBER
