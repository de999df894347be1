"""Mirror images and quarter turns, which move pixels and change none: exact, and so undone."""

import torch


def turned(maps: torch.Tensor, n_turns: int, is_flipped: bool = False) -> torch.Tensor:
    """Maps (..., h, w) mirrored left to right, or not, then turned by quarters, counterclockwise.

    The eight of them are all symmetries of a square. A quarter turn swaps h and w.
    """
    return torch.rot90(maps.flip(-1) if is_flipped else maps, n_turns, dims=(-2, -1))


def turned_back(maps: torch.Tensor, n_turns: int, is_flipped: bool = False) -> torch.Tensor:
    """The maps that :func:`turned` was given, from what it returned."""
    maps = torch.rot90(maps, -n_turns, dims=(-2, -1))
    return maps.flip(-1) if is_flipped else maps
