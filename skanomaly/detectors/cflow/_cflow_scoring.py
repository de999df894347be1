"""From the likelihoods of layers to score maps, with constants that are known before any test.

probability   S = L - sum over the layers of exp(min(0, l - a)), a the largest l in training
standard      S = mean over the layers of (-l - m) / s, m and s of -l on held-out good images
"""

import numpy as np
import torch

from skanomaly.detectors.cflow._cflow_network import MEASURES
from skanomaly.embedding import embed

SMALLEST_SPREAD = 1e-6  # of l: good images of one value are all alike


def layer_scores(flows, maps, device):
    """Likelihood and latent score of each place.

    Parameters
    ----------
    flows : ConditionalFlows
        On the device, in evaluation mode.
    maps : list of ndarray of shape (b, h, w, d), float32
        Of each layer.
    device : torch.device

    Returns
    -------
    list of ndarray of shape (2, b, h, w), float32
        The higher, the more usual. Images are scored one by one: none depends on the others.
    """
    found = []
    with torch.inference_mode():
        for layer, of_layer in enumerate(maps):
            b, height, width, d = of_layer.shape
            scores = np.empty((len(MEASURES), b, height * width), np.float32)
            for i, one in enumerate(of_layer):
                vectors = torch.from_numpy(one.reshape(-1, d)).to(device)
                scores[:, i] = flows(layer, vectors, None).float().cpu().numpy()
            found.append(scores.reshape(len(MEASURES), b, height, width))
    return found


def image_moments(scores, inside):
    """Of each image's l: the largest, the mean and the mean square.

    Parameters
    ----------
    scores : list of ndarray of shape (2, b, h, w)
        From :func:`layer_scores`.
    inside : list of ndarray of shape (b, h, w), bool, or None
        Of each layer: which places count; None: all.

    Returns
    -------
    ndarray of shape (b, 2, L, 3), float64
    """
    moments = []
    for values, counted in zip(scores, inside, strict=True):
        values = values.reshape(*values.shape[:2], -1).astype(np.float64)  # (2, b, cells)
        some = True if counted is None else counted.reshape(1, len(counted), -1)
        own = [
            values.max(axis=2, where=some, initial=-np.inf),
            values.mean(axis=2, where=some),
            np.square(values).mean(axis=2, where=some),
        ]
        moments.append(np.stack(own, axis=2))  # (2, b, 3)
    return np.stack(moments, axis=2).swapaxes(0, 1)


def score_constants(moments, is_held_out):
    """What l is compared with.

    Parameters
    ----------
    moments : ndarray of shape (n, 2, L, 3)
        Of all good images, from :func:`image_moments`.
    is_held_out : ndarray of shape (n,), bool
        Images that were not trained on. If there are none, all take their place.

    Returns
    -------
    ndarray of shape (2, L, 3), float64
        For likelihood and latent score and each layer: the largest l in training, and mean and
        standard deviation of -l on held-out images.
    """
    largest = moments[~is_held_out, ..., 0].max(axis=0)  # (2, L)
    typical = moments[is_held_out] if is_held_out.any() else moments
    _, mean, mean_square = np.moveaxis(typical.mean(axis=0), 2, 0)
    spread = np.sqrt(np.maximum(mean_square - np.square(mean), 0))
    return np.stack([largest, -mean, np.maximum(spread, SMALLEST_SPREAD)], axis=2)


def combined(scores, constants, combine):
    """Score maps of several layers.

    Parameters
    ----------
    scores : list of ndarray of shape (b, h, w)
        l of each layer.
    constants : ndarray of shape (L, 3)
        Of each layer, from :func:`score_constants`.
    combine : {"probability", "standard"}

    Returns
    -------
    ndarray of shape (b, H, W), float32
        On the finest grid, high for a defect.
    """
    parts = []
    for values, own in zip(scores, constants.astype(np.float32), strict=True):
        largest, mean, spread = own
        if combine == "probability":
            parts.append(1 - np.exp(np.minimum(values - largest, 0)))
        else:
            parts.append((-values - mean) / spread)
    joined = embed({str(i): part[..., None] for i, part in enumerate(parts)})  # (b, H, W, L)
    return joined.sum(axis=3) if combine == "probability" else joined.mean(axis=3)
