"""Affine transforms of images and maps: their matrices, warping, and the augmentations of an image.

A transform theta (b, 2, 3) says where each place of the result is looked up in the input, both in
[-1, 1] from edge to edge, x before y.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

# Parameters of each mode that leave a map as it is.
IDENTITIES = {
    "affine": (1, 0, 0, 0, 1, 0),
    "translation": (0, 0),
    "rotation": (0,),
    "scale": (1, 1),
    "shear": (0, 0),
    "rotation_scale": (0, 1, 1),
    "translation_scale": (0, 0, 1, 1),
    "rotation_translation": (0, 0, 0),
    "rotation_translation_scale": (0, 0, 0, 1, 1),
}
AUGMENTATIONS = ("rotations", "translations", "flip", "grey", "quarter_turns")
ANGLES = tuple(sign * step * math.pi / 16 for sign in (-1, 1) for step in (1, 2, 3, 4))
SHIFTS = tuple(
    (x * size, y * size) for size in (0.1, 0.2) for x in (-1, 1) for y in (-1, 1)
)  # in half sides of the image


def matrices(parameters: torch.Tensor, mode: str) -> torch.Tensor:
    """Parameters (b, n) of a mode -> theta (b, 2, 3).

    A rotation with scales has the scales on the diagonal only, as in RegAD: it is not the product
    of the two.
    """
    p = list(parameters.unbind(dim=1))
    if mode == "affine":
        return parameters.view(-1, 2, 3)
    zero, one = torch.zeros_like(p[0]), torch.ones_like(p[0])
    angle = p.pop(0) if "rotation" in mode else zero
    shift = (p.pop(0), p.pop(0)) if "translation" in mode else (zero, zero)
    shear = (p.pop(0), p.pop(0)) if mode == "shear" else (zero, zero)
    scale = (p.pop(0), p.pop(0)) if "scale" in mode else (one, one)
    rows = [
        torch.stack([angle.cos() * scale[0], shear[0] - angle.sin(), shift[0]], dim=1),
        torch.stack([shear[1] + angle.sin(), angle.cos() * scale[1], shift[1]], dim=1),
    ]
    return torch.stack(rows, dim=1)


def warp(maps: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Maps (b, C, h, w) looked up where theta says, bilinearly; borders are reflected."""
    grid = F.affine_grid(theta, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="reflection", align_corners=False)


def inverse(theta: torch.Tensor) -> torch.Tensor:
    """The transform (b, 2, 3) that undoes another."""
    last = theta.new_tensor([0, 0, 1]).expand(len(theta), 1, 3)
    return torch.linalg.inv(torch.cat([theta, last], dim=1))[:, :2]


def augment(image: torch.Tensor, kinds: Sequence[str] = AUGMENTATIONS) -> torch.Tensor:
    """An image (C, H, W) and its augmented copies: (n, C, H, W), itself first.

    All kinds together make 22: 8 rotations by up to 45 degrees, 8 translations by 5 and 10 % of
    the side, mirrored, gray, and turned by quarters.
    """
    height, width = image.shape[1:]
    thetas = []
    if "rotations" in kinds:
        thetas += [_rotation(angle, height, width) for angle in ANGLES]
    if "translations" in kinds:
        thetas += [[[1, 0, x], [0, 1, y]] for x, y in SHIFTS]
    if "flip" in kinds:
        thetas.append([[-1, 0, 0], [0, 1, 0]])
    if "quarter_turns" in kinds:
        thetas += [_rotation(turns * math.pi / 2, height, width) for turns in (1, 2, 3)]
    images = [image[None]]
    if thetas:
        images.append(warp(image.expand(len(thetas), -1, -1, -1), image.new_tensor(thetas)))
    if "grey" in kinds:
        images.append(image.mean(dim=0, keepdim=True).expand_as(image)[None])
    return torch.cat(images)


def _rotation(angle, height, width):
    """Rotation of pixels: in coordinates of the sides, sides of unequal length skew it."""
    return [
        [math.cos(angle), -math.sin(angle) * height / width, 0],
        [math.sin(angle) * width / height, math.cos(angle), 0],
    ]
