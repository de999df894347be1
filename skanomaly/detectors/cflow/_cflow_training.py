"""The training of CFlow: vectors of a layer in random order, and the likelihood of those held out.

L    mean of -log sigmoid(l), l = log p(x | c) / C: against -l it counts the less, the likelier a
     vector already is
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils import gen_batches

from skanomaly.training import fit

GROUP = 32  # images, at least, whose vectors are shuffled together
HELD_OUT = 0.1  # of the good images
WARM_UP, FIRST, LAST = 0.08, 0.1, 1e-3  # share of the epochs; rates of the first and the last one
# Values of float32 that a step holds for each vector, block, and channel or number of a code:
# measured, 3 to 3.5 that are kept for the gradients, and some on the way back.
STEP_VALUES = 4


@dataclass(frozen=True)
class Schedule:
    """What a preset stands for: the flows, what they get, how they train and how layers add up."""

    n_blocks: int
    condition_size: int
    hidden_ratio: float
    standardize: str
    combine: str
    n_epochs: int
    batch_size: int
    learning_rate: float


SCHEDULES = {
    "quick": Schedule(4, 32, 1.0, "position", "standard", 30, 1024, 2e-3),
    "paper": Schedule(8, 128, 2.0, "none", "probability", 200, 256, 2e-4),
}


def split(n_images, seed):
    """Images that are trained on, and a tenth that is held out, as ascending numbers.

    None is held out of fewer than ten.
    """
    order = np.random.default_rng(seed).permutation(n_images)
    n_held_out = int(HELD_OUT * n_images)
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


def rate(epoch, n_epochs):
    """Learning rate of an epoch in units of the highest: a linear warm-up on a cosine."""
    n_warm = round(WARM_UP * n_epochs)
    cosine = LAST + (1 - LAST) * (1 + math.cos(math.pi * epoch / n_epochs)) / 2
    return cosine * min(1, FIRST + (1 - FIRST) * (epoch + 0.5) / max(n_warm, 0.5))


def group_size(batch_size, n_cells):
    """Images whose vectors are shuffled together, of so many cells in the finest layer."""
    return max(GROUP, -(-batch_size // n_cells))


def epoch_batches(rows, n_cells, batch_size, seed, epoch):
    """An epoch: images in random order, group by group, then all vectors of each layer.

    Parameters
    ----------
    rows : ndarray of shape (n,), int
        Images that are trained on.
    n_cells : list of int
        Places of each layer.
    batch_size : int
        Vectors, about: a layer's are cut into batches of nearly one size, with none left out.
    seed, epoch : int

    Returns
    -------
    list of tuple (group, layer, chosen)
        Rows of the group's images; number of the layer; numbers of the batch's vectors among
        those of the group, image by image. The same ones whenever it is called.
    """
    rng, batches = np.random.default_rng([seed, epoch]), []
    n_groups = -(-len(rows) // group_size(batch_size, max(n_cells)))
    for group in np.array_split(rng.permutation(rows), n_groups):
        for layer, n in enumerate(n_cells):
            n_batches = max(1, round(len(group) * n / batch_size))
            parts = np.array_split(rng.permutation(len(group) * n), n_batches)
            batches += [(group, layer, part) for part in parts]
    return batches


class FlowTraining:
    """Steps of the training, and mean likelihoods by epoch, which go into checkpoints.

    For the training loop it is a scheduler: something that steps and has a state.

    Parameters
    ----------
    flows : ConditionalFlows
    names : list of str
        Of the layers.
    read : callable
        Rows of images in; out, for each layer, ndarray (n, h, w, d), float32, and where it counts,
        ndarray (n, h, w), bool, or None.
    held_out : ndarray of shape (n,), int
        Rows of images for a second opinion; none of them: without it.
    device : torch.device
    """

    def __init__(self, flows, names, read, held_out, device):
        self.flows, self.names, self.read = flows, names, read
        self.held_out, self.device = held_out, device
        self.group, self.vectors, self.inside = None, [], []
        self.totals = {}  # {layer: (sum of l, number of vectors)} of the running epoch
        self.history = {}

    def loss(self, batch):
        """The loss of one batch of one layer; other layers have no part in it."""
        group, layer, chosen = batch
        if group is not self.group:
            maps, self.inside = self.read(group)
            self.group, self.vectors = group, [self._vectors(one) for one in maps]
        if self.inside[layer] is not None:
            chosen = chosen[self.inside[layer].ravel()[chosen]]
            if not len(chosen):
                return torch.zeros((), device=self.device, requires_grad=True)  # moves nothing
        chosen = torch.from_numpy(chosen).to(self.device)
        places = chosen % len(self.flows.codes(layer))
        likelihoods = self.flows(layer, self.vectors[layer].index_select(0, chosen), places)[0]
        total, n = self.totals.get(layer, (0.0, 0))
        self.totals[layer] = total + likelihoods.detach().sum(), n + len(chosen)
        return -F.logsigmoid(likelihoods).mean()

    def step(self):
        """End an epoch: the mean likelihoods of each layer go into the history."""
        for layer, (total, n) in sorted(self.totals.items()):
            self._keep(layer, "training", float(total) / n)
        self.totals = {}
        for layer, mean in enumerate(self._held_out_means()):
            self._keep(layer, "held_out", mean)

    def state_dict(self):
        """What a checkpoint holds."""
        return {"history": self.history}

    def load_state_dict(self, state):
        """Go on from a checkpoint."""
        self.history = state["history"]

    def _held_out_means(self):
        if not len(self.held_out):
            return []
        means = [[] for _ in self.names]  # of each image, by layer
        with torch.inference_mode():
            for part in gen_batches(len(self.held_out), GROUP):  # no more at a time than in steps
                maps, inside = self.read(self.held_out[part])
                for layer, of_layer in enumerate(maps):
                    for i, one in enumerate(of_layer):
                        found = self.flows(layer, self._vectors(one), None)[0].cpu()
                        if inside[layer] is not None:
                            found = found[inside[layer][i].ravel()]
                        means[layer].append(found.mean().item())
        return [float(np.mean(of_images)) for of_images in means]

    def _keep(self, layer, kind, mean):
        self.history.setdefault(f"{self.names[layer]}-{kind}", []).append(mean)

    def _vectors(self, maps):
        """Vectors (n, d) of maps (..., d), on the device."""
        return torch.from_numpy(maps).reshape(-1, maps.shape[-1]).to(self.device)


def train_flows(flows, names, read, rows, held_out, schedule, config):
    """Train all layers' flows.

    Parameters
    ----------
    flows : ConditionalFlows
        Trained in place.
    names : list of str
        Of the layers.
    read : callable
        Rows of images in; out, for each layer, ndarray (n, h, w, d), float32, and where it counts,
        ndarray (n, h, w), bool, or None.
    rows, held_out : ndarray of int
        Images that are trained on, and others.
    schedule : Schedule
    config : TrainingConfig

    Returns
    -------
    dict of str to list of float
        By epoch: "loss", and the mean l of each layer, "<layer>-training" and "<layer>-held_out".

    Raises
    ------
    TrainingError
        A loss or a weight is not finite.
    """
    device = config.torch_device
    training = FlowTraining(flows.to(device), names, read, held_out, device)
    # One Adam is one for each flow: it passes over weights without gradients, which those of the
    # layers that a step leaves out are. (With gradients of zero it would go on moving them.)
    optimizer = torch.optim.Adam(
        flows.parameters(), schedule.learning_rate, fused=device.type in ("cpu", "cuda")
    )
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: rate(min(epoch, schedule.n_epochs - 1), schedule.n_epochs)
    )
    n_cells = [len(flows.codes(layer)) for layer in range(len(names))]

    def batches(epoch):
        return epoch_batches(rows, n_cells, schedule.batch_size, config.random_state, epoch)

    done = fit(
        flows, training.loss, batches, config, optimizers=optimizer, schedulers=[rates, training]
    )
    optimizer.zero_grad()  # their memory is not needed any more
    return done | training.history


def training_needs(flows, layer_shapes, n_read, schedule, mixing, n_images):
    """Bytes that the training holds, by what they are for.

    Parameters
    ----------
    flows : ConditionalFlows
    layer_shapes : list of tuple (h, w, d)
        With the channels in use.
    n_read : int
        Values of all channels of an image.
    schedule : Schedule
    mixing : str
    n_images : int

    Returns
    -------
    dict of str to int
    """
    n_weights = sum(weights.numel() for weights in flows.parameters())
    n_fixed = schedule.n_blocks * sum(
        d * d if mixing == "rotation" else d for *_, d in layer_shapes
    )
    n_cells = [height * width for height, width, _ in layer_shapes]
    n_group = min(n_images, group_size(schedule.batch_size, max(n_cells)))
    n_values = sum(n * d for n, (_, _, d) in zip(n_cells, layer_shapes, strict=True))
    widest = max(d for _, _, d in layer_shapes) + schedule.condition_size
    n_vectors = min(1.5 * schedule.batch_size, n_group * max(n_cells))
    return {
        "flows": 4 * (n_weights + n_fixed),
        "gradients, their moments and the last good weights": 4 * 4 * n_weights,
        "place statistics": 2 * 4 * n_values if schedule.standardize == "position" else 0,
        "vectors that are shuffled": 4 * (n_read + n_values) * n_group,
        "a training step": round(4 * STEP_VALUES * n_vectors * schedule.n_blocks * widest),
    }
