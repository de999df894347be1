"""From trained discriminators to score maps and scores of images.

p_s(j | T_j x)   probability of the right name at each patch, among the M transformations
m_s(u)           1/M sum_j T_j^-1 [-log p_s(j | T_j x)](u): map of a scale
z_s(u)           (m_s(u) - mean_s(u)) / deviation_s: standardized by the good images
score of image   - 1/S sum_s sum_j mean of the lowest share of p_s(j | T_j x) over patches
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from skanomaly.detectors.tdg._tdg_networks import MARGIN
from skanomaly.detectors.tdg._tdg_training import resized

SMALLEST_DEVIATION = 1e-3  # of -log p: a discriminator may be equally sure everywhere


class TransformationScorer:
    """Trained discriminators, which score images.

    Parameters
    ----------
    discriminators : ModuleList of PatchDiscriminator
    sizes : sequence of int
        Sides of their images, the smallest first.
    transformations : list of Transformation
    """

    def __init__(self, discriminators, sizes, transformations):
        self.discriminators, self.sizes = discriminators.eval(), sizes
        self.transformations = transformations

    def to(self, device):
        """Itself, with its networks on a torch device."""
        self.discriminators.to(device)
        return self

    def log_probabilities(self, image):
        """log p_s(j | T_j x) of all patches of an image, scale by scale.

        Parameters
        ----------
        image : ndarray of shape (H, W, C), float32 in [0, 1]

        Yields
        ------
        tensor of shape (M, s - 10, s - 10)
        """
        device = next(self.discriminators.parameters()).device
        pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].to(device)
        n = len(self.transformations)
        for discriminator, side in zip(self.discriminators, self.sizes, strict=True):
            small = resized(pixels, side)  # (1, C, s, s)
            views = torch.cat([one.apply(small) for one in self.transformations])
            # Without the logit of generated images.
            logs = discriminator(views)[:, :n].log_softmax(dim=1)  # (M, M, h, w)
            yield logs[range(n), range(n)]

    def scale_maps(self, pixels):
        """m_s of images, high for a defect.

        Parameters
        ----------
        pixels : ndarray of shape (b, H, W, C), float32 in [0, 1]

        Returns
        -------
        ndarray of shape (b, scales, S, S), float32
            S is the side of the finest scale.
        """
        maps = []
        # One by one: an image's scores must not depend on the other images in the batch.
        with torch.inference_mode():
            for image in pixels:
                scales = [self._map(logs) for logs in self.log_probabilities(image)]
                maps.append(torch.cat(scales, dim=1)[0].cpu().numpy())
        return np.stack(maps)

    def _map(self, logs):
        """m_s, (1, 1, S, S), of log-probabilities (M, h, w)."""
        back, side = self._undone(-logs), self.sizes[-1]
        mean = back.mean(dim=0)[None, None]  # (1, 1, s, s)
        return F.interpolate(mean, (side, side), mode="bilinear")

    def _undone(self, values):
        """Values (M, h, w) of the patches of transformed images, back in its frame, (M, s, s)."""
        # A patch's value stands at its middle: the border gets that of the outermost patches.
        padded = F.pad(values[:, None], (MARGIN,) * 4, mode="replicate")[:, 0]
        pairs = zip(self.transformations, padded, strict=True)
        return torch.stack([one.undo(view) for one, view in pairs])

    def image_scores(self, pixels, fraction, inside=None):
        """The paper's scores of images, high for a defect.

        Parameters
        ----------
        pixels : ndarray of shape (b, H, W, C), float32 in [0, 1]
        fraction : float in (0, 1]
            Share of the patches that count: those that are least sure, of each transformation.
        inside : list of ndarray of shape (b, s, s), bool, or of None; or None
            By scale: the pixels in the regions of interest, whose patches are looked at.

        Returns
        -------
        ndarray of shape (b,), float64
        """
        inside = [None] * len(self.sizes) if inside is None else inside
        scores = []
        with torch.inference_mode():
            for i, image in enumerate(pixels):
                sums = []
                for logs, some in zip(self.log_probabilities(image), inside, strict=True):
                    values = logs.exp()
                    if some is not None:
                        values = self._undone(values)[:, torch.from_numpy(some[i])]
                    sums.append(_mean_of_lowest(values, fraction).sum().item())
                scores.append(-np.mean(sums))
        return np.array(scores)


def _mean_of_lowest(probabilities, fraction):
    """Means (M,) of the lowest share, at least one, of values (M, ...)."""
    values = probabilities.flatten(1)
    n_lowest = math.ceil(fraction * values.shape[1])
    return values.topk(n_lowest, dim=1, largest=False).values.mean(dim=1)


def score_statistics(batches):
    """What good images' maps are like.

    Where parts are aligned, some places are harder to name than others in every image. The mean of
    a place is drawn towards that of the whole map, the more the less places differ beyond what
    chance makes of n images: of unaligned images, or of one, all of the way.

    Parameters
    ----------
    batches : iterable of ndarray of shape (b, scales, S, S)
        Maps m_s of good images; what is NaN does not count.

    Returns
    -------
    mean : ndarray of shape (scales, S, S), float32
    deviation : ndarray of shape (scales,), float64
        From the mean.
    cross_entropy : ndarray of shape (scales,), float64
        Mean of all maps: the discriminators' cross-entropy.
    """
    n, total, squares = 0, 0.0, 0.0
    for maps in batches:
        maps = maps.astype(np.float64)
        n = n + (~np.isnan(maps)).sum(axis=0)
        total = total + np.nansum(maps, axis=0)
        squares = squares + np.nansum(np.square(maps), axis=0)
    most, n = n.max(), np.where(n > 0, n, np.nan)
    mean = total / n  # (scales, S, S)
    within = np.nanmean(squares / n - mean**2, axis=(1, 2))  # (scales,)
    overall, spread = np.nanmean(mean, axis=(1, 2)), np.nanvar(mean, axis=(1, 2))
    by_chance = within / (most - 1) if most > 1 else np.full_like(spread, np.inf)
    weight = np.clip(1 - by_chance / np.maximum(spread, SMALLEST_DEVIATION**2), 0, 1)
    drawn = overall[:, None, None] + weight[:, None, None] * (mean - overall[:, None, None])
    variance = within + np.nanmean((mean - drawn) ** 2, axis=(1, 2))
    deviation = np.sqrt(np.maximum(variance, 0))
    return (
        np.where(np.isnan(drawn), overall[:, None, None], drawn).astype(np.float32),
        np.maximum(deviation, SMALLEST_DEVIATION),
        overall,
    )
