"""GlobalLocal, "Glancing at the Patch" (Wang et al., CVPR 2021).

Z_l     Local-Net's embedding of a patch, from its own pixels
Z_g     Global-Net's prediction of it, from all but the patch
s_IAD   mean (Z_l - Z_g)^2: inconsistency
s_DAD   1 - C(Z_l, Z_g), C the probability that the patch is clean: distortion
s       lambda s_IAD + (1 - lambda) s_DAD: score of a patch; standardized, of log s_IAD and -log C
"""

from numbers import Integral, Real
from pathlib import Path

import numpy as np

from skanomaly.base import PIXELS, BaseExtractor, BaseImageDetector
from skanomaly.caching import image_keys
from skanomaly.detectors._prefitted import clone_keeping
from skanomaly.detectors.global_local._patch_comparison import Architecture
from skanomaly.detectors.global_local._patch_grid import patch_grids
from skanomaly.detectors.global_local._scoring import PatchScorer
from skanomaly.detectors.global_local._teacher_features import (
    channel_moments,
    check_teacher,
    default_teacher,
    n_teacher_features,
)
from skanomaly.detectors.global_local._training_phases import (
    JOINT,
    PHASES,
    TrainingPlan,
    checkpoint_identities,
    make_schedule,
    train_networks,
    training_needs,
)
from skanomaly.exceptions import TrainingError
from skanomaly.training import check_stains, training_parameters
from skanomaly.utils.device import resolve_device
from skanomaly.utils.networks import from_arrays, to_arrays
from skanomaly.utils.validation import Interval, StrOptions

HELD_OUT = 0.1  # share of the good images, whose scores are like those of unseen good images
SMALLEST_SCALE = 1e-3  # of brightness, where a channel is the same everywhere
_NOT_OF_TRAINING = (
    "checkpoint", "contamination", "device", "iad_weight", "image_score", "n_jobs", "sigma",
    "teacher", "verbose",
)  # fmt: skip


class GlobalLocal(BaseImageDetector):
    """What each patch looks like, compared with what its surroundings predict.

    It takes images, not features: its networks are its own, trained on the good images alone.

    Parameters
    ----------
    teacher : FeatureExtractor, FilterBank or None, default=None
        Whose features, averaged over a patch, Local-Net learns to predict from the patch: fitted,
        and kept as it is by clones. None: a FilterBank learned from the same images.
    patch_size : int, or sequence of int, default=33
        Sides of the patches in pixels of the input, of 17, 33 and 65. Of several, each has its
        own networks, and the score map is the mean of theirs.
    global_mode : {"dense", "exact"}, default="dense"
        "exact": the paper's network, once for every patch, which is cut out of the image. "dense":
        a network of rings around the patches that predicts all of them in one pass; nothing of
        a patch reaches the prediction of it, but it sees the rest less sharply.
    preset : {"quick", "paper"}, default="quick"
        Length, batches and learning rates of the training: minutes, or days on two cores.
    n_iter : int, (int, int, int) or None, default=None
        Iterations of distillation, fine-tuning and joint training instead of the preset's.
    distillation, compactness : float, default=1.0
        Weights of Local-Net's losses: the difference from the teacher's features, and the
        correlation of the embedding's entries.
    iad_weight : float in [0, 1], default=0.5
        lambda, weight of the inconsistency; the rest is the classifier's. 0.8 in the paper.
    dad_weight : float, default=0.01
        Weight of the classifier's loss in the joint training.
    stains : dict or None, default=None
        Ranges (least, most) from which each synthetic stain that the classifier is trained on draws
        its own: half "axes" of the ellipse, of the image's shorter side; "irregularity" of its
        contour, of the mean half axis; "softness" of its edge, of the longer one; "values" of its
        channels. Those not given are (0.01, 0.12), (0.3, 0.7), (0, 0.15) and (0, 1).
    standardize : bool, default=True
        log s_IAD and -log C count, in standard deviations from their mean over the patches of a
        tenth of the images, on which no network is trained: sure and surer differ, and a few
        large differences do not outweigh all. False: raw as in the paper, and all images train.
    hole_stride : int, default=8
        Pixels from one patch to the next in the "exact" mode, a multiple of 8.
    image_size : int, (int, int) or None, default=None
        Height and width in pixels that images are brought to, multiples of 8, and 15 or more above
        the patch; at least 243 for "exact". None: 256.
    <resize>
    <pixels_tile_size>
    <pixels_tile_overlap>
    <pixels_roi>
    image_score : {"paper", "map_max"}, default="map_max"
        Score of an image: the maximum of its score map as it is ("paper"; the paper itself has no
        scores of images), or smoothed.
    <sigma>
    <contamination>
    dtype : {"float32", "bfloat16"}, default="float32"
        Of the networks' convolutions: the second is faster where processors support it.
    <device>
    <n_jobs>
    checkpoint : str, Path or None, default=None
        Beginning of the names of files written while training, from which the same fit resumes;
        one that differs in the joint training alone takes Local-Net from them. They stay until
        they are deleted.
    random_state : int, default=0
        Draws initial weights, patches and stains.
    verbose : int, default=0
        1 shows progress bars with the losses.

    Attributes
    ----------
    state_ : dict of str to ndarray
        All weights, by patch size, network and layer.
    architecture_ : Architecture
        What the networks are built from, as the parameters were at the fit.
    mean_, scale_ : ndarray of shape (C,), float32
        Mean and standard deviation of the images' channels.
    statistics_ : ndarray of shape (sizes, 2, 2), float64, or None
        Mean and standard deviation of log s_IAD and of -log C on held-out good patches; None with
        ``standardize=False``.
    teacher_ : FeatureExtractor or FilterBank
    history_ : dict of str to list of float
        Mean losses, every 25 iterations, by patch size and phase: "33-distillation",
        "33-fine-tuning", "33-joint".
    failure_ : str or None
        Message of the TrainingError that ended the training early, if one did.
    offset_, learned_from_, image_fit_, n_channels_in_, layer_shapes_, n_features_in_ :
        As in BaseImageDetector.

    See Also
    --------
    PatchCore, PaDiM : Train no network.

    Notes
    -----
    Where this is not the paper: it distills Local-Net on ImageNet before the good images; here both
    phases see the good images alone, standardized. Its joint training draws a place and a stain
    anew each time; here 32 patches of each image are stained once, and "exact" cuts 16 holes out of
    an image at a time. Of images larger than 256 its network would have a map, which is averaged.
    The score map is bilinear between patches. Distillation's loss is a mean over the teacher's
    channels, not a sum. Local-Net reads 30 of a patch's 33 pixels, 16 of 17 and 58 of 65.

    With ``roi`` the networks learn patches of images that are blank outside, from everywhere;
    ``statistics_`` are of the patches whose middle lies inside. With tiles the paper's score is the
    maximum of the joined map.

    References
    ----------
    Wang, Wu, Cui, Shen, "Glancing at the Patch: Anomaly Localization With Global and Local Feature
    Comparison", CVPR 2021.

    Examples
    --------
    >>> from skanomaly import GlobalLocal
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(4, size=(64, 64), random_state=0)
    >>> detector = GlobalLocal(image_size=64, n_iter=2).fit(good)
    >>> detector.score_map(good[:2]).shape
    (2, 64, 64)
    """

    _default_size = 256
    _unused_by_hooks = (
        "checkpoint", "contamination", "image_score", "n_jobs", "sigma", "verbose",
    )  # fmt: skip
    _transient = ("_scorer",)

    _parameter_constraints = {
        **BaseImageDetector._parameter_constraints,
        "teacher": [None, BaseExtractor],
        "patch_size": [Integral, "array-like"],
        "global_mode": [StrOptions({"dense", "exact"})],
        "preset": [StrOptions({"quick", "paper"})],
        "n_iter": [None, Interval(Integral, 0, None, closed="left"), "array-like"],
        "distillation": [Interval(Real, 0, None, closed="left")],
        "compactness": [Interval(Real, 0, None, closed="left")],
        "iad_weight": [Interval(Real, 0, 1, closed="both")],
        "dad_weight": [Interval(Real, 0, None, closed="left")],
        "stains": [None, dict],
        "standardize": ["boolean"],
        "hole_stride": [Interval(Integral, 8, None, closed="left")],
        "dtype": [StrOptions({"float32", "bfloat16"})],
        "checkpoint": [None, str, Path],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        teacher=None,
        *,
        patch_size=33,
        global_mode="dense",
        preset="quick",
        n_iter=None,
        distillation=1.0,
        compactness=1.0,
        iad_weight=0.5,
        dad_weight=0.01,
        stains=None,
        standardize=True,
        hole_stride=8,
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
        self.teacher = teacher
        self.patch_size = patch_size
        self.global_mode = global_mode
        self.preset = preset
        self.n_iter = n_iter
        self.distillation = distillation
        self.compactness = compactness
        self.iad_weight = iad_weight
        self.dad_weight = dad_weight
        self.stains = stains
        self.standardize = standardize
        self.hole_stride = hole_stride
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

    def __sklearn_clone__(self):
        return clone_keeping(self, "teacher")

    def __sklearn_is_fitted__(self):
        return hasattr(self, "state_")

    def fit(self, X, y=None):
        """Train on good images.

        Parameters
        ----------
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
            uint8, uint16, or floats in [0, 1]; sizes may differ. At least two, or one without
            ``standardize``.
        y : array of shape (n,), masks, or None, default=None
            Labels, +1 good and -1 defect, or masks: images marked as defects are left out.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            An image cannot be used; they are too few; the input leaves nothing around the patch;
            the teacher is not fitted; a checkpoint is damaged; y is coded otherwise, as 0/1, marks
            every image as a defect, or has another length than X.
        TrainingError
            A loss is not finite. Where the networks of all sizes have learned something in the
            joint training, the detector is fitted with their last good state; else it stays as it
            was before the fit.
        """
        super().fit(X, y)
        # Not from within: a fit that fails is undone, and this one is to be kept.
        if self.failure_ is not None:
            raise TrainingError(self.failure_, self.history_)
        return self

    def _fit(self, X):
        grids = self._patch_grids(self.tile_fit.height, self.tile_fit.width)
        # As it is at the fit: the parameters may be set to others later.
        self.architecture_ = Architecture(grids, self.n_channels_in_, self.global_mode, self.dtype)
        schedule, stains = make_schedule(self.preset, self.n_iter), check_stains(self.stains)
        check_teacher(self.teacher, self.tile_fit, self.n_channels_in_)
        n_held_out = max(1, round(HELD_OUT * len(X))) if self.standardize else 0
        if len(X) <= n_held_out:
            raise ValueError(
                f"expected at least {n_held_out + 1} good images, of which {n_held_out} are held "
                f"out to standardize the scores, got {len(X)}"
            )
        X = X.store()
        pixels = X.arrays()[PIXELS]  # (n, H, W, C)
        order = np.random.default_rng(self.random_state).permutation(len(X))
        images = [pixels[i] for i in np.sort(order[n_held_out:])]  # of shape (H, W, C); views
        self.mean_, scale = channel_moments(images)
        self.scale_ = np.maximum(scale, np.float32(SMALLEST_SCALE))
        if self.teacher is not None:
            self.teacher_ = self.teacher
        else:
            self.teacher_ = default_teacher(images, self.random_state)
        networks = self._train(images, self._plan(schedule, stains, images))
        self.state_ = to_arrays(networks)
        self._scorer = PatchScorer(networks, grids, self.mean_, self.scale_)
        self.statistics_ = None
        if self.standardize:
            # Networks predict what they were trained on too well to measure their usual errors.
            held_out = X[np.sort(order[:n_held_out])]
            self.statistics_ = self._scorer.score_statistics(held_out)

    def _build_scorer(self):
        networks = from_arrays(self.architecture_.build(), self.state_)
        return PatchScorer(networks, self.architecture_.grids, self.mean_, self.scale_)

    def _patch_grids(self, height, width):
        return patch_grids(self.patch_size, height, width, self.global_mode, self.hole_stride)

    def _train(self, images, plan):
        """Networks trained on a list of images (H, W, C); sets history_ and failure_."""
        grids = self.architecture_.grids
        networks, self.failure_ = self.architecture_.build(self.random_state), None
        try:
            self.history_ = train_networks(
                networks, grids, images, self.mean_, self.scale_, self.teacher_, plan
            )
        except TrainingError as error:
            if not all(error.history.get(f"{grid.side}-{PHASES[JOINT]}") for grid in grids):
                raise
            # Its message alone: the error itself holds on to all that was being trained on.
            self.failure_ = f"{error} The last good state is kept."
            self.history_ = error.history
        return networks

    def _plan(self, schedule, stains, images):
        identities = None
        if self.checkpoint is not None:
            parameters = training_parameters(self, _NOT_OF_TRAINING)
            data = self.teacher_._identity(), image_keys(images)
            identities = checkpoint_identities(parameters, schedule, *data)
        return TrainingPlan(
            schedule, self.distillation, self.compactness, self.dad_weight, stains,
            self.random_state, self.device, self.checkpoint, identities, self.verbose,
        )  # fmt: skip

    def _score_maps(self, X):
        scorer = self._rebuilt("_scorer", self._build_scorer)
        # Where the parameter says now: it may have been set, or "auto" be another device here.
        scorer = scorer.to(resolve_device(self.device))
        return scorer.score_maps(X.arrays()[PIXELS], self.statistics_, self.iad_weight)

    _kept_of_forecast = ()  # networks of a few megabytes

    def _forecast(self, layer_shapes, n_images):
        height, width, n_channels = layer_shapes[PIXELS]
        grids, schedule = self._patch_grids(height, width), make_schedule(self.preset, self.n_iter)
        n_features = n_teacher_features(self.teacher, n_channels)
        return training_needs(grids, self.global_mode, schedule, n_channels, n_features, n_images)
