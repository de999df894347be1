"""Cameras of 10, 12 or 14 bits write files of 16 bits, of which the highest ones are 0."""

import warnings
from typing import Any

import numpy as np

from skanomaly.images._collections import name_in
from skanomaly.images._reading import read_image

_DEPTHS = (8, 10, 12, 14)  # bits of cameras
_N_IMAGES = 8  # that are looked at: the brightest pixel of a few shows the camera's bits


def unused_high_bits(image: np.ndarray) -> int:
    """How many of its highest bits a 16-bit image does not use, judged by its brightest pixel.

    Parameters
    ----------
    image : ndarray
        As :func:`read_image` returns it.

    Returns
    -------
    int
        8, 6, 4 or 2: its values are those of a camera of 8, 10, 12 or 14 bits, and ``image << n``
        brings them to the range of 16 bits. 0: the image uses the range, or is not uint16.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.images import unused_high_bits
    >>> unused_high_bits(np.full((8, 8), 4000, dtype=np.uint16))
    4
    """
    if image.dtype != np.uint16:
        return 0
    highest = image.max()
    return 16 - next((depth for depth in _DEPTHS if highest < 2**depth), 16)


def warn_of_unused_bits(images: Any) -> None:
    """Warn if the first images are 16-bit images that use a part of their range.

    Parameters
    ----------
    images : collection of images

    Raises
    ------
    ImageError
        One of them cannot be read.
    """
    unused = 16
    for i in range(min(_N_IMAGES, len(images))):
        image = read_image(images[i], name_in(images, i))
        unused = min(unused, unused_high_bits(image))
        if unused == 0:
            return
    warnings.warn(
        f"the images have 16 bits and use the lower {16 - unused} alone, so that they are nearly "
        "black. Bring their values to the whole range, in fit and in predict: "
        f"[skanomaly.images.read_image(image) << {unused} for image in images]",
        UserWarning,
        stacklevel=2,
    )
