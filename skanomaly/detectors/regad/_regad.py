"""RegAD (Huang et al., ECCV 2022): a detector from a handful of good images.

support     k good images and their augmented copies: rotated, translated, mirrored, gray; 22 k in
            all
x           features of three stages, registered and moved back, joined at the finest grid,
            (h, w, d)
mu, Sigma   mean and covariance + epsilon I of the 22 k vectors at each position
M           sqrt((x - mu)' Sigma^-1 (x - mu)): score of a position, (b, h, w), as in PaDiM
"""

from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from skanomaly.base import PIXELS, BaseExtractor, BaseImageDetector
from skanomaly.density import PositionwiseGaussian
from skanomaly.detectors._inside_places import check_one_region
from skanomaly.detectors._prefitted import check_fitted, clone_keeping
from skanomaly.detectors.regad._registration import RegistrationNetwork
from skanomaly.embedding import check_odd, embed, finest_grid
from skanomaly.feature_extraction import FilterBank
from skanomaly.training import AUGMENTATIONS, augment
from skanomaly.utils.validation import Interval, StrOptions

MOST_LEFT_OUT = 16  # images whose copies' features are held for leave_one_out


class RegAD(BaseImageDetector):
    """One Gaussian per position, from a few good images and their augmented copies.

    It takes images, not features: the features are its own.

    Parameters
    ----------
    registration : RegistrationNetwork, other extractor, str, Path or None, default=None
        Where the features come from: a fitted network, or a file of its ``save``; or without
        registration, another fitted extractor, such as ``FeatureExtractor().fit()``.
        Clones keep it as it is. None: a FilterBank learned from the support, which needs neither
        training nor weights.
    augmentations : sequence of str, default=("rotations", "translations", "flip", "grey", \
"quarter_turns")
        Kinds of copies of each image that join the support: 8, 8, 1, 1 and 3 of them.
    patch_size : int or None, default=None
        Side, in cells, of the neighborhood over which features are averaged; odd, 1: none, as in
        the paper. None: 1 for the features of a network, and 3 for a FilterBank's, of small
        receptive field.
    epsilon : float, default=0.01
        Added to every variance.
    shrinkage : {"ledoit_wolf"} or None, default="ledoit_wolf"
        None: the unbiased covariance, as in the paper. "ledoit_wolf": drawn toward a multiple of
        the identity, position by position.
    image_score : {"paper", "map_max"}, default="map_max"
        Score of an image: the maximum of M over its positions (the paper's), or of its smoothed
        score map.
    <sigma>
    <contamination>
    image_size : int or (int, int), default=224
        Height and width in pixels that images are brought to. A registration network brings its
        own, and its own ``resize``.
    <resize>
    <pixels_roi>
    device : str, default="auto"
        Where a network that is loaded from a file computes: "cpu", "cuda", ...; "auto" takes a GPU
        where there is one. A network that is given as such has its own ``device``.
    <n_jobs>
    random_state : int, RandomState instance or None, default=None
        Draws the FilterBank's patches.
    <verbose>

    Attributes
    ----------
    extractor_ : RegistrationNetwork or FilterBank
        Where the features come from.
    gaussian_ : PositionwiseGaussian
        Its ``mean_`` has shape (h, w, d).
    offset_ : float
        Threshold on ``score_samples``; of a support of a few images it is a guess. Take it from
        held-out images where there are any.
    image_fit_, n_channels_in_, learned_from_, layer_shapes_, n_features_in_, fit_digest_ :
        As in BaseImageDetector.

    See Also
    --------
    PaDiM : The same Gaussian from many images.

    Notes
    -----
    Where the vectors are fewer than half their dimensions, as 22 k mostly are, the Gaussian keeps
    them instead of matrices, with the same distances. All dimensions are used.

    A region of interest is one for all images, as each position learns from all. Copies that are
    turned or moved bring some of what is blank outside to positions near its border. There are no
    tiles: a position in a tile is not one in the image. ``PatchCore`` and ``PaDiM`` take features
    of tiles.

    References
    ----------
    Huang et al., "Registration based Few-Shot Anomaly Detection", ECCV 2022.

    Examples
    --------
    >>> from skanomaly import RegAD
    >>> from skanomaly.datasets import make_defects, make_textures
    >>> good = make_textures(4, size=(64, 64), random_state=0)
    >>> bad, masks, kinds = make_defects(good, kinds=["blur"], size=2, random_state=0)
    >>> RegAD(image_size=64, random_state=0).fit(good).predict(bad)
    array([-1, -1, -1, -1])
    """

    _why_not_in_tiles = (
        "it learns a Gaussian for each position of an image, which a position in a tile is not; "
        "take PaDiM or PatchCore, whose features may be of tiles, or CutPaste"
    )
    _unused_by_hooks = ("contamination", "image_score", "n_jobs", "sigma", "verbose")

    _parameter_constraints = {
        **BaseImageDetector._parameter_constraints,
        "registration": [None, str, Path, BaseExtractor],
        "augmentations": ["array-like"],
        "patch_size": [None, Interval(Integral, 1, None, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="left")],
        "shrinkage": [None, StrOptions({"ledoit_wolf"})],
    }

    def __init__(
        self,
        registration=None,
        *,
        augmentations=AUGMENTATIONS,
        patch_size=None,
        epsilon=0.01,
        shrinkage="ledoit_wolf",
        image_score="map_max",
        sigma=4.0,
        contamination=0.01,
        image_size=224,
        resize="stretch",
        roi=None,
        device="auto",
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.registration = registration
        self.augmentations = augmentations
        self.patch_size = patch_size
        self.epsilon = epsilon
        self.shrinkage = shrinkage
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.image_size = image_size
        self.resize = resize
        self.roi = roi
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_clone__(self):
        return clone_keeping(self, "registration")

    def fit(self, X, y=None):
        """Learn from a handful of good images; each is read once.

        Parameters
        ----------
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
            The support: uint8, uint16, or floats in [0, 1]; sizes may differ.
        y : array of shape (n,), masks, or None, default=None
            Labels, +1 good and -1 defect, or masks: images marked as defects are left out.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            An image cannot be used, the message names it; X is features; y is coded otherwise, as
            0/1, or marks every image as a defect; the registration is not fitted, or its file is
            damaged; or there is one image and no augmented copy of it.
        """
        return super().fit(X, y)

    def _input_fit(self):
        # Called first in a fit: what is wrong with a network shows before any image is read.
        self.extractor_ = self._registration_network()
        return super()._input_fit() if self.extractor_ is None else self.extractor_.image_fit

    def _input_channels(self):
        return None if self.extractor_ is None else self.extractor_.n_channels_in_

    def _registration_network(self):
        """The fitted network that is given or lies in a file, or None."""
        network = self.registration
        if isinstance(network, (str, Path)):
            return RegistrationNetwork.load(network).set_params(device=self.device)
        if network is not None:
            advice = "fit it on good images of several categories first"
            check_fitted(network, "registration", advice)
        return network

    def _fit(self, X):
        if self.patch_size is not None:
            check_odd(self.patch_size)
        unknown = set(self.augmentations) - set(AUGMENTATIONS)
        if unknown:
            raise ValueError(f"expected augmentations among {AUGMENTATIONS}, got {sorted(unknown)}")
        if len(X) == 1 and not len(self.augmentations):
            raise ValueError(
                "expected at least 2 good images where there are no augmentations, got 1"
            )
        X = X.store()
        check_one_region(X)
        pixels = X.arrays()[PIXELS]  # (k, H, W, C)
        if self.extractor_ is None:
            self.extractor_ = FilterBank(
                image_size=self.image_size, resize=self.resize, random_state=self.random_state
            ).fit(pixels)
        images = tqdm(pixels, "RegAD", unit="image", disable=not self.verbose)
        self.gaussian_ = self._gaussian(self._copies(image) for image in images)

    def _copies(self, image):
        """Features (n, h, w, d) of an image (H, W, C) and of its augmented copies, itself first."""
        channels_first = torch.from_numpy(image.transpose(2, 0, 1).copy())  # (C, H, W)
        copies = augment(channels_first, self.augmentations)  # (22, C, H, W)
        return self._vectors(copies.permute(0, 2, 3, 1).numpy())

    def _gaussian(self, copies):
        """Gaussians of the copies of several images, each (n, h, w, d)."""
        gaussian = PositionwiseGaussian(
            epsilon=self.epsilon, shrinkage=self.shrinkage, updatable=False
        )
        for one in copies:
            gaussian.partial_fit(one)
        return gaussian.finish()

    def _vectors(self, pixels):
        """Pixels (b, H, W, C) -> features of all layers at the finest grid, (b, h, w, d)."""
        patch_size = self.patch_size
        if patch_size is None:
            patch_size = 3 if isinstance(self.extractor_, FilterBank) else 1
        layers = self.extractor_._features(pixels)
        return embed(layers, patch_size=patch_size, interpolation="nearest")

    def _score_maps(self, X):
        return self.gaussian_.mahalanobis(self._vectors(X.arrays()[PIXELS]))

    def _leave_one_out(self, X, groups):
        """Each group of images by a Gaussian of the others: an image goes with all its copies."""
        if len(X) > MOST_LEFT_OUT:
            raise NotImplementedError(
                f"RegAD leaves out images among at most {MOST_LEFT_OUT}, got {len(X)}, as it keeps "
                "the features of all their augmented copies"
            )
        X = X.store()
        copies = [self._copies(image) for image in X.arrays()[PIXELS]]
        score_maps = np.empty((len(X), *copies[0].shape[1:3]), dtype=np.float32)
        for group in np.unique(groups):
            gaussian = self._gaussian(copies[i] for i in np.flatnonzero(groups != group))
            for i in np.flatnonzero(groups == group):
                score_maps[i] = gaussian.mahalanobis(copies[i][:1])[0]
        raw = {"score_maps": X.scored_inside(score_maps)}
        if self.image_score == "paper":
            raw["image_scores"] = self._score_images(X, raw["score_maps"])
        yield X, raw

    _kept_of_forecast = ("vectors", "factors")

    def _forecast(self, layer_shapes, n_images):
        shapes = self._feature_shapes(layer_shapes[PIXELS])
        height, width = finest_grid(shapes)
        n_positions, d = height * width, sum(shape[2] for shape in shapes.values())
        n_copies = len(augment(torch.zeros(1, 8, 8), self.augmentations))
        n_vectors = n_images * n_copies
        batch = 3 * 4 * n_positions * d * n_copies  # of layers, their means, and these joined
        if n_vectors <= d // 2:
            # When all are there, they are copied to be in one piece.
            copy = 4 * n_positions * d * n_vectors
            return {
                "vectors": 4 * n_positions * (d + n_vectors) * n_vectors,
                "a batch": max(batch, copy),
            }
        return {
            "sums of products": 8 * n_positions * d * (d + 1) // 2,
            "factors": 4 * n_positions * d * d,
            "a batch": batch,
        }

    def _feature_shapes(self, pixel_shape):
        """{layer: (h, w, C)} of the features of pixels of shape (H, W, C)."""
        network = self._registration_network()
        if network is not None:
            return network.layer_shapes_
        # Of the smallest input: the channels do not depend on its size, and the stride is the same.
        side = FilterBank.smallest_side
        blank = np.zeros((1, side, side, pixel_shape[2]), dtype=np.float32)
        shapes = FilterBank(image_size=side, random_state=0).fit(blank).layer_shapes_
        height, width = pixel_shape[:2]
        return {
            name: (height * h // side, width * w // side, c) for name, (h, w, c) in shapes.items()
        }
