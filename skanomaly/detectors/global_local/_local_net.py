"""Local-Net of GlobalLocal: a patch embedded from its own pixels.

L     convolutions without padding that embed a patch p (C, side, side) as Z_l = L(p), (128,); on a
      whole image the same convolutions embed all of its patches at once
l_k   mean |D(L(p)) - R(p)|^2: distillation of a teacher's features R(p) through a linear decoder D
l_c   mean c_ij^2 over i != j: compactness; c are the correlations of Z_l's entries over a batch
"""

import torch
from torch import nn

EMBEDDING_SIZE = 128  # entries of Z_l and of Z_g
SLOPE = 0.005  # of LeakyReLU below 0

# Kernel and channels of each convolution by the patch's side, None for a pooling by two. That of 33
# is the network of Uninformed Students (Bergmann et al., CVPR 2020) for such patches.
LAYERS = {
    17: ((3, 128), None, (5, 256), (3, EMBEDDING_SIZE)),
    33: ((3, 128), None, (5, 256), None, (2, 256), (4, EMBEDDING_SIZE)),
    65: ((3, 128), None, (5, 128), None, (5, 256), None, (4, EMBEDDING_SIZE)),
}


def network_stride(side):
    """Pixels from one patch to the next where Local-Net is applied to a larger image."""
    return 2 ** LAYERS[side].count(None)


def receptive_field(side):
    """Pixels of a patch's side that Local-Net reads, counted from the patch's upper left corner.

    Fewer than the patch has: poolings drop the last of an odd number of cells.
    """
    n_pixels, jump = 1, 1  # seen by one cell; from one cell to the next
    for layer in LAYERS[side]:
        n_pixels += ((2 if layer is None else layer[0]) - 1) * jump
        jump *= 2 if layer is None else 1
    return n_pixels


def convolution_autocast(device, dtype):
    """Context in which convolutions on a torch device are computed in "float32" or "bfloat16"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")


class LocalNet(nn.Sequential):
    """Embeddings (b, 128, rows, columns) of all patches of images (b, C, H, W).

    Of an image that is one patch (b, C, side, side) they have the shape (b, 128, 1, 1).

    Parameters
    ----------
    side : int
        Of a patch in pixels, one of ``LAYERS``.
    n_channels : int
        Of the images.
    dtype : {"float32", "bfloat16"}, default="float32"
        Of the convolutions; the embeddings are float32.
    """

    def __init__(self, side, n_channels, dtype="float32"):
        layers = []
        for layer in LAYERS[side]:
            if layer is None:
                layers.append(nn.MaxPool2d(2))
                continue
            kernel, n_out = layer
            convolution = nn.Conv2d(n_channels, n_out, kernel)
            # Keeps the activations' scale the same from layer to layer.
            nn.init.kaiming_normal_(convolution.weight, a=SLOPE)
            nn.init.zeros_(convolution.bias)
            layers += [convolution, nn.LeakyReLU(SLOPE)]
            n_channels = n_out
        super().__init__(*layers)
        self.dtype = dtype

    def forward(self, images):
        with convolution_autocast(images.device, self.dtype):
            return super().forward(images).float()


def distillation_loss(decoded, features):
    """l_k, the mean squared difference of decoded embeddings from the teacher's features.

    Parameters
    ----------
    decoded, features : tensor of shape (n, d_teacher)

    Returns
    -------
    tensor of shape ()
        A mean over the features, not a sum as in the paper, so that its weight does not depend on
        the teacher.
    """
    return (decoded - features).square().mean()


def compactness_loss(embeddings):
    """l_c, the mean squared correlation of two different entries over a batch.

    Parameters
    ----------
    embeddings : tensor of shape (n, d)

    Returns
    -------
    tensor of shape ()
        In [0, 1]. The paper sums the correlations themselves, which strongly negative ones would
        make as low as one likes; their squares have their minimum where entries are uncorrelated.
    """
    centered = embeddings - embeddings.mean(dim=0)
    # The small number keeps the gradient finite where an entry is constant.
    unit = centered / (centered.square().sum(dim=0) + 1e-12).sqrt()
    correlation = unit.T @ unit  # (d, d)
    d = len(correlation)
    return (correlation.square().sum() - correlation.diagonal().square().sum()) / (d * (d - 1))
