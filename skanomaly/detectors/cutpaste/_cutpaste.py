"""CutPaste (Li, Sohn, Yoon, Pfister, CVPR 2021).

L        E[CE(g(x), good) + CE(g(CP(x)), pasted) + CE(g(CPScar(x)), scar)]: what is learned (eq. 1);
         of a patch model x is a crop of an image (eq. 3)
f        the features below g's head, averaged over cells, of length 1
log p    -1/2 (f - mu)' Sigma^-1 (f - mu) + const: of good images, or of windows of them (eq. 2)
score    the distance of the image; of a patch model, of the windows: a map
"""

from numbers import Integral, Real
from pathlib import Path

import numpy as np

from skanomaly.base import PIXELS, BaseImageDetector
from skanomaly.caching import image_keys
from skanomaly.detectors._inside_places import inside_at
from skanomaly.detectors.cutpaste._cutpaste_net import CutPasteNet, check_encoder
from skanomaly.detectors.cutpaste._cutpaste_scoring import Encoder, image_map, score_windows
from skanomaly.detectors.cutpaste._cutpaste_settings import (
    channel_moments,
    encoder_of,
    input_channels,
    make_setting,
    window_grids,
)
from skanomaly.detectors.cutpaste._feature_density import (
    choose_gaussians,
    fit_gaussian,
    typical_deviation,
)
from skanomaly.detectors.cutpaste._paste_training import (
    KINDS,
    N_CROPS,
    ViewMaker,
    class_accuracy,
    train_network,
)
from skanomaly.feature_extraction import backbones
from skanomaly.io import digest
from skanomaly.training import configured, training_parameters
from skanomaly.utils.device import resolve_device
from skanomaly.utils.networks import from_arrays, to_arrays
from skanomaly.utils.validation import Interval, StrOptions

HELD_OUT = 0.2  # share of the images on which Gaussians are chosen and distances standardized
STEP_VALUES = 0.3  # of float32 that a training step holds, by pixel and number of the features
_NOT_OF_TRAINING = (
    "aligned", "checkpoint", "contamination", "device", "image_score", "n_jobs", "sigma", "stride",
    "test_size", "verbose",
)  # fmt: skip


class CutPaste(BaseImageDetector):
    """Features of a network that learned to see pasted pieces, and how usual they are.

    It takes images, not features: its network is its own, trained on the good images alone to tell
    them from the same images with a piece cut out and pasted elsewhere.

    Parameters
    ----------
    encoder : str or None, default=None
        The network: ResNet-18 of a quarter ("tiny") or half the width ("small"), or a torchvision
        network of convolutions by name, as "resnet18". None: the preset's.
    weights : str, Path or None, default=None
        Initial weights of a torchvision network, as in FeatureExtractor; None: random, as in the
        paper's main results. With weights the head alone learns in the first seventh of the
        training, then all layers, at a low rate.
    level : {"patch", "image"}, default="patch"
        What the network learns from, and what gets a score: windows of the images, whose scores
        make the map; or whole images, where the map is a GradCAM of 32 times fewer pixels.
    variant : {"2way", "scar", "3way"}, default="3way"
        What is told from good images: rectangles, scars, or each of both.
    patch_size : int, default=64
        Side, in pixels, of the crops that a patch model learns from.
    test_size : int, sequence of int, or None, default=None
        Side, in pixels, of the windows that it scores; the map is the mean over several. None: the
        preset's.
    stride : int or None, default=None
        Pixels from one window to the next. None: the preset's.
    aligned : {"auto"} or bool, default="auto"
        Whether windows have a Gaussian for each position, for parts that are always in the same
        place, or one for all. "auto": that under which held-out windows are likelier.
    area : (float, float), default=(0.02, 0.15)
        Least and most of a pasted rectangle's share of the image, or crop.
    aspect : (float, float), default=(0.3, 3.3)
        Least and most of its height by its width.
    scar_width, scar_length : (float, float), default=(2, 16) and (10, 25)
        Least and most of a scar's sides, in pixels; in the level "image", where the shorter
        side counts as 256 of them.
    jitter : float, default=0.1
        How much colors change: of a piece, brightness, contrast, saturation and hue; of the image,
        which all of its views share, brightness and contrast.
    preset : {"quick", "paper"}, default="quick"
        "quick": encoder "small", 1500 steps, windows of a half and of three eighths of the patch's
        side, at an eighth of it; minutes. "paper": "resnet18", 65,536 steps, windows of half the
        patch's side, at a sixteenth of it; hours of two cores for patches, days for images.
    n_iter : int or None, default=None
        Steps instead of the preset's. 0: the network stays untrained.
    learning_rate : float, default=0.03
        At the beginning; it falls to 0 along a cosine. Of the head alone where there are weights.
    image_size : int, (int, int) or None, default=None
        Height and width in pixels that images are brought to; None: 128; 256 in the paper.
    <resize>
    <pixels_tile_size>
    <pixels_tile_overlap>
    <pixels_roi>
    image_score : {"paper", "map_max"}, default="map_max"
        Score of an image: its distance ("paper"), which of a patch model is the maximum of its
        score map as it is; or the maximum of the smoothed map.
    <sigma>
    <contamination>
    dtype : {"float32", "bfloat16"}, default="float32"
        Of the training's forward passes: the second is faster where processors support it.
    <device>
    <n_jobs>
    checkpoint : str, Path or None, default=None
        Beginning of the names of files written while training, from which the same fit resumes.
        They stay until they are deleted.
    random_state : int, default=0
        Draws initial weights, crops and pastes.
    verbose : int, default=0
        1 shows progress bars with the losses.

    Attributes
    ----------
    state_ : dict of str to ndarray
        All weights, by layer.
    architecture_ : dict
        What the network is built from, as the parameters were at the fit.
    mean_, scale_ : ndarray of shape (C,), float32
        By which images are standardized.
    window_sizes_ : list of int
        Sides of the windows that are scored; empty in the level "image".
    stride_ : int
    aligned_ : bool
    gaussians_ : list of PositionwiseGaussian
        Of features, by side of the windows, or the one of images.
    feature_scales_ : list of float
        By which features, of length 1, are divided.
    statistics_ : ndarray of shape (sizes, 2), float64
        Mean and standard deviation of the distances of held-out windows.
    history_ : dict of str to list of float
        Mean losses, every 25 steps: "training", or with weights "head" and "fine-tuning".
    accuracy_ : dict of str to float
        Share of new views of each class, "good", "pasted", "scar", that the network tells right.
    offset_, learned_from_, image_fit_, n_channels_in_, layer_shapes_, n_features_in_ :
        As in BaseImageDetector.

    See Also
    --------
    GlobalLocal : Compares patches with what their surroundings predict.

    Notes
    -----
    The paper says neither how deep its head is, nor how much images are shifted and jittered: here
    one layer of 128; shifts of 4 % of the side, of whole images only; 0.1. It names no covariance
    estimator: Ledoit and Wolf's, plus 1 % of the mean variance. Features are divided by their
    length, as in the code of the authors' previous work. The paper chooses by category whether
    there is a Gaussian for each position, and tests windows of half the crops' side; here held-out
    images, a fifth, choose, and "quick" averages two sides, each in standard deviations of the
    held-out distances: larger windows detect, smaller ones locate. They and the size of its images
    were chosen by defects painted into held-out good castings. A piece that changes nothing
    visible is drawn again, up to 8 times. The aspect's logarithm is drawn uniformly, as in random
    erasing; hues turn about the axis of grays. The map is bilinear between the windows' centers and
    smoothed by ``sigma``; the paper's is 10 pixels. GradCAM is not scaled to each image's own
    maximum: that is the image's distance. Pastes on even ground cannot be told from it: the share
    of scars among ``accuracy_`` stays below 1 where there is much of it.

    With ``roi`` the network learns crops of images that are blank outside, from everywhere; the
    Gaussian of all positions, the choice between the two and ``statistics_`` are of the windows
    whose middle lies inside. A feature of an image is one of all of it. With tiles, whose positions
    are not those of the image, windows have one Gaussian; ``aligned=True`` is refused.

    References
    ----------
    Li, Sohn, Yoon, Pfister, "CutPaste: Self-Supervised Learning for Anomaly Detection and
    Localization", CVPR 2021.

    Examples
    --------
    >>> from skanomaly import CutPaste
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(4, size=(64, 64), random_state=0)
    >>> detector = CutPaste("tiny", image_size=64, patch_size=32, n_iter=2).fit(good)
    >>> detector.score_map(good[:2]).shape
    (2, 64, 64)
    """

    _default_size = 128
    _unused_by_hooks = (
        "checkpoint", "contamination", "image_score", "n_jobs", "sigma", "verbose",
    )  # fmt: skip
    _transient = ("_encoder", "_image_density")

    _parameter_constraints = {
        **BaseImageDetector._parameter_constraints,
        "encoder": [None, str],
        "weights": [None, str, Path],
        "level": [StrOptions({"patch", "image"})],
        "variant": [StrOptions(set(KINDS))],
        "patch_size": [Interval(Integral, 8, None, closed="left")],
        "test_size": [None, Interval(Integral, 8, None, closed="left"), "array-like"],
        "stride": [None, Interval(Integral, 1, None, closed="left")],
        "aligned": [StrOptions({"auto"}), "boolean"],
        "area": ["array-like"],
        "aspect": ["array-like"],
        "scar_width": ["array-like"],
        "scar_length": ["array-like"],
        "jitter": [Interval(Real, 0, 0.5, closed="both")],
        "preset": [StrOptions({"quick", "paper"})],
        "n_iter": [None, Interval(Integral, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "dtype": [StrOptions({"float32", "bfloat16"})],
        "checkpoint": [None, str, Path],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        encoder=None,
        *,
        weights=None,
        level="patch",
        variant="3way",
        patch_size=64,
        test_size=None,
        stride=None,
        aligned="auto",
        area=(0.02, 0.15),
        aspect=(0.3, 3.3),
        scar_width=(2, 16),
        scar_length=(10, 25),
        jitter=0.1,
        preset="quick",
        n_iter=None,
        learning_rate=0.03,
        image_size=None,
        resize="stretch",
        tile_size=None,
        tile_overlap=32,
        roi=None,
        image_score="map_max",
        sigma=4.0,
        contamination=0.01,
        dtype="float32",
        device="auto",
        n_jobs=None,
        checkpoint=None,
        random_state=0,
        verbose=0,
    ):
        self.encoder = encoder
        self.weights = weights
        self.level = level
        self.variant = variant
        self.patch_size = patch_size
        self.test_size = test_size
        self.stride = stride
        self.aligned = aligned
        self.area = area
        self.aspect = aspect
        self.scar_width = scar_width
        self.scar_length = scar_length
        self.jitter = jitter
        self.preset = preset
        self.n_iter = n_iter
        self.learning_rate = learning_rate
        self.image_size = image_size
        self.resize = resize
        self.tile_size = tile_size
        self.tile_overlap = tile_overlap
        self.roi = roi
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.dtype = dtype
        self.device = device
        self.n_jobs = n_jobs
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_is_fitted__(self):
        return hasattr(self, "state_")

    def _input_channels(self):
        return input_channels(encoder_of(self.encoder, self.preset))

    def _fit(self, X):
        X, aligned = X.store(), self._alignment()
        setting = make_setting(self, self.tile_fit.height, self.tile_fit.width)
        check_encoder(setting.encoder, self.weights)
        least = 2 if self.level == "image" else 3  # of patches, one is held out
        if len(X) < least:
            raise ValueError(
                f"expected at least {least} good images, from which a covariance can be learned, "
                f"got n_samples={len(X)}"
            )
        pixels = X.arrays()[PIXELS]  # (n, H, W, C)
        self._set_standardization(setting, pixels)
        views = ViewMaker(
            pixels, self.mean_, self.scale_, setting.crop_side, self.variant, **setting.pastes,
            jitter=self.jitter,
        )  # fmt: skip
        # As it is at the fit: the parameters may be set to others later.
        self.architecture_ = {
            "encoder": setting.encoder,
            "n_channels": self.n_channels_in_,
            "n_classes": len(views.classes),
        }
        network = CutPasteNet(**self.architecture_, weights=self.weights, seed=self.random_state)
        config = self._config(setting, pixels)
        self.history_ = train_network(network, views, setting.n_iter, self.learning_rate, config)
        self.accuracy_ = class_accuracy(network, views, self.random_state)
        self.state_ = to_arrays(network)
        self._encoder = Encoder(network, self.mean_, self.scale_)
        self.window_sizes_, self.stride_ = setting.window_sizes, setting.stride
        self._fit_density(X, aligned)

    def _alignment(self):
        """The parameter aligned; of tiles a position says nothing."""
        if self.tile_size is None or self.level == "image":
            return self.aligned
        if self.aligned != "auto" and self.aligned:
            raise ValueError(
                "expected aligned=False or 'auto' with tile_size, as positions in tiles are not "
                "those in the image, got aligned=True; leave tile_size out, or take PaDiM on "
                "features with tile_size"
            )
        return False

    def _set_standardization(self, setting, pixels):
        if self.weights is None:
            self.mean_, self.scale_ = channel_moments(pixels)
        else:
            known = backbones.describe_backbone(setting.encoder)
            self.mean_, self.scale_ = np.float32(known.mean), np.float32(known.std)

    def _config(self, setting, pixels):
        def identity():
            parameters = training_parameters(self, _NOT_OF_TRAINING)
            parameters |= {"encoder": setting.encoder, "n_iter": setting.n_iter}
            return digest(parameters, image_keys(pixels))

        return configured(
            self,
            setting,
            identity,
            advice="lower learning_rate, and look at the images",
            n_epochs=0,  # each phase has its own
            dtype=self.dtype,
        )

    def _fit_density(self, X, aligned):
        """Gaussians of the features of stored images as they are."""
        pixels, grids = X.arrays()[PIXELS], self._grids()  # (n, H, W, C)
        n, inside = len(pixels), [None]
        if grids:
            features = [
                np.concatenate([self._encoder.window_features(one, grid) for one in pixels])
                for grid in grids
            ]  # by size, (n, rows, columns, K)
            inside = [inside_at(X, *grid.centers()) for grid in grids]
        else:
            features = [np.concatenate([self._encoder.image_features(one) for one in pixels])]
        self.feature_scales_ = [
            typical_deviation(*pair) for pair in zip(features, inside, strict=True)
        ]
        for one, scale in zip(features, self.feature_scales_, strict=True):
            one /= np.float32(scale)
        if grids:
            held_out = np.zeros(n, dtype=bool)
            order = np.random.default_rng(self.random_state).permutation(n)
            held_out[order[: max(1, round(HELD_OUT * n))]] = True
            self.aligned_, self.gaussians_, self.statistics_ = choose_gaussians(
                features, held_out, aligned, inside
            )
        else:
            self.aligned_, self.gaussians_ = True, [fit_gaussian(features[0], True)]
            self.statistics_ = np.zeros((0, 2))

    def _grids(self):
        """The windows of each size; none in the level "image"."""
        size = self.tile_fit
        return window_grids(self.window_sizes_, self.stride_, size.height, size.width)

    def _score_maps(self, X):
        encoder = self._rebuilt("_encoder", self._build_encoder)
        # Where the parameter says now: it may have been set, or "auto" be another device here.
        encoder, pixels = encoder.to(resolve_device(self.device)), X.arrays()[PIXELS]
        if not self.window_sizes_:
            density = self._rebuilt("_image_density", self._build_image_density)
            maps = [image_map(encoder.maps(one), *density) for one in pixels]
        else:
            parts = self._grids(), self.gaussians_, self.aligned_, self.feature_scales_
            maps = [score_windows(encoder, one, *parts, self.statistics_) for one in pixels]
        return np.stack(maps).astype(np.float32)

    def _build_encoder(self):
        network = from_arrays(CutPasteNet(**self.architecture_), self.state_)
        return Encoder(network, self.mean_, self.scale_)

    def _build_image_density(self):
        """mu and P of the features of images, before they are divided by their scale."""
        (gaussian,), (scale,) = self.gaussians_, self.feature_scales_
        precision = np.linalg.inv(gaussian.covariance(0, 0)) / scale**2
        return scale * gaussian.mean_[0, 0].astype(np.float64), precision

    _kept_of_forecast = ("Gaussians",)

    def _forecast(self, layer_shapes, n_images):
        height, width, n_channels = layer_shapes[PIXELS]
        setting = make_setting(self, height, width)
        n_features = CutPasteNet(setting.encoder, n_channels, 2).head[0].in_features
        grids = window_grids(setting.window_sizes, setting.stride, height, width)
        n_places = sum(int(np.prod(grid.shape)) for grid in grids) or 1
        n_views = N_CROPS * (1 + len(KINDS[self.variant]))
        n_pixels = height * width if setting.crop_side is None else setting.crop_side**2
        # Of each place the images' vectors, or a matrix and its factor, whichever are smaller.
        gaussians = 12 * n_places * n_features * min(n_images, n_features // 2)
        return {
            "features": 8 * n_images * n_places * n_features,
            "Gaussians": gaussians,
            "a training step": int(4 * STEP_VALUES * n_features * n_pixels * n_views),
        }
