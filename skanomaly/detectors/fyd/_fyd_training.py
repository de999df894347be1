"""The training of FYD, on the images of one category.

L_ICA   mean over pairs A, B of a batch and places u of || T(A)_u - T(B)_u ||_2, over colors
L_FA    - mean over pairs and places of cos(p_A, z_B), no gradient through z_B
R       sum over the transformers of the mean of || theta - identity ||^2
L       L_FA + image_weight L_ICA + identity_weight R; in the first tenth of epochs without L_FA
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from skanomaly.detectors._registration_model import cosine_descent
from skanomaly.detectors.fyd._fyd_network import SMALL_SIDE, shrink
from skanomaly.training import fit, shuffled_batches, warp

ALONE = 10  # one in so many epochs, the first ones, aligns images alone
HELD_OUT = 10  # one in so many images is not trained on, where at least two are then held out


@dataclass(frozen=True)
class Schedule:
    """Which backbone is trained, how long and how fast."""

    backbone: str
    n_epochs: int
    batch_size: int
    learning_rate: float
    head_learning_rate: float
    image_learning_rate: float


SCHEDULES = {
    "quick": Schedule("efficientnet_lite0", 20, 32, 1e-4, 1e-2, 0.1),
    "paper": Schedule("resnet18", 50, 32, 1e-4, 1e-4, 0.1),
}


@dataclass(frozen=True)
class Descent:
    """What a training minimizes, and how."""

    schedule: Schedule
    momentum: float
    image_weight: float
    identity_weight: float


def image_distance(images):
    """Mean distance of the colors at a place, over all pairs of different images (b, C, h, w)."""
    colors = images.flatten(2).permute(2, 0, 1).contiguous()  # (places, b, C)
    # As differences, not products: equal colors have a distance, and a gradient, of exactly 0.
    distances = torch.cdist(colors, colors, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.mean() * (len(images) / (len(images) - 1))  # without those to itself


def similarity(predicted, encoded):
    """Mean cosine at a place of p_A and z_B (b, C, h, w), over all pairs of different images.

    The cosines with all others are one product with the sum of their unit vectors.
    """
    predicted, encoded = F.normalize(predicted, dim=1), F.normalize(encoded.detach(), dim=1)
    others = (encoded.sum(dim=0) - encoded) / (len(encoded) - 1)
    return (predicted * others).sum(dim=1).mean()


def deviations(theta):
    """Distances (b,) of transforms (b, 2, 3) from the identity: norms of the difference."""
    return torch.linalg.vector_norm(theta - torch.eye(2, 3, device=theta.device), dim=(1, 2))


class FocusTraining(nn.Module):
    """The network while it trains, with the figures so far, which checkpoints so keep, too.

    Parameters
    ----------
    network : CoarseToFine
    descent : Descent
    names : list of str
        Of the stages.
    """

    def __init__(self, network, descent, names):
        super().__init__()
        self.network, self.descent = network, descent
        aligns, registers = network.image_transformer is not None, network.registration.transformers
        self.of_images = ["image-distance", "image-deviation"] if aligns else []
        self.of_maps = ["similarity", *(f"{name}-deviation" for name in names if registers)]
        n_epochs = descent.schedule.n_epochs
        self.n_alone = -(-n_epochs // ALONE) if aligns and n_epochs > 1 else 0
        n_figures = len(self.of_images) + len(self.of_maps)
        self.register_buffer("figures", torch.zeros(n_epochs, n_figures))
        self.register_buffer("held_out", torch.zeros(n_epochs + 1))

    def loss(self, images, epoch, share):
        """L of images (b, 3, H, W) in [0, 1]; share is that of the batch in its epoch."""
        descent, loss, figures, thetas = self.descent, 0.0, [], []
        theta = self.network.find(images)
        if theta is not None:
            distance = image_distance(warp(shrink(images), theta))
            loss, thetas = descent.image_weight * distance, [theta]
            figures = [distance, deviations(theta).mean()]
        if epoch >= self.n_alone:
            registered = self.network(images, theta)
            agreement = self._similarity(registered[-1][0])
            of_maps = [one for _, one in registered if one is not None]
            loss, thetas = loss - agreement, [*thetas, *of_maps]
            figures += [agreement, *(deviations(one).mean() for one in of_maps)]
        for one in thetas:
            loss = loss + descent.identity_weight * deviations(one).square().mean()
        found = torch.stack([one.detach() for one in figures])
        self.figures[epoch, : len(found)] += share * found
        return loss

    def measure(self, images, epoch):
        """Note the similarity of held-out images (b, 3, H, W) before an epoch."""
        self.network.eval()
        with torch.inference_mode():
            maps = self.network(images, self.network.find(images))[-1][0]
            self.held_out[epoch] = self._similarity(maps).item()
        self.network.train()

    def _similarity(self, maps):
        encoded = self.network.registration.encoder(maps)
        return similarity(self.network.registration.predictor(encoded), encoded)

    def history(self, n_epochs, has_held_out):
        """Figures by epoch, {name: list of float}; those of maps begin with their training."""
        columns = self.figures[:n_epochs].T.tolist()
        history = dict(zip([*self.of_images, *self.of_maps], columns, strict=True))
        for name in self.of_maps:
            del history[name][: self.n_alone]
        if has_held_out:
            history["similarity-held_out"] = self.held_out[self.n_alone : n_epochs + 1].tolist()
        return history


def train_network(network, pixels, names, descent, config):
    """Train on images.

    Parameters
    ----------
    network : CoarseToFine
        Trained in place.
    pixels : ndarray of shape (n, H, W, 3), float32 in [0, 1]
    names : sequence of str
        Of the stages.
    descent : Descent
    config : TrainingConfig

    Returns
    -------
    dict of str to list of float
        Figures by epoch, see FYD.

    Raises
    ------
    TrainingError
        A loss or a weight is not finite.
    """
    schedule = descent.schedule
    training = FocusTraining(network, descent, names).to(config.torch_device)
    further_groups = []
    if network.image_transformer is not None:
        weights = network.image_transformer.parameters()
        further_groups = [{"params": weights, "lr": schedule.image_learning_rate}]
    optimizer, scheduler = cosine_descent(
        network.registration,
        schedule.learning_rate,
        schedule.head_learning_rate,
        descent.momentum,
        schedule.n_epochs,
        further_groups,
    )
    used, held_out = split(len(pixels), schedule.batch_size, config.random_state)

    def images(rows):
        return torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2).to(config.torch_device)

    def batches(epoch):
        chosen = shuffled_batches(len(used), schedule.batch_size, config.random_state, epoch)
        return [(used[rows], epoch, i == 0, 1 / len(chosen)) for i, rows in enumerate(chosen)]

    def step(batch):
        rows, epoch, is_first, share = batch
        if is_first and epoch >= training.n_alone and len(held_out):
            training.measure(images(held_out), epoch)
        return training.loss(images(rows), epoch, share)

    done = fit(training, step, batches, config, optimizers=optimizer, schedulers=scheduler)
    optimizer.zero_grad()  # their memory is not needed any more
    if len(held_out):
        training.measure(images(held_out), schedule.n_epochs)
        network.eval()
    return training.history(len(done["loss"]), len(held_out) > 0)


def split(n_images, batch_size, seed):
    """Images that are trained on, and those held out: a tenth, a batch at most, or none."""
    n_held_out = min(n_images // HELD_OUT, batch_size)
    order = np.random.default_rng(seed).permutation(n_images)
    n_held_out = n_held_out if n_held_out > 1 else 0
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


def training_needs(network, size, descent, n_images):
    """Bytes that the training of a CoarseToFine on images of (H, W) holds, by what they are for."""
    n_weights = sum(weights.numel() for weights in network.parameters())
    n_values = [3 * 3 * size[0] * size[1]]  # of the images, moved and normalized

    def count(module, inputs, output):
        n_values.append(output.numel())

    layers = [part for part in network.modules() if not list(part.children())]
    hooks = [part.register_forward_hook(count) for part in layers]
    blank = torch.zeros(1, 3, *size)
    with torch.inference_mode():
        maps = network(blank, network.find(blank))[-1][0]
        network.registration.predictor(network.registration.encoder(maps))
    for hook in hooks:
        hook.remove()
    b = min(descent.schedule.batch_size, n_images)
    # The distances of all pairs, and their gradients.
    pairs = 3 * b * b * SMALL_SIDE**2 if network.image_transformer is not None else 0
    return {
        "network": 4 * n_weights,
        "gradients, their momentum and the last good weights": 3 * 4 * n_weights,
        "a training step": 4 * (b * sum(n_values) + pairs),
    }
