"""MKD, multiresolution knowledge distillation (Salehi et al., CVPR 2021).

a_s, a_c   a layer's maps of the source, pretrained, and of the cloner, trained on good images
L_dir      sum over layers of 1 - cos(a_s, a_c), whole maps as vectors
L_val      sum over layers of mean (a_s - a_c)^2
L          L_dir + lambda L_val, lambda = 0.5: what the cloner minimizes; over the scored layers the
           score of an image
map        of a cell: 1 - cos over its channels + lambda mean (a_s - a_c)^2, summed over the scored
           layers; or the paper's: of a pixel x: sum over its channels of |dL/dx|
"""

from functools import partial
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.utils import gen_batches

from skanomaly.base import PIXELS, BaseExtractor, BaseImageDetector
from skanomaly.caching import image_keys
from skanomaly.detectors._prefitted import clone_keeping
from skanomaly.detectors.mkd._mkd_network import build_cloner
from skanomaly.detectors.mkd._mkd_scores import compare, gradient_maps, sum_of_maps
from skanomaly.detectors.mkd._mkd_source import (
    BATCH_SIZE,
    N_CHANNELS,
    DifferentiableSource,
    channel_statistics,
    check_differentiable,
    check_source,
    default_source,
    source_layers,
    source_maps,
)
from skanomaly.detectors.mkd._mkd_training import SCHEDULES, train_cloner, training_needs
from skanomaly.io import digest
from skanomaly.training import configured, training_parameters, with_given
from skanomaly.utils.device import resolve_device
from skanomaly.utils.networks import from_arrays, to_arrays
from skanomaly.utils.validation import Interval, StrOptions

SMALLEST_MEAN = 1e-12  # of a layer's losses over good images: those of one value are reproduced
_NOT_OF_TRAINING = (
    "checkpoint", "contamination", "device", "image_score", "map", "n_jobs", "scored_layers",
    "sigma", "source", "verbose",
)  # fmt: skip


class MKD(BaseImageDetector):
    """A small network that reproduces a pretrained one's features on good images alone.

    Where the two differ, there is what the good images did not have. It takes images, not
    features: the pretrained network, its source, is within it.

    Parameters
    ----------
    source : FeatureExtractor, other extractor or None, default=None
        Whose layers are reproduced: fitted, and kept as it is by clones. Take layers of several
        grids, and weights: what is learned from few images or drawn at random is too easily
        reproduced on defects. None: EfficientNet-Lite0, the ends of its stages at strides 4, 8, 16
        and 32, where its weights are installed; otherwise VGG-16 with torchvision's weights, its
        last four poolings, as in the paper.
    width : int, default=16
        Channels of the cloner's neck. A wide cloner reproduces defects as well.
    value_weight : float, default=0.5
        lambda, weight of the value loss beside that of the direction.
    scored_layers : list of str or None, default=None
        The source's layers that scores are made of. None: all but the one of the finest grid, where
        there are three or more.
    map : {"discrepancy", "gradient"}, default="discrepancy"
        What the score map shows: the losses cell by cell; or the gradient of an image's loss by
        its pixels, the paper's, for a FeatureExtractor of convolutions with the same
        ``image_size``.
    standardize : bool or None, default=None
        The source's channels are brought to mean 0 and standard deviation 1 over the good images,
        and the losses of each layer are divided by their mean over the good images, so that
        channels and layers weigh alike. None: the preset's, True for "quick".
    preset : {"quick", "paper"}, default="quick"
        Length, batches and rate of the training: 2400 steps of 16 images, 200 epochs of 200, with a
        rate that falls to 0; or 601 epochs of 64 images, with a constant rate.
    n_epochs, batch_size : int or None, default=None
        Instead of the preset's.
    learning_rate : float or None, default=None
        Of Adam, at the beginning; None: the preset's, 2e-3 or 1e-3.
    image_size : int, (int, int) or None, default=None
        Height and width in pixels that images are brought to; None: 128. A source that is given
        brings them further to its own.
    <resize>
    <pixels_tile_size>
    <pixels_tile_overlap>
    <pixels_roi>
    image_score : {"paper", "map_max"}, default="paper"
        Score of an image: its loss L, or the maximum of the smoothed score map.
    <sigma>
    <contamination>
    device : str, default="auto"
        Where the cloner, and a source that is not given, compute: "cpu", "cuda", ...; "auto" takes
        a GPU where there is one. A source that is given has its own.
    <n_jobs>
    checkpoint : str, Path or None, default=None
        Beginning of the name of a file written after each epoch, from which the same fit resumes.
        It stays until it is deleted.
    random_state : int, default=0
        Draws initial weights and batches.
    <verbose>

    Attributes
    ----------
    source_ : extractor
    layers_ : dict of str to tuple (h, w, C)
        Of the source, from the finest grid to the coarsest.
    statistics_ : list of ndarray of shape (2, C), float32
        Mean and standard deviation of the source's channels over the good images, by layer; 0 and
        1 where they are not standardized.
    is_nonnegative_ : list of bool
        Whether the cloner's layer ends with a ReLU, as no value of the good images is negative.
    state_ : dict of str to ndarray
        Weights of the cloner.
    width_ : int
    value_weight_ : float
        As the parameters were at the fit.
    loss_means_, cell_means_ : ndarray of shape (layers,), float64
        Means over the good images of each layer's loss of an image and of a cell; 1 where they are
        not standardized.
    history_ : dict of str to list of float
        Mean losses by epoch: "LAYER-direction" and "LAYER-value" for each layer.
    offset_, learned_from_, image_fit_, n_channels_in_, layer_shapes_, n_features_in_, fit_digest_ :
        As in BaseImageDetector.

    See Also
    --------
    PatchCore, PaDiM : Compare a pretrained network's features with those of good images.
    GlobalLocal : Compares what a patch looks like with what its surroundings predict.

    Notes
    -----
    The authors' code has lambda at the value loss, as here, and 0.5 for industrial images; their
    formula has it at the other. It trains for 601 epochs at a constant rate, after which the last
    epoch is a matter of luck; "quick" ends with a rate of 0. Of few images it makes as many steps
    as of many. The source's maps are computed once and held.

    The authors compare VGG-16's maps as they are: ``preset="paper"``. Those of other networks have
    channels of very unlike scales, of which a few would decide over direction and value;
    standardized, both losses of a cloner that has learned nothing are 1, whatever the source.
    A source's layer that has negative values on the good images, as a standardized one or the end
    of an EfficientNet's stage, is the output of the cloner's last convolution, behind the
    pooling; any other is pooled behind a ReLU, as VGG-16's.

    The authors' images are not normalized; here the source's are, as its extractor does it. Their
    gradient maps are stretched to [0, 1] image by image, which makes a good image as bright as a
    defective one, and cut at a percentile; here they are as they are, and guided backpropagation is
    left out, being the gradient of nothing. The map of discrepancies is not theirs, but that of
    later methods with a teacher and a student; it costs nothing beside the score.

    With ``roi`` the cloner learns images that are blank outside; means and the paper's score are
    of all of such an image. With tiles that score is the largest of the tiles that meet the region.

    Without a source, and without weights of a default one, ``fit`` raises WeightsError. Where a
    loss becomes NaN, it raises TrainingError and leaves the detector as it was.

    References
    ----------
    Salehi, Sadjadi, Baselizadeh, Rohban, Rabiee, "Multiresolution Knowledge Distillation for
    Anomaly Detection", CVPR 2021.

    Examples
    --------
    >>> from skanomaly import MKD, FilterBank
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(4, size=(64, 64), random_state=0)
    >>> source = FilterBank(n_filters=4, image_size=64, random_state=0).fit(good)
    >>> detector = MKD(source, image_size=64, width=4, n_epochs=2).fit(good)
    >>> detector.score_map(good[:2]).shape
    (2, 64, 64)
    """

    _default_size = 128
    _unused_by_hooks = ("checkpoint", "contamination", "image_score", "n_jobs", "sigma", "verbose")
    _transient = ("_cloner", "_source_network")
    _image_scores_need_maps = False

    _parameter_constraints = {
        **BaseImageDetector._parameter_constraints,
        "source": [None, BaseExtractor],
        "width": [Interval(Integral, 1, None, closed="left")],
        "value_weight": [Interval(Real, 0, None, closed="left")],
        "scored_layers": [None, "array-like"],
        "map": [StrOptions({"discrepancy", "gradient"})],
        "standardize": [None, "boolean"],
        "preset": [StrOptions({"quick", "paper"})],
        "n_epochs": [None, Interval(Integral, 1, None, closed="left")],
        "batch_size": [None, Interval(Integral, 2, None, closed="left")],
        "learning_rate": [None, Interval(Real, 0, None, closed="neither")],
        "checkpoint": [None, str, Path],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        source=None,
        *,
        width=16,
        value_weight=0.5,
        scored_layers=None,
        map="discrepancy",
        standardize=None,
        preset="quick",
        n_epochs=None,
        batch_size=None,
        learning_rate=None,
        image_size=None,
        resize="stretch",
        tile_size=None,
        tile_overlap=32,
        roi=None,
        image_score="paper",
        sigma=4.0,
        contamination=0.01,
        device="auto",
        n_jobs=None,
        checkpoint=None,
        random_state=0,
        verbose=0,
    ):
        self.source = source
        self.width = width
        self.value_weight = value_weight
        self.scored_layers = scored_layers
        self.map = map
        self.standardize = standardize
        self.preset = preset
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.image_size = image_size
        self.resize = resize
        self.tile_size = tile_size
        self.tile_overlap = tile_overlap
        self.roi = roi
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.device = device
        self.n_jobs = n_jobs
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_clone__(self):
        return clone_keeping(self, "source")

    def __sklearn_is_fitted__(self):
        return hasattr(self, "state_")

    def _input_fit(self):
        # Called first in a fit: what is wrong shows before any image is read.
        size = super()._input_fit()
        check_source(self.source, size)
        if self.map == "gradient":
            check_differentiable(self.source, size)
        self._scored(source_layers(self.source, size.height, size.width))
        return size

    def _input_channels(self):
        return N_CHANNELS if self.source is None else self.source.n_channels_in_

    def _fit(self, X):
        if len(X) < 2:
            raise ValueError(
                f"expected at least 2 good images, of which a batch norm learns, got {len(X)}; "
                "pass more of them"
            )
        pixels, schedule = X.arrays()[PIXELS], self._schedule()  # (n, H, W, C)
        self.source_ = self.source
        if self.source is None:
            self.source_ = default_source(self.tile_fit, self.device)
        self.layers_ = source_layers(self.source_, self.tile_fit.height, self.tile_fit.width)
        self.width_, self.value_weight_ = int(self.width), float(self.value_weight)
        maps = source_maps(self.source_, self.layers_, pixels)
        self.statistics_ = [
            channel_statistics(one) if schedule.standardize else _unchanged(one.shape[3])
            for one in maps
        ]
        self._standardize(maps)
        self.is_nonnegative_ = [bool(one.min() >= 0) for one in maps]
        cloner, config = self._build(self.random_state), self._config(pixels, schedule)
        self.history_ = train_cloner(
            cloner, pixels, maps, self.layers_, self.value_weight, schedule, config
        )
        self.state_, self._cloner = to_arrays(cloner), cloner
        self.loss_means_ = self.cell_means_ = np.ones(len(maps))
        if schedule.standardize:
            self.loss_means_, self.cell_means_ = self._means(cloner, pixels, maps)

    def _standardize(self, maps):
        """Maps (n, h, w, C) of the layers, changed in place."""
        for one, (mean, scale) in zip(maps, self.statistics_, strict=True):
            one -= mean
            one /= scale

    def _means(self, cloner, pixels, maps):
        """Means over images of the losses of each layer and of its cells."""
        losses, means = [], []
        for part in gen_batches(len(pixels), BATCH_SIZE):
            some = [one[part] for one in maps]
            loss, cells = compare(cloner, pixels[part], some, self.value_weight_)
            losses.append(loss)
            means.append(np.transpose([one.mean(axis=(1, 2), dtype=np.float64) for one in cells]))
        both = (np.concatenate(one).mean(axis=0) for one in (losses, means))
        return tuple(np.maximum(one, SMALLEST_MEAN) for one in both)

    def _schedule(self):
        return with_given(
            SCHEDULES[self.preset],
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            standardize=self.standardize,
        )

    def _config(self, pixels, schedule):
        def identity():
            return digest(
                "MKD",
                training_parameters(self, _NOT_OF_TRAINING),
                self.source_._identity(),
                image_keys(list(pixels)),
            )

        return configured(
            self,
            schedule,
            identity,
            n_epochs=schedule.count_epochs(len(pixels)),
            advice="lower learning_rate, and look at the images",
        )

    def _build(self, seed=0):
        size = self.tile_fit.height, self.tile_fit.width
        return build_cloner(
            size, self.n_channels_in_, self.layers_, self.is_nonnegative_, self.width_, seed
        )

    def _trained(self):
        """The cloner on its device, rebuilt from state_ on first use."""
        cloner = self._rebuilt("_cloner", lambda: from_arrays(self._build(), self.state_).eval())
        return cloner.to(resolve_device(self.device))

    def _ready_source(self):
        """The source; the default one runs where the cloner does."""
        if self.source is None and self.source_.device != self.device:
            self.source_.set_params(device=self.device)
        return self.source_

    def _differentiable(self):
        """The source's network beside the cloner, rebuilt on first use."""
        check_differentiable(self.source_, self.tile_fit)  # map may have been set since
        build = partial(DifferentiableSource, self.source_, self.layers_)
        return self._rebuilt("_source_network", build).to(resolve_device(self.device))

    def _scored(self, layers):
        """Numbers of the layers that are scored."""
        names = list(layers)
        if self.scored_layers is None:
            return list(range(1 if len(names) >= 3 else 0, len(names)))
        unknown = [name for name in self.scored_layers if name not in names]
        if unknown or not len(self.scored_layers):
            raise ValueError(
                f"expected scored_layers among the layers of the source, {names}, got "
                f"{list(self.scored_layers)}; None takes all but the first"
            )
        return [i for i, name in enumerate(names) if name in set(self.scored_layers)]

    def _compared(self, X):
        """Losses (b, layers) and cells' discrepancies, a list of (b, h, w)."""
        pixels = X.arrays()[PIXELS]
        maps = source_maps(self._ready_source(), self.layers_, pixels)
        self._standardize(maps)
        return compare(self._trained(), pixels, maps, self.value_weight_)

    def _score_maps(self, X):
        scored = self._scored(self.layers_)
        if self.map == "gradient":
            weights = np.zeros(len(self.layers_))
            weights[scored] = 1 / self.loss_means_[scored]
            return gradient_maps(
                self._differentiable(), self._trained(), X.arrays()[PIXELS], self.statistics_,
                weights, self.value_weight_,
            )  # fmt: skip
        losses, cells = self._compared(X)
        X.scratch = losses  # for _score_images
        return sum_of_maps([cells[i] / np.float32(self.cell_means_[i]) for i in scored])

    def _score_images(self, X, score_maps):
        losses = X.scratch if X.scratch is not None else self._compared(X)[0]  # (b, layers)
        scored = self._scored(self.layers_)
        return (losses[:, scored] / self.loss_means_[scored]).sum(axis=1)

    _kept_of_forecast = ()  # networks of a few megabytes

    def _forecast(self, layer_shapes, n_images):
        height, width, _ = layer_shapes[PIXELS]
        layers, batch_size = source_layers(self.source, height, width), self._schedule().batch_size
        return training_needs((height, width), layers, self.width, batch_size, n_images)


def _unchanged(n_channels):
    """Statistics (2, C) that leave maps as they are."""
    return np.stack([np.zeros(n_channels), np.ones(n_channels)]).astype(np.float32)
