"""Erasures O_k of an image: its color, its orientation, and a quarter of its cells."""

from dataclasses import dataclass

import torch

ATTRIBUTES = ("gray", "rotation", "holes")
N_HOLE_SETS = 4  # that cover the image together; the cells of one do not touch each other


@dataclass(frozen=True)
class Erasures:
    """K erasures, by number: turns, and of each turn the sets of holes.

    Parameters
    ----------
    turns : tuple of int
        Quarter turns, counterclockwise.
    is_gray : bool
        Whether channels are replaced by their mean.
    hole_size : int or None
        Side in pixels of the cells of which a set is blanked; None: there are no holes.
    """

    turns: tuple
    is_gray: bool
    hole_size: int | None

    def __len__(self):
        return len(self.turns) * self.n_hole_sets

    @property
    def n_hole_sets(self):
        """Sets of holes of each turn."""
        return N_HOLE_SETS if self.hole_size else 1

    def erase(self, images, which):
        """Images (b, C, H, W), each without what the erasure of its number in which (b,) erases."""
        erased = []
        for image, k in zip(images, which, strict=True):
            turns, holes = divmod(int(k), self.n_hole_sets)
            if self.is_gray:
                image = image.mean(dim=0, keepdim=True).expand_as(image)
            if self.hole_size:
                image = image.masked_fill(self.holes(holes, image), 0.0)
            erased.append(image.rot90(self.turns[turns], (1, 2)))
        return torch.stack(erased)

    def counted(self, images, which):
        """Where the error of restored images (b, C, H, W) counts: bool (b, 1, H, W).

        Inside the holes where there are any: what is around them the network only copies.
        """
        if not self.hole_size:
            return torch.ones_like(images[:, :1], dtype=torch.bool)
        pairs = zip(images, which, strict=True)
        return torch.stack([self.holes(int(k) % self.n_hole_sets, image) for image, k in pairs])

    def holes(self, number, image):
        """Pixels in the cells of one set, bool (1, H, W), for an image (C, H, W)."""
        rows, columns = (
            torch.arange(side, device=image.device) // self.hole_size % 2
            for side in image.shape[1:]
        )
        return (2 * rows[:, None] + columns[None] == number)[None]


def choose_erasures(attributes, hole_size, size, has_color):
    """The erasures of these attributes, those left out that would erase nothing.

    Parameters
    ----------
    attributes : sequence of {"gray", "rotation", "holes"}
    hole_size : int or None
        None: an eighth of the shorter side.
    size : tuple (H, W)
        Of the images. Quarter turns are of square ones only.
    has_color : bool
        Whether the channels of any image differ.

    Returns
    -------
    Erasures

    Raises
    ------
    ValueError
        An attribute is unknown, none is erased of these images, or holes are too large.
    """
    names = [attributes] if isinstance(attributes, str) else list(attributes)
    if not names or set(names) - set(ATTRIBUTES):
        raise ValueError(
            f"expected erase as a sequence of some of {ATTRIBUTES}, got {attributes!r}"
        )
    size_of_holes = None
    if "holes" in names:
        size_of_holes = max(1, min(size) // 8) if hole_size is None else int(hole_size)
        if 2 * size_of_holes > min(size):
            raise ValueError(
                "expected hole_size of at most half the shorter side, so that something is left "
                f"around holes, got {size_of_holes} for images of {size[0]} x {size[1]}"
            )
    turns = (0,)
    if "rotation" in names:
        turns = (0, 1, 2, 3) if size[0] == size[1] else (0, 2)
    is_gray = "gray" in names
    if size_of_holes is None and not (is_gray and has_color):
        turns = turns[1:]  # the image as it is: a network restores it perfectly, defects included
    if not turns:
        raise ValueError(
            f"erase={attributes!r} erases nothing of these images, which are gray: their channels "
            'are equal; add "holes" or "rotation"'
        )
    return Erasures(turns, is_gray, size_of_holes)
