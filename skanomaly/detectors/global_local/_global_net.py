"""Global-Nets of GlobalLocal: the embedding of a patch, predicted from its surroundings alone.

Partial convolution   x' = W (x m) * |W| / |m| + b over the window, 0 where no m is 1; then m' is 1
                      wherever one of the window was (Liu et al., ECCV 2018)
exact                 the paper's network: the image without the patch, m = 0 there, through nine
                      layers; one prediction for each hole
dense                 rings of convolutions around every place at once, which leave out the patch
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from skanomaly.detectors.global_local._local_net import EMBEDDING_SIZE, convolution_autocast

# Kernel, stride and channels of the exact network's convolutions; None is the pooling.
EXACT_LAYERS = (
    (7, 2, 16), None, (3, 2, 32), (3, 1, 32), (3, 2, 64), (3, 1, 64), (3, 2, 128), (3, 1, 128),
    (3, 1, EMBEDDING_SIZE),
)  # fmt: skip
POOLING = (3, 2)  # kernel and stride
SMALLEST_EXACT_INPUT = 243  # pixels of a side: the receptive field of the layers above
HOLES_AT_ONCE = 256  # limits memory

CELL = 4  # pixels of the dense network's cells; patches begin at multiples of it, or of two of them
DENSE_CHANNELS = 32
DENSE_LEVELS = ((1, 2), (2, 4), (4, 8))  # dilation of the cells' convolution, and of the ring
RING = 7  # side of the rings' kernels, in steps of their dilation
MIN_SURROUNDINGS = 15  # pixels: with fewer, no ring around some patches lies in the image


class PartialConv2d(nn.Conv2d):
    """Convolution of the unmasked values, rescaled by the masked share of each window.

    Parameters
    ----------
    n_in, n_out, kernel : int
    taps : tensor of shape (kernel, kernel) or None, default=None
        1 where the kernel has weights, 0 elsewhere; None: everywhere.
    **options : dict
        Stride, padding and dilation, as in ``torch.nn.Conv2d``.
    """

    def __init__(self, n_in, n_out, kernel, *, taps=None, **options):
        super().__init__(n_in, n_out, kernel, **options)
        taps = torch.ones(kernel, kernel) if taps is None else taps
        self.register_buffer("taps", taps[None, None], persistent=False)

    def forward(self, maps, mask):
        """Maps (b, C, h, w) and a mask (b or 1, 1, h, w) of 0 and 1, as they leave the layer."""
        shape = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        n_valid = F.conv2d(mask, self.taps, **shape).float()  # |m|; padding counts as masked
        valid = (n_valid > 0).float()  # m'
        scale = valid * self.taps.sum() / n_valid.clamp(min=1)
        convolved = F.conv2d(maps * mask, self.weight * self.taps, **shape)
        return convolved * scale + self.bias[:, None, None] * valid, valid


class MaskPool2d(nn.MaxPool2d):
    """Pooling of maps and, the same way, of their mask."""

    def forward(self, maps, mask):
        return super().forward(maps), super().forward(mask)


class PartialReLU(nn.ReLU):
    """ReLU of maps; their mask stays."""

    def forward(self, maps, mask):
        return super().forward(maps), mask


class ExactGlobalNet(nn.Module):
    """Embeddings (b, 128) of what is masked in images (b, C, H, W), by masks (b, 1, H, W).

    Parameters
    ----------
    n_channels : int
        Of the images.
    dtype : {"float32", "bfloat16"}, default="float32"
        Of the convolutions; the embeddings are float32.

    Notes
    -----
    Masks are 0 in the hole and 1 elsewhere. The last layer's map is averaged; of 256 x 256 pixels
    it is a single place.
    """

    def __init__(self, n_channels, dtype="float32"):
        super().__init__()
        self.dtype = dtype
        steps = []
        for layer in EXACT_LAYERS:
            if layer is None:
                steps.append([MaskPool2d(*POOLING)])
                continue
            kernel, stride, n_out = layer
            steps.append([PartialConv2d(n_channels, n_out, kernel, stride=stride), PartialReLU()])
            n_channels = n_out
        steps[-1].pop()  # no ReLU after the last
        self.steps = nn.ModuleList(nn.ModuleList(step) for step in steps)

    def forward(self, images, masks):
        maps = images, masks
        with convolution_autocast(images.device, self.dtype):
            for step in self.steps:
                maps = _apply(step, *maps)
        return maps[0].mean(dim=(2, 3))

    def predict_holes(self, image, origins, side):
        """The same for many holes in one image, with the computation that they share done once.

        Parameters
        ----------
        image : tensor of shape (C, H, W)
        origins : int tensor of shape (n, 2)
            Upper left corners of the holes.
        side : int
            Of the holes, in pixels.

        Returns
        -------
        tensor of shape (n, 128), float32

        Notes
        -----
        A hole changes few values of each layer. These windows alone are computed for each hole,
        from the same hole's window of the layer before and, around it, from the layer's values for
        the whole image.
        """
        whole = [(image[None], torch.ones_like(image[None, :1]))]  # maps and mask by layer
        with convolution_autocast(image.device, self.dtype):
            for step in self.steps:
                whole.append(_apply(step, *whole[-1]))
            parts = origins.to(image.device).split(HOLES_AT_ONCE)
            return torch.cat([self._predict(whole, part, side) for part in parts])

    def _predict(self, whole, origins, side):
        """Embeddings (n, 128) of some holes, from the layers' values for the whole image."""
        first, size = origins, _size(whole[0], origins)
        last = torch.minimum(origins + side, size) - 1  # first to last is changed, (n, 2)
        # At first all of the window is known: the image, and the mask, which is 0 in the hole.
        start = torch.minimum(first, size - side)
        maps, mask = _crop_windows(whole[0], start, (side, side))
        rows, columns = (_places(start[:, i], side) for i in (0, 1))
        window = maps, mask.masked_fill(_inside(rows, columns, first, last), 0)
        for step, layer, (before, after) in zip(
            self.steps, EXACT_LAYERS, pairwise(whole), strict=True
        ):
            kernel, stride = POOLING if layer is None else layer[:2]
            size = _size(after, origins)
            # The changed values of the next layer are those whose windows meet a changed one.
            first = (first - kernel + stride).div(stride, rounding_mode="floor").clamp(min=0)
            last = torch.minimum(last.div(stride, rounding_mode="floor"), size - 1)
            # All holes' windows get the size of the largest, and a hole on the border that no
            # later layer reads gets one as well, in which nothing changes.
            n_changed = (last - first + 1).amax(dim=0).clamp(min=1)  # (2,)
            new_start = torch.minimum(first, size - n_changed)
            shape = tuple(((n_changed - 1) * stride + kernel).tolist())  # that the step reads
            around = _crop_windows(before, new_start * stride, shape)
            window = _apply(step, *_paste(around, window, start - new_start * stride))
            start = new_start
        shape = tuple(whole[-1][0].shape[2:])
        last_maps = _crop_windows(whole[-1], torch.zeros_like(start), shape)
        return _paste(last_maps, window, start)[0].mean(dim=(2, 3))


def _apply(step, maps, mask):
    for layer in step:
        maps, mask = layer(maps, mask)
    return maps, mask


def _size(maps_and_mask, like):
    """Height and width of maps (b, C, h, w), as a tensor (2,) on the device of another."""
    return torch.tensor(maps_and_mask[0].shape[2:], device=like.device)


def _places(start, n):
    """The n places from each of some starts on: (len(start), n) int."""
    return start[:, None] + torch.arange(n, device=start.device)


def _between(places, first, last):
    return (places >= first) & (places <= last)


def _inside(rows, columns, first, last):
    """Which of rows (n, h) and columns (n, w) lie between corners (n, 2): (n, 1, h, w) bool."""
    in_rows = _between(rows, first[:, :1], last[:, :1])
    in_columns = _between(columns, first[:, 1:], last[:, 1:])
    return in_rows[:, None, :, None] & in_columns[:, None, None, :]


def _crop_windows(maps_and_mask, start, shape):
    """Windows (n, C, h, w) of maps (1, C, H, W) and of their mask, from corners (n, 2)."""
    rows, columns = (_places(start[:, i], shape[i]) for i in (0, 1))
    which = torch.zeros(1, dtype=torch.int64, device=start.device)
    return tuple(_gather(one, which, rows, columns) for one in maps_and_mask)


def _paste(around, window, offset):
    """Maps and mask with a smaller window each in its place: at offset (n, 2) of its corner."""
    places, inside = [], []
    for axis in (0, 1):
        place = _places(-offset[:, axis], around[0].shape[2 + axis])  # in the window, (n, side)
        n_known = window[0].shape[2 + axis]
        places.append(place.clamp(0, n_known - 1))
        inside.append(_between(place, 0, n_known - 1))
    inside = inside[0][:, None, :, None] & inside[1][:, None, None, :]  # (n, 1, h, w)
    which = torch.arange(len(offset), device=offset.device)
    return tuple(
        torch.where(inside, _gather(new, which, *places), old)
        for old, new in zip(around, window, strict=True)
    )


def _gather(maps, which, rows, columns):
    """Windows (n, C, h, w): of maps (b, C, H, W) those at which (n,), rows (n, h), columns (n, w).

    Looked up as in a table of vectors: the gradients of plain indexing would be added up in an
    order that differs from run to run.
    """
    _, n_channels, height, width = maps.shape
    places = (which[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
    table = maps.permute(0, 2, 3, 1).reshape(-1, n_channels)  # (b * H * W, C)
    return F.embedding(places, table).permute(0, 3, 1, 2)


class DenseGlobalNet(nn.Module):
    """Embeddings (b, 128, rows, columns) of all patches of images (b, C, H, W), in one pass.

    Cells of 4 x 4 pixels are described by their own pixels, then by wider and wider neighborhoods.
    Around each place a ring of each description is summed up: of cells so far away that nothing of
    the patch, which is ``n_cells`` cells wide, has entered them.

    Parameters
    ----------
    n_channels : int
        Of the images.
    n_cells : int
        Width of a patch, in cells.
    dtype : {"float32", "bfloat16"}, default="float32"
        Of the convolutions; the embeddings are float32.
    """

    def __init__(self, n_channels, n_cells, dtype="float32"):
        super().__init__()
        self.n_cells, self.dtype = n_cells, dtype
        width = DENSE_CHANNELS
        self.cells = nn.Sequential(
            nn.Conv2d(n_channels, 2 * width, CELL, stride=CELL),
            nn.ReLU(),
            nn.Conv2d(2 * width, width, 1),
            nn.ReLU(),
        )
        self.wider, self.rings = nn.ModuleList(), nn.ModuleList()
        reach = 0  # cells from a description's place to the farthest that has entered it
        for near, far in DENSE_LEVELS:
            reach += near
            self.wider.append(PartialConv2d(width, width, 3, padding=near, dilation=near))
            taps = ring(far, n_cells // 2 + reach)
            padding = far * (len(taps) // 2)
            self.rings.append(
                PartialConv2d(width, 2 * width, len(taps), padding=padding, dilation=far, taps=taps)
            )
        n_joined = 2 * width * len(DENSE_LEVELS) + 2
        self.predictor = nn.Sequential(
            nn.Conv2d(n_joined, 4 * width, 1), nn.ReLU(), nn.Conv2d(4 * width, EMBEDDING_SIZE, 1)
        )

    def forward(self, images, grid):
        """(b, C, H, W), PatchGrid -> (b, 128, rows, columns)."""
        # The cells in the patches' centers; a patch begins at a cell's corner.
        half, step = self.n_cells // 2, grid.stride // CELL
        rows, columns = (slice(half, half + step * (n - 1) + 1, step) for n in grid.shape)
        with convolution_autocast(images.device, self.dtype):
            maps = self.cells(images)  # (b, c, H / 4, W / 4)
            mask = torch.ones_like(maps[:1, :1])  # 0 beyond the border alone, by padding
            contexts = []
            for wider, around in zip(self.wider, self.rings, strict=True):
                maps = F.relu(wider(maps, mask)[0])
                contexts.append(F.relu(around(maps, mask)[0]))  # (b, 2 c, H / 4, W / 4)
            # The exact network knows the place of its hole; this one is told.
            contexts.append(_coordinates(maps))
            joined = torch.cat([one[:, :, rows, columns] for one in contexts], dim=1)
            return self.predictor(joined).float()


def ring(dilation, hole):
    """Taps (k, k) of 0 and 1 of a dilated kernel: those farther than ``hole`` from its center.

    The kernel has the usual side, or as many taps as it takes to leave two circles of them; one
    where the dilation is 2.
    """
    half = max(RING // 2, math.ceil((hole + 1) / dilation) + (dilation > 2))
    steps = dilation * torch.arange(-half, half + 1).abs()
    return (torch.maximum(steps[:, None], steps) > hole).float()


def _coordinates(maps):
    """Rows and columns from -1 to 1, (b, 2, h, w)."""
    b, _, h, w = maps.shape
    axes = (torch.linspace(-1, 1, n, device=maps.device) for n in (h, w))
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(b, -1, -1, -1)
