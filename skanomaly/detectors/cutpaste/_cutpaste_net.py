"""The network of CutPaste: an encoder, and a head that tells good from pasted.

A     the encoder's last maps, (K, h, w)
f     mean of A over its cells, (K,): the feature
head  f -> 128, batch norm, ReLU -> classes: good, and each kind of paste
"""

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, conv1x1

from skanomaly.feature_extraction import backbones
from skanomaly.utils.networks import seeded

HEAD_UNITS = 128
# ResNet-18 with so many channels in its first stage, of 64; the features are eight times as many.
NARROW = {"tiny": 16, "small": 32}
# Children of torchvision's networks after the last maps.
_AFTER_MAPS = ("avgpool", "dropout", "classifier", "fc", "head")


class CutPasteNet(nn.Module):
    """Encoder and head.

    Parameters
    ----------
    encoder : str
        "tiny", "small", or a torchvision network of convolutions.
    n_channels : int
        Of the images; 3 for a torchvision network.
    n_classes : int
    weights : str, Path or None, default=None
        Initial weights of a torchvision network, as in FeatureExtractor; None: random.
    seed : int, default=0
        Of random weights.
    """

    def __init__(self, encoder, n_channels, n_classes, weights=None, seed=0):
        super().__init__()
        self.is_pretrained = weights is not None
        if encoder in NARROW:
            with seeded(seed):
                self.encoder = narrow_resnet18(n_channels, NARROW[encoder])
        else:
            self.encoder = _without_head(backbones.load_network(encoder, weights, seed))
        n_features = n_features_of(self.encoder, n_channels)
        with seeded(seed):
            self.head = nn.Sequential(
                nn.Linear(n_features, HEAD_UNITS, bias=False),
                nn.BatchNorm1d(HEAD_UNITS),
                nn.ReLU(),
                nn.Linear(HEAD_UNITS, n_classes),
            )
        self.to(memory_format=torch.channels_last)

    def train(self, mode=True):
        """As any module; batch norm of published weights keeps its statistics, as in the paper."""
        super().train(mode)
        self.encoder.train(mode and not self.is_pretrained)
        return self

    def maps(self, images):
        """A of images (b, C, H, W): (b, K, h, w), float32."""
        images = images.to(next(self.parameters()).device)
        return self.encoder(images.contiguous(memory_format=torch.channels_last)).float()

    def features(self, images):
        """f of images (b, C, H, W): (b, K)."""
        return self.maps(images).mean(dim=(2, 3))

    def forward(self, images):
        """Logits of the classes, (b, n_classes), of images (b, C, H, W)."""
        return self.head(self.features(images))


def narrow_resnet18(n_channels, width):
    """ResNet-18's maps at stride 32, from a number of channels and with another width."""
    parts = [
        nn.Conv2d(n_channels, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        BasicBlock(width, width),
        BasicBlock(width, width),
    ]
    for n_in in (width, 2 * width, 4 * width):
        shortcut = nn.Sequential(conv1x1(n_in, 2 * n_in, 2), nn.BatchNorm2d(2 * n_in))
        parts += [BasicBlock(n_in, 2 * n_in, 2, shortcut), BasicBlock(2 * n_in, 2 * n_in)]
    for part in nn.Sequential(*parts).modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(*parts)


def check_encoder(encoder, weights):
    """Raise ValueError where there is no such encoder, or none with weights."""
    if encoder in NARROW:
        if weights is not None:
            raise ValueError(
                f"encoder={encoder!r} has no published weights; take weights=None, or an encoder "
                'that has, such as "resnet18"'
            )
    elif backbones.describe_backbone(encoder).layout not in (None, "NCHW"):
        raise ValueError(
            f"expected an encoder of convolutions, as {list(NARROW)} or a torchvision network such "
            f'as "resnet18" or "efficientnet_b4", got {encoder!r}'
        )


def n_features_of(encoder, n_channels):
    """K, the channels of an encoder's last maps; ValueError where it returns none."""
    side, was_training = 64, encoder.training  # what smaller ones could not be reduced to
    with torch.inference_mode():
        maps = encoder.eval()(torch.zeros(1, n_channels, side, side))
    encoder.train(was_training)
    return maps.shape[1]


def _without_head(network):
    """The children of a classification network up to its last maps, in their order."""
    parts = []
    for name, part in network.named_children():
        if name in _AFTER_MAPS:
            break
        parts += part if isinstance(part, nn.ModuleList) else [part]
    return nn.Sequential(*parts)
