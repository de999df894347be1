"""The training of DifferNet: the likelihood of the good images' vectors, maximized.

L      mean of (|z|^2 / 2 - log |det dz/dv|) / D
epoch  up to 4 views of each image, in batches of 96; v + noise N(0, I), drawn anew in each step
Adam   betas (0.8, 0.8), eps 1e-4, weight decay 1e-5, learning rate 2e-4 (paper), 192 epochs
"""

from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
import torch
from torch import nn

from skanomaly.detectors._flows import LARGEST
from skanomaly.detectors.differnet._pooled_density import as_tensor, build_flow
from skanomaly.training import fit, shuffled_batches

BETAS, EPSILON, WEIGHT_DECAY = (0.8, 0.8), 1e-4, 1e-5  # of Adam
VIEWS_PER_EPOCH = 4  # of each image
WIDEST = 256  # hidden layer of the quick preset


@dataclass(frozen=True)
class Schedule:
    """Subnets, training and views of a preset; angles in degrees."""

    hidden_layer_sizes: tuple[int, ...] | None  # None: one of twice the subnet's input, up to 256
    n_epochs: int
    batch_size: int
    learning_rate: float
    n_views: int
    n_test_views: int
    max_angle: float


SCHEDULES = {
    "quick": Schedule(None, 192, 96, 1e-3, 16, 16, 10.0),
    "paper": Schedule((2048, 2048, 2048), 192, 96, 2e-4, 32, 64, 180.0),
}


def make_schedule(preset, **given):
    """A preset's schedule, with what is given and not None instead of its own."""
    sizes = given["hidden_layer_sizes"]
    if sizes is not None and not all(isinstance(n, Integral) and n > 0 for n in sizes):
        raise ValueError(f"expected hidden_layer_sizes as integers from 1 on, got {sizes!r}")
    schedule = replace(SCHEDULES[preset], **{k: v for k, v in given.items() if v is not None})
    if schedule.max_angle == 0:  # all views would be the same
        schedule = replace(schedule, n_views=1, n_test_views=1)
    return schedule


def hidden_sizes(schedule, n_features):
    """Widths of the hidden layers of subnets for vectors of so many numbers, a list of int."""
    if schedule.hidden_layer_sizes is None:
        return [min(2 * (n_features - n_features // 2), WIDEST)]
    return [int(width) for width in schedule.hidden_layer_sizes]


class LikelihoodTraining(nn.Module):
    """The flow while it trains, with the count of numbers cut so far, which checkpoints keep, too.

    Parameters
    ----------
    flow : Flow
    n_epochs : int
    """

    def __init__(self, flow, n_epochs):
        super().__init__()
        self.flow = flow
        self.register_buffer("clamped", torch.zeros(n_epochs))

    def loss(self, vectors, epoch):
        """L of vectors (b, D)."""
        z, log_det = self.flow(vectors)
        self.clamped[epoch] += (z.detach().abs() >= LARGEST).sum()
        return (z.square().sum(1) / 2 - log_det).mean() / z.shape[1]


def train_flow(flow, vectors, noise, config):
    """Train on vectors of views.

    Parameters
    ----------
    flow : Flow
        From :func:`build_flow`; trained in place.
    vectors : ndarray of shape (n, views, D)
        Of n images, standardized.
    noise : float
        Standard deviation of what is added to them, drawn anew in each step.
    config : TrainingConfig

    Returns
    -------
    dict of str to list of float
        By epoch: "loss", the mean of L, and "clamped", the numbers of z that were cut.

    Raises
    ------
    TrainingError
        A loss or a weight is not finite.
    """
    n_images, n_views, n_features = vectors.shape
    if n_features == 1:  # a single number has no halves: nothing is to be trained
        return {"loss": [], "clamped": []}
    training = LikelihoodTraining(flow, config.n_epochs).to(config.torch_device)
    optimizer = torch.optim.Adam(
        flow.parameters(), config.learning_rate, BETAS, EPSILON, WEIGHT_DECAY
    )
    rows = as_tensor(vectors.reshape(-1, n_features))

    def batches(epoch):
        chosen = views_of_epoch(n_images, n_views, config.random_state, epoch)
        parts = shuffled_batches(len(chosen), config.batch_size, config.random_state, epoch)
        return [(chosen[part], epoch) for part in parts]

    def step(batch):
        chosen, epoch = batch
        some = rows[chosen].to(config.torch_device)
        return training.loss(some + noise * torch.randn_like(some), epoch)

    history = fit(training, step, batches, config, optimizers=optimizer)
    optimizer.zero_grad()  # their memory is not needed any more
    return {**history, "clamped": training.clamped[: len(history["loss"])].tolist()}


def views_of_epoch(n_images, n_views, seed, epoch):
    """Rows of the views of all images, drawn for an epoch: (n_images * min(4, n_views),) int."""
    order = np.tile(np.arange(n_views), (n_images, 1))
    order = np.random.default_rng([seed, epoch, 1]).permuted(order, axis=1)[:, :VIEWS_PER_EPOCH]
    return (n_views * np.arange(n_images)[:, None] + order).ravel()


def training_needs(n_features, schedule, n_blocks):
    """Bytes that the training of a flow holds, by what they are for."""
    hidden = hidden_sizes(schedule, n_features)
    with torch.device("meta"):  # shapes alone
        flow = build_flow(n_features, hidden, n_blocks, 1.0)
    n_weights = sum(weights.numel() for weights in flow.parameters())
    # Of each subnet: its input, the layers before and after ReLU, and what it moves.
    n_values = 2 * n_blocks * (2 * sum(hidden) + 8 * n_features)
    return {
        "flow": 4 * n_weights,
        "gradients, their moments and the last good weights": 4 * 4 * n_weights,
        "a training step": 4 * n_values * schedule.batch_size,
    }
