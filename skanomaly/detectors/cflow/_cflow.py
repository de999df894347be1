"""CFLOW-AD (Gudovskiy, Ishizaka, Kozuka, WACV 2022).

x          C numbers of a place of a layer, in units of the place's own spread: "position"
c          code of the place, P numbers: sines and cosines of its column and row
log p      -C/2 log 2 pi - |z|^2 / 2 + log-det, z and log-det of x by the layer's flow, given c
l          log p / C
L          mean of -log sigmoid(l) over the good images' places; a flow and an Adam for each layer
S          probability: number of layers - sum over them of exp(min(0, l - a)), a the largest l
           in training
           standard: mean over them of (-l - m) / s, m and s of -l on held-out good images
The paper: 8 blocks, P = 128, no "position", 200 epochs of batches of 256, rate 2e-4; a the largest
l over all *test* images, here over the training images.
"""

import math
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch

from skanomaly.base import BaseDetector
from skanomaly.detectors.cflow._cflow_network import MEASURES, ConditionalFlows
from skanomaly.detectors.cflow._cflow_scoring import (
    combined,
    image_moments,
    layer_scores,
    score_constants,
)
from skanomaly.detectors.cflow._cflow_training import (
    SCHEDULES,
    split,
    train_flows,
    training_needs,
)
from skanomaly.detectors.cflow._flow_inputs import (
    choose_channels,
    chosen_maps,
    place_statistics,
    places_inside,
    standardized,
)
from skanomaly.embedding import check_odd
from skanomaly.exceptions import TrainingError
from skanomaly.io import digest
from skanomaly.training import configured, training_parameters, with_given
from skanomaly.utils.device import resolve_device
from skanomaly.utils.networks import from_arrays, to_arrays
from skanomaly.utils.validation import Interval, StrOptions

_NOT_OF_TRAINING = (
    "checkpoint", "combine", "contamination", "device", "image_score", "measure", "sigma",
    "verbose",
)  # fmt: skip


class CFlow(BaseDetector):
    """How likely the features of a place are, by a conditional normalizing flow of each layer.

    A flow learns one distribution for all places of a layer, given where each is: it usually
    needs less memory than a Gaussian for each place, and is not bound to the Gaussian's shape.
    Images should be aligned.

    Parameters
    ----------
    n_components : int or None, default=None
        Channels in use of each layer, drawn at random; None, or more than there are: all. Weights
        and time grow with its square.
    n_blocks : int or None, default=None
        Coupling blocks of a flow; None: the preset's, as with all that is None below.
    condition_size : int or None, default=None
        Numbers that say where a place is, a multiple of 4; 0: the flows do not know.
    hidden_ratio : float or None, default=None
        Width of the blocks' subnets in units of their input.
    clamp : float, default=1.9
        Largest logarithm of a block's factors.
    mixing : {"permutation", "rotation"}, default="permutation"
        What brings the channels together between blocks: another order, which costs nothing, or a
        random rotation, as in the paper.
    standardize : {"position", "none"} or None, default=None
        "position": each place's features are first brought to mean 0 and about spread 1 over the
        good images, in closed form. What a place looks like on average then need not be learned
        from its code.
    measure : {"likelihood", "latent"}, default="likelihood"
        What says how usual a place is: its log-likelihood, the paper's, or minus the squared norm
        of what its features become, without the log-determinant. Which one is better differs
        from set to set.
    combine : {"probability", "standard"} or None, default=None
        How layers add up: likelihoods, in units of the largest one in training, which is the
        paper's; or log-likelihoods, in units of their spread over held-out good images.
    preset : {"quick", "paper"}, default="quick"
        4 blocks, 32 numbers of a place, subnets as wide as their input, "position", "standard", 30
        epochs of batches of 1024 vectors at a rate of 2e-3; or 8, 128, 2, "none", "probability",
        200, 256 and 2e-4, to which ``sigma=0`` belongs.
    n_epochs, batch_size : int or None, default=None
        Passes over the good images, and vectors of a step.
    learning_rate : float or None, default=None
        Of Adam, at its highest.
    patch_size : int, default=1
        Side, in cells, of the neighborhood over which each layer is averaged; odd, 1: none.
    image_score : {"paper", "map_max"}, default="map_max"
        Score of an image: the maximum of S over its places, which is the paper's, or of the
        smoothed score map.
    <sigma>
    <contamination>
    <device>
    checkpoint : str, Path or None, default=None
        Beginning of the name of a file written after each epoch, from which the same fit resumes.
        It stays until it is deleted.
    random_state : int, default=0
        Draws channels, initial weights, held-out images and batches.
    <verbose>

    Attributes
    ----------
    state_ : dict of str to ndarray
        Weights of the flows.
    channels_ : dict of str to ndarray of shape (d,), int
        Channels in use of each layer, ascending.
    place_mean_, place_scale_ : dict of str to ndarray of shape (h, w, d), or None
        What "position" subtracts and divides by.
    constants_ : ndarray of shape (2, n_layers, 3), float64
        By the two measures and the layers: the largest l in training, and mean and standard
        deviation of -l on held-out good images.
    history_ : dict of str to list of float
        By epoch: "loss", and of each layer the mean l on the images trained on,
        "<layer>-training", and on a tenth that is held out, "<layer>-held_out", where there are at
        least ten images.
    settings_ : dict
        The parameters that the flows were made with.
    combine_ : {"probability", "standard"}
        How layers are combined where ``combine`` is None.
    offset_, learned_from_, image_fit_, layer_shapes_, n_features_in_, fit_digest_ :
        As in BaseDetector.

    See Also
    --------
    PaDiM : A Gaussian for each place, in closed form: quicker, and often better at detecting.
    PatchCore : For parts that move about.

    Notes
    -----
    The paper's scores are relative to the largest likelihood over all test images, so that an
    image's score depends on the others; here constants come from the good images alone. Published
    figures are of the epochs that were best on the test set; here the last one is kept. The
    authors' rotation of images by up to 5 degrees is left out: features are what comes in. Last
    batches are not dropped: a layer's vectors are cut into batches of nearly one size.

    "position", "standard" and the quick preset are of this package. Without the first, a short
    training does not learn what each place looks like. Its constant log-determinant is left out, so
    that a place is judged by its own spread. A tenth of a channel's variance over all places is
    added to that of each. "standard" does not saturate: what is twice as far from usual counts
    twice, under the smoothing of the score map, too.

    Layers are brought together on the finest grid, and the base class enlarges the score map; the
    paper enlarges each layer to the input's size with its corners aligned.

    Images are taken in groups of 32, or as many as make a batch, whose vectors are shuffled:
    memory does not grow with the number of images where features are streamed.

    Where a loss becomes NaN, ``fit`` raises TrainingError and leaves the detector as it was.

    References
    ----------
    Gudovskiy, Ishizaka, Kozuka, "CFLOW-AD: Real-Time Unsupervised Anomaly Detection with
    Localization via Conditional Normalizing Flows", WACV 2022.

    Examples
    --------
    >>> from skanomaly import CFlow, FilterBank, Pipeline
    >>> from skanomaly.datasets import make_defects, make_textures
    >>> good = make_textures(20, size=(64, 64), random_state=0)
    >>> bad, masks, kinds = make_defects(good[:5], random_state=0)
    >>> features = FilterBank(image_size=64, random_state=0)
    >>> pipe = Pipeline([("features", features), ("detector", CFlow(n_epochs=5))])
    >>> pipe.fit(good).score_map(bad).shape
    (5, 64, 64)
    """

    _unused_by_hooks = ("checkpoint", "contamination", "image_score", "sigma", "verbose")
    _transient = ("_flows",)

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "n_components": [None, Interval(Integral, 1, None, closed="left")],
        "n_blocks": [None, Interval(Integral, 1, None, closed="left")],
        "condition_size": [None, Interval(Integral, 0, None, closed="left")],
        "hidden_ratio": [None, Interval(Real, 0, None, closed="neither")],
        "clamp": [Interval(Real, 0, None, closed="neither")],
        "mixing": [StrOptions({"permutation", "rotation"})],
        "standardize": [None, StrOptions({"position", "none"})],
        "measure": [StrOptions(set(MEASURES))],
        "combine": [None, StrOptions({"probability", "standard"})],
        "preset": [StrOptions({"quick", "paper"})],
        "n_epochs": [None, Interval(Integral, 1, None, closed="left")],
        "batch_size": [None, Interval(Integral, 1, None, closed="left")],
        "learning_rate": [None, Interval(Real, 0, None, closed="neither")],
        "patch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str],
        "checkpoint": [None, str, Path],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        n_components=None,
        n_blocks=None,
        condition_size=None,
        hidden_ratio=None,
        clamp=1.9,
        mixing="permutation",
        standardize=None,
        measure="likelihood",
        combine=None,
        preset="quick",
        n_epochs=None,
        batch_size=None,
        learning_rate=None,
        patch_size=1,
        image_score="map_max",
        sigma=4.0,
        contamination=0.01,
        device="auto",
        checkpoint=None,
        random_state=0,
        verbose=0,
    ):
        self.n_components = n_components
        self.n_blocks = n_blocks
        self.condition_size = condition_size
        self.hidden_ratio = hidden_ratio
        self.clamp = clamp
        self.mixing = mixing
        self.standardize = standardize
        self.measure = measure
        self.combine = combine
        self.preset = preset
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.patch_size = patch_size
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.device = device
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose

    def _fit(self, X):
        schedule = self._schedule()
        rows, held_out = split(len(X), self.random_state)
        self.settings_, self.combine_ = self._settings_of(schedule), schedule.combine
        self.channels_ = choose_channels(self.layer_shapes_, self.n_components, self.random_state)
        self.place_mean_ = self.place_scale_ = None
        if schedule.standardize == "position":
            self.place_mean_, self.place_scale_ = self._place_statistics(X[rows])
        flows = self._build(self.random_state)
        names = list(self.layer_shapes_)
        config = self._config(X, schedule)

        def read(some):
            piece = X[some].store()
            return self._inputs(piece), self._inside(piece)

        self.history_ = train_flows(flows, names, read, rows, held_out, schedule, config)
        self.state_, self._flows = to_arrays(flows), flows
        moments = [
            image_moments(self._layer_scores(piece), self._inside(piece)) for piece in X.batches()
        ]
        is_held_out = np.isin(np.arange(len(X)), held_out)
        self.constants_ = score_constants(np.concatenate(moments), is_held_out)
        if not np.isfinite(self.constants_).all():
            raise TrainingError(
                "a likelihood of a good image is not finite; lower learning_rate, and look at the "
                "features",
                self.history_,
            )

    def _schedule(self):
        check_odd(self.patch_size)
        if self.condition_size is not None and self.condition_size % 4:
            raise ValueError(
                "expected condition_size as a multiple of 4, for sines and cosines of columns and "
                f"rows, got {self.condition_size}"
            )
        names = (
            "n_blocks", "condition_size", "hidden_ratio", "standardize", "combine", "n_epochs",
            "batch_size", "learning_rate",
        )  # fmt: skip
        return with_given(SCHEDULES[self.preset], **{name: getattr(self, name) for name in names})

    def _settings_of(self, schedule):
        """The parameters of the flows, as they are at the fit."""
        return {
            "n_blocks": int(schedule.n_blocks),
            "condition_size": int(schedule.condition_size),
            "hidden_ratio": float(schedule.hidden_ratio),
            "clamp": float(self.clamp),
            "mixing": self.mixing,
        }

    def _place_statistics(self, X):
        if len(X) < 2:
            raise ValueError(
                "expected at least 2 good images, for the spread of each place, got n_samples=1; "
                'pass more of them, or standardize="none"'
            )
        return place_statistics(
            (chosen_maps(piece, self.channels_, self.patch_size), self._inside(piece))
            for piece in X.batches()
        )

    def _inside(self, X):
        """Where the patches of a few stored images count, by layer."""
        return places_inside(X, [shape[:2] for shape in self.layer_shapes_.values()])

    def _inputs(self, X):
        """What the flows get of a few images, ndarray (b, h, w, d) of each layer."""
        maps = chosen_maps(X, self.channels_, self.patch_size)
        if self.place_mean_ is None:
            return [standardized(one, None, None) for one in maps.values()]
        return [
            standardized(one, self.place_mean_[name], self.place_scale_[name])
            for name, one in maps.items()
        ]

    def _build(self, seed=0):
        shapes = [
            (height, width, len(self.channels_[name]))
            for name, (height, width, _) in self.layer_shapes_.items()
        ]
        return ConditionalFlows(shapes, **self.settings_, seed=seed)

    def _config(self, X, schedule):
        def identity():
            return digest(
                "CFlow",
                training_parameters(self, _NOT_OF_TRAINING),
                [digest(p.arrays(), self._inside(p)) for p in X.batches()],
            )

        return configured(
            self,
            schedule,
            identity,
            advice="lower learning_rate, and look at the features",
        )

    def _layer_scores(self, X):
        flows = self._rebuilt("_flows", lambda: from_arrays(self._build(), self.state_).eval())
        device = resolve_device(self.device)
        return layer_scores(flows.to(device), self._inputs(X), device)

    def _score_maps(self, X):
        kind = MEASURES.index(self.measure)
        scores = [of_layer[kind] for of_layer in self._layer_scores(X)]
        return combined(scores, self.constants_[kind], self.combine or self.combine_)

    _kept_of_forecast = ("flows", "place statistics")

    def _forecast(self, layer_shapes, n_images):
        schedule = self._schedule()
        shapes = [
            (height, width, min(self.n_components or n_channels, n_channels))
            for height, width, n_channels in layer_shapes.values()
        ]
        with torch.device("meta"):  # shapes alone
            settings = self._settings_of(schedule) | {"mixing": "permutation"}
            flows = ConditionalFlows(shapes, **settings)
        n_read = sum(math.prod(shape) for shape in layer_shapes.values())
        return training_needs(flows, shapes, n_read, schedule, self.mixing, n_images)
