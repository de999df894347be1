"""GANomaly (Akcay, Atapour-Abarghouei, Breckon, ACCV 2018).

z    = E1(x)          code of an image
x'   = De(z)          its reconstruction
z'   = E2(x')         the reconstruction's code
L_G  = w_adv mean (f(x) - f(x'))^2 + w_con mean |x - x'| + w_enc mean (z - z')^2
L_D  = (BCE(D(x), 1) + BCE(D(x'), 0)) / 2
A(x) = mean (z - z')^2    score of an image: what is unlike the good ones is not coded alike again
"""

from numbers import Integral, Real
from pathlib import Path

import numpy as np

from skanomaly.base import PIXELS, BaseImageDetector
from skanomaly.caching import image_keys
from skanomaly.detectors.ganomaly._ganomaly_networks import build_networks, count_halvings
from skanomaly.detectors.ganomaly._ganomaly_scores import difference_maps, distances
from skanomaly.detectors.ganomaly._ganomaly_training import (
    SCHEDULES,
    train_networks,
    training_needs,
)
from skanomaly.io import digest
from skanomaly.training import configured, training_parameters, with_given
from skanomaly.utils.device import resolve_device
from skanomaly.utils.networks import from_arrays, to_arrays
from skanomaly.utils.validation import Interval, StrOptions

SMALLEST_MEAN = 1e-12  # of a map over good images: those of one value are restored exactly
_NOT_OF_TRAINING = (
    "checkpoint", "contamination", "device", "distance", "image_score", "map", "n_jobs", "sigma",
    "verbose",
)  # fmt: skip


class GANomaly(BaseImageDetector):
    """An image's code compared with the code of its reconstruction.

    It takes images, not features: its networks are its own, trained on the good images alone. It
    needs no weights of others. Small defects are lost in a code of the whole image: for coarse
    ones.

    Parameters
    ----------
    latent_size : int, default=100
        Numbers in a code.
    width : int or None, default=None
        Channels of the networks' first maps; they double with each halving. None: the preset's.
    loss_weights : (float, float, float), default=(1, 50, 1)
        Of the adversarial, the contextual and the latent loss.
    map : {"both", "reconstruction", "features"}, default="both"
        What the score map shows: differences of an image from its reconstruction, those of
        the discriminator's maps of the two, or the mean of both, each in units of its mean over
        the good images.
    distance : {"latent", "contextual"}, default="latent"
        Score of an image with ``image_score="paper"``: mean squared difference of the codes, which
        is the paper's, or mean absolute difference of image and reconstruction.
    preset : {"quick", "paper"}, default="quick"
        Width, length and batches of the training: 16, 100 epochs of batches of 32 images; or 64,
        15 and 64, of images of 32 x 32 in the paper (``image_size=32``).
    n_epochs, batch_size : int or None, default=None
        Instead of the preset's.
    learning_rate : float or None, default=None
        Of both networks' Adam; None: the preset's, 2e-4.
    image_size : int, (int, int) or None, default=None
        Height and width in pixels that images are brought to; None: 128. The shorter one is 16, 32,
        64, ..., the longer one a multiple of a quarter of it.
    <resize>
    <pixels_tile_size>
    <pixels_tile_overlap>
    <pixels_roi>
    image_score : {"paper", "map_max"}, default="paper"
        Score of an image: ``distance``, or the maximum of the smoothed score map.
    <sigma>
    <contamination>
    <device>
    <n_jobs>
    checkpoint : str, Path or None, default=None
        Beginning of the name of a file written after each epoch, from which the same fit resumes.
        It stays until it is deleted.
    random_state : int, default=0
        Draws initial weights and batches.
    <verbose>

    Attributes
    ----------
    state_ : dict of str to ndarray
        Weights of generator and discriminator.
    width_, latent_size_ : int
        Of the networks, as the parameters were at the fit.
    map_means_ : ndarray of shape (2,), float64
        Means over the good images of the maps of reconstructions and of features.
    history_ : dict of str to list of float
        Mean losses by epoch: "adversarial", "contextual", "latent", "discriminator".
    offset_, learned_from_, image_fit_, n_channels_in_, layer_shapes_, n_features_in_ :
        As in BaseImageDetector.

    See Also
    --------
    ARNet : Restores what was erased from an image.
    GlobalLocal : Compares patches with their surroundings.

    Notes
    -----
    The authors' code tests in training mode: batch norms use, and go on learning from, the test
    images of a batch, so that a score depends on the others in it. Here networks score in
    evaluation mode, one image at a time, which costs some points. It also keeps the
    state best on test images, and brings scores to [0, 1] over the test set; here the last state
    is kept and scores are as they are.

    The paper's text has the L1 distance of codes as score; its code, as here, the mean square. The
    record has no score map, and no industrial images: the maps, "contextual" and the quick preset
    are of this package; the latter was chosen to train in minutes. As in the code, an incomplete
    last batch is left out and a discriminator with a loss below 1e-5 is drawn anew. Inputs that
    are not square, which the paper does not have, end at 4 pixels of the shorter side.

    With ``roi`` the networks learn images that are blank outside; ``map_means_`` are over all of
    them. With tiles ``distance`` is the largest of the tiles that meet the region.

    Where a loss becomes NaN, ``fit`` raises TrainingError and leaves the detector as it was.

    References
    ----------
    Akcay, Atapour-Abarghouei, Breckon, "GANomaly: Semi-Supervised Anomaly Detection via
    Adversarial Training", ACCV 2018.

    Examples
    --------
    >>> from skanomaly import GANomaly
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(4, size=(32, 32), random_state=0)
    >>> detector = GANomaly(image_size=32, width=4, n_epochs=2).fit(good)
    >>> detector.score_map(good[:2]).shape
    (2, 32, 32)
    """

    _default_size = 128
    _unused_by_hooks = ("checkpoint", "contamination", "image_score", "n_jobs", "sigma", "verbose")
    _transient = ("_networks",)
    _image_scores_need_maps = False

    _parameter_constraints = {
        **BaseImageDetector._parameter_constraints,
        "latent_size": [Interval(Integral, 1, None, closed="left")],
        "width": [None, Interval(Integral, 1, None, closed="left")],
        "loss_weights": ["array-like"],
        "map": [StrOptions({"both", "reconstruction", "features"})],
        "distance": [StrOptions({"latent", "contextual"})],
        "preset": [StrOptions({"quick", "paper"})],
        "n_epochs": [None, Interval(Integral, 1, None, closed="left")],
        "batch_size": [None, Interval(Integral, 2, None, closed="left")],
        "learning_rate": [None, Interval(Real, 0, None, closed="neither")],
        "checkpoint": [None, str, Path],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        latent_size=100,
        width=None,
        loss_weights=(1, 50, 1),
        map="both",
        distance="latent",
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
        self.latent_size = latent_size
        self.width = width
        self.loss_weights = loss_weights
        self.map = map
        self.distance = distance
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

    def __sklearn_is_fitted__(self):
        return hasattr(self, "state_")

    def _input_fit(self):
        # Called first in a fit: what is wrong shows before any image is read.
        size = super()._input_fit()
        count_halvings(size.height, size.width)
        return size

    def _fit(self, X):
        weights, schedule = self._check_weights(), self._schedule()
        if len(X) < 2:
            raise ValueError(
                f"expected at least 2 good images, of which a batch norm learns, got {len(X)}; "
                "pass more of them"
            )
        pixels = X.arrays()[PIXELS]  # (n, H, W, C)
        self.width_, self.latent_size_ = int(schedule.width), int(self.latent_size)
        networks = self._build(self.random_state)
        config = self._config(pixels, schedule)
        self.history_ = train_networks(networks, pixels, weights, schedule, config)
        self.state_, self._networks = to_arrays(networks), networks
        means = [difference_maps(networks, one[None]).mean(axis=(0, 2, 3)) for one in pixels]
        self.map_means_ = np.maximum(np.mean(means, axis=0), SMALLEST_MEAN)

    def _check_weights(self):
        weights = np.asarray(self.loss_weights)
        if weights.shape != (3,) or weights.dtype.kind not in "iuf" or not (weights >= 0).all():
            raise ValueError(
                "expected loss_weights as three numbers from 0 on, of the adversarial, the "
                f"contextual and the latent loss, got {self.loss_weights!r}"
            )
        return tuple(weights.tolist())

    def _schedule(self):
        return with_given(
            SCHEDULES[self.preset],
            width=self.width,
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )

    def _config(self, pixels, schedule):
        def identity():
            return digest(
                "GANomaly", training_parameters(self, _NOT_OF_TRAINING), image_keys(list(pixels))
            )

        return configured(
            self,
            schedule,
            identity,
            advice="lower learning_rate, and look at the images",
        )

    def _build(self, seed=0):
        size = self.tile_fit.height, self.tile_fit.width
        return build_networks(size, self.n_channels_in_, self.width_, self.latent_size_, seed)

    def _trained(self):
        """The networks on their device, rebuilt from state_ on first use."""
        networks = self._rebuilt(
            "_networks", lambda: from_arrays(self._build(), self.state_).eval()
        )
        return networks.to(resolve_device(self.device))

    def _score_maps(self, X):
        maps = difference_maps(self._trained(), X.arrays()[PIXELS])  # (b, 2, H/4, W/4)
        if self.map == "both":
            maps = (maps / self.map_means_[:, None, None]).mean(axis=1)
        else:
            maps = maps[:, 0 if self.map == "reconstruction" else 1]
        return maps.astype(np.float32)

    def _score_images(self, X, score_maps):
        return distances(self._trained()["generator"], X.arrays()[PIXELS], self.distance)

    _kept_of_forecast = ("networks",)

    def _forecast(self, layer_shapes, n_images):
        height, width, n_channels = layer_shapes[PIXELS]
        size = height, width
        return training_needs(size, n_channels, self.latent_size, self._schedule(), n_images)
