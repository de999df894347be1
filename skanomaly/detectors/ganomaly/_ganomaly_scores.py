"""What GANomaly finds in an image: how far codes, pixels and the discriminator's maps differ.

latent      A(x) = mean (z - z')^2, the paper's score
contextual  mean |x - x'|
maps        |x - x'|, mean over channels; and (D_l(x) - D_l(x'))^2, mean over channels, summed over
            the layers l of D whose maps have 8 pixels or more
"""

import numpy as np
import torch
import torch.nn.functional as F

CELL = 4  # pixels of a map's cell, and
SMALLEST_GRID = 8  # shorter side of D's maps that still say where something is


def to_networks(pixels):
    """Pixels (b, H, W, C) in [0, 1], ndarray -> tensor (b, C, H, W) in [-1, 1], channels last."""
    return torch.from_numpy(2 * pixels - 1).permute(0, 3, 1, 2)


def distances(generator, pixels, kind):
    """Scores of images.

    Parameters
    ----------
    generator : Generator
        In evaluation mode.
    pixels : ndarray of shape (b, H, W, C), float32 in [0, 1]
    kind : {"latent", "contextual"}

    Returns
    -------
    ndarray of shape (b,), float64, high for a defect
    """
    scores, device = [], next(generator.parameters()).device
    for one in pixels:  # by themselves: no score depends on the other images
        with torch.inference_mode():
            image = to_networks(one[None]).to(device)
            z, restored, z_restored = generator(image)
            if kind == "latent":
                scores.append((z - z_restored).square().mean().item())
            else:
                scores.append((image - restored).abs().mean().item())
    return np.array(scores)


def difference_maps(networks, pixels):
    """Both maps of images.

    Parameters
    ----------
    networks : ModuleDict
        From :func:`build_networks`, in evaluation mode.
    pixels : ndarray of shape (b, H, W, C), float32 in [0, 1]

    Returns
    -------
    ndarray of shape (b, 2, H / 4, W / 4), float64, high for a defect
        Of reconstructions, and of the discriminator's features.
    """
    found, discriminator = [], networks["discriminator"]
    device = next(discriminator.parameters()).device
    for one in pixels:
        with torch.inference_mode():
            image = to_networks(one[None]).to(device)
            _, restored, _ = networks["generator"](image)
            grid = tuple(side // CELL for side in image.shape[2:])
            pairs = zip(discriminator.maps(image), discriminator.maps(restored), strict=True)
            layers = [
                _on_grid((a - b).square(), grid)
                for a, b in pairs
                if min(a.shape[2:]) >= SMALLEST_GRID
            ]
            both = [_on_grid((image - restored).abs(), grid), sum(layers)]
            found.append(torch.cat(both, dim=1)[0].double().cpu().numpy())  # (2, H/4, W/4)
    return np.stack(found)


def _on_grid(maps, grid):
    """Maps (1, C, h, w), their mean over channels brought to a grid: (1, 1, H/4, W/4)."""
    mean = maps.mean(dim=1, keepdim=True)
    if mean.shape[2] > grid[0]:
        return F.interpolate(mean, grid, mode="area")
    return F.interpolate(mean, grid, mode="bilinear", align_corners=False)
