"""ARNet, "Attribute Restoration Framework" (Huang et al., IEEE TMM 2020; at first ITAE).

O_k     erasures of an image's attributes, k = 1 .. K
R       a U-Net that restores it:  min E_x E_k || R(O_k(x)) - x ||_2^2
e_k     mean of || R(O_k(x)) - x ||_1 over good images: how difficult erasure k is
A(x)  = 1/K sum_k || R(O_k(x)) - x ||_1 / e_k          score of an image
M(u)  = the same at a pixel u, of the erasures whose error counts there
"""

from numbers import Integral, Real
from pathlib import Path

import numpy as np

from skanomaly.base import PIXELS, BaseImageDetector
from skanomaly.caching import image_keys
from skanomaly.detectors.arnet._arnet_training import (
    SCHEDULES,
    mean_errors,
    restoration_errors,
    train_network,
    training_needs,
)
from skanomaly.detectors.arnet._erasures import choose_erasures
from skanomaly.detectors.arnet._unet import N_HALVINGS, build_unet
from skanomaly.io import digest
from skanomaly.training import configured, training_parameters, with_given
from skanomaly.utils.device import resolve_device
from skanomaly.utils.networks import from_arrays, to_arrays
from skanomaly.utils.validation import Interval, StrOptions

HELD_OUT = 0.1  # share of the good images, whose errors are like those of unseen good images
CELL = 4  # pixels of a map's cell
GRAY = 1e-3  # by which the channels of gray images may differ
SMALLEST_ERROR = 1e-9  # e_k of images that are restored exactly, as those of one value
_NOT_OF_TRAINING = (
    "checkpoint", "contamination", "device", "image_score", "n_jobs", "sigma", "verbose",
)  # fmt: skip


class ARNet(BaseImageDetector):
    """What cannot be restored after an attribute of the image was erased.

    It takes images, not features: its network is its own, trained on the good images alone. It
    needs no weights of others.

    Parameters
    ----------
    erase : sequence of {"gray", "rotation", "holes"}, or None, default=None
        What is erased together: color; orientation, by quarter turns, where parts have an upright
        pose; a quarter of the cells of the image at a time, of which the error counts inside
        the cells only. None: the preset's, gray and holes, or gray and rotation. Of gray images
        "gray" erases nothing.
    hole_size : int or None, default=None
        Side in pixels of the cells; None: an eighth of the shorter side.
    width : int or None, default=None
        Channels of the network at full size; None: the preset's.
    preset : {"quick", "paper"}, default="quick"
        Erasures, width, length and learning rate of the training: gray and holes, 16, 80 epochs
        of Adam; or gray and rotation, 64, 125 epochs of gradient descent, of images of 256 x 256
        (``image_size=256``): of 200 images about nine hours on two cores.
    n_epochs, batch_size : int or None, default=None
        Instead of the preset's.
    learning_rate : float or None, default=None
        The first one; None: the preset's.
    image_size : int, (int, int) or None, default=None
        Height and width in pixels that images are brought to, multiples of 16 from 32 on; None:
        128. With "rotation" images that are not square are turned upside down only.
    <resize>
    <pixels_tile_size>
    <pixels_tile_overlap>
    <pixels_roi>
    image_score : {"paper", "map_max"}, default="map_max"
        Score of an image: the mean of its score map, which is the paper's, or the maximum of the
        smoothed map: of small defects a mean knows little.
    <sigma>
    <contamination>
    <device>
    <n_jobs>
    checkpoint : str, Path or None, default=None
        Beginning of the name of a file written after each epoch, from which the same fit resumes.
        It stays until it is deleted.
    random_state : int, default=0
        Draws initial weights, batches, erasures and the images that are held out.
    <verbose>

    Attributes
    ----------
    state_ : dict of str to ndarray
        Weights of the network.
    width_ : int
        Of the network, as the parameter was at the fit.
    erasures_ : Erasures
        The K erasures.
    errors_ : ndarray of shape (K,), float64
        e_k, over a tenth of the good images, on which the network is not trained.
    history_ : dict of str to list of float
        "loss", the mean by epoch.
    offset_, learned_from_, image_fit_, n_channels_in_, layer_shapes_, n_features_in_ :
        As in BaseImageDetector.

    See Also
    --------
    GANomaly : Compares an image's code with that of its reconstruction.
    GlobalLocal : Compares patches with their surroundings.

    Notes
    -----
    The paper erases colors and orientation. A network with skips copies what an erasure leaves in
    its place, and nothing says what is up of textures and round parts: holes are of this package.
    Their four sets are a lattice each, and cover the image together; they are blanked to 0. The
    quick preset was chosen to train in minutes.

    In the paper e_k is a mean over the training images. Here it is over images held out: networks
    know those that they were trained on. An erasure that leaves images as they are, as of gray
    images gray without a turn, is left out. Where the record, which is a re-implementation,
    differs or is silent: values stay in [0, 1] and the output is linear; doublings are
    bilinear; convolutions before a batch norm have no bias; an input without color keeps its
    channels, equal to each other, instead of having one; images are not mirrored; the last state
    is kept, not the best on test images.

    With ``roi`` the network learns images that are blank outside, and ``errors_`` are over all of
    them; the paper's score is the mean of the map inside. With tiles that map is the joined one.

    Where the loss becomes NaN, ``fit`` raises TrainingError and leaves the detector as it was.

    References
    ----------
    Huang, Ye, Cao, Li, Zhang, Lu, "Attribute Restoration Framework for Anomaly Detection", IEEE
    Transactions on Multimedia, 2020.

    Examples
    --------
    >>> from skanomaly import ARNet
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(4, size=(32, 32), random_state=0)
    >>> detector = ARNet(image_size=32, width=4, n_epochs=2).fit(good)
    >>> detector.score_map(good[:2]).shape
    (2, 32, 32)
    """

    _default_size = 128
    _unused_by_hooks = ("checkpoint", "contamination", "image_score", "n_jobs", "sigma", "verbose")
    _transient = ("_network",)

    _parameter_constraints = {
        **BaseImageDetector._parameter_constraints,
        "erase": [None, "array-like"],
        "hole_size": [None, Interval(Integral, 1, None, closed="left")],
        "width": [None, Interval(Integral, 1, None, closed="left")],
        "preset": [StrOptions({"quick", "paper"})],
        "n_epochs": [None, Interval(Integral, 1, None, closed="left")],
        "batch_size": [None, Interval(Integral, 1, None, closed="left")],
        "learning_rate": [None, Interval(Real, 0, None, closed="neither")],
        "checkpoint": [None, str, Path],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        erase=None,
        hole_size=None,
        width=None,
        preset="quick",
        n_epochs=None,
        batch_size=None,
        learning_rate=None,
        image_size=None,
        resize="stretch",
        tile_size=None,
        tile_overlap=32,
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
        self.erase = erase
        self.hole_size = hole_size
        self.width = width
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
        size, factor = super()._input_fit(), 2**N_HALVINGS
        if size.height % factor or size.width % factor or min(size.height, size.width) < 2 * factor:
            raise ValueError(
                "expected image_size, or tile_size, with sides that are multiples of "
                f"{factor}, from {2 * factor} on, got {size.height} x {size.width}"
            )
        return size

    def _fit(self, X):
        schedule = self._schedule()
        n_held_out = max(1, round(HELD_OUT * len(X)))
        if len(X) <= n_held_out:
            raise ValueError(
                f"expected at least {n_held_out + 1} good images, of which {n_held_out} are held "
                f"out to normalize the errors, got {len(X)}"
            )
        pixels = X.arrays()[PIXELS]  # (n, H, W, C)
        has_color = any(np.ptp(image, axis=2).max() > GRAY for image in pixels)
        size = pixels.shape[1:3]
        self.erasures_ = choose_erasures(schedule.erase, self.hole_size, size, has_color)
        self.width_ = int(schedule.width)
        order = np.random.default_rng(self.random_state).permutation(len(X))
        held_out, used = np.sort(order[:n_held_out]), np.sort(order[n_held_out:])
        images = [pixels[i] for i in used]  # of shape (H, W, C); views
        network = build_unet(self.n_channels_in_, self.width_, self.random_state)
        config = self._config(images, schedule)
        self.history_ = train_network(network, images, self.erasures_, schedule, config)
        self.state_, self._network = to_arrays(network), network
        errors = mean_errors(network, pixels[held_out], self.erasures_)
        self.errors_ = np.maximum(errors, SMALLEST_ERROR)

    def _schedule(self):
        return with_given(
            SCHEDULES[self.preset],
            width=self.width,
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            erase=self.erase,
        )

    def _config(self, images, schedule):
        def identity():
            return digest("ARNet", training_parameters(self, _NOT_OF_TRAINING), image_keys(images))

        return configured(
            self,
            schedule,
            identity,
            advice="lower learning_rate, and look at the images",
        )

    def _trained(self):
        """The network on its device, rebuilt from state_ on first use."""
        network = self._rebuilt(
            "_network",
            lambda: from_arrays(build_unet(self.n_channels_in_, self.width_), self.state_).eval(),
        )
        return network.to(resolve_device(self.device))

    def _score_maps(self, X):
        network, maps = self._trained(), []
        for image in X.arrays()[PIXELS]:
            errors, counted = restoration_errors(network, image, self.erasures_)  # (K, H, W)
            normalized = (errors / self.errors_[:, None, None]).sum(axis=0) / counted.sum(axis=0)
            height, width = normalized.shape
            cells = normalized.reshape(height // CELL, CELL, width // CELL, CELL)
            maps.append(cells.mean(axis=(1, 3)))
        return np.stack(maps).astype(np.float32)

    def _score_images(self, X, score_maps):
        # Those of a region of interest, if there is one.
        counted = np.isfinite(score_maps)
        return score_maps.mean(axis=(1, 2), dtype=np.float64, where=counted)

    _kept_of_forecast = ("network",)

    def _forecast(self, layer_shapes, n_images):
        height, width, n_channels = layer_shapes[PIXELS]
        return training_needs((height, width), n_channels, self._schedule(), n_images)
