"""RegAD (Huang et al., ECCV 2022): a detector from a handful of good pictures.

support     k good images and their variants: rotated, shifted, mirrored, grey; 22 k in all
x           features of three stages, registered and moved back, averaged over neighbouring
            cells and joined at the finest grid (h, w, d)
mu, Sigma   mean and covariance + epsilon I of the 22 k vectors at each position
M           Mahalanobis distance: score of a position; the map's maximum is the image's
"""

from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch

from skanomaly._images import check_images, load_batch
from skanomaly._validation import Interval, fitting, good_rows, is_images
from skanomaly.base import BaseDetector
from skanomaly.density import PositionwiseGaussian
from skanomaly.detectors._kept import check_fitted, clone_keeping
from skanomaly.detectors._padim import replicate
from skanomaly.detectors._registration import RegistrationNetwork
from skanomaly.detectors._transforms import VARIANTS, variants
from skanomaly.feature_extraction._base import BaseExtractor
from skanomaly.feature_extraction._filter_bank import FilterBank
from skanomaly.feature_maps import check_odd, local_mean


class RegAD(BaseDetector):
    """Gaussian per position from a few good images and what they might have looked like too.

    It takes images, not features: the features are its own.

    Parameters
    ----------
    registration : RegistrationNetwork, str, Path or None, default=None
        A fitted network, or a file of its ``save``. Clones keep it as it is. None: features of a
        FilterBank learned from the support, and no registration, which needs no training at all.
    variants : sequence of str, default=("rotations", "translations", "flip", "grey", \
"quarter_turns")
        Which variants of each image join the support: 8, 8, 1, 1 and 3 of them.
    patch_size : int, default=3
        Odd: side of the neighbourhood of cells over which features are averaged, so that a place
        need not match to the pixel. 1 leaves them as they are, as in the paper.
    epsilon : float, default=0.01
        Added to every variance.
    image_score : {"paper", "map_max"}, default="map_max"
        Both are the maximum of the smoothed score map.
    sigma : float, default=4.0
        Smoothing of the score map, in pixels of the network's input.
    contamination : float in (0, 0.5], default=0.01
        Share of the support that falls below the threshold.
    image_size : int or (int, int), default=224
        Of the FilterBank; a registration network brings its own.
    random_state : int, RandomState instance or None, default=None
        Draws the FilterBank's patches.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    extractor_ : RegistrationNetwork, FilterBank or None
        Where the features come from; None after a fit on features.
    gaussian_ : PositionwiseGaussian
    offset_ : float
        Threshold on ``score_samples``; of a support of a few images it is a guess. Take it from
        held-out images where there are any.
    layer_shapes_ : dict of str to tuple (h, w, C)
    n_features_in_ : int

    See Also
    --------
    PaDiM : The same Gaussian from many images.

    Notes
    -----
    Given features instead of images, FeatureMaps or arrays of floats of shape (n, d) or
    (n, h, w, d), it is the Gaussian alone, with no variants. Where the vectors are fewer than half
    their dimensions, as 22 k mostly are, the Gaussian keeps them instead of matrices, with the
    same distances. All dimensions are used.

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

    _AFTER_SCORES = ("contamination", "verbose")

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "registration": [None, str, Path, BaseExtractor],
        "variants": ["array-like"],
        "patch_size": [Interval(Integral, 1, None, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="left")],
        "image_size": BaseExtractor._parameter_constraints["image_size"],
    }

    def __init__(
        self,
        registration=None,
        *,
        variants=VARIANTS,
        patch_size=3,
        epsilon=0.01,
        image_score="map_max",
        sigma=4.0,
        contamination=0.01,
        image_size=224,
        random_state=None,
        verbose=0,
    ):
        self.registration = registration
        self.variants = variants
        self.patch_size = patch_size
        self.epsilon = epsilon
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.image_size = image_size
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_clone__(self):
        return clone_keeping(self, "registration")

    @fitting(nested=True)
    def fit(self, X, y=None):
        """Learn from a handful of good images.

        Parameters
        ----------
        X : list of paths, arrays or PIL images, or uint8 array of shape (n, H, W[, C])
            The support. Or features, as other detectors take them.
        y : array of shape (n,), masks, or None, default=None
            Images marked as defects are left out.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            An image cannot be used; the registration is not fitted; or there is one image and no
            variant of it.
        """
        check_odd(self.patch_size)
        self.extractor_ = self._support = None
        if is_images(X):
            images = check_images(X)
            images = [images[i] for i in good_rows(y, len(images))]
            self.extractor_ = self._fitted_extractor(images)
            X, y, self._support = images, None, images
        super().fit(X, y)
        self._support = None
        return self

    def _fitted_extractor(self, images):
        unknown = set(self.variants) - set(VARIANTS)
        if unknown:
            raise ValueError(f"expected variants among {VARIANTS}, got {sorted(unknown)}")
        if self.registration is None:
            bank = FilterBank(
                image_size=self.image_size, random_state=self.random_state, verbose=self.verbose
            )
            return bank.fit(images)
        network = self.registration
        if isinstance(network, (str, Path)):
            return RegistrationNetwork.load(network)
        check_fitted(network, "registration", "fit it on good pictures of several categories first")
        return network

    def _check_X(self, X, *, reset):
        if getattr(self, "extractor_", None) is not None and is_images(X):
            X = self.extractor_.transform(X)
        return super()._check_X(X, reset=reset)

    def _fit(self, X):
        self.gaussian_ = PositionwiseGaussian(epsilon=self.epsilon, updatable=False)
        if self._support is None:
            for piece in X.batches():
                self.gaussian_.partial_fit(self._vectors(piece.arrays()))
            self.gaussian_.finish()
            return
        if len(self._support) == 1 and not len(self.variants):
            raise ValueError("expected at least 2 good images where there are no variants, got 1")
        for batch in self._variants():
            self.gaussian_.partial_fit(self._vectors(self.extractor_._features(batch)))
        self.gaussian_.finish()

    def _digest(self, maps):
        # The keys of its images' features do not say that variants were learned too.
        return None if self._support is not None else super()._digest(maps)

    def _variants(self):
        """The variants of one image after the other, (n, height, width, C) float32."""
        fit, n_channels = self.extractor_.image_fit, self.extractor_.n_channels_in_
        for i in range(len(self._support)):
            batch, _ = load_batch(self._support, [i], fit, n_channels)
            image = torch.from_numpy(batch[0].transpose(2, 0, 1).copy())
            yield variants(image, self.variants).permute(0, 2, 3, 1).numpy()

    def _vectors(self, layers):
        """{layer: (b, h, w, C)} -> all of them at the finest grid, (b, h, w, d)."""
        grid = tuple(max(maps.shape[axis] for maps in layers.values()) for axis in (1, 2))
        means = (local_mean(maps, self.patch_size) for maps in layers.values())
        return np.concatenate([replicate(maps, grid) for maps in means], axis=3)

    def _memory_needs(self, layer_shapes, n_images):
        # Of features: those of images come with no pipeline, so that no forecast sees them.
        height, width = np.max([shape[:2] for shape in layer_shapes.values()], axis=0)
        n_positions, d = int(height * width), sum(shape[2] for shape in layer_shapes.values())
        if n_images <= d // 2:
            return {"vectors": 4 * n_positions * (d + n_images) * n_images}
        return {"sums of products and factors": 8 * n_positions * d * d}

    def _score_batch(self, X):
        patch_scores = self.gaussian_.mahalanobis(self._vectors(X.arrays()))
        smooth = X.image_fit.smooth(patch_scores, self.sigma)
        return patch_scores, smooth.max(axis=(1, 2))
