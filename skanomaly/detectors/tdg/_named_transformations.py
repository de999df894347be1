"""The transformations T_j that discriminators are to name, and how maps are brought back."""

import math
from collections import Counter
from itertools import product
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F

from skanomaly.training import turned, turned_back

KINDS = ("turns", "dihedral", "paper")
SHIFT = 0.15  # of the side
COLORLESS = 0.01  # mean difference of the channels, up to which images count as gray


class Transformation(NamedTuple):
    """Gray, mirrored, shifted and turned, in this order; without parameters nothing is changed.

    Parameters
    ----------
    n_turns : int
        Quarter turns, counterclockwise.
    is_flipped : bool
        Whether left and right are swapped.
    shift : tuple (x, y) of int
        -1, 0 or 1 times 15 % of the side, rounded to pixels; what enters is a reflection.
    is_gray : bool
        Whether all channels become their mean.
    """

    n_turns: int = 0
    is_flipped: bool = False
    shift: tuple = (0, 0)
    is_gray: bool = False

    def apply(self, images):
        """Images (b, C, s, s) transformed: the same shape."""
        if self.is_gray:
            images = images.mean(dim=1, keepdim=True).expand_as(images)
        if any(self.shift):
            # The shift comes between the two.
            images = _shifted(turned(images, 0, self.is_flipped), *self.shift)
            return turned(images, self.n_turns)
        return turned(images, self.n_turns, self.is_flipped)

    def undo(self, maps):
        """Maps (..., s, s) of a transformed image, brought back to where the image was.

        Exactly, but for the strip that a shift has moved out, which is filled by reflection.
        """
        if any(self.shift):
            x, y = self.shift
            return turned_back(
                _shifted(turned_back(maps, self.n_turns), -x, -y), 0, self.is_flipped
            )
        return turned_back(maps, self.n_turns, self.is_flipped)


def named_transformations(kind, is_colored):
    """The list of transformations of a kind.

    Parameters
    ----------
    kind : {"turns", "dihedral", "paper"}
        4 turns; 8 turns and flips; the paper's 42. In color there are 16 and 54: gray, too.
    is_colored : bool

    Returns
    -------
    list of Transformation
        The first one changes nothing.
    """
    turns, flips = range(4), (False, True)
    if kind == "turns":
        return [Transformation(n) for n in turns]
    grays = (False, True) if is_colored else (False,)
    if kind == "dihedral":
        return [Transformation(n, f, is_gray=g) for g, f, n in product(grays, flips, turns)]
    made = [Transformation(n, f, s) for f, s, n in product(flips, product((0, 1), (0, 1)), turns)]
    made += [Transformation(0, f, (x, -1)) for f, x in product(flips, (-1, 0, 1))]
    made += [Transformation(0, f, (-1, y)) for f, y in product(flips, (0, 1))]
    if is_colored:
        made += [Transformation(n, f, is_gray=True) for f, n in product(flips, turns)]
        shifts = ((-1, 0), (1, 0), (0, -1), (0, 1))
        made += [Transformation(shift=s, is_gray=True) for s in shifts]
    return made


def is_colored(pixels):
    """Whether images (n, H, W, C) have color."""
    return bool(np.ptp(pixels, axis=3).mean() > COLORLESS)


def cross_entropies(transformations):
    """Cross-entropies of a patch's transformation: the least there can be, and that of chance.

    A patch does not show by how much the image was shifted, so that shifted ones cannot be told
    from the others.
    """
    alike = Counter(one._replace(shift=(0, 0)) for one in transformations)
    n = len(transformations)
    return sum(count * math.log(count) for count in alike.values()) / n, math.log(n)


def _shifted(maps, x, y):
    """Maps (..., s, s) moved right and down by x and y times 15 % of the side."""
    side = maps.shape[-1]
    n = round(SHIFT * side)
    flat = maps.reshape(-1, 1, side, side)  # reflection takes maps of four axes
    padded = F.pad(flat, (n, n, n, n), mode="reflect")  # (k, 1, s + 2 n, s + 2 n)
    top, left = n - y * n, n - x * n
    return padded[..., top : top + side, left : left + side].reshape(maps.shape)
