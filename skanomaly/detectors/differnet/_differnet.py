"""DifferNet (Rudolph, Wandt, Rosenhahn, WACV 2021).

f_l(u)   features of layer l at the cell u, at the scales 1, 1/2 and 1/4 of the input
v        their means over all cells, of all layers and scales: a vector of D numbers (768)
z        f(v): flow of 8 blocks, whose subnets have 3 hidden layers of 2048
L        mean of (|z|^2 / 2 - log |det dz/dv|) / D over views: images turned by up to 180 degrees
A(x)     mean of z^2 over D numbers and 64 views: score of an image
M(u)     proportional to sum over l of |w_l . (f_l(u) - mean f_l(u))|,  w = d(mean z^2)/dv; its mean
         over the cells is the mean of z^2 of the image as it is
"""

from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.utils.metaestimators import available_if
from tqdm.auto import tqdm

from skanomaly.base import PIXELS, BaseDetector, BaseExtractor, RegionOfInterestMixin
from skanomaly.detectors.differnet._differnet_training import (
    SCHEDULES,
    hidden_sizes,
    make_schedule,
    train_flow,
    training_needs,
)
from skanomaly.detectors.differnet._image_input import check_features, pixel_maps
from skanomaly.detectors.differnet._pooled_density import (
    FlowDensity,
    GaussianDensity,
    build_flow,
    learn_precision,
    share_out,
)
from skanomaly.detectors.differnet._turned_views import (
    AT_ONCE,
    check_augmentations,
    count_copies,
    even_angles,
    features_of,
    fit_extractors,
    pooled,
    training_views,
    turned_views,
    view_vectors,
)
from skanomaly.embedding import embed
from skanomaly.feature_maps import BATCH_SIZE
from skanomaly.io import digest
from skanomaly.training import configured
from skanomaly.utils.device import resolve_device
from skanomaly.utils.networks import from_arrays, to_arrays
from skanomaly.utils.validation import Interval, StrOptions

NOISE = 0.3  # standard deviations, where there are no views
SMALLEST_SHARE = 0.01  # of the typical deviation: what a constant number is measured by


class DifferNet(RegionOfInterestMixin, BaseDetector):
    """How likely an image's pooled features are, under a normalizing flow or a Gaussian.

    Features are averaged over the whole image, so that small defects in large images are diluted.
    It takes features, as PaDiM does, or images, which it turns, if it is given an ``extractor``.

    Parameters
    ----------
    extractor : BaseExtractor or None, default=None
        None: ``fit`` takes features. An extractor, such as ``FilterBank()``: it takes images, as in
        the paper; the extractor is cloned, and fitted on the good ones.
    density : {"flow", "gaussian"}, default="flow"
        Of the vectors of pooled features: the paper's flow, or a Gaussian with Ledoit and Wolf's
        covariance, which takes no training.
    scales : sequence of float, or None, default=None
        Sizes at which the extractor sees an image, in units of its ``image_size``. None: 1, 1/2 and
        1/4; for a FilterBank, which has several scales within itself, 1.
    n_views : int or None, default=None
        Views of each training image, and of each of its augmented copies: itself, and others turned
        by angles that are drawn. None: the preset's. Without an extractor there are no views.
    n_test_views : int or None, default=None
        Views whose mean score is an image's, turned by evenly spaced angles. None: the preset's.
    max_angle : float or None, default=None
        Largest angle of a view, in degrees; 0: there is one view, the image as it is. None: the
        preset's. What is turned within it, as a part that lies askew, is no defect.
    augmentations : sequence of str, default=()
        Kinds of augmented copies of each image that are trained on as well, for few images: any
        of RegAD's, ``("rotations", "translations", "flip", "grey", "quarter_turns")``. They need
        an extractor.
    roi : mask, list of masks, callable or None, default=None
        With an extractor: region of interest, as in BaseImageDetector. Without, features bring
        that of their extractor.
    noise : float or None, default=None
        Standard deviation of what is added to the vectors in each step of the flow's training, in
        standard deviations of theirs. None: 0 where an image has several views, else 0.3.
    n_blocks : int, default=8
        Of the flow.
    hidden_layer_sizes : sequence of int, or None, default=None
        Of the flow's subnets. None: the preset's.
    clamp : float, default=3.0
        Largest logarithm of a factor in a block, nearly.
    preset : {"quick", "paper"}, default="quick"
        Subnets, training and views: one hidden layer of twice a subnet's input, at most 256, a
        learning rate of 1e-3, 16 views and 16 of each test image, by up to 10 degrees; or three of
        2048, 2e-4, 32 and 64, by up to 180. Both train for 192 epochs of batches of 96.
    n_epochs, batch_size : int or None, default=None
        Instead of the preset's. An epoch has four views of each image.
    learning_rate : float or None, default=None
        Of Adam; None: the preset's.
    image_score : {"paper", "map_max"}, default="paper"
        Score of an image: the mean of z^2, or the maximum of the smoothed score map.
    <sigma>
    <contamination>
    device : str, default="auto"
        Where the flow runs: "cpu", "cuda", ...; "auto" takes a GPU where there is one. An extractor
        has its own.
    checkpoint : str, Path or None, default=None
        Beginning of the name of a file written after each epoch, from which the same fit resumes.
        It stays until it is deleted.
    random_state : int, default=0
        Draws initial weights, permutations, angles, batches and noise; and what an extractor
        draws whose own is None.
    <verbose>

    Attributes
    ----------
    extractors_ : list of BaseExtractor
        Fitted, by scale; empty where there is none.
    mean_, scale_ : ndarray of shape (D,), float64
        By which vectors are standardized.
    mean_maps_ : dict of str to ndarray of shape (h, w, C), float32
        Mean features of the good images, by layer.
    state_ : dict of str to ndarray
        The flow's weights; or "precision" (D, D), the inverse of the Gaussian's covariance.
    architecture_ : dict or None
        Arguments of the flow; None for a Gaussian.
    angles_ : ndarray of shape (n_test_views,), float64
        Of an image's views when it is scored, in degrees; the first one is 0.
    history_ : dict of str to list of float
        By epoch: "loss", the mean of L, and "clamped", how many numbers of z were cut to 1e6. Of a
        Gaussian: empty.
    n_channels_in_ : int
        Channels of the images, with an extractor; gray images count as RGB.
    offset_, learned_from_, image_fit_, layer_shapes_, n_features_in_, fit_digest_ :
        As in BaseDetector. With an extractor the layer is "pixels".

    See Also
    --------
    PaDiM : A Gaussian for each position, which sees small defects.

    Notes
    -----
    Without an extractor it is a reduction of the method: the paper counts its views as a part of
    it. Noise stands in for them, as a flow memorizes a few hundred fixed vectors.

    The authors draw views anew in each epoch, and again when images are scored, whose scores so
    differ from call to call; here views are drawn once, and those of scoring are fixed. Corners are
    filled by reflection, not black. Vectors are standardized, where the authors take them as they
    are, and a number that hardly varies counts in hundredths of the typical deviation. The last
    layers of subnets begin at 0, as in Glow, so that the flow begins as a permutation: with random
    ones, vectors far from the good ones come out astronomically large before and after a short
    training. The log-determinant is no part of the score, as in the paper.

    The authors' map, the gradient at the pixels, is not there: it needs an extractor that can be
    differentiated. Of pooled features the gradient is the same at every cell; times the deviation
    from the mean features of the cell it says where they differ. The map is that of the image as it
    is, not of its views, and shares its score out among the cells: lengths of gradients cannot be
    compared between images, and far from the good ones they vanish, where a flow cuts its numbers.

    With a region of interest, vectors of features are means over the cells inside. With an
    extractor pixels outside get the mean color inside first, and a view is pooled as a whole. An
    extractor with tiles is refused, as views are turned as a whole; take it in a Pipeline before
    DifferNet.

    What RegAD's tables call DiffNet+ has no public code. It may be training on ``augmentations``,
    or training on other categories first, which is not here.

    Where a loss becomes NaN, ``fit`` raises TrainingError and leaves the detector as it was.

    References
    ----------
    Rudolph, Wandt, Rosenhahn, "Same Same But DifferNet: Semi-Supervised Defect Detection with
    Normalizing Flows", WACV 2021.

    Examples
    --------
    >>> from skanomaly import DifferNet, FilterBank, Pipeline
    >>> from skanomaly.datasets import make_defects, make_textures
    >>> good = make_textures(20, size=(64, 64), random_state=0)
    >>> bad, masks, kinds = make_defects(good[:5], random_state=0)
    >>> features = FilterBank(n_filters=4, image_size=64, random_state=0)
    >>> pipe = Pipeline([("features", features), ("detector", DifferNet(n_epochs=20))])
    >>> pipe.fit(good).score_map(bad).shape
    (5, 64, 64)
    >>> turned = DifferNet(features, density="gaussian", n_views=4, n_test_views=4)
    >>> turned.fit(good).score_map(bad).shape
    (5, 64, 64)
    """

    _unused_by_hooks = ("checkpoint", "contamination", "image_score", "sigma", "verbose")
    _transient = ("_density",)
    roi = None  # in files from before
    _image_scores_need_maps = False

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "extractor": [None, BaseExtractor],
        "density": [StrOptions({"flow", "gaussian"})],
        "scales": [None, "array-like"],
        "n_views": [None, Interval(Integral, 1, None, closed="left")],
        "n_test_views": [None, Interval(Integral, 1, None, closed="left")],
        "max_angle": [None, Interval(Real, 0, 180, closed="both")],
        "augmentations": ["array-like"],
        "roi": [None, str, Path, "array-like", callable],
        "noise": [None, Interval(Real, 0, None, closed="left")],
        "n_blocks": [Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": [None, "array-like"],
        "clamp": [Interval(Real, 0, None, closed="neither")],
        "preset": [StrOptions(set(SCHEDULES))],
        "n_epochs": [None, Interval(Integral, 1, None, closed="left")],
        "batch_size": [None, Interval(Integral, 1, None, closed="left")],
        "learning_rate": [None, Interval(Real, 0, None, closed="neither")],
        "device": [str],
        "checkpoint": [None, str, Path],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        extractor=None,
        *,
        density="flow",
        scales=None,
        n_views=None,
        n_test_views=None,
        max_angle=None,
        augmentations=(),
        roi=None,
        noise=None,
        n_blocks=8,
        hidden_layer_sizes=None,
        clamp=3.0,
        preset="quick",
        n_epochs=None,
        batch_size=None,
        learning_rate=None,
        image_score="paper",
        sigma=4.0,
        contamination=0.01,
        device="auto",
        checkpoint=None,
        random_state=0,
        verbose=0,
    ):
        self.extractor = extractor
        self.density = density
        self.scales = scales
        self.n_views = n_views
        self.n_test_views = n_test_views
        self.max_angle = max_angle
        self.augmentations = augmentations
        self.roi = roi
        self.noise = noise
        self.n_blocks = n_blocks
        self.hidden_layer_sizes = hidden_layer_sizes
        self.clamp = clamp
        self.preset = preset
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.device = device
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.extractor is None
        return tags

    def __sklearn_is_fitted__(self):
        return hasattr(self, "state_")

    def fit(self, X, y=None):
        """Learn from good images.

        Parameters
        ----------
        X : FeatureMaps, array of shape (n, h, w, d) or (n, d), or images
            Features of good images; with an ``extractor`` the images: a list of paths, arrays or
            PIL images, or an array of shape (n, H, W[, C]).
        y : array of shape (n,), masks, or None, default=None
            Labels, +1 good and -1 defect, or masks: images marked as defects are left out.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            X is images without an extractor, or features with one; it holds NaN, or an image cannot
            be used, which the message names; there is one good image and no view of it; scales or
            augmentations cannot be; or y is coded otherwise, as 0/1, marks every image as a defect,
            or has another length than X.
        TrainingError
            A loss is not finite; the detector is as it was before the fit.
        """
        return super().fit(X, y)

    # --- features or images -------------------------------------------------------------------

    def _training_maps(self, X, y):
        maps = super()._training_maps(X, y)
        return maps if self.extractor is None else maps.store()  # so that images are read once

    def _check_X(self, X, *, reset):
        if reset:
            has_extractor = self.extractor is not None
        else:  # as it was fitted, whatever the parameter is set to later
            has_extractor = len(self.extractors_) > 0
        if has_extractor:
            return pixel_maps(self, X, reset)
        check_features(X, self.roi)
        return super()._check_X(X, reset=reset)

    @available_if(lambda self: self.extractor is not None)
    def _input_shapes(self, X):
        """{layer: (h, w, C)} of what a fit on these images would learn from; changes nothing."""
        other = clone(self)
        other._check_X(X, reset=True)
        return other.layer_shapes_

    def _layers(self, X):
        """Features {layer: (b, h, w, C)} of a few images as they are."""
        layers = X.arrays()
        return features_of(self.extractors_, layers[PIXELS]) if self.extractors_ else layers

    # --- fit ----------------------------------------------------------------------------------

    def _fit(self, X):
        schedule = self._schedule()
        if self.extractor is None:
            self.extractors_, self.angles_ = [], np.zeros(1)
        else:
            pixels, seed = X.arrays()[PIXELS], self.random_state
            self.extractors_ = fit_extractors(self.extractor, self.scales, pixels, seed)
            self.angles_ = even_angles(schedule.n_test_views, float(schedule.max_angle))
        vectors = self._learn_vectors(X, schedule)  # (n, views, D)
        n_images, n_views, n_features = vectors.shape
        if n_images * n_views < 2:
            raise ValueError(
                "expected at least 2 good images, or several views of one, for a density, got "
                "n_samples=1"
            )
        self.mean_, deviations = vectors.mean(axis=(0, 1)), vectors.std(axis=(0, 1))
        smallest = SMALLEST_SHARE * np.sqrt(np.square(deviations).mean())
        self.scale_ = np.maximum(deviations, smallest) if smallest > 0 else np.ones(n_features)
        vectors = (vectors - self.mean_) / self.scale_
        if self.density == "gaussian":
            self.state_ = {"precision": learn_precision(vectors.reshape(-1, n_features))}
            self.architecture_, self.history_ = None, {}
        else:
            self._train(vectors, schedule)

    def _schedule(self):
        check_augmentations(self.augmentations, self.extractor)
        return make_schedule(
            self.preset,
            hidden_layer_sizes=self.hidden_layer_sizes,
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            n_views=self.n_views,
            n_test_views=self.n_test_views,
            max_angle=self.max_angle,
        )

    def _learn_vectors(self, X, schedule):
        """Vectors (n, views, D) of the images to learn from; sets mean_maps_."""
        n_batches = -(-len(X) // BATCH_SIZE)
        batches = tqdm(X.batches(), "features", n_batches, disable=not self.verbose)
        rng, vectors, sums = np.random.default_rng(self.random_state), [], {}
        for batch in batches:
            layers = self._layers(batch)
            for name, maps in layers.items():
                sums[name] = sums.get(name, 0) + maps.sum(axis=0, dtype=np.float64)
            if not self.extractors_:
                vectors.append(pooled(layers, batch.inside)[:, None])  # (b, 1, D)
                continue
            for image in batch.arrays()[PIXELS]:
                how = self.augmentations, schedule.n_views, float(schedule.max_angle)
                views = training_views(image, *how, rng)
                vectors.append(view_vectors(self.extractors_, views)[None])  # (1, views, D)
        self.mean_maps_ = {name: (one / len(X)).astype(np.float32) for name, one in sums.items()}
        return np.concatenate(vectors)

    def _train(self, vectors, schedule):
        noise = self.noise
        if noise is None:
            noise = NOISE if vectors.shape[1] == 1 else 0.0
        self.architecture_ = {
            "n_features": vectors.shape[2],
            "hidden_layer_sizes": hidden_sizes(schedule, vectors.shape[2]),
            "n_blocks": int(self.n_blocks),
            "clamp": float(self.clamp),
        }
        flow = build_flow(**self.architecture_, seed=int(self.random_state))
        self.history_ = train_flow(flow, vectors, noise, self._config(vectors, schedule, noise))
        self.state_, self._density = to_arrays(flow), FlowDensity(flow)

    def _config(self, vectors, schedule, noise):
        def identity():
            length = schedule.n_epochs, schedule.batch_size, schedule.learning_rate
            settings = self.architecture_, length, noise, self.random_state
            return digest("DifferNet", settings, vectors)

        return configured(
            self,
            schedule,
            identity,
            advice="lower learning_rate, and look at the images",
        )

    # --- scores -------------------------------------------------------------------------------

    def _build_density(self):
        if self.architecture_ is None:
            return GaussianDensity(self.state_["precision"])
        return FlowDensity(from_arrays(build_flow(**self.architecture_), self.state_))

    def _ready_density(self):
        """The density on its device, rebuilt from state_ on first use."""
        density = self._rebuilt("_density", self._build_density)
        return density.to(resolve_device(self.device))

    def _standardized(self, vectors):
        return (vectors - self.mean_) / self.scale_

    def _score_images(self, X, score_maps):
        density = self._ready_density()
        if self.extractors_:
            views = (turned_views(image, self.angles_) for image in X.arrays()[PIXELS])
            vectors = [view_vectors(self.extractors_, one) for one in views]
        else:
            vectors = pooled(X.arrays(), X.inside)[:, None]
        # One by one: no score depends on the other images.
        return np.array([density.scores(self._standardized(one)).mean() for one in vectors])

    def _score_maps(self, X):
        density, layers = self._ready_density(), self._layers(X)
        where = None if self.extractors_ else X.inside
        vectors = self._standardized(pooled(layers, where))  # (b, D)
        weights = np.array([density.gradient(one) for one in vectors]) / self.scale_
        scores = np.array([density.scores(one[None])[0] for one in vectors])
        maps, first = {}, 0
        for name, features in layers.items():
            end = first + features.shape[3]
            deviations = features - self.mean_maps_[name]  # (b, h, w, C)
            w = weights[:, None, first:end, None].astype(np.float32)
            maps[name] = np.abs(deviations @ w)  # (b, h, w, 1)
            first = end
        amounts = embed(maps).sum(axis=3, dtype=np.float64)  # (b, h, w)
        inside = None if where is None else where(amounts.shape[1:])
        return share_out(scores, amounts, inside).astype(np.float32)

    _kept_of_forecast = ("mean maps", "flow", "precision")

    def _forecast(self, layer_shapes, n_images):
        schedule, n_views, needs = self._schedule(), 1, {}
        if self.extractor is not None:
            blank = np.zeros((1, *layer_shapes[PIXELS]), dtype=np.float32)
            extractors = fit_extractors(self.extractor, self.scales, blank, 0)
            layer_shapes = {
                (i, name): shape
                for i, one in enumerate(extractors)
                for name, shape in one.layer_shapes_.items()
            }
            n_views = count_copies(self.augmentations) * schedule.n_views
            needs["views of an image"] = 2 * 4 * blank.size * n_views
        d = sum(shape[2] for shape in layer_shapes.values())
        n_values = sum(h * w * c for h, w, c in layer_shapes.values())
        needs["mean maps"] = 4 * n_values
        needs["a batch"] = 2 * 4 * n_values * min(AT_ONCE, n_images * n_views)
        needs["vectors"] = 3 * 8 * d * n_views * n_images
        if self.density == "gaussian":
            return {**needs, "precision": 8 * d * d, "covariance": 2 * 8 * d * d}
        return {**needs, **training_needs(d, schedule, self.n_blocks)}
