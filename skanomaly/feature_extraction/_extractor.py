"""FeatureExtractor: the inner layers of a pretrained network as features."""

import logging
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.validation import check_is_fitted

from skanomaly._cache import digest, open_cache
from skanomaly._images import check_images
from skanomaly._validation import Interval, StrOptions, fitting
from skanomaly.feature_extraction import _backbones as backbones
from skanomaly.feature_extraction._base import BaseExtractor
from skanomaly.feature_extraction._packing import can_pack, has_fast_bfloat16, pack

logger = logging.getLogger("skanomaly")


class FeatureExtractor(BaseExtractor):
    """Feature maps of a torchvision backbone or a torch module.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="wide_resnet50_2"
        Any of torchvision's classification networks by name. A module is copied whenever the
        extractor is cloned; it must be traceable by torch.fx.
    layers : list of str, or str, default=None
        Names of the layers, as torchvision's ``get_graph_node_names`` has them. None: the ends
        of the stages at strides 8 and 16.
    weights : str, Path or None, default="DEFAULT"
        One of torchvision's weights by name ("DEFAULT", "IMAGENET1K_V1", ...), loaded from its
        cache or the internet; a local file with the network's state dict; or None: random.
        The papers' figures are for "IMAGENET1K_V1", which is not always "DEFAULT".
    image_size : int or (int, int), default=224
        Height and width in pixels that images are brought to.
    resize : {"stretch", "pad", "crop"}, default="stretch"
        How: changing the aspect ratio, padding the shorter side, or cropping the longer one.
        Score maps undo it.
    dtype : {"float32", "bfloat16", "auto"}, default="float32"
        Precision of the network; "auto" takes bfloat16 where the processor multiplies it in
        hardware. Features are float32 either way.
    device : str, default="auto"
        "cpu", "cuda", ...; "auto" takes a GPU where there is one.
    batch_size : int, default=16
        Images read, and on a GPU computed, at a time. The answer does not depend on it.
    memory_limit : int, str such as "2GB", or None, default=None
        Features that would take more than a quarter of it are streamed instead of stored.
    cache : str, Path, joblib.Memory or None, default=None
        Folder in which each image's features are kept, under a digest of the image and of all
        that the features depend on, and with them what detectors learn and answer: a search over
        many settings, or another run, computes each of them once. Nothing is ever deleted.
    random_state : int, RandomState instance or None, default=None
        Of random weights.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    layers_ : tuple of str
    layer_shapes_ : dict of str to tuple (h, w, C)
    weights_ : dict of str to ndarray
        Of the trimmed network, batch normalisation folded in. A pickle carries them.
    weights_fingerprint_ : str
        SHA-256 of ``weights_``.
    n_channels_in_ : int
        Channels of the images; grey images are repeated to three.

    See Also
    --------
    FilterBank : Features with no weights.

    Notes
    -----
    Images are scaled to [0, 1] and, where there are three channels, normalised by ImageNet's
    mean and standard deviation.

    Examples
    --------
    >>> from skanomaly import FeatureExtractor
    >>> from skanomaly.datasets import make_textures
    >>> images = make_textures(2, size=(64, 64), random_state=0)
    >>> extractor = FeatureExtractor("squeezenet1_1", weights=None, image_size=64, random_state=0)
    >>> extractor.fit_transform(images)
    FeatureMaps(2 images, stored: features.7 (7, 7, 256), features.12 (3, 3, 512))
    """

    _parameter_constraints = {
        **BaseExtractor._parameter_constraints,
        "backbone": [str, torch.nn.Module],
        "layers": [None, str, "array-like"],
        "weights": [None, str, Path],
        "dtype": [StrOptions({"float32", "bfloat16", "auto"})],
        "device": [str],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        backbone="wide_resnet50_2",
        *,
        layers=None,
        weights="DEFAULT",
        image_size=224,
        resize="stretch",
        dtype="float32",
        device="auto",
        batch_size=16,
        memory_limit=None,
        cache=None,
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.layers = layers
        self.weights = weights
        self.image_size = image_size
        self.resize = resize
        self.dtype = dtype
        self.device = device
        self.batch_size = batch_size
        self.memory_limit = memory_limit
        self.cache = cache
        self.random_state = random_state
        self.verbose = verbose

    @fitting()
    def fit(self, X=None, y=None):
        """Load the network; the images are not looked at.

        Parameters
        ----------
        X : images, or None
            Not used.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : object

        Raises
        ------
        OSError
            The weights can neither be found nor fetched, or the file is none; the message names
            the file, the folder and the ways out. It is a ValueError as well.
        ValueError
            Unknown backbone or layer, or a layer that has no maps.
        """
        if X is not None:
            check_images(X)
        open_cache(self.cache, create=True)
        layers = self.layers
        if layers is None:
            if not isinstance(self.backbone, str):
                raise ValueError("layers must be named where backbone is a torch.nn.Module")
            layers = backbones.default_layers(self.backbone)
        self.layers_ = (layers,) if isinstance(layers, str) else tuple(layers)
        seed = check_random_state(self.random_state).randint(2**31)
        network = backbones.load_network(self.backbone, self.weights, seed)
        self.n_channels_in_ = backbones.input_channels(network)
        trimmed = backbones.trim(network, self.layers_)
        self.weights_ = backbones.to_arrays(trimmed)
        self.weights_fingerprint_ = backbones.fingerprint(self.weights_)
        self._architecture = digest(trimmed.code, str(trimmed))
        self._network = self._ready(trimmed)
        self.layer_shapes_ = self._find_shapes()
        return self

    def _identity(self):
        self._trimmed_network()
        device, dtype = self._placement
        place = (device.type, str(dtype), self._is_packed)
        network = (self._architecture, self.weights_fingerprint_, self.layers_)
        return digest(network, self.layer_shapes_, self.image_fit, place)

    def _find_shapes(self):
        """{layer: (h, w, C)}, seen on a blank image."""
        size = self.image_fit
        blank = np.zeros((1, size.height, size.width, self.n_channels_in_), dtype=np.float32)
        maps = self._forward(blank)
        for name, layer_maps in maps.items():
            if layer_maps.ndim != 4:
                raise ValueError(
                    f"layer {name!r} answers shape {tuple(layer_maps.shape)}, expected maps "
                    "(b, C, h, w); choose a layer before the pooling"
                )
        return {
            name: tuple(backbones.channels_last(m, self.backbone).shape[1:])
            for name, m in maps.items()
        }

    def _features(self, batch):
        """(b, height, width, C) float32 in [0, 1] -> {layer: (b, h, w, C) float32}."""
        # A packed network takes one image at a time: its maps stay in the cache.
        self._trimmed_network()
        step = 1 if self._is_packed else len(batch)
        pieces = [self._arrays(batch[part]) for part in gen_batches(len(batch), step)]
        return {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}

    def _arrays(self, batch):
        maps = self._forward(batch)
        return {
            name: backbones.channels_last(m, self.backbone).float().cpu().numpy()
            for name, m in maps.items()
        }

    def _forward(self, batch):
        network = self._trimmed_network()
        device, dtype = self._placement
        with torch.inference_mode():
            images = torch.from_numpy(batch).permute(0, 3, 1, 2).to(device)
            if self.n_channels_in_ == 3:
                mean = torch.tensor(backbones.IMAGENET_MEAN, device=device)
                std = torch.tensor(backbones.IMAGENET_STD, device=device)
                images = (images - mean[:, None, None]) / std[:, None, None]
            return network(images.to(dtype).contiguous(memory_format=torch.channels_last))

    def _trimmed_network(self):
        """The network on its device, rebuilt from weights_ on first use."""
        if getattr(self, "_network", None) is None:
            check_is_fitted(self)
            network = backbones.load_network(self.backbone, None, seed=0)
            trimmed = backbones.trim(network, self.layers_)
            self._network = self._ready(backbones.from_arrays(trimmed, self.weights_))
        return self._network

    def _ready(self, network):
        """On its device, in its precision, channels last."""
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, self._precision(device))
        network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last)
        self._placement = (torch.device(device), dtype)
        self._is_packed = device == "cpu" and can_pack()
        return pack(network) if self._is_packed else network

    def _precision(self, device):
        """Name of the precision in use."""
        if self.dtype != "auto":
            return self.dtype
        is_fast = device != "cpu" or has_fast_bfloat16()
        logger.info("bfloat16 is %s here", "fast and taken" if is_fast else "slow: float32 taken")
        return "bfloat16" if is_fast else "float32"

    def _batch_size(self):
        return self.batch_size

    def __getstate__(self):
        return {**super().__getstate__(), "_network": None, "_placement": None}
