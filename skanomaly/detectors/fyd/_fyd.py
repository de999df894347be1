"""FYD, "Focus Your Distribution" (Zheng, Wang, Deng, Bao, Zhao, Wu; ICME 2022).

ICA   T      each image A is rotated and moved:  L_ICA = mean || T(A)_u - T(B)_u ||_2 of pairs A, B
FCA   T_l    the maps of each stage of the backbone are transformed; no loss of its own
FA    E, P   z = E(f), p = P(z):  L_FA = - mean cos(p_A(u), z_B(u)) of pairs, none through z_B
x     d numbers per position: a choice of the channels of three stages, registered, and moved back
      by the inverse transforms to where they came from, (b, h, w, d)
mu, Sigma    mean and covariance + epsilon I of the good images at each position
M            sqrt((x - mu)' Sigma^-1 (x - mu)): score of a position, (b, h, w), as in PaDiM
"""

from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from skanomaly.base import PIXELS, BaseImageDetector
from skanomaly.caching import image_keys
from skanomaly.density import PositionwiseGaussian
from skanomaly.detectors._backbone_stages import check_stages
from skanomaly.detectors._inside_places import check_one_region
from skanomaly.detectors.fyd._fyd_network import IMAGE_MODES, build_network
from skanomaly.detectors.fyd._fyd_training import (
    SCHEDULES,
    Descent,
    train_network,
    training_needs,
)
from skanomaly.embedding import embed
from skanomaly.feature_maps import BATCH_SIZE
from skanomaly.io import digest
from skanomaly.training import IDENTITIES, configured, training_parameters, with_given
from skanomaly.utils.device import resolve_device
from skanomaly.utils.networks import from_arrays, to_arrays
from skanomaly.utils.validation import Interval, StrOptions

_RATE = [None, Interval(Real, 0, None, closed="neither")]
_WEIGHT = [Interval(Real, 0, None, closed="left")]
# The weights count as what they are, not by the name of their file.
_NOT_OF_TRAINING = (
    "checkpoint", "contamination", "device", "epsilon", "image_score", "n_components", "n_jobs",
    "shrinkage", "sigma", "verbose", "weights",
)  # fmt: skip


class FYD(BaseImageDetector):
    """PaDiM on a backbone that was trained to align good images, from coarse to fine.

    It takes images, not features: its backbone is trained further on the good images alone. For
    parts in about one place; what cannot be aligned, as a texture, gains nothing.

    Parameters
    ----------
    backbone : str or None, default=None
        A network by name, as in FeatureExtractor; None: the preset's.
    stages : list of 3 str, or None, default=None
        Names of the parts after which maps are registered; None: those known for the family.
    weights : str, Path or None, default="DEFAULT"
        Initial weights of the backbone, as in FeatureExtractor. Of random ones, None, expect
        nothing.
    image_mode : {"rotation_translation", "rotation", "translation"} or None, \
default="rotation_translation"
        What the image's transformer may do; None: images stay as they are.
    mode : str or None, default="rotation_scale"
        What the transformers of maps may do: "affine", "shear", or any of "rotation",
        "translation" and "scale" in this order, joined by "_"; None: there are none.
    image_weight : float, default=1.0
        Of L_ICA, beside L_FA.
    identity_weight : float, default=0.1
        Of the squared distances of all transforms from the identity.
    preset : {"quick", "paper"}, default="quick"
        Backbone, length and rates of the training: EfficientNet-Lite0 and 20 epochs, or
        ResNet-18 and 50.
    n_epochs, batch_size : int or None, default=None
        Instead of the preset's. ``n_epochs=0`` is PaDiM on the backbone as it is.
    learning_rate : float or None, default=None
        Of backbone and transformers of maps; None: the preset's, 1e-4. All rates fall to 0 along
        a cosine.
    head_learning_rate : float or None, default=None
        Of encoder and predictor, whose initial weights are random; None: the preset's, 1e-2, or
        1e-4 of "paper".
    image_learning_rate : float or None, default=None
        Of the image's transformer; None: the preset's, 0.1.
    momentum : float, default=0.9
        Of the gradient descent.
    n_components : int or None, default=100
        Channels in use, drawn at random from all stages' channels; None: all.
    epsilon : float, default=0.01
        Added to every variance.
    shrinkage : {"ledoit_wolf"} or None, default=None
        As in PaDiM.
    image_size : int or (int, int), default=224
        Height and width in pixels that images are brought to.
    <resize>
    <pixels_roi>
    image_score : {"paper", "map_max"}, default="map_max"
        Score of an image: the maximum of M over its positions, or of its smoothed score map.
    <sigma>
    <contamination>
    <device>
    <n_jobs>
    checkpoint : str, Path or None, default=None
        Beginning of the name of a file written after each epoch, from which the same fit resumes.
        It stays until it is deleted.
    random_state : int, default=0
        Draws initial weights, batches, the images that are held out, and the channels.
    <verbose>

    Attributes
    ----------
    state_ : dict of str to ndarray
        Weights of the network.
    backbone_, stages_, modes_ :
        Name of the backbone, names of its stages, and image_mode and mode, as at the fit.
    channels_ : ndarray of shape (d,), int
        Channels in use, ascending, counted through the stages in their order.
    gaussian_ : PositionwiseGaussian
        Its ``mean_`` has shape (h, w, d).
    history_ : dict of str to list of float
        By epoch: "image-distance", L_ICA; "similarity", -L_FA; "image-deviation", and such a one
        for each stage by its name, the mean distance of its transforms from the identity. Those of
        maps begin with the epoch in which these are first trained, the ones of images alone being
        before it. "similarity-held_out" is that of a tenth of the images, held out of the training
        where there are 20 or more: before that epoch, and after each.
    offset_, learned_from_, image_fit_, n_channels_in_, layer_shapes_, n_features_in_, fit_digest_ :
        As in BaseImageDetector.

    See Also
    --------
    PaDiM : The same Gaussian of features that are not trained.
    RegAD : Registration learned over many categories, for a handful of images.

    Notes
    -----
    The paper's three stages and their losses are known; its layers, weights, rates and pairs are
    not. Transformers, encoder, predictor, momentum, rates and "paper" are those of RegAD, which
    grew out of FYD. The rest is of this package: L_ICA is a mean, of all pairs
    of a batch, over images at 64 x 64 pixels, on which the image's transformer also finds its
    transforms; L_FA compares all pairs of a batch; the first tenth of the epochs trains
    the image's transformer alone; the last state is kept. What the image's transformer finds is
    divided by 32, the root of its number of units: otherwise the first steps leave the identity
    for good. So its rate is 0.1 rather than RegAD's 0.01. The quick preset was chosen to
    train in minutes.

    Looking at one constant spot, or zooming in on even ground, would make all images alike. So
    images are rotated and moved only, transforms begin at the identity, leave it at a cost and
    reflect at the border: see the deviations in ``history_``, which should stay far below 1. A
    defect may move the image that it is on; it is moved back, so that the score map is in the
    image's own frame.

    A region of interest is one for all images, as each position learns from all; images are aligned
    with what is blank outside of it. There are no tiles: a position in a tile is not one in the
    image. ``PatchCore`` and ``PaDiM`` take features of tiles.

    Where the loss becomes NaN, ``fit`` raises TrainingError and leaves the detector as it was.

    References
    ----------
    Zheng, Wang, Deng, Bao, Zhao, Wu, "Focus Your Distribution: Coarse-to-Fine Non-Contrastive
    Learning for Anomaly Detection and Localization", ICME 2022.

    Examples
    --------
    >>> from skanomaly import FYD
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(4, size=(64, 64), random_state=0)
    >>> detector = FYD("squeezenet1_1", weights=None, image_size=64, n_epochs=1).fit(good)
    >>> detector.score_map(good[:2]).shape
    (2, 64, 64)
    """

    _why_not_in_tiles = (
        "it learns a Gaussian for each position of an image, which a position in a tile is not; "
        "take PaDiM or PatchCore, whose features may be of tiles, or CutPaste"
    )
    _unused_by_hooks = ("checkpoint", "contamination", "image_score", "n_jobs", "sigma", "verbose")
    _transient = ("_network",)

    _parameter_constraints = {
        **BaseImageDetector._parameter_constraints,
        "backbone": [None, str],
        "stages": [None, "array-like"],
        "weights": [None, str, Path],
        "image_mode": [None, StrOptions(set(IMAGE_MODES))],
        "mode": [None, StrOptions(set(IDENTITIES))],
        "image_weight": _WEIGHT,
        "identity_weight": _WEIGHT,
        "preset": [StrOptions({"quick", "paper"})],
        "n_epochs": [None, Interval(Integral, 0, None, closed="left")],
        "batch_size": [None, Interval(Integral, 2, None, closed="left")],
        "learning_rate": _RATE,
        "head_learning_rate": _RATE,
        "image_learning_rate": _RATE,
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "n_components": [None, Interval(Integral, 1, None, closed="left")],
        "epsilon": _WEIGHT,
        "shrinkage": [None, StrOptions({"ledoit_wolf"})],
        "checkpoint": [None, str, Path],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        backbone=None,
        *,
        stages=None,
        weights="DEFAULT",
        image_mode="rotation_translation",
        mode="rotation_scale",
        image_weight=1.0,
        identity_weight=0.1,
        preset="quick",
        n_epochs=None,
        batch_size=None,
        learning_rate=None,
        head_learning_rate=None,
        image_learning_rate=None,
        momentum=0.9,
        n_components=100,
        epsilon=0.01,
        shrinkage=None,
        image_size=224,
        resize="stretch",
        roi=None,
        image_score="map_max",
        sigma=4.0,
        contamination=0.01,
        device="auto",
        n_jobs=None,
        checkpoint=None,
        random_state=0,
        verbose=0,
    ):
        self.backbone = backbone
        self.stages = stages
        self.weights = weights
        self.image_mode = image_mode
        self.mode = mode
        self.image_weight = image_weight
        self.identity_weight = identity_weight
        self.preset = preset
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.image_learning_rate = image_learning_rate
        self.momentum = momentum
        self.n_components = n_components
        self.epsilon = epsilon
        self.shrinkage = shrinkage
        self.image_size = image_size
        self.resize = resize
        self.roi = roi
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.device = device
        self.n_jobs = n_jobs
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_is_fitted__(self):
        return hasattr(self, "state_")

    def _input_fit(self):
        # Called first in a fit: what is wrong shows before any image is read.
        resolve_device(self.device)
        check_stages(self._descent().schedule.backbone, self.stages)
        return super()._input_fit()

    def _input_channels(self):
        return 3

    def _fit(self, X):
        if len(X) < 2:
            raise ValueError(
                "expected at least 2 good images, which are compared with each other, got "
                f"{len(X)}; pass more of them"
            )
        X = X.store()
        check_one_region(X)
        descent = self._descent()
        self.backbone_ = descent.schedule.backbone
        self.stages_ = check_stages(self.backbone_, self.stages)
        self.modes_ = self.image_mode, self.mode
        network, shapes = self._build(self.weights, self.random_state)
        pixels = X.arrays()[PIXELS]  # (n, H, W, 3)
        config = self._config(network, pixels, descent.schedule)
        self.history_ = train_network(network, pixels, self.stages_, descent, config)
        self.state_, self._network = to_arrays(network), network
        self.channels_ = self._draw_channels(sum(channels for channels, _, _ in shapes))
        self.gaussian_ = PositionwiseGaussian(
            epsilon=self.epsilon, shrinkage=self.shrinkage, updatable=False
        )
        starts = range(0, len(pixels), BATCH_SIZE)
        for start in tqdm(starts, "FYD", unit="batch", disable=not self.verbose):
            self.gaussian_.partial_fit(self._vectors(pixels[start : start + BATCH_SIZE]))
        self.gaussian_.finish()

    def _descent(self):
        schedule = with_given(
            SCHEDULES[self.preset],
            backbone=self.backbone,
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            head_learning_rate=self.head_learning_rate,
            image_learning_rate=self.image_learning_rate,
        )
        return Descent(schedule, self.momentum, self.image_weight, self.identity_weight)

    def _config(self, network, pixels, schedule):
        def identity():
            return digest(
                "FYD",
                training_parameters(self, _NOT_OF_TRAINING),
                to_arrays(network),
                image_keys(list(pixels)),
            )

        return configured(
            self,
            schedule,
            identity,
            advice="lower the learning rates, and look at the images",
        )

    def _draw_channels(self, n_features):
        """The channels that PaDiM draws with the same random_state, ascending."""
        if self.n_components is None or self.n_components >= n_features:
            return np.arange(n_features)
        rng = np.random.RandomState(self.random_state % 2**32)  # the seeds that it takes
        return np.sort(rng.permutation(n_features)[: self.n_components])

    def _build(self, weights=None, seed=0):
        size = self.tile_fit.height, self.tile_fit.width
        return build_network(self.backbone_, self.stages_, weights, size, self.modes_, seed)

    def _trained(self):
        """The network on its device, rebuilt from state_ on first use."""
        network = self._rebuilt(
            "_network", lambda: from_arrays(self._build()[0], self.state_).eval()
        )
        return network.to(resolve_device(self.device))

    def _vectors(self, pixels):
        """Pixels (b, H, W, 3) -> the chosen channels at the finest grid, (b, h, w, d)."""
        network, vectors = self._trained(), []
        for image in torch.from_numpy(pixels).permute(0, 3, 1, 2).split(1):  # each by itself
            with torch.inference_mode():
                maps = network.features(image.to(network.device))
            layers = {
                name: one.permute(0, 2, 3, 1).cpu().numpy()
                for name, one in zip(self.stages_, maps, strict=True)
            }
            vectors.append(embed(layers, channels=self.channels_, interpolation="nearest"))
        return np.concatenate(vectors)

    def _score_maps(self, X):
        return self.gaussian_.mahalanobis(self._vectors(X.arrays()[PIXELS]))

    _kept_of_forecast = ("network", "factors")

    def _forecast(self, layer_shapes, n_images):
        size, descent = layer_shapes[PIXELS][:2], self._descent()
        backbone = descent.schedule.backbone
        stages, modes = check_stages(backbone, self.stages), (self.image_mode, self.mode)
        network, shapes = build_network(backbone, stages, None, size, modes, 0)
        needs = training_needs(network.eval(), size, descent, n_images)
        n_positions, n_features = shapes[0][1] * shapes[0][2], sum(shape[0] for shape in shapes)
        d = min(self.n_components or n_features, n_features)
        return {
            **needs,
            "sums of products": 8 * n_positions * d * (d + 1) // 2,
            "factors": 4 * n_positions * d * d,
            "a batch": 4 * 4 * n_positions * d * min(n_images, BATCH_SIZE),
        }
