"""CutPaste's presets, and its parameters checked and completed by them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from skanomaly.detectors.cutpaste._cutpaste_net import NARROW
from skanomaly.detectors.cutpaste._window_grid import WindowGrid

SCAR_FRAME = 256  # pixels of the shorter side of the images in which the paper has its scars
SMALLEST_SCALE = 1e-3  # of brightness, where a channel is the same everywhere


class Preset(NamedTuple):
    """What a preset stands for."""

    encoder: str
    n_iter: int
    window_shares: tuple  # sides of the windows that are scored, of a patch's
    stride_share: float  # of a patch's side


PRESETS = {
    "quick": Preset("small", 1500, (1 / 2, 3 / 8), 1 / 8),
    "paper": Preset("resnet18", 65_536, (1 / 2,), 1 / 16),
}


@dataclass(frozen=True)
class Setting:
    """What a fit on images of one size does.

    Parameters
    ----------
    encoder : str
    n_iter : int
    crop_side : int or None
        Of what is learned from; None: whole images.
    window_sizes : list of int
        Sides of the windows that are scored; empty for whole images.
    stride : int
    pastes : dict of str to tuple
        "area" and "aspect" of rectangles, "width" and "length" of scars in pixels: least and most.
    """

    encoder: str
    n_iter: int
    crop_side: int | None
    window_sizes: list
    stride: int
    pastes: dict


def make_setting(detector, height, width):
    """The Setting of a detector's parameters, for images of this size.

    Raises
    ------
    ValueError
        A window is larger than the images, or a range is none.
    """
    preset, shorter = PRESETS[detector.preset], min(height, width)
    n_iter = preset.n_iter if detector.n_iter is None else detector.n_iter
    is_patch = detector.level == "patch"
    pastes = {
        "area": _check_range("area", detector.area, 1),
        "aspect": _check_range("aspect", detector.aspect),
        "width": _check_range("scar_width", detector.scar_width),
        "length": _check_range("scar_length", detector.scar_length),
    }
    stride, sizes = detector.stride, detector.test_size
    if sizes is None:
        sizes = [max(1, round(share * detector.patch_size)) for share in preset.window_shares]
    sizes = np.atleast_1d(sizes)
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or not 0 < len(sizes) == len(set(sizes)):
        raise ValueError(
            "expected test_size as a whole number of pixels, or several different ones, got "
            f"{detector.test_size!r}"
        )
    if stride is None:
        stride = max(1, round(preset.stride_share * detector.patch_size))
    if not is_patch:
        factor = shorter / SCAR_FRAME
        for name in ("width", "length"):
            pastes[name] = tuple(factor * value for value in pastes[name])
    elif max(detector.patch_size, *sizes) > shorter or sizes.min() < 1:
        raise ValueError(
            f"expected patch_size and test_size of at most {shorter}, the shorter side of "
            f"image_size, or of tile_size, got {detector.patch_size} and {sizes.tolist()}"
        )
    return Setting(
        encoder_of(detector.encoder, detector.preset), n_iter,
        detector.patch_size if is_patch else None, sizes.tolist() if is_patch else [], stride,
        pastes,
    )  # fmt: skip


def encoder_of(encoder, preset):
    """The name of an encoder, the preset's where none is given."""
    return PRESETS[preset].encoder if encoder is None else encoder


def input_channels(encoder):
    """Channels that an encoder takes; None: as many as the images have."""
    return None if encoder in NARROW else 3


def window_grids(sizes, stride, height, width):
    """The windows of each size over an image, as WindowGrids."""
    return [WindowGrid(side, height, width, stride) for side in sizes]


def channel_moments(images):
    """By what images (n, H, W, C) are standardized: mean and deviation (C,) float32 of channels."""
    mean = np.mean([one.mean(axis=(0, 1), dtype=np.float64) for one in images], axis=0)
    square = np.mean([np.square(one - mean).mean(axis=(0, 1)) for one in images], axis=0)
    scale = np.maximum(np.sqrt(square), SMALLEST_SCALE)
    return mean.astype(np.float32), scale.astype(np.float32)


def _check_range(name, given, most=np.inf):
    """A range (least, most) of positive numbers as a tuple."""
    try:
        least, largest = map(float, given)
    except (TypeError, ValueError):
        least, largest = 1, 0  # none
    if not 0 < least <= largest <= most or not np.isfinite(largest):
        at_most = "" if most == np.inf else f" of at most {most}"
        raise ValueError(
            f"expected {name} as a pair (least, most) of positive numbers{at_most} in ascending "
            f"order, got {given!r}"
        )
    return least, largest
