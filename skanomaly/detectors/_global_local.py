"""GlobalLocal, "Glancing at the Patch" (Wang et al., CVPR 2021).

Z_l     Local-Net's vector of a patch: what it looks like
Z_g     Global-Net's vector from all but the patch: what its surroundings say it looks like
s_IAD   mean (Z_l - Z_g)^2
s_DAD   1 - C(Z_l, Z_g), C the probability that the patch is clean
s       lambda s_IAD + (1 - lambda) s_DAD: score of a patch; the map's maximum is the image's;
        standardised, of log s_IAD and -log C
"""

from numbers import Integral, Real
from pathlib import Path

from skanomaly._image_fit import ImageFit
from skanomaly._images import channels_of, check_images
from skanomaly._validation import Interval, StrOptions
from skanomaly.base import BaseDetector
from skanomaly.detectors._glance_training import Training, identities_of, schedule_of
from skanomaly.detectors._glances import PIXELS, Glances, pixel_maps, pixels_of, standard_of
from skanomaly.detectors._kept import clone_keeping
from skanomaly.detectors._local_network import grids_of
from skanomaly.detectors._networks import TrainingError
from skanomaly.detectors._stains import check_stains
from skanomaly.detectors._teachers import check_teacher, usual_teacher
from skanomaly.feature_extraction._base import BaseExtractor, image_keys
from skanomaly.feature_maps import FeatureMaps

HELD_OUT = 0.1  # of the good images: what scores of unseen good patches are like
_NOT_OF_TRAINING = (
    "checkpoint", "contamination", "iad_weight", "image_score", "sigma", "teacher", "verbose",
)  # fmt: skip


class GlobalLocal(BaseDetector):
    """What each patch looks like, compared with what its surroundings say it should look like.

    It takes images, not features: its networks are its own, trained on the good images alone.

    Parameters
    ----------
    teacher : FeatureExtractor, FilterBank or None, default=None
        Whose features, averaged over a patch, Local-Net learns to tell from the patch: fitted, and
        kept as it is by clones. None: a FilterBank learned from the same images.
    patch_size : int, or sequence of int, default=33
        Sides of the patches in pixels of the input, of 17, 33 and 65. Of several, each has its
        own networks, and the score map is the mean of theirs.
    global_mode : {"dense", "exact"}, default="dense"
        "exact": the paper's network, once for every patch, which is cut out of the image. "dense":
        a network of rings around the patches that answers for all of them in one pass; nothing of
        a patch reaches the prediction of it, but it sees the rest less sharply.
    preset : {"quick", "paper"}, default="quick"
        Length, batches and rates of the training: minutes, or days on two cores.
    n_iter : int, (int, int, int) or None, default=None
        Iterations of distillation, fine-tuning and joint training instead of the preset's.
    distillation, compactness : float, default=1.0
        Weights of Local-Net's losses: what the teacher says, in entries that differ.
    iad_weight : float in [0, 1], default=0.5
        lambda: how much the difference counts, and the rest the classifier; 0.8 in the paper.
    dad_weight : float, default=0.01
        Weight of the classifier's loss in the joint training.
    stains : dict or None, default=None
        Ranges (least, most) of which each stain that the classifier is shown draws its own: half
        "axes" of the ellipse, of the image's shorter side; "irregularity" of its contour, of the
        mean half axis; "softness" of its edge, of the longer one; "values" of its channels. Those
        not given are (0.01, 0.12), (0.3, 0.7), (0, 0.15) and (0, 1).
    standardize : bool, default=True
        log s_IAD and -log C count, in standard deviations from their mean over the patches of a
        tenth of the images, on which no network is trained: sure and surer differ, and a few
        large differences do not outweigh all. False: raw as in the paper, and all images train.
    hole_stride : int, default=8
        Pixels from one patch to the next in the "exact" mode, a multiple of 8.
    image_size : int or (int, int), default=256
        Height and width in pixels that images are brought to, multiples of 8, and 15 or more
        above the patch; at least 243 for "exact".
    resize, image_score, sigma, contamination :
        As in FilterBank and RegAD: an image's score is the maximum of its smoothed score map.
    dtype : {"float32", "bfloat16"}, default="float32"
        Of the nets' convolutions: the second is faster where processors know it.
    checkpoint : str, Path or None, default=None
        Beginning of the names of files written while training, from which the same fit goes on;
        one that differs in the joint training alone takes Local-Net from them. They stay until
        they are deleted.
    random_state : int, default=0
        Draws weights, patches and stains.
    verbose : int, default=0
        1 shows progress bars with the losses.

    Attributes
    ----------
    state_ : dict of str to ndarray
        All weights. A pickle carries them and none of the pictures.
    history_ : dict of str to list of float
        Mean losses, every 25 iterations, by patch size and phase: "33-distillation",
        "33-fine-tuning", "33-joint".
    teacher_ : FeatureExtractor or FilterBank
    mean_, scale_ : ndarray of shape (C,), of the images' channels
    statistics_ : ndarray of shape (sizes, 2, 2) or None
        Mean and standard deviation of log s_IAD and of -log C on held-out good patches.
    n_channels_in_ : int, channels of the images; grey counts as RGB
    offset_ : float

    Notes
    -----
    Where this is not the paper: it distils Local-Net on ImageNet before the good images; here both
    phases see the good images alone, standardised. Its joint training draws a place and a stain
    anew each time; here 32 patches of each image are stained once, and "exact" cuts 16 holes out of
    an image at a time. Of images larger than 256 its network would have a map, which is averaged.
    The score map is bilinear between patches. Distillation's loss is a mean over the teacher's
    channels, not a sum. Local-Net reads 30 of a patch's 33 pixels, 16 of 17 and 58 of 65.

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

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
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
        "image_size": BaseExtractor._parameter_constraints["image_size"],
        "resize": BaseExtractor._parameter_constraints["resize"],
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
        image_size=256,
        resize="stretch",
        image_score="map_max",
        sigma=4.0,
        contamination=0.01,
        dtype="float32",
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
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.dtype = dtype
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_clone__(self):
        return clone_keeping(self, "teacher")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_offset")

    def fit(self, X, y=None):
        """Train on good images.

        Parameters
        ----------
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
            At least two, or one without ``standardize``.
        y : array of shape (n,), masks, or None, default=None
            Images marked as defects are left out.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            An image cannot be used; they are too few; the input leaves nothing around the patch;
            the teacher is not fitted; a file of a checkpoint is damaged.
        TrainingError
            A loss is no longer a number. Where the networks of all sizes have learned something in
            the joint training, the detector is fitted with their last good state; else it stays as
            it was before the fit.
        """
        super().fit(X, y)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return self

    def _check_X(self, X, *, reset):
        """Images as FeatureMaps of their pixels, read when asked for."""
        if isinstance(X, FeatureMaps):
            raise ValueError(
                "GlobalLocal expects images, got features; leave the extractor out of the "
                "pipeline, and give it as the teacher if it is to be one"
            )
        images = check_images(X)
        if reset:
            size = ImageFit.from_size(self.image_size, self.resize)
            return pixel_maps(images, size, channels_of(images))
        return pixel_maps(images, self._size, self.n_channels_in_)

    def _fit(self, X):
        # What is fitted stays as it is, whatever parameters are set later.
        self._size, (_, _, self.n_channels_in_) = X.image_fit, X.layer_shapes[PIXELS]
        self._grids = grids_of(self.patch_size, self._size, self.global_mode, self.hole_stride)
        self._shape = self.n_channels_in_, self.global_mode, self.dtype
        check_teacher(self.teacher, self._size, self.n_channels_in_)
        schedule, stains = schedule_of(self.preset, self.n_iter), check_stains(self.stains)
        share = HELD_OUT if self.standardize else 0
        held_out, pixels = pixels_of(X, share, self.random_state)  # (n, H, W, C) each
        self.mean_, self.scale_ = standard_of(pixels)
        self.teacher_ = self.teacher
        if self.teacher is None:
            self.teacher_ = usual_teacher(pixels, self.random_state)
        training = self._training(schedule, stains, pixels)
        self._glances, self._failure = self._untrained(), None
        try:
            self.history_ = self._glances.train(pixels, self.teacher_, training)
        except TrainingError as error:
            if not self._glances.can_judge(error.history):
                raise
            self.history_ = error.history
            # Another error than the one that holds on to all that was being trained on.
            self._failure = TrainingError(f"{error} The last good state is kept.", error.history)
        self.state_ = self._glances.state()
        self.statistics_ = self._glances.statistics(held_out) if self.standardize else None

    def _untrained(self):
        return Glances(self._grids, self._shape, self.mean_, self.scale_)

    def _training(self, schedule, stains, pixels):
        identities = None
        if self.checkpoint is not None:
            seen = self.teacher_._identity(), image_keys(pixels)
            identities = identities_of(self._settings(_NOT_OF_TRAINING), schedule, *seen)
        return Training(
            schedule, self.distillation, self.compactness, self.dad_weight,
            stains, self.random_state, identities, self.checkpoint, self.verbose,
        )  # fmt: skip

    def _score_batch(self, X):
        if self._glances is None:
            self._glances = self._untrained().load(self.state_)
        total = self._glances.scores(X.arrays()[PIXELS], self.statistics_, self.iad_weight)
        return total, X.image_fit.smooth(total, self.sigma).max(axis=(1, 2))

    def __getstate__(self):
        return {**super().__getstate__(), "_glances": None}
