"""RegistrationNetwork: learns over many categories how images of one category come to match."""

from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skanomaly import training
from skanomaly.base import BaseExtractor
from skanomaly.detectors._backbone_stages import check_stages, cut, map_shapes, normalize
from skanomaly.detectors._registration_model import Registration, cosine_descent
from skanomaly.detectors.regad._category_batches import (
    check_groups,
    draw_batches,
    load_pixels,
    members_of,
    support_weights,
)
from skanomaly.exceptions import TrainingError
from skanomaly.feature_extraction import backbones
from skanomaly.images import ImageSubset, check_images
from skanomaly.io import atomic_file, digest, name_disk_errors, read_arrays, write_arrays
from skanomaly.utils.device import resolve_device
from skanomaly.utils.memory_budget import parse_memory
from skanomaly.utils.networks import from_arrays, seeded, to_arrays
from skanomaly.utils.state import reading
from skanomaly.utils.targets import good_images
from skanomaly.utils.threads import N_READERS, count_threads
from skanomaly.utils.validation import Interval, StrOptions, fitting

_KIND = "RegistrationNetwork"  # what a file says that it is
_POSITIVE = [Interval(Integral, 1, None, closed="left")]
# Parameters that neither change what is learned nor go into a file.
_OF_THE_MACHINE = ("cache", "checkpoint", "device", "memory_limit", "n_jobs", "verbose")


class RegistrationNetwork(BaseExtractor):
    """Features of a backbone whose maps of one category's images have learned to match.

    Trained once on good images of many categories, it serves others as it is: in
    :class:`RegAD`, or as an extractor of three layers like any other.

    Parameters
    ----------
    backbone : str, default="efficientnet_lite0"
        A network by name, as in FeatureExtractor.
    stages : list of 3 str, or None, default=None
        Names of the parts after which maps are registered; None: those known for the family.
    weights : str, Path or None, default="DEFAULT"
        Initial weights of the backbone, as in FeatureExtractor.
    mode : str or None, default="rotation_scale"
        What the spatial transformers may do: "affine", "shear", or any of "rotation",
        "translation" and "scale" in this order, joined by "_"; None: there are none.
    n_support : int, default=2
        Other images of the category, with whose mean features an image's are compared.
    n_epochs : int, default=50
    batch_size : int, default=32
        Number of images of one category that are compared with one another.
    learning_rate, momentum : float, default=1e-4 and 0.9
        Of gradient descent; the rate falls to 0 along a cosine.
    head_learning_rate : float or None, default=None
        Of encoder and predictor, whose initial weights are random: a higher one suits a short
        training. None: ``learning_rate``.
    validation_group : str, int or None, default=None
        A category left out of the training, whose loss decides when it stops and which state is
        kept. No defects are needed.
    patience : int, default=5
        Epochs without a better loss of that category after which training stops.
    checkpoint : str, Path or None, default=None
        File written after every epoch; a fit with the same parameters, images and groups that
        finds it resumes from there.
    <image_size>
    <resize>
    <extractor_memory_limit>
    cache : str, Path, joblib.Memory or None, default=None
        Folder in which each image's features are kept, as in FeatureExtractor.
    <device>
    <n_jobs>
    random_state : int, default=0
        Draws new parts of the network, the order of images and their support.
    verbose : int, default=0
        1 shows a progress bar with the loss.

    Attributes
    ----------
    state_ : dict of str to ndarray
        All weights. A pickle carries them and none of the images.
    history_ : dict of str to list of float
        "loss" by epoch, and "validation" where there is a validation group.
    stages_ : tuple of str
    layer_shapes_ : dict of str to tuple (h, w, C)
    n_channels_in_ : int
        Always 3: gray images count as RGB.

    Notes
    -----
    The support of an image is drawn from the other images in the batch, whose features are there
    already. Images are normalized as the backbone's weights expect, and its batch normalization
    keeps the statistics that come with them. The last state is kept, or the best of the validation
    group; the authors' code kept the one best on test images.

    Nothing in the loss keeps the transformers from moving all images alike: where images are
    aligned already, they learn to enlarge the middle, and the border is lost on the way back. With
    ``mode=None`` that cannot be.

    References
    ----------
    Huang et al., "Registration based Few-Shot Anomaly Detection", ECCV 2022.

    Examples
    --------
    >>> from skanomaly import RegistrationNetwork
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(8, size=(64, 64), random_state=0)
    >>> network = RegistrationNetwork("squeezenet1_1", weights=None, image_size=64, n_epochs=1)
    >>> network.fit(good, groups=["a"] * 4 + ["b"] * 4).transform(good[:2])
    FeatureMaps(2 images, stored: features.4 (15, 15, 128), features.7 (7, 7, 256), \
features.12 (3, 3, 512))
    """

    _transient = ("_network",)

    _parameter_constraints = {
        **BaseExtractor._parameter_constraints,
        "backbone": [str],
        "stages": [None, "array-like"],
        "weights": [None, str, Path],
        "mode": [None, StrOptions(set(training.IDENTITIES))],
        "n_support": _POSITIVE,
        "n_epochs": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "head_learning_rate": [None, Interval(Real, 0, None, closed="neither")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "validation_group": [None, str, Integral],
        "patience": _POSITIVE,
        "checkpoint": [None, str, Path],
        "device": [str],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        backbone="efficientnet_lite0",
        *,
        stages=None,
        weights="DEFAULT",
        mode="rotation_scale",
        n_support=2,
        n_epochs=50,
        batch_size=32,
        learning_rate=1e-4,
        head_learning_rate=None,
        momentum=0.9,
        validation_group=None,
        patience=5,
        checkpoint=None,
        image_size=224,
        resize="stretch",
        memory_limit=None,
        cache=None,
        device="auto",
        n_jobs=None,
        random_state=0,
        verbose=0,
    ):
        self.backbone = backbone
        self.stages = stages
        self.weights = weights
        self.mode = mode
        self.n_support = n_support
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.momentum = momentum
        self.validation_group = validation_group
        self.patience = patience
        self.checkpoint = checkpoint
        self.image_size = image_size
        self.resize = resize
        self.memory_limit = memory_limit
        self.cache = cache
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @fitting(keep_after=TrainingError)
    def fit(self, X, y=None, groups=None):
        """Train on good images of several categories; each image is read once.

        Parameters
        ----------
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
            uint8, uint16, or floats in [0, 1]; sizes may differ.
        y : array of shape (n,), masks, or None, default=None
            Labels, +1 good and -1 defect, or masks: images marked as defects are left out.
        groups : array-like of shape (n,)
            The category of each image, by name or number.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            Groups are missing or of another length than X; there are fewer than two categories of
            good images, or one has a single image; an image cannot be read, the message names it;
            y is coded otherwise, as 0/1; the stages are unknown; or the checkpoint is of another
            training.
        TrainingError
            The loss, or a weight, is not finite. The state before that epoch is kept.
        """
        resolve_device(self.device)  # a device that is not there shows before any image is read
        images = check_images(X)
        groups = check_groups(groups, len(images))
        is_good = good_images(y, len(images))
        groups = groups[is_good]
        members = members_of(groups, self.validation_group)
        parse_memory(self.memory_limit)  # refused here if it is no size
        self._open_cache(create=True)
        self.n_channels_in_, self.image_fit_ = 3, self.image_fit
        self.stages_ = check_stages(self.backbone, self.stages)
        network, self.layer_shapes_ = self._build(self.weights)
        images = ImageSubset(images, np.flatnonzero(is_good))
        pixels = load_pixels(images, self.image_fit, count_threads(self.n_jobs, N_READERS))
        identity = ""
        if self.checkpoint is not None:
            identity = self._training_identity(pixels, groups)
        self._train(network, pixels, members, identity)
        return self

    def _train(self, network, pixels, members, identity):
        """Train on pixels (n, 3, H, W) uint8 of the images {category: (n_members,)}."""
        held_out = members.pop(self.validation_group, None)
        config = training.TrainingConfig(
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            device=self.device,
            checkpoint=self.checkpoint,
            identity=identity,
            random_state=self.random_state,
            patience=None if held_out is None else self.patience,
            name="registration",
            advice="lower the learning rate; the last good state is kept",
            verbose=self.verbose,
        )
        optimizer, scheduler = cosine_descent(
            network, self.learning_rate, self.head_learning_rate, self.momentum, self.n_epochs
        )
        try:
            self.history_ = training.fit(
                network,
                lambda batch: self._loss(network, pixels, *batch),
                lambda epoch: self._batches(list(members.values()), epoch),
                config,
                optimizers=optimizer,
                schedulers=scheduler,
                validate=self._validation(network, pixels, held_out),
            )
        except TrainingError as error:
            self.history_ = error.history
            raise
        finally:
            # In its last good state where there was an error.
            self.state_, self._network = to_arrays(network), network.eval()

    def __sklearn_is_fitted__(self):
        return hasattr(self, "state_")

    def _training_identity(self, pixels, groups):
        """Digest of all that the training depends on."""
        parameters = self.get_params(deep=False)
        used = {k: v for k, v in sorted(parameters.items()) if k not in _OF_THE_MACHINE}
        path = Path(self.weights or "")
        weights = path.read_bytes() if path.is_file() else b""
        return digest(used, weights, groups.tolist(), pixels.numpy())

    @reading
    def save(self, path):
        """Write weights and parameters to a file, without any image.

        Parameters
        ----------
        path : str or Path
            A file that is there already is replaced once the new one is complete.

        Raises
        ------
        NotFittedError
            The network is not fitted.
        OSError
            The file cannot be written; the message names it.
        """
        check_is_fitted(self)
        parameters = self.get_params(deep=False)
        kept = {k: v for k, v in parameters.items() if k not in ("weights", *_OF_THE_MACHINE)}
        kept["stages"] = list(self.stages_)
        head = {"kind": _KIND, "parameters": kept, "history": self.history_}
        with atomic_file(path) as unfinished, name_disk_errors(path):
            write_arrays(unfinished, self.state_, head)

    @classmethod
    def load(cls, path):
        """A fitted network from a file of :meth:`save`.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        RegistrationNetwork
            Its ``device``, ``n_jobs`` and what else belongs to the machine are the defaults.

        Raises
        ------
        ValueError
            The file is none of ours, damaged, or of another version; the message names it.
        FileNotFoundError
            There is no such file.
        """
        kind = f"a file of {_KIND}.save"
        state, head = read_arrays(path, kind)
        if head.get("kind") != _KIND:
            raise ValueError(f"{path}: not {kind}")
        try:
            network = cls(**head["parameters"])
            network.stages_, network.history_ = tuple(network.stages), head["history"]
            network.n_channels_in_, network.state_ = 3, state
            network.image_fit_ = network.image_fit
            module, network.layer_shapes_ = network._build(None)
            network._network = from_arrays(module, state).eval()
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: damaged, or of another version ({error})") from error
        return network

    def _build(self, weights):
        """The network around a backbone of these weights, on the CPU, and {stage: (h, w, C)}."""
        parts = cut(backbones.load_network(self.backbone, weights, 0), self.stages_)
        shapes = map_shapes(parts, self.image_fit.height, self.image_fit.width)
        with seeded(self.random_state):
            network = Registration(parts, shapes, self.mode)
        shapes = {name: (h, w, c) for name, (c, h, w) in zip(self.stages_, shapes, strict=True)}
        return network.to(memory_format=torch.channels_last), shapes

    def _module(self):
        """The network on its device, rebuilt from state_ on first use."""
        network = self._rebuilt(
            "_network", lambda: from_arrays(self._build(None)[0], self.state_).eval()
        )
        return network.to(resolve_device(self.device))

    def _batches(self, members, epoch):
        rng = np.random.default_rng([self.random_state, epoch])
        return draw_batches(members, self.batch_size, self.n_support, rng)

    def _loss(self, network, pixels, part, support):
        """Loss of the images (b,) with their support (b, k), places in the batch."""
        batch = pixels[torch.from_numpy(part)].to(network.device)  # (b, 3, H, W) uint8
        maps = network(normalize(batch.float() / 255, self.backbone))[-1][0]  # (b, C, h, w)
        mean = support_weights(support).to(maps.device) @ maps.flatten(1)  # (b, C * h * w)
        return network.loss(maps, mean.view_as(maps))

    def _validation(self, network, pixels, indices):
        """Function that returns the mean loss of a category, always with the same batches."""

        def mean_loss():
            with torch.inference_mode():
                batches = self._batches([indices], 0)
                return float(np.mean([self._loss(network, pixels, *b).item() for b in batches]))

        return None if indices is None else mean_loss

    def _features(self, batch):
        """(b, height, width, C) float32 in [0, 1] -> {stage: (b, h, w, C) float32}."""
        network = self._module()
        images = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
        with torch.inference_mode():
            # One by one: no image's maps depend on the other images in the batch.
            pieces = [
                [maps.permute(0, 2, 3, 1).cpu().numpy() for maps in network.features(one)]
                for one in normalize(images.to(network.device), self.backbone).split(1)
            ]
        return {
            name: np.concatenate([piece[i] for piece in pieces])
            for i, name in enumerate(self.stages_)
        }

    def _identity(self):
        place = resolve_device(self.device).type  # a GPU rounds otherwise
        state = dict(sorted(self.state_.items()))  # a file has another order of the same arrays
        return digest(self.backbone, self.mode, self.image_fit, self.stages_, place, state)
