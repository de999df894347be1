"""The training of MKD's cloner on the source's maps of the good images.

L = sum over layers of L_dir + value_weight * L_val, by Adam
quick: 2,400 steps of 16 images, from 2e-3 by a cosine to 0;  paper: 601 epochs of 64, 1e-3
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from skanomaly.detectors.mkd._mkd_scores import layer_losses, to_network
from skanomaly.training import fit, shuffled_batches

LOSSES = ("direction", "value")
N_STEPS = 2400  # of the quick preset, as many as the paper's 601 epochs of 250 images or so
# Values of float32 that a step holds for each pixel of its batch and each channel of the neck,
# measured.
STEP_VALUES = 12


@dataclass(frozen=True)
class Schedule:
    """How long and how fast the cloner trains, and whether on standardized maps.

    ``n_epochs`` None: as many as N_STEPS take.
    """

    n_epochs: int | None
    batch_size: int
    learning_rate: float
    is_annealed: bool
    standardize: bool

    def count_epochs(self, n_images):
        """Epochs of so many images."""
        if self.n_epochs is not None:
            return self.n_epochs
        return math.ceil(N_STEPS / max(1, n_images // self.batch_size))


SCHEDULES = {
    "quick": Schedule(None, 16, 2e-3, True, True),
    "paper": Schedule(601, 64, 1e-3, False, False),
}


class Distillation(nn.Module):
    """The cloner while it trains, with the losses so far, which checkpoints so keep, too.

    Parameters
    ----------
    cloner : Cloner
    value_weight : float
    n_epochs : int
    """

    def __init__(self, cloner, value_weight, n_epochs):
        super().__init__()
        self.cloner, self.value_weight = cloner, value_weight
        losses = torch.zeros(n_epochs, len(LOSSES), len(cloner.stages))
        self.register_buffer("losses", losses)

    def loss(self, images, expected, epoch, share):
        """L of images (b, C, H, W), given the source's maps; share is that of the batch."""
        both = torch.stack(layer_losses(self.cloner(images), expected)).mean(dim=1)  # (2, layers)
        self.losses[epoch] += share * both.detach().float()
        return (both[0] + self.value_weight * both[1]).sum()

    def history(self, layers, n_epochs):
        """Mean losses of the epochs that there were, {name: list of float}."""
        return {
            f"{layer}-{name}": self.losses[:n_epochs, i, j].tolist()
            for j, layer in enumerate(layers)
            for i, name in enumerate(LOSSES)
        }


def train_cloner(cloner, pixels, maps, layers, value_weight, schedule, config):
    """Train on images.

    Parameters
    ----------
    cloner : Cloner
        Trained in place.
    pixels : ndarray of shape (n, H, W, C), float32 in [0, 1]
    maps : list of ndarray of shape (n, h, w, C), float32
        The source's, by layer.
    layers : sequence of str
        Their names.
    value_weight : float
    schedule : Schedule
    config : TrainingConfig

    Returns
    -------
    dict of str to list of float
        Mean losses by epoch: "LAYER-direction" and "LAYER-value" for each layer.

    Raises
    ------
    TrainingError
        A loss or a weight is not finite.
    """
    device = config.torch_device
    training = Distillation(cloner, value_weight, config.n_epochs).to(device)
    optimizer = torch.optim.Adam(cloner.parameters(), schedule.learning_rate)
    schedulers = []
    if schedule.is_annealed:
        schedulers.append(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.n_epochs))

    def batches(epoch):
        chosen = shuffled_batches(len(pixels), schedule.batch_size, config.random_state, epoch)
        return [(rows, epoch, 1 / len(chosen)) for rows in chosen]

    def step(batch):
        rows, epoch, share = batch
        expected = [to_network(one[rows]).to(device) for one in maps]
        return training.loss(to_network(pixels[rows]).to(device), expected, epoch, share)

    done = fit(training, step, batches, config, optimizers=optimizer, schedulers=schedulers)
    optimizer.zero_grad()  # their memory is not needed any more
    return training.history(layers, len(done["loss"]))


def training_needs(size, layers, width, batch_size, n_images):
    """Bytes that the training holds, by what they are for."""
    n_values = sum(math.prod(shape) for shape in layers.values())
    n_step = STEP_VALUES * width * size[0] * size[1] + 4 * n_values
    return {
        "source's maps": 4 * n_values * n_images,
        "a training step": 4 * n_step * min(batch_size, n_images),
    }
