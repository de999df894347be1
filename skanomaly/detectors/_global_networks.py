"""Global-Nets of GlobalLocal: what a patch's surroundings say it looks like.

Partial convolution   x' = W (x m) * |W| / |m| + b over the window, 0 where no m is 1; then m' is 1
                      wherever one of the window was (Liu et al., 2018)
exact                 the image with the patch cut out, through nine layers: one answer per hole
dense                 rings of convolutions around every place at once, which leave out the patch
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from skanomaly.detectors._local_network import CELL, N_FEATURES, convolving_in

# Kernel, stride and channels of the exact network's convolutions; None is the pooling.
EXACT_LAYERS = (
    (7, 2, 16), None, (3, 2, 32), (3, 1, 32), (3, 2, 64), (3, 1, 64), (3, 2, 128), (3, 1, 128),
    (3, 1, N_FEATURES),
)  # fmt: skip
POOLING = (3, 2)  # kernel and stride
HOLES_AT_ONCE = 256
DENSE_CHANNELS = 32
DENSE_LEVELS = ((1, 2), (2, 4), (4, 8))  # dilation of the cells' convolution, and of the ring
RING = 7  # side of the rings' kernels, in steps of their dilation


class PartialConv2d(nn.Conv2d):
    """Convolution of what a mask leaves, for windows of which the mask leaves little too.

    Called with maps (b, C, h, w) and a mask (b or 1, 1, h, w) of 0 and 1 answers both as they
    leave the layer. ``taps`` (k, k) of 0 and 1 are those of the kernel's places that count.
    """

    def __init__(self, n_in, n_out, kernel, *, taps=None, **options):
        super().__init__(n_in, n_out, kernel, **options)
        taps = torch.ones(kernel, kernel) if taps is None else taps
        self.register_buffer("taps", taps[None, None], persistent=False)

    def forward(self, maps, mask):
        shape = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        n_valid = F.conv2d(mask, self.taps, **shape).float()
        valid = (n_valid > 0).float()
        scale = valid * self.taps.sum() / n_valid.clamp(min=1)
        found = F.conv2d(maps * mask, self.weight * self.taps, **shape)
        return found * scale + self.bias[:, None, None] * valid, valid


class MaskPool2d(nn.MaxPool2d):
    """Pooling of maps and, the same way, of their mask."""

    def forward(self, maps, mask):
        return super().forward(maps), super().forward(mask)


class PartialReLU(nn.ReLU):
    """ReLU of maps; their mask stays."""

    def forward(self, maps, mask):
        return super().forward(maps), mask


class ExactGlobalNet(nn.Module):
    """Vectors (b, 128) of images (b, C, H, W) by masks (b, 1, H, W) that are 0 on a hole.

    The last layer's map is averaged; of 256 x 256 pixels it is a single place.
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
        with convolving_in(self.dtype):
            for step in self.steps:
                maps = _through(step, *maps)
        return maps[0].mean(dim=(2, 3))

    def holes(self, image, origins, side):
        """The same for many holes in one image, (n, 128), with what they share computed once.

        Parameters
        ----------
        image : tensor of shape (C, H, W)
        origins : int tensor of shape (n, 2)
            Upper left corners of the holes.
        side : int
            Of the holes, in pixels.

        Notes
        -----
        A hole changes few values of each layer. These windows alone are computed for each hole,
        from the same hole's window of the layer before and, around it, from the layer's values for
        the whole image.
        """
        whole = [(image[None], torch.ones_like(image[None, :1]))]
        with convolving_in(self.dtype):
            for step in self.steps:
                whole.append(_through(step, *whole[-1]))
            parts = origins.split(HOLES_AT_ONCE)
            return torch.cat([self._holes(whole, part, side) for part in parts])

    def _holes(self, whole, origins, side):
        size = torch.tensor(whole[0][0].shape[2:])
        first, last = origins, torch.minimum(origins + side, size) - 1  # what has changed, (n, 2)
        # At first all of the hole is known, and the mask there is 0.
        start = torch.minimum(first, size - side)
        window = _cut(whole[0], start, (side, side))
        rows, columns = (start[:, i, None] + torch.arange(side) for i in (0, 1))
        inside = (
            _between(rows, first[:, :1], last[:, :1])[:, None, :, None]
            & (_between(columns, first[:, 1:], last[:, 1:])[:, None, None, :])
        )
        window = window[0], window[1].masked_fill(inside, 0)
        for step, layer, (before, after) in zip(
            self.steps, EXACT_LAYERS, pairwise(whole), strict=True
        ):
            kernel, stride = POOLING if layer is None else layer[:2]
            size = torch.tensor(after[0].shape[2:])
            first = (first - kernel + stride).div(stride, rounding_mode="floor").clamp(min=0)
            last = torch.minimum(last.div(stride, rounding_mode="floor"), size - 1)
            # A hole on the border that no later window reads has nothing to change there.
            n_changed = (last - first + 1).amax(dim=0).clamp(min=1)  # (2,)
            new_start = torch.minimum(first, size - n_changed)
            shape = tuple(((n_changed - 1) * stride + kernel).tolist())
            around = _cut(before, new_start * stride, shape)
            window = _through(step, *_inserted(around, window, start - new_start * stride))
            start = new_start
        whole_map = _cut(whole[-1], torch.zeros_like(start), tuple(whole[-1][0].shape[2:]))
        return _inserted(whole_map, window, start)[0].mean(dim=(2, 3))


def _through(step, maps, mask):
    for layer in step:
        maps, mask = layer(maps, mask)
    return maps, mask


def _between(places, first, last):
    return (places >= first) & (places <= last)


def _cut(maps, start, shape):
    """Windows (n, C, h, w) of maps (1, C, H, W) and of their mask, from corners (n, 2)."""
    rows, columns = (start[:, i, None] + torch.arange(shape[i]) for i in (0, 1))
    return tuple(_taken(one, torch.zeros(1, dtype=torch.int64), rows, columns) for one in maps)


def _inserted(around, window, offset):
    """Maps and mask with a smaller window each in its place: at offset (n, 2) of its corner."""
    places, inside = [], []
    for axis in (0, 1):
        place = torch.arange(around[0].shape[2 + axis]) - offset[:, axis, None]  # (n, side)
        n_known = window[0].shape[2 + axis]
        places.append(place.clamp(0, n_known - 1))
        inside.append(_between(place, 0, n_known - 1))
    inside = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    which = torch.arange(len(offset))
    return tuple(
        torch.where(inside, _taken(new, which, *places), old)
        for old, new in zip(around, window, strict=True)
    )


def _taken(maps, which, rows, columns):
    """Windows (n, C, h, w): of maps (b, C, H, W) those at which (n,), rows (n, h), columns (n, w).

    As a table of vectors is looked up: indices' gradients would add up in any order.
    """
    _, n_channels, height, width = maps.shape
    places = (which[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
    table = maps.permute(0, 2, 3, 1).reshape(-1, n_channels)
    return F.embedding(places, table).permute(0, 3, 1, 2)


class DenseGlobalNet(nn.Module):
    """Vectors (b, 128, rows, columns) of all patches of images (b, C, H, W), in one pass.

    Cells of 4 x 4 pixels are described by their own pixels, then by wider and wider
    neighbourhoods. Around each place a ring of each description is summed up: of cells so far away
    that nothing of the patch, which is ``n_cells`` cells wide, has entered them.
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
        reach = 0
        for near, far in DENSE_LEVELS:
            reach += near
            self.wider.append(PartialConv2d(width, width, 3, padding=near, dilation=near))
            taps = ring(far, n_cells // 2 + reach)
            padding = far * (len(taps) // 2)
            self.rings.append(
                PartialConv2d(width, 2 * width, len(taps), padding=padding, dilation=far, taps=taps)
            )
        n_joined = 2 * width * len(DENSE_LEVELS) + 2
        self.answer = nn.Sequential(
            nn.Conv2d(n_joined, 4 * width, 1), nn.ReLU(), nn.Conv2d(4 * width, N_FEATURES, 1)
        )

    def forward(self, images, grid):
        """(b, C, H, W), PatchGrid -> (b, 128, rows, columns)."""
        half, step = self.n_cells // 2, grid.stride // CELL
        rows, columns = (slice(half, half + step * (n - 1) + 1, step) for n in grid.shape)
        with convolving_in(self.dtype):
            maps = self.cells(images)  # (b, c, H / 4, W / 4)
            here = torch.ones_like(maps[:1, :1])
            seen = []
            for wider, around in zip(self.wider, self.rings, strict=True):
                maps = F.relu(wider(maps, here)[0])
                seen.append(F.relu(around(maps, here)[0]))
            seen.append(_coordinates(maps))
            joined = torch.cat([one[:, :, rows, columns] for one in seen], dim=1)
            return self.answer(joined).float()


def ring(dilation, hole):
    """Taps (k, k) of 0 and 1 of a dilated kernel: those farther than ``hole`` from its centre.

    The kernel has the usual side, or as many taps as it takes to leave two circles of them; one
    where the dilation is 2.
    """
    half = max(RING // 2, math.ceil((hole + 1) / dilation) + (dilation > 2))
    steps = dilation * torch.arange(-half, half + 1).abs()
    return (torch.maximum(steps[:, None], steps) > hole).float()


def _coordinates(maps):
    """Rows and columns from -1 to 1, (b, 2, h, w)."""
    b, _, h, w = maps.shape
    rows, columns = torch.linspace(-1, 1, h), torch.linspace(-1, 1, w)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(b, -1, -1, -1)
