"""TDG, "A Hierarchical Transformation-Discriminating Generative Model" (Sheynin et al., ICCV 2021).

T_j      M transformations: turns, flips, shifts, gray
D_s      discriminator of scale s: of each patch of 11 x 11 pixels it says which T_j the image went
         through, or that it was generated; G_s generates images that D_s is to be deceived by
p_s(j)   its probability of the right j, among the M, of each patch of T_j x
m_s      1/M sum_j T_j^-1 [-log p_s(j)]: score of a place at scale s; the map is their mean
score    - 1/S sum_s sum_j mean of the lowest 10 % of p_s(j): score of an image
"""

import warnings
from dataclasses import asdict
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from skanomaly.base import PIXELS, BaseImageDetector
from skanomaly.caching import image_keys
from skanomaly.detectors.tdg._named_transformations import (
    KINDS,
    Transformation,
    cross_entropies,
    is_colored,
    named_transformations,
)
from skanomaly.detectors.tdg._tdg_networks import build_discriminators
from skanomaly.detectors.tdg._tdg_scoring import TransformationScorer, score_statistics
from skanomaly.detectors.tdg._tdg_training import (
    SCHEDULES,
    make_schedule,
    train_discriminators,
    training_needs,
)
from skanomaly.io import digest
from skanomaly.training import AUGMENTATIONS, augment, configured
from skanomaly.utils.device import resolve_device
from skanomaly.utils.networks import from_arrays, to_arrays
from skanomaly.utils.validation import Interval, StrOptions

LEARNED = 0.9  # share of chance's cross-entropy from which on discriminators have learned nothing


class TDG(BaseImageDetector):
    """How surely each patch tells which way an image was turned, from a few good images.

    Discriminators learn, on the good images, to name the transformation of an image from a patch of
    it. Where they are wrong, there is something that the good images have not. For parts, patterns
    and textures with an orientation: what looks alike whichever way it is turned cannot be judged.
    It takes images, not features.

    Parameters
    ----------
    n_images : int, default=8
        Good images that are trained on, drawn from those of the fit: it is meant for 1 to 10. Of
        further ones come the threshold and the usual scores.
    transformations : {"turns", "dihedral", "paper"}, default="dihedral"
        What is named: 4 quarter turns; these of the image and its mirror image, 8; the paper's 42,
        with shifts. In color they are 4, 16 and 54, as then it is named, too, whether the
        image has become gray.
    augmentations : sequence of str, default=()
        Kinds of copies of each image that are trained on as well, of those of RegAD: with
        ``("rotations", "translations", "flip", "grey", "quarter_turns")`` this is TDG+.
    generator : bool, default=True
        Whether the discriminators also learn to tell images of a generator. Without, the training
        takes about half the time; in the paper it was 3 or 4 points worse.
    sizes : sequence of int, or None, default=None
        Sides, in pixels, of the images of each scale, rising; they are squares. None: 32, 64
        ("quick") or 26, 32, 41, 51, 64 ("paper"). At least 12, at most ``image_size``.
    fraction : float in (0, 1], default=0.1
        Share of the patches that make the paper's score of an image: the least sure ones. 0.05 in
        the paper where there is one image.
    standardize : bool, default=True
        A scale's map counts in standard deviations from what is usual at each place in good images.
        False: raw.
    preset : {"quick", "paper"}, default="quick"
        Scales, batches and steps of the training: minutes, or a day on two cores.
    n_iter : int or None, default=None
        Iterations of each scale; None: 1000.
    image_size : int, (int, int) or None, default=None
        Height and width in pixels that images are brought to before the scales are made; None: 128.
    <resize>
    <pixels_tile_size>
    <pixels_tile_overlap>
    <pixels_roi>
    image_score : {"paper", "map_max"}, default="paper"
        Score of an image: the mean probability of its least sure patches, of all transformations
        and scales, or the maximum of its smoothed score map.
    <sigma>
    <contamination>
    <device>
    <n_jobs>
    checkpoint : str, Path or None, default=None
        Beginning of the names of files written while training, from which the same fit resumes.
        They stay until they are deleted.
    random_state : int, default=0
        Draws images, initial weights and noise.
    verbose : int, default=0
        1 shows progress bars with the losses.

    Attributes
    ----------
    state_ : dict of str to ndarray
        Weights of the discriminators, by scale and layer.
    transformations_ : list of tuple (n_turns, is_flipped, (x, y), is_gray)
        What is named: quarter turns, whether mirrored before, shifts by 15 % of the side between
        the two, whether without color.
    sizes_ : tuple of int
        Sides of the scales' images.
    mean_ : ndarray of shape (scales, S, S), float32
        Usual score of each place, S the largest side.
    scale_ : ndarray of shape (scales,), float64
        Standard deviation from it.
    cross_entropy_ : ndarray of shape (scales,), float64
        Of the discriminators on the good images: 0 where each transformation is named for sure,
        log M where none is told from another.
    trained_on_ : ndarray of shape (n,), int
        Which of the images of fit were trained on; with tiles, the image of each.
    history_ : dict of str to list of float
        Mean losses of discriminator and generator together, every 25 iterations, by the side of
        the scale: "32", "64".
    offset_, learned_from_, image_fit_, n_channels_in_, layer_shapes_, n_features_in_ :
        As in BaseImageDetector.

    See Also
    --------
    RegAD : A handful of images, without training, or with one on other categories.

    Notes
    -----
    The paper shows a map and the authors' code has none: this one is ours, with -log p instead of
    1 - p, so that one patch that is sure and wrong counts. So is its standardization, in place of
    the minimum and maximum of the test set. The probabilities that a place is usually named with
    are drawn towards the mean of all places by as much as the images do not agree on them.

    A patch does not show how far an image was shifted: of the paper's transformations 16 are
    different for it, 8 without color, and those are "dihedral". The authors turn and shift by
    interpolation, which the network may see, and where that fails they take the image as it is;
    here turns and shifts are of whole pixels. Their test images are not equalized (CLAHE), while
    those trained on are; here none are. The statistics of batch normalization are those of good
    images alone, and fixed when images are scored. Of the number of a training image, which is
    the generator's fourth channel, the range is [0, 1] here.

    "quick" has two scales of five, and a step of each network on two images instead of three on
    all. What TDG+ added is not said in RegAD's paper: it is read as RegAD's own copies. "flip",
    "quarter_turns" and "grey" then give copies that have two names; where they are to be told
    apart, ``augmentations=("rotations", "translations")`` has none but the turns by 45 degrees.

    With ``roi`` the networks learn images that are blank outside; ``mean_``, ``scale_``,
    ``cross_entropy_`` and the paper's score are of the places inside alone. With tiles ``n_images``
    counts tiles, and the paper's score is the largest of the tiles that meet the region.

    References
    ----------
    Sheynin, Benaim, Wolf, "A Hierarchical Transformation-Discriminating Generative Model for Few
    Shot Anomaly Detection", ICCV 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly import TDG
    >>> ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))  # bright at the right
    >>> rng = np.random.default_rng(0)
    >>> good = [ramp // 2 + rng.integers(0, 16, ramp.shape, dtype=np.uint8) for _ in range(4)]
    >>> detector = TDG(image_size=64, sizes=[32], n_iter=25, transformations="turns").fit(good)
    >>> detector.score_map(good[:2]).shape
    (2, 64, 64)
    """

    _default_size = 128
    _unused_by_hooks = (
        "checkpoint", "contamination", "image_score", "n_jobs", "sigma", "verbose",
    )  # fmt: skip
    _transient = ("_scorer",)
    _image_scores_need_maps = False

    _parameter_constraints = {
        **BaseImageDetector._parameter_constraints,
        "n_images": [Interval(Integral, 1, None, closed="left")],
        "transformations": [StrOptions(set(KINDS))],
        "augmentations": ["array-like"],
        "generator": ["boolean"],
        "sizes": [None, "array-like"],
        "fraction": [Interval(Real, 0, 1, closed="right")],
        "standardize": ["boolean"],
        "preset": [StrOptions(set(SCHEDULES))],
        "n_iter": [None, Interval(Integral, 0, None, closed="left")],
        "checkpoint": [None, str, Path],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        n_images=8,
        transformations="dihedral",
        augmentations=(),
        generator=True,
        sizes=None,
        fraction=0.1,
        standardize=True,
        preset="quick",
        n_iter=None,
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
        self.n_images = n_images
        self.transformations = transformations
        self.augmentations = augmentations
        self.generator = generator
        self.sizes = sizes
        self.fraction = fraction
        self.standardize = standardize
        self.preset = preset
        self.n_iter = n_iter
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

    def __sklearn_is_fitted__(self):
        return hasattr(self, "state_")

    def fit(self, X, y=None):
        """Train on good images.

        Parameters
        ----------
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
            uint8, uint16, or floats in [0, 1]; sizes may differ. One is enough.
        y : array of shape (n,), masks, or None, default=None
            Labels, +1 good and -1 defect, or masks: images marked as defects are left out.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            An image cannot be used; sizes or augmentations are unknown; a checkpoint is damaged; y
            is coded otherwise, as 0/1, marks every image as a defect, or has another length than X.
        TrainingError
            A loss is not finite; the detector is as it was before the fit.

        Warns
        -----
        ConvergenceWarning
            At no scale can the discriminators tell the transformations apart: the images look alike
            whichever way they are turned, or the training was too short.
        """
        return super().fit(X, y)

    def _fit(self, X):
        n_images = min(self.n_images, len(X))
        schedule = self._schedule(self.tile_fit.height, self.tile_fit.width, n_images)
        rng = np.random.default_rng(self.random_state)
        chosen = np.sort(rng.permutation(len(X))[:n_images])
        images = np.flatnonzero(self.learned_from_)
        self.trained_on_ = (images if self.tiling_ is None else images[self.tiles_[:, 0]])[chosen]
        pixels = X[chosen].arrays()[PIXELS]  # (n, H, W, C)
        transformations = named_transformations(self.transformations, is_colored(pixels))
        discriminators, self.history_ = train_discriminators(
            *self._copies(pixels),
            transformations,
            schedule,
            self.generator,
            self._config(schedule, transformations, pixels),
        )
        # As they are at the fit: the parameters may be set to others later.
        self.sizes_, self.state_ = schedule.sizes, to_arrays(discriminators)
        self.transformations_ = [tuple(one) for one in transformations]
        self._scorer = TransformationScorer(discriminators, self.sizes_, transformations)
        maps = (self._maps_inside(batch) for batch in X.batches())
        self.mean_, self.scale_, self.cross_entropy_ = score_statistics(maps)
        self._warn_if_alike(transformations)

    def _maps_inside(self, X):
        """m_s of images, (b, scales, S, S), NaN outside of their regions of interest."""
        maps = self._scorer.scale_maps(X.arrays()[PIXELS])
        inside = X.inside(maps.shape[2:])
        return maps if inside is None else np.where(inside[:, None], maps, np.float32(np.nan))

    def _schedule(self, height, width, n_images):
        unknown = set(self.augmentations) - set(AUGMENTATIONS)
        if unknown:
            raise ValueError(f"expected augmentations among {AUGMENTATIONS}, got {sorted(unknown)}")
        side = min(height, width)
        return make_schedule(self.preset, self.n_iter, self.sizes, n_images, side)

    def _copies(self, pixels):
        """Images (m, C, H, W), each followed by its augmented copies, and their places (m,)."""
        channels_first = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())  # (n, C, H, W)
        copies = [augment(image, self.augmentations) for image in channels_first]
        places = torch.linspace(0, 1, len(copies)).repeat_interleave(len(copies[0]))
        return torch.cat(copies), places

    def _config(self, schedule, transformations, pixels):
        def identity():
            augmentations = list(self.augmentations), self.generator, self.random_state
            content = asdict(schedule), [list(one) for one in transformations], augmentations
            return digest(*content, image_keys(list(pixels)))

        return configured(
            self,
            schedule,
            identity,
            advice="lower n_iter, and look at the images",
            n_epochs=0,  # each scale has its own
        )

    def _warn_if_alike(self, transformations):
        least, chance = cross_entropies(transformations)
        if self.cross_entropy_.min() > least + LEARNED * (chance - least):
            warnings.warn(
                f"expected images that differ from themselves transformed, got a cross-entropy of "
                f"{self.cross_entropy_.min():.2f} where guessing has {chance:.2f}: the "
                f"{len(transformations)} transformations cannot be told apart, and scores say next "
                "to nothing; take another detector for what looks alike whichever way it is "
                "turned, or a larger n_iter",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _build_scorer(self):
        transformations = [Transformation(*one) for one in self.transformations_]
        n = self.n_channels_in_, len(self.sizes_), len(transformations)
        discriminators = from_arrays(build_discriminators(*n), self.state_)
        return TransformationScorer(discriminators, self.sizes_, transformations)

    def _on_device(self):
        """The scorer where the parameter says now: it may have been set since the fit."""
        return self._rebuilt("_scorer", self._build_scorer).to(resolve_device(self.device))

    def _score_maps(self, X):
        maps = self._on_device().scale_maps(X.arrays()[PIXELS])  # (b, scales, S, S)
        if self.standardize:
            maps = (maps - self.mean_) / self.scale_[:, None, None].astype(np.float32)
        return maps.mean(axis=1)

    def _score_images(self, X, score_maps):
        inside = [X.inside((side, side)) for side in self.sizes_]
        return self._on_device().image_scores(X.arrays()[PIXELS], self.fraction, inside)

    _kept_of_forecast = ()  # networks of a few megabytes

    def _forecast(self, layer_shapes, n_images):
        height, width, n_channels = layer_shapes[PIXELS]
        n_images = min(self.n_images, n_images)
        schedule = self._schedule(height, width, n_images)
        n_copies = len(augment(torch.zeros(1, 8, 8), self.augmentations))
        n_transformations = len(named_transformations(self.transformations, n_channels > 1))
        n_trained = n_copies * n_images
        return training_needs(schedule, n_transformations, n_trained, (n_channels, height, width))
