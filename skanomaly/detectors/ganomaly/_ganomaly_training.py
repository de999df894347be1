"""The training of GANomaly: the generator and the discriminator in turns.

L_adv   mean (f(x) - f(x'))^2, f the discriminator's last maps
L_con   mean |x - x'|
L_enc   mean (z - z')^2
L_G     w_adv L_adv + w_con L_con + w_enc L_enc, the weights being 1, 50 and 1
L_D     (BCE(D(x), 1) + BCE(D(x'), 0)) / 2
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from skanomaly.detectors.ganomaly._ganomaly_networks import build_networks, draw_weights
from skanomaly.detectors.ganomaly._ganomaly_scores import to_networks
from skanomaly.training import fit, shuffled_batches

LOSSES = ("adversarial", "contextual", "latent", "discriminator")
BETAS = (0.5, 0.999)  # of Adam
TOO_SURE = 1e-5  # loss of the discriminator under which it is begun anew
# Values of float32 that a step holds for each pixel of its batch and each of width: measured, 4
# that are kept for the gradients, and some on the way back.
STEP_VALUES = 6


@dataclass(frozen=True)
class Schedule:
    """How wide the networks are, and how long and how fast they train."""

    width: int
    n_epochs: int
    batch_size: int
    learning_rate: float


SCHEDULES = {"quick": Schedule(16, 100, 32, 2e-4), "paper": Schedule(64, 15, 64, 2e-4)}


class AdversarialTraining(nn.Module):
    """The networks while they train, with the losses so far, which checkpoints so keep, too.

    Parameters
    ----------
    networks : ModuleDict
        From :func:`build_networks`.
    weights : tuple of float
        Of L_adv, L_con and L_enc.
    n_epochs : int
    """

    def __init__(self, networks, weights, n_epochs):
        super().__init__()
        self.networks, self.weights = networks, weights
        self.register_buffer("losses", torch.zeros(n_epochs, len(LOSSES)))

    def steps(self, images, epoch, share):
        """L_G, and once it has been minimized L_D, of images (b, C, H, W) in [-1, 1].

        Share is that of the batch in its epoch.
        """
        generator, discriminator = self.networks["generator"], self.networks["discriminator"]
        z, restored, z_restored = generator(images)
        with torch.no_grad():
            features = discriminator.maps(images)[-1]
        losses = [
            F.mse_loss(discriminator.maps(restored)[-1], features),
            F.l1_loss(restored, images),
            F.mse_loss(z_restored, z),
        ]
        yield sum(weight * loss for weight, loss in zip(self.weights, losses, strict=True))
        real, fake = discriminator(images), discriminator(restored.detach())
        loss = (_cross_entropy(real, 1.0) + _cross_entropy(fake, 0.0)) / 2
        self.losses[epoch] += share * torch.stack([*losses, loss]).detach().float()
        yield loss
        if loss.item() < TOO_SURE:
            discriminator.apply(draw_weights)

    def history(self, n_epochs):
        """Mean losses of the epochs that there were, {name: list of float}."""
        return dict(zip(LOSSES, self.losses[:n_epochs].T.tolist(), strict=True))


def _cross_entropy(logits, label):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def train_networks(networks, pixels, weights, schedule, config):
    """Train on images.

    Parameters
    ----------
    networks : ModuleDict
        From :func:`build_networks`; trained in place.
    pixels : ndarray of shape (n, H, W, C), float32 in [0, 1]
    weights : tuple of float
        Of L_adv, L_con and L_enc.
    schedule : Schedule
    config : TrainingConfig

    Returns
    -------
    dict of str to list of float
        Mean losses by epoch: "adversarial", "contextual", "latent", "discriminator".

    Raises
    ------
    TrainingError
        A loss or a weight is not finite.
    """
    training = AdversarialTraining(networks, weights, schedule.n_epochs).to(config.torch_device)
    optimizers = [
        torch.optim.Adam(networks[name].parameters(), schedule.learning_rate, betas=BETAS)
        for name in ("generator", "discriminator")
    ]

    def batches(epoch):
        chosen = shuffled_batches(len(pixels), schedule.batch_size, config.random_state, epoch)
        return [(rows, epoch, 1 / len(chosen)) for rows in chosen]

    def step(batch):
        rows, epoch, share = batch
        images = to_networks(pixels[rows]).to(config.torch_device)
        return training.steps(images, epoch, share)

    done = fit(training, step, batches, config, optimizers=optimizers)
    return training.history(len(done["loss"]))


def training_needs(size, n_channels, latent_size, schedule, n_images):
    """Bytes that the training holds, by what they are for."""
    with torch.device("meta"):  # shapes alone
        networks = build_networks(size, n_channels, schedule.width, latent_size)
    n_weights = sum(weights.numel() for weights in networks.parameters())
    n_values = STEP_VALUES * schedule.width * size[0] * size[1]
    return {
        "networks": 4 * n_weights,
        "gradients, their moments and the last good weights": 4 * 4 * n_weights,
        "a training step": 4 * n_values * min(schedule.batch_size, n_images),
    }
