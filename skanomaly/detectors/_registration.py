"""RegistrationNetwork: learns over many categories how pictures of one kind come to match."""

from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skanomaly._cache import digest, open_cache
from skanomaly._images import check_images
from skanomaly._validation import Interval, StrOptions, fitting
from skanomaly.detectors._categories import draw_batches, load_pictures, members_of, support_shares
from skanomaly.detectors._network_files import read_file, write_file
from skanomaly.detectors._networks import Registration, TrainingError, cosine_descent, train
from skanomaly.detectors._stages import check_stages, cut, normalise
from skanomaly.detectors._transforms import IDENTITIES
from skanomaly.feature_extraction import _backbones as backbones
from skanomaly.feature_extraction._base import BaseExtractor, image_keys

_POSITIVE = [Interval(Integral, 1, None, closed="left")]
_NOT_OF_TRAINING = ("checkpoint", "memory_limit", "cache", "verbose")
_NOT_SAVED = ("weights", *_NOT_OF_TRAINING)


class RegistrationNetwork(BaseExtractor):
    """Features of a backbone whose maps of one category's pictures have learned to match.

    Trained once on good pictures of many categories, it serves others as it is: in
    :class:`RegAD`, or as an extractor of three layers like any other.

    Parameters
    ----------
    backbone : str, default="resnet18"
        A torchvision network.
    stages : list of 3 str, or None, default=None
        Names of the parts after which maps are registered; None: those known for the family.
    weights : str, Path or None, default="DEFAULT"
        What the backbone begins with, as in FeatureExtractor.
    mode : str or None, default="rotation_scale"
        What the spatial transformers may do: "affine", "shear", or any of "rotation",
        "translation" and "scale" in this order, joined by "_"; None: there are none.
    n_support : int, default=2
        Other pictures of the category whose mean features a picture's are compared with.
    n_epochs : int, default=50
    batch_size : int, default=32
        Pictures of one category that are compared with one another.
    learning_rate, momentum : float, default=1e-4 and 0.9
        Of gradient descent; the rate falls to 0 along a cosine.
    head_learning_rate : float or None, default=None
        Of encoder and predictor, which begin at random: a higher one suits a short training.
    validation_group : str, int or None, default=None
        A category left out of the training, whose loss decides when it stops and which state is
        kept. Defects play no part.
    patience : int, default=5
        Epochs without a better loss of that category after which training stops.
    checkpoint : str, Path or None, default=None
        File written after every epoch; a fit with the same parameters, images and groups that
        finds it goes on from there.
    image_size, resize, memory_limit, cache :
        As in FeatureExtractor; the last two for ``transform``.
    random_state : int, default=0
        Draws what is random: new parts of the network, the order of pictures and their support.
    verbose : int, default=0
        1 shows a progress bar with the loss.

    Attributes
    ----------
    state_ : dict of str to ndarray
        All weights. A pickle carries them and none of the pictures.
    history_ : dict of str to list of float
        "loss" by epoch, and "validation" where there is a validation group.
    stages_ : tuple of str
    layer_shapes_ : dict of str to tuple (h, w, C)

    Notes
    -----
    The support of a picture is drawn from the other pictures of its batch, whose features are
    there already. Pictures are normalised as the backbone's weights expect. The last state is
    kept, or the best of the validation group; the authors' code kept the one best on test images.

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

    _parameter_constraints = {
        **BaseExtractor._parameter_constraints,
        "backbone": [str],
        "stages": [None, "array-like"],
        "weights": [None, str, Path],
        "mode": [None, StrOptions(set(IDENTITIES))],
        "n_support": _POSITIVE,
        "n_epochs": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "head_learning_rate": [None, Interval(Real, 0, None, closed="neither")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "validation_group": [None, str, Integral],
        "patience": _POSITIVE,
        "checkpoint": [None, str, Path],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        backbone="resnet18",
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
        self.random_state = random_state
        self.verbose = verbose

    @fitting(but=TrainingError)
    def fit(self, X, groups=None):
        """Train on good pictures of several categories.

        Parameters
        ----------
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
        groups : array-like of shape (n,)
            The category of each picture.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            Fewer than two categories, one of a single picture, groups of another length, unknown
            stages, or a checkpoint of another training.
        TrainingError
            The loss is no longer a number. The state before that epoch is kept.
        """
        images = check_images(X)
        open_cache(self.cache, create=True)
        members = members_of(groups, len(images), self.validation_group)
        self.n_channels_in_ = 3
        self.stages_ = check_stages(self.backbone, self.stages)
        network = self._build(backbones.load_network(self.backbone, self.weights, 0))
        pictures = load_pictures(images, self.image_fit)
        held_out = members.pop(self.validation_group, None)
        rates = self.learning_rate, self.head_learning_rate
        try:
            self.history_ = train(
                network,
                lambda batch: self._loss(network, pictures, *batch),
                lambda epoch: self._batches(list(members.values()), epoch),
                *cosine_descent(network, *rates, self.momentum, self.n_epochs), self.n_epochs,
                identity=self._training_identity(images, groups) if self.checkpoint else "",
                checkpoint=self.checkpoint,
                validate=self._validation(network, pictures, held_out), patience=self.patience,
                name="registration", verbose=self.verbose,
            )  # fmt: skip
        except TrainingError as error:
            self.history_ = error.history
            raise
        finally:
            self._keep(network)  # in its last good state where there was an error
        return self

    def _keep(self, network):
        self.state_, self._network = backbones.to_arrays(network), network.eval()

    def __sklearn_is_fitted__(self):
        return hasattr(self, "state_")

    def _training_identity(self, images, groups):
        parameters = {k: v for k, v in self.get_params().items() if k not in _NOT_OF_TRAINING}
        path = Path(self.weights or "")
        weights = path.read_bytes() if path.is_file() else b""
        return digest(parameters, weights, [str(group) for group in groups], image_keys(images))

    def save(self, path):
        """Write weights and parameters to a file (str or Path), without any picture."""
        check_is_fitted(self)
        keep = {k: v for k, v in self.get_params().items() if k not in _NOT_SAVED}
        keep["stages"] = list(self.stages_)
        write_file(path, self.state_, {"parameters": keep, "history": self.history_})

    @classmethod
    def load(cls, path):
        """A fitted network from a file of :meth:`save`.

        Raises ValueError where the file is none of ours, or of another version.
        """
        state, head = read_file(path)
        network = cls(**head["parameters"])
        network.stages_, network.history_ = tuple(network.stages), head["history"]
        network.n_channels_in_, network.state_ = 3, state
        network._module()
        return network

    def _build(self, backbone):
        """The whole network around a backbone; sets the shapes of its maps."""
        parts = cut(backbone, self.stages_)
        size = self.image_fit
        maps, shapes = torch.zeros(1, 3, size.height, size.width), []
        with torch.inference_mode():
            for part in parts:
                maps = part.eval()(maps)
                shapes.append(tuple(maps.shape[1:]))
        self.layer_shapes_ = {
            name: (h, w, c) for name, (c, h, w) in zip(self.stages_, shapes, strict=True)
        }
        with backbones.seeded(self.random_state):
            network = Registration(parts, shapes, self.mode)
            return network.to(memory_format=torch.channels_last)

    def _batches(self, members, epoch):
        rng = np.random.default_rng([self.random_state, epoch])
        return draw_batches(members, self.batch_size, self.n_support, rng)

    def _loss(self, network, pictures, part, support):
        images = normalise(pictures[torch.from_numpy(part)].float() / 255)
        maps = network(images)[-1][0]  # (b, C, h, w)
        mean = support_shares(support) @ maps.flatten(1)
        return network.loss(maps, mean.view_as(maps))

    def _validation(self, network, pictures, indices):
        """Function that answers the mean loss of a category, always with the same batches."""

        def mean_loss():
            with torch.inference_mode():
                batches = self._batches([indices], 0)
                return float(np.mean([self._loss(network, pictures, *b).item() for b in batches]))

        return None if indices is None else mean_loss

    def _features(self, batch):
        """(b, height, width, C) float32 in [0, 1] -> {stage: (b, h, w, C) float32}."""
        images = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
        with torch.inference_mode():
            # One by one: no image's maps depend on its company.
            pieces = [self._module().features(normalise(one[None])) for one in images]
        return {
            name: np.concatenate([p[i].permute(0, 2, 3, 1).numpy() for p in pieces])
            for i, name in enumerate(self.stages_)
        }

    def _module(self):
        """The network, rebuilt from state_ on first use."""
        if getattr(self, "_network", None) is None:
            network = self._build(backbones.load_network(self.backbone, None, 0))
            self._network = backbones.from_arrays(network, self.state_).eval()
        return self._network

    def _identity(self):
        return digest(self.image_fit, self.stages_, *self.state_.values())

    def __getstate__(self):
        return {**super().__getstate__(), "_network": None}
