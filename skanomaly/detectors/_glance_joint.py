"""The joint training of GlobalLocal: Local-Net is frozen, Global-Net and the DAD head learn.

dense   images, with all of their patches and all that are stained
exact   images, with some holes in each: half where there is a stained patch, half anywhere
"""

from dataclasses import dataclass

import numpy as np
import torch

from skanomaly.detectors._glance import Glance, ready
from skanomaly.detectors._local_network import N_FEATURES, PatchGrid, reach
from skanomaly.detectors._stains import stain

N_STAINS = 32  # patches of each image that are stained
N_HOLES = 16  # that the exact network cuts out of an image at once


@dataclass(frozen=True)
class Patches:
    """Patches of the pictures to learn from, clean and stained.

    Parameters
    ----------
    glance : Glance
    grid : PatchGrid
    pictures : tensor of shape (n, C, H, W)
        Standardised.
    clean : tensor of shape (n, rows, columns, 128), float16
        Z_l of all patches.
    places : int tensor of shape (n, stains, 2)
        Rows and columns of those that are stained.
    stained : tensor of shape (n, stains, 128)
        Z_l of these with a stain.
    """

    glance: Glance
    grid: PatchGrid
    pictures: torch.Tensor
    clean: torch.Tensor
    places: torch.Tensor
    stained: torch.Tensor

    @classmethod
    def of(cls, glance, grid, pictures, standard, training):
        """All patches of pictures, and stains on some that the training's seed draws."""
        rng = np.random.default_rng([training.seed, 3])  # the phases' own are 0 to 2
        n_patches = grid.shape[0] * grid.shape[1]
        # Each patch once: gradients of a place taken twice would add up in any order.
        n_stains = min(N_STAINS, n_patches)
        chosen = [rng.choice(n_patches, n_stains, replace=False) for _ in pictures]
        places = np.stack(np.divmod(chosen, grid.shape[1]), axis=-1)
        stained = _stained(glance, grid, pictures, standard, places, training, rng)
        clean = _all_clean(glance, grid, pictures)
        return cls(glance, grid, pictures, clean, torch.from_numpy(places), stained)

    def draw_images(self, rng, size):
        """Which images, (size,)."""
        return torch.from_numpy(rng.integers(len(self.pictures), size=size))

    def dense_loss(self, which, dad_weight):
        """Of images by number, (b,)."""
        expected = self.glance.global_vectors(ready(self.pictures[which]), self.grid)
        pairs = zip(expected, self.places[which], strict=True)
        of_stained = torch.cat([one[here[:, 0], here[:, 1]] for one, here in pairs])
        found, stained = self.clean[which].float().flatten(0, 2), self.stained[which].flatten(0, 1)
        return self.glance.loss(found, stained, expected.flatten(0, 2), of_stained, dad_weight)

    def draw_holes(self, rng, size):
        """Which images (size,), which of their stains (size, k), and places (size, m, 2)."""
        n_stains, half = self.places.shape[1], N_HOLES // 2
        stains = rng.permuted(np.tile(np.arange(n_stains), (size, 1)), axis=1)[:, :half]
        others = rng.integers(self.grid.shape[0] * self.grid.shape[1], size=(size, half))
        others = np.stack(np.divmod(others, self.grid.shape[1]), axis=-1)
        return self.draw_images(rng, size), torch.from_numpy(stains), torch.from_numpy(others)

    def exact_loss(self, batch, dad_weight):
        """Of what draw_holes answers; the holes of an image share their work."""
        parts = []
        for i, stains, others in zip(*batch, strict=True):
            here = torch.cat([self.places[i, stains], others])  # (holes, 2)
            image = ready(self.pictures[i][None])[0]
            expected = self.glance.context.holes(image, self.grid.stride * here, self.grid.side)
            found = self.clean[i, here[:, 0], here[:, 1]].float()
            parts.append((found, self.stained[i, stains], expected, expected[: len(stains)]))
        return self.glance.loss(*map(torch.cat, zip(*parts, strict=True)), dad_weight)


def _stained(glance, grid, pictures, standard, places, training, rng):
    """Z_l of patches at places (n, stains, 2) after each has got a stain, (n, stains, 128)."""
    side, answer = grid.side, []
    mean, scale = standard
    for picture, here in zip(pictures, grid.stride * places, strict=True):
        image = picture.float().permute(1, 2, 0).numpy() * scale + mean  # (H, W, C) in [0, 1]
        # What of a patch is beyond the image is not read by Local-Net.
        image = np.pad(image, ((0, side), (0, side), (0, 0)), mode="edge")
        patches = np.stack([image[y : y + side, x : x + side] for y, x in here])
        image_side, n_read = min(grid.height, grid.width), reach(side)
        patches = stain(patches, rng, image_side, n_read, **training.stains)
        patches = torch.from_numpy((patches - mean) / scale).float().permute(0, 3, 1, 2)
        with torch.inference_mode():
            answer.append(glance.local(ready(patches))[:, :, 0, 0])
    return torch.stack(answer).clone()


def _all_clean(glance, grid, pictures):
    """Z_l of all patches, (n, rows, columns, 128) float16."""
    answer = torch.empty(len(pictures), *grid.shape, N_FEATURES, dtype=torch.float16)
    with torch.inference_mode():
        for i, picture in enumerate(pictures):
            answer[i] = glance.local_vectors(ready(picture[None]), grid)[0]
    return answer
