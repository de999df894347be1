"""From images of one size to a network's input, to the last bit as Pillow and ImageFit have it."""

import numpy as np
import torch
import torch.nn.functional as F

from skanomaly.images import PRECISION_BITS, resampling_weights

_HALF_BITS = PRECISION_BITS // 2


class InputModule(torch.nn.Module):
    """Images (n, H, W, C) uint8 -> (n, C, height, width) float32 in [0, 1].

    Parameters
    ----------
    image_fit : ImageFit
    frame : tuple (H, W)
        Size of the images.
    n_channels : int
        Pillow resizes images of 1 or 3 channels in whole numbers, others in floats.
    """

    def __init__(self, image_fit, frame, n_channels):
        super().__init__()
        (left, top, right, bottom), (rows, columns) = image_fit.placement(frame)
        axis = _WholeAxis if n_channels in (1, 3) else _FloatAxis
        self.resize_columns = axis(frame[1], columns[1] - columns[0], left, right)
        self.resize_rows = axis(frame[0], rows[1] - rows[0], top, bottom)
        self.border = [
            columns[0],
            image_fit.width - columns[1],
            rows[0],
            image_fit.height - rows[1],
        ]
        self.rows_first = False
        self.rows_first = not self._is_right(image_fit, frame)

    def _is_right(self, image_fit, frame):
        """Whether an image of noise comes out as Pillow has it.

        Columns come first before Pillow 13, and in later versions only where the height is not
        shrunk more. The pixels are rounded in between, so that the order is seen in the result.
        """
        noise = np.random.RandomState(0).randint(256, size=(*frame, 1)).astype(np.uint8)
        found = self(torch.from_numpy(noise[None]))[0, 0].numpy()
        return np.abs(found - image_fit.apply(noise)[:, :, 0]).max() < 0.5 / 255

    def forward(self, images):
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)  # (n, C, H, W)
        if self.rows_first:
            pixels = self.resize_columns(self._resized_rows(pixels))
        else:
            pixels = self._resized_rows(self.resize_columns(pixels))  # (n, C, h, w)
        if any(self.border):
            pixels = F.pad(pixels, self.border, mode="replicate")
        return pixels / 255

    def _resized_rows(self, pixels):
        return self.resize_rows(pixels.transpose(2, 3)).transpose(2, 3)


class _FloatAxis(torch.nn.Module):
    """Resizes the last axis."""

    def __init__(self, n_from, n_to, start, end):
        super().__init__()
        weights = resampling_weights(n_from, n_to, start, end)
        self.changes = not np.array_equal(weights, np.eye(n_to, n_from))
        self.register_buffer("weights", torch.tensor(weights.T, dtype=torch.float32))

    def forward(self, pixels):
        return pixels @ self.weights if self.changes else pixels


class _WholeAxis(torch.nn.Module):
    """Resizes the last axis of whole numbers 0 to 255, and rounds, halves upward.

    Pillow sums whole multiples of 2^-22. Float32 holds no such sums, but those of the upper and of
    the lower eleven bits of the weights, as long as an image is shrunk by no more than 16; beyond
    that a half may be rounded the other way.
    """

    def __init__(self, n_from, n_to, start, end):
        super().__init__()
        weights = resampling_weights(n_from, n_to, start, end)
        self.changes = not np.array_equal(weights, np.eye(n_to, n_from))
        whole = np.floor(weights.T * 2**PRECISION_BITS + 0.5).astype(np.int64)  # (n_from, n_to)
        upper, lower = np.divmod(whole, 2**_HALF_BITS)
        self.register_buffer("upper", torch.tensor(upper, dtype=torch.float32))
        self.register_buffer("lower", torch.tensor(lower, dtype=torch.float32))

    def forward(self, pixels):
        if not self.changes:
            return pixels
        carried = torch.floor(pixels @ self.lower / 2**_HALF_BITS)
        total = pixels @ self.upper + carried + 2 ** (_HALF_BITS - 1)
        return torch.floor(total / 2**_HALF_BITS)
