"""From trained networks to score maps: the comparisons of all patch sizes, put together.

s     lambda s_IAD + (1 - lambda) s_DAD: score of a patch, as in the paper
z     standardized: lambda z(log s_IAD) + (1 - lambda) z(-log C), z the deviation from the mean over
      held-out good patches, in standard deviations
map   the mean over patch sizes of the scores, interpolated between the patches' centers
"""

import numpy as np
import torch

from skanomaly.base import PIXELS
from skanomaly.detectors._inside_places import inside_at
from skanomaly.detectors.global_local._patch_comparison import standardize

SMALLEST_DEVIATION = 1e-3  # of a score's logarithm: the classifier may be equally sure everywhere


class PatchScorer:
    """Trained networks of one or more patch sizes, which score images.

    Parameters
    ----------
    networks : ModuleDict of PatchComparison
        By the patch's side, as ``Architecture.build`` makes them.
    grids : sequence of PatchGrid
        The patches that are scored, of each size.
    mean, scale : ndarray of shape (C,)
        By which images are standardized.
    """

    def __init__(self, networks, grids, mean, scale):
        self.networks, self.grids = networks.eval(), grids
        self.mean, self.scale = mean, scale

    def to(self, device):
        """Itself, with its networks on a torch device."""
        self.networks.to(device)
        return self

    def patch_scores(self, pixels, logs):
        """Both scores of all patches, high for a defect.

        Parameters
        ----------
        pixels : ndarray of shape (n, H, W, C), float32 in [0, 1]
        logs : bool
            Whether the scores are log s_IAD and -log C instead of s_IAD and s_DAD.

        Returns
        -------
        list of ndarray of shape (n, rows, columns, 2), float64
            One for each patch size.
        """
        by_size = []
        for grid in self.grids:
            comparison, scores = self.networks[str(grid.side)], []
            # One by one: an image's scores must not depend on the other images in the batch.
            for one in pixels:
                with torch.inference_mode():
                    image = comparison.prepare(standardize(one[None], self.mean, self.scale))
                    scores.append(comparison.scores(image, grid, logs)[0].cpu().numpy())
            by_size.append(np.stack(scores).astype(np.float64))
        return by_size

    def score_statistics(self, X):
        """Mean and deviation of log s_IAD and -log C over all patches of good images.

        Parameters
        ----------
        X : FeatureMaps of n images
            Stored pixels; patches outside of their regions of interest do not count.

        Returns
        -------
        ndarray of shape (sizes, 2, 2), float64
            For each patch size and each of the two scores: mean, standard deviation.
        """
        by_size = []
        scores_by_size = self.patch_scores(X.arrays()[PIXELS], logs=True)
        for grid, scores in zip(self.grids, scores_by_size, strict=True):
            inside = inside_at(X, *grid.centers())
            flat = scores.reshape(-1, 2) if inside is None else scores[inside]  # (patches, 2)
            deviation = np.maximum(flat.std(axis=0), SMALLEST_DEVIATION)
            by_size.append(np.stack([flat.mean(axis=0), deviation], axis=1))
        return np.stack(by_size)

    def score_maps(self, pixels, statistics, iad_weight):
        """Scores of all cells of 4 x 4 pixels, high for a defect.

        Parameters
        ----------
        pixels : ndarray of shape (n, H, W, C), float32 in [0, 1]
        statistics : ndarray of shape (sizes, 2, 2), or None
            From ``score_statistics``; None: the scores are not standardized.
        iad_weight : float in [0, 1]
            lambda.

        Returns
        -------
        ndarray of shape (n, H // 4, W // 4), float32
        """
        by_size = self.patch_scores(pixels, logs=statistics is not None)
        if statistics is not None:
            pairs = zip(by_size, statistics, strict=True)
            by_size = [(scores - one[:, 0]) / one[:, 1] for scores, one in pairs]
        weights, maps = np.array([iad_weight, 1 - iad_weight]), []
        for grid, scores in zip(self.grids, by_size, strict=True):
            maps.append([grid.interpolate(one) for one in scores @ weights])  # each (H/4, W/4)
        return np.mean(maps, axis=0).astype(np.float32)
