"""What estimators read: images as a whole or as tiles, and the regions of interest in them."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted

from skanomaly.exceptions import ImageError
from skanomaly.images import (
    blank_outside,
    cells_inside,
    check_images,
    check_own_size,
    computed_ahead,
    is_one_mask,
    load_batches,
    name_in,
    pack_mask,
    place_in,
    read_image,
    read_roi,
    to_channels,
)
from skanomaly.utils.state import reading


def check_roi(roi, images):
    """Raise ValueError unless ``roi`` is None, a mask, a function, or a mask for each image."""
    if roi is None or callable(roi) or is_one_mask(roi):
        return
    if not isinstance(roi, Sequence) and not (isinstance(roi, np.ndarray) and roi.ndim == 3):
        raise ValueError(
            "roi must be None, a mask (H, W), an image file, a list of one of these per image, or "
            f"a function of an image, got {type(roi).__name__}"
        )
    if images is not None and len(roi) != len(images):
        raise ValueError(
            f"expected one region of interest per image, got {len(roi)} for {len(images)} images; "
            "set roi to the masks of these images, to one mask for all, or to a function of an "
            "image"
        )


def learn_roi(estimator, images):
    """Check an estimator's region of interest in ``fit``; set ``roi_`` if it is one for all."""
    check_roi(estimator.roi, images)
    if is_one_mask(estimator.roi):
        estimator.roi_ = read_roi(estimator.roi)


def present_roi(estimator):
    """An estimator's region of interest: one mask as it was in fit, or the parameter."""
    one = getattr(estimator, "roi_", None)
    return one if estimator.roi is None or is_one_mask(estimator.roi) else estimator.roi


def region_of(roi, image, name):
    """What a function ``roi`` returns for an image; an ImageError names the image."""
    try:
        return roi(image)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


class RegionOfInterestMixin:
    """What estimators with a parameter ``roi`` share."""

    @reading
    def regions_of_interest(self, X):
        """Regions of interest of images, as ``fit`` finds them and ``transform`` or scoring.

        Parameters
        ----------
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
            They are read only where ``roi`` is a function or a list.

        Returns
        -------
        list of n arrays of shape (H, W), bool, or None
            In the images' own pixels, True where patches count; None: everywhere.

        Raises
        ------
        ValueError
            An image cannot be read, or its region does not fit it.
        """
        check_is_fitted(self)
        images, roi = check_images(X), present_roi(self)
        if roi is None or is_one_mask(roi):
            return [roi] * len(images)
        reader = ImageReader(self.image_fit_, self.n_channels_in_, roi)
        return [reader.whole(images, i)[1] for i in range(len(images))]


class ImageReader:
    """Reads images of a collection as an estimator's input, and their regions of interest.

    Parameters
    ----------
    image_fit : ImageFit
    n_channels : int or None
        None: those of the first image; with a region of interest they must be known.
    roi : ndarray of shape (H, W), bool; sequence of masks; callable; or None
    is_blank_outside : bool, default=False
        Whether pixels outside of the region of interest get the mean color inside.
    """

    def __init__(self, image_fit, n_channels, roi, is_blank_outside=False):
        self.image_fit, self.n_channels, self.roi = image_fit, n_channels, roi
        self.is_blank_outside = is_blank_outside

    def batches(self, images, batch_size, n_threads):
        """Inputs, frames and masks of consecutive batches, read ahead by threads."""
        if self.roi is None:
            for batch, frames in load_batches(
                images, self.image_fit, self.n_channels, batch_size, n_threads=n_threads
            ):
                yield batch, frames, None
            return
        parts = [range(len(images))[part] for part in gen_batches(len(images), batch_size)]
        yield from computed_ahead([partial(self.batch, images, part) for part in parts], n_threads)

    def batch(self, images, indices):
        """Inputs (b, height, width, C) of some images, their frames (b, 2) and masks, or None."""
        inputs, frames, masks = [], [], []
        for index in indices:
            image, mask = self.whole(images, index)
            frames.append(image.shape[:2])
            masks.append(mask)
            inputs.append(self.with_channels(self.image_fit.apply(image), images, index))
        masks = None if self.roi is None else masks
        return np.stack(inputs), np.array(frames), masks

    def whole(self, images, index):
        """One image as it is, (H, W, C) from read_image, and its mask (H, W) or None."""
        name = name_in(images, index)
        image = read_image(images[index], name)
        mask = self._mask(image, images, index, name)
        if mask is not None and self.is_blank_outside:
            image = blank_outside(image, mask)
        return image, mask

    def sample_tiles(self, tiling, images, index, n_tiles, stride, rng):
        """Some random tiles of an image that meet its region of interest.

        Returns
        -------
        list of n_tiles pairs, or as many as there are
            Tile (height, width, C), and which of its cells, of ``stride`` pixels, are inside:
            (height / stride, width / stride) bool, all of them without a region.
        """
        image, mask = self.whole(images, index)
        boxes = np.array(tiling.boxes)
        whole = tiling.grid((tiling.tile_height // stride, tiling.tile_width // stride))
        inside = np.ones(whole, dtype=bool)
        if mask is not None:
            inside = cells_inside(pack_mask(mask), mask.shape, self.image_fit, whole)
        cells = [_cells_of_tile(inside, box, tiling, stride) for box in boxes]
        places = np.flatnonzero([one.any() for one in cells])
        chosen = rng.choice(places, min(n_tiles, len(places)), replace=False)
        tiles = {
            number: tile
            for number, tile in enumerate(tiling.cut(image, self.image_fit))
            if number in chosen
        }
        return [(self.with_channels(tiles[i], images, index), cells[i]) for i in chosen]

    def with_channels(self, pixels, images, index):
        """Pixels of an image with the channels that all have."""
        return to_channels(pixels, self.n_channels, name_in(images, index))

    def _mask(self, image, images, index, name):
        if self.roi is None:
            return None
        if callable(self.roi):
            found = np.asarray(region_of(self.roi, image, name))
            mask = read_roi(found, f"{name}: the function roi")
        elif isinstance(self.roi, np.ndarray) and self.roi.ndim == 2:
            mask = self.roi  # read once, in fit
        else:
            place, n_images = place_in(images, index)
            check_roi(self.roi, range(n_images))
            mask = read_roi(self.roi[place], f"roi[{place}]")
        check_own_size(mask, image.shape[:2], name)
        is_cropped = self.image_fit.resize == "crop"
        if (
            is_cropped
            and not cells_inside(pack_mask(mask), mask.shape, self.image_fit, (1, 1)).any()
        ):
            raise ValueError(
                f"{name}: expected a region of interest in the part of the image that is seen, got "
                'one that resize="crop" leaves out; take "stretch" or "pad"'
            )
        return mask


def _cells_of_tile(inside, box, tiling, stride):
    """The part of the cells of an image, (h, w), that lies in a tile; each by its center."""
    rows, columns = (
        ((np.arange(first + stride // 2, end, stride)) * n // length)
        for first, end, n, length in zip(
            box[:2], box[2:], inside.shape, (tiling.height, tiling.width), strict=True
        )
    )
    return inside[rows][:, columns]
