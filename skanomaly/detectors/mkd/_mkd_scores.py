"""What MKD's cloner does not reproduce: the loss of an image, and where it comes from.

direction    1 - cos(a, b), of a layer's whole maps as vectors or of the channels at a cell
value        mean (a - b)^2, of a layer's whole maps or of the channels at a cell
"""

import numpy as np
import torch
import torch.nn.functional as F

SMALLEST_SQUARE = 1e-24  # of a product of squared lengths


def to_network(pixels):
    """Pixels (b, H, W, C) in [0, 1], ndarray -> tensor (b, C, H, W), channels last."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def layer_losses(found, expected):
    """Direction and value losses of images.

    Parameters
    ----------
    found, expected : list of tensor of shape (b, C, h, w)
        By layer, of the cloner and of the source.

    Returns
    -------
    direction, value : tensor of shape (b, layers)
    """
    directions, values = [], []
    axes = (1, 2, 3)  # without flattening, which would copy maps whose channels are last
    for a, b in zip(found, expected, strict=True):
        lengths = a.square().sum(axes) * b.square().sum(axes)  # (b,)
        directions.append(1 - (a * b).sum(axes) / lengths.clamp_min(SMALLEST_SQUARE).sqrt())
        values.append((a - b).square().mean(axes))
    return torch.stack(directions, dim=1), torch.stack(values, dim=1)


def cell_discrepancies(found, expected, value_weight):
    """Direction + value_weight * value at each cell: a list of (b, h, w), by layer."""
    return [
        1 - F.cosine_similarity(a, b, dim=1) + value_weight * (a - b).square().mean(dim=1)
        for a, b in zip(found, expected, strict=True)
    ]


def compare(cloner, pixels, expected, value_weight):
    """Losses and discrepancies of images, each by itself.

    Parameters
    ----------
    cloner : Cloner
        In evaluation mode.
    pixels : ndarray of shape (b, H, W, C), float32 in [0, 1]
    expected : list of ndarray of shape (b, h, w, C)
        The source's maps, by layer.
    value_weight : float

    Returns
    -------
    losses : ndarray of shape (b, layers), float64
        Direction + value_weight * value.
    cells : list of ndarray of shape (b, h, w), float32
        By layer.
    """
    losses, cells, device = [], [], next(cloner.parameters()).device
    for i in range(len(pixels)):  # by themselves: no score depends on the other images
        with torch.inference_mode():
            maps = [to_network(one[i : i + 1]).to(device) for one in expected]
            found = cloner(to_network(pixels[i : i + 1]).to(device))
            direction, value = layer_losses(found, maps)
            losses.append((direction + value_weight * value)[0].double().cpu().numpy())
            cells.append(
                [one.cpu().numpy() for one in cell_discrepancies(found, maps, value_weight)]
            )
    return np.stack(losses), [np.concatenate(one) for one in zip(*cells, strict=True)]


def sum_of_maps(maps):
    """Maps of several layers, brought to the finest grid and summed.

    Parameters
    ----------
    maps : list of ndarray of shape (b, h, w), float32
        From the finest grid to the coarsest.

    Returns
    -------
    ndarray of shape (b, h, w), float32
        Bilinear between the cells of the coarser ones.
    """
    grid = maps[0].shape[1:]
    enlarged = [
        F.interpolate(torch.from_numpy(one)[:, None], grid, mode="bilinear", align_corners=False)
        for one in maps
    ]
    return sum(enlarged)[:, 0].numpy()


def gradient_maps(source, cloner, pixels, statistics, layer_weights, value_weight):
    """Sum over the channels of |dL/dx|, x an image, L its loss.

    Parameters
    ----------
    source : DifferentiableSource
    cloner : Cloner
    pixels : ndarray of shape (b, H, W, C), float32 in [0, 1]
    statistics : list of ndarray of shape (2, C)
        Mean and scale of the source's channels, by layer.
    layer_weights : ndarray of shape (layers,)
        Of the layers' losses in L; 0 for those that are not scored.
    value_weight : float

    Returns
    -------
    ndarray of shape (b, H, W), float32
    """
    device = next(cloner.parameters()).device
    weights = torch.from_numpy(layer_weights).float().to(device)
    scales = [torch.tensor(one, device=device)[:, :, None, None] for one in statistics]
    maps = []
    for one in pixels:
        image = to_network(one[None]).to(device).requires_grad_()
        with torch.enable_grad():
            pairs = zip(source(image), scales, strict=True)
            expected = [(layer - mean) / scale for layer, (mean, scale) in pairs]
            direction, value = layer_losses(cloner(image), expected)
            loss = (weights * (direction + value_weight * value)).sum()
            (gradient,) = torch.autograd.grad(loss, image)  # (1, C, H, W)
        maps.append(gradient.abs().sum(dim=1)[0].cpu().numpy())
    return np.stack(maps)
