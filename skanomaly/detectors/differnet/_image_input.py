"""What DifferNet is given: images, if it has an extractor, or features."""

from functools import partial

import numpy as np

from skanomaly.base import PIXELS, ImageReader, check_roi, learn_roi, present_roi, read_pixels
from skanomaly.detectors._prefitted import check_whole
from skanomaly.feature_maps import FeatureMaps
from skanomaly.images import channels_of, check_images
from skanomaly.utils.threads import N_READERS
from skanomaly.utils.validation import is_images


def check_features(X, roi):
    """Raise ValueError for images, or a region of interest, where there is no extractor."""
    if roi is not None:
        raise ValueError(
            "expected roi=None without an extractor, as a region is one of images, got "
            f"{type(roi).__name__}; give it to the extractor before DifferNet"
        )
    if is_images(X):
        raise ValueError(
            "DifferNet expects features, got images or paths; put an extractor before it in a "
            "Pipeline, or give it one: DifferNet(FilterBank())"
        )


def pixel_maps(detector, X, reset):
    """Images as FeatureMaps of their pixels, read when asked for.

    Parameters
    ----------
    detector : DifferNet
        With an extractor.
    X : collection of images
    reset : bool
        Whether it is being fitted: what is learned of the images' sizes is set.
    """
    is_array = isinstance(X, np.ndarray) and X.dtype.kind == "f" and X.ndim == 2
    if isinstance(X, FeatureMaps) or is_array:
        raise ValueError(
            "DifferNet with an extractor expects images, got features; leave the extractor out "
            "of the pipeline, or DifferNet's own: DifferNet()"
        )
    images = check_images(X)
    check_roi(detector.roi, images)
    if reset:
        extractor = detector.extractor
        check_whole(extractor, "give DifferNet roi; for tiles take it in a Pipeline")
        learn_roi(detector, images)
        detector.image_fit_, detector.n_channels_in_ = extractor.image_fit, channels_of(images)
        size, n_channels = detector.image_fit_, detector.n_channels_in_
        detector.layer_shapes_ = {PIXELS: (size.height, size.width, n_channels)}
        detector.n_features_in_ = n_channels
    reader = ImageReader(
        detector.image_fit_, detector.n_channels_in_, present_roi(detector), is_blank_outside=True
    )
    read = partial(read_pixels, reader, N_READERS, False)
    return FeatureMaps.streamed(images, read, detector.layer_shapes_, detector.image_fit_)
