"""The training of ARNet, and the errors of what it restores.

L    E_x E_k mean (R(O_k(x)) - x)^2, one k drawn for each image and step
d_k  |R(O_k(x)) - x|, mean over channels: training is L2, testing L1
"""

from dataclasses import dataclass

import numpy as np
import torch

from skanomaly.detectors.arnet._unet import build_unet
from skanomaly.training import fit, shuffled_batches

ERASURE_SEED = 1  # last number of the seed from which erasures are drawn
# Values of float32 that a step holds for each pixel of its batch and each of width: measured, 19
# that are kept for the gradients, and some on the way back.
STEP_VALUES = 28


@dataclass(frozen=True)
class Schedule:
    """How wide the network is, and how long and how fast it trains."""

    width: int
    n_epochs: int
    batch_size: int
    learning_rate: float
    is_sgd: bool  # halved at every tenth of the run; else Adam along a cosine, to 0
    erase: tuple


SCHEDULES = {
    "quick": Schedule(16, 80, 16, 2e-3, False, ("gray", "holes")),
    "paper": Schedule(64, 125, 32, 0.1, True, ("gray", "rotation")),
}


def to_network(pixels):
    """Pixels (b, H, W, C) in [0, 1], ndarray -> tensor (b, C, H, W), channels last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def train_network(network, pixels, erasures, schedule, config):
    """Train a network to restore images.

    Parameters
    ----------
    network : UNet
        Trained in place.
    pixels : list of n ndarray of shape (H, W, C), float32 in [0, 1]
    erasures : Erasures
    schedule : Schedule
    config : TrainingConfig

    Returns
    -------
    dict of str to list of float
        "loss", the mean by epoch.

    Raises
    ------
    TrainingError
        The loss or a weight is not finite.
    """
    network.to(config.torch_device)

    def batches(epoch):
        rng = np.random.default_rng([config.random_state, epoch, ERASURE_SEED])
        chosen = shuffled_batches(len(pixels), schedule.batch_size, config.random_state, epoch)
        return [(rows, rng.integers(len(erasures), size=len(rows))) for rows in chosen]

    def step(batch):
        rows, which = batch
        images = to_network(np.stack([pixels[i] for i in rows])).to(config.torch_device)
        restored = network(erasures.erase(images, which))
        counted = erasures.counted(images, which)  # (b, 1, H, W)
        return (restored - images).square().mean(dim=1, keepdim=True)[counted].mean()

    optimizer, scheduler = _descent(network, schedule)
    return fit(network, step, batches, config, optimizers=optimizer, schedulers=scheduler)


def _descent(network, schedule):
    """Optimizer, and what lowers its rate once an epoch."""
    if schedule.is_sgd:
        sgd = torch.optim.SGD(network.parameters(), schedule.learning_rate)
        every = max(1, schedule.n_epochs // 10)
        return sgd, torch.optim.lr_scheduler.StepLR(sgd, every, gamma=0.5)
    adam = torch.optim.Adam(network.parameters(), schedule.learning_rate)
    return adam, torch.optim.lr_scheduler.CosineAnnealingLR(adam, schedule.n_epochs)


def restoration_errors(network, image, erasures):
    """d_k of an image.

    Parameters
    ----------
    network : UNet
        In evaluation mode.
    image : ndarray of shape (H, W, C), float32 in [0, 1]
    erasures : Erasures

    Returns
    -------
    errors : ndarray of shape (K, H, W), float32
        0 where they do not count.
    counted : ndarray of shape (K, H, W), bool
    """
    which = np.arange(len(erasures))
    with torch.inference_mode():
        images = to_network(image[None]).to(next(network.parameters()).device)
        images = images.expand(len(which), -1, -1, -1)  # (K, C, H, W)
        erased = erasures.erase(images, which)
        # One by one: batches of other sizes may round otherwise.
        restored = torch.cat([network(one) for one in erased.split(1)])
        counted = erasures.counted(images, which)[:, 0]  # (K, H, W)
        errors = (restored - images).abs().mean(dim=1) * counted
    return errors.cpu().numpy(), counted.cpu().numpy()


def mean_errors(network, images, erasures):
    """e_k, the mean of d_k over images and where it counts: ndarray of shape (K,), float64."""
    sums, counts = 0.0, 0.0
    for image in images:
        errors, counted = restoration_errors(network, image, erasures)
        sums = sums + errors.sum(axis=(1, 2), dtype=np.float64)
        counts = counts + counted.sum(axis=(1, 2))
    return sums / counts


def training_needs(size, n_channels, schedule, n_images):
    """Bytes that the training holds, by what they are for."""
    with torch.device("meta"):  # shapes alone
        network = build_unet(n_channels, schedule.width)
    n_weights = sum(weights.numel() for weights in network.parameters())
    n_values = STEP_VALUES * schedule.width * size[0] * size[1]
    return {
        "network": 4 * n_weights,
        "gradients, their moments and the last good weights": 4 * 4 * n_weights,
        "a training step": 4 * n_values * min(schedule.batch_size, n_images),
    }
