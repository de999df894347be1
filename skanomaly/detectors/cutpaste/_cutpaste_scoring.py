"""From a trained network to features and score maps, of windows or of whole images.

patch   z_t(u)  deviation of the distance of the window at u, of side t, from that of held-out good
                windows, in their standard deviations; the map is the mean over the sides t
image   D       distance of the image's feature f
        CAM(u)  ReLU(sum_k w_k A_k(u)),  w the gradient of D^2 by the mean of A: with P = Sigma^-1,
                w = (I - f f') P (f - mu) / |mean A|, up to a factor: GradCAM in closed form
        map     D CAM(u) / max CAM
"""

import numpy as np
import torch

from skanomaly.detectors.cutpaste._feature_density import distances, unit
from skanomaly.detectors.cutpaste._paste_training import standardize

N_WINDOWS = 256  # at once: the paper's grid has thousands


class Encoder:
    """A trained network, which turns images into features.

    Parameters
    ----------
    network : CutPasteNet
    mean, scale : ndarray of shape (C,)
        By which images are standardized.
    """

    def __init__(self, network, mean, scale):
        self.network, self.mean, self.scale = network.eval(), mean, scale

    def to(self, device):
        """Itself, with its network on a torch device."""
        self.network.to(device)
        return self

    def window_features(self, image, grid):
        """f of all windows of an image (H, W, C): (1, rows, columns, K), of length 1."""
        windows, found = grid.cut(image), []
        for first in range(0, len(windows), N_WINDOWS):
            some = standardize(windows[first : first + N_WINDOWS], self.mean, self.scale)
            with torch.inference_mode():
                found.append(self.network.features(some).cpu().numpy())
        return unit(np.concatenate(found)).reshape(1, *grid.shape, -1)

    def image_features(self, image):
        """f of an image (H, W, C): (1, 1, 1, K), of length 1."""
        return unit(self.maps(image).mean(axis=(0, 1)))[None, None, None]

    def maps(self, image):
        """A of an image (H, W, C): (h, w, K)."""
        with torch.inference_mode():
            maps = self.network.maps(standardize(image[None], self.mean, self.scale))
        return maps[0].permute(1, 2, 0).cpu().numpy()


def score_windows(encoder, image, grids, gaussians, aligned, scales, statistics):
    """Map (ceil(H / 4), ceil(W / 4)) of an image (H, W, C): mean of z over the sides of windows.

    Parameters
    ----------
    encoder : Encoder
    image : ndarray of shape (H, W, C)
    grids : list of WindowGrid
    gaussians : list of PositionwiseGaussian
        One for each grid, as are scales and the rows of statistics.
    aligned : bool
    scales : ndarray of shape (sizes,)
        By which features are divided.
    statistics : ndarray of shape (sizes, 2)
        Mean and standard deviation of held-out distances.
    """
    maps = []
    for grid, gaussian, scale, (mean, deviation) in zip(
        grids, gaussians, scales, statistics, strict=True
    ):
        features = encoder.window_features(image, grid) / np.float32(scale)
        found = distances(gaussian, features, aligned)[0].astype(np.float64)
        maps.append(grid.interpolate((found - mean) / deviation))
    return np.mean(maps, axis=0)


def cam(maps, mean, precision):
    """GradCAM of the squared distance of an image's feature, in closed form.

    Parameters
    ----------
    maps : ndarray of shape (h, w, K)
        A; the feature is its mean over cells, divided by its length.
    mean : ndarray of shape (K,)
        mu.
    precision : ndarray of shape (K, K)
        P.

    Returns
    -------
    cam : ndarray of shape (h, w)
        Not negative. Before its negative part is cut off its mean is 0: the distance does not
        depend on the length of the feature.
    distance : float
    """
    pooled = maps.mean(axis=(0, 1), dtype=np.float64)
    feature = unit(pooled)
    toward = precision @ (feature - mean)
    distance = np.sqrt(max((feature - mean) @ toward, 0))
    length = max(np.linalg.norm(pooled), np.finfo(np.float32).tiny)
    weights = 2 * (toward - feature * (feature @ toward)) / length
    return np.maximum(maps @ weights, 0), distance


def image_map(maps, mean, precision):
    """D CAM / max CAM of an image by its A (h, w, K); D everywhere where no cell stands out."""
    shares, distance = cam(maps, mean, precision)
    most = shares.max()
    return np.full_like(shares, distance) if most == 0 else distance * (shares / most)
