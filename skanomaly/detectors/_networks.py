"""Torch modules of the detectors that train, and the one loop that trains them."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from skanomaly._files import naming, whole_file
from skanomaly.detectors._transforms import IDENTITIES, inverse, matrices, warp

LOCALISATION_CHANNELS = (64, 16)
LOCALISATION_UNITS = 1024


class SpatialTransformer(nn.Module):
    """Finds a transform from maps and applies it to them (Jaderberg et al., 2015).

    Parameters
    ----------
    channels : int
    grid : tuple (h, w)
    mode : str
        One of ``IDENTITIES``. At first the transform is the identity.
    """

    def __init__(self, channels, grid, mode):
        super().__init__()
        self.mode = mode
        first, second = LOCALISATION_CHANNELS
        cells = [math.ceil(side / 4) for side in grid]  # two poolings, each rounding up
        self.localisation = nn.Sequential(
            *_convolution(channels, first),
            *_convolution(first, second),
            nn.Flatten(),
            nn.Linear(second * cells[0] * cells[1], LOCALISATION_UNITS),
            nn.ReLU(),
            nn.Linear(LOCALISATION_UNITS, len(IDENTITIES[mode])),
        )
        nn.init.zeros_(self.localisation[-1].weight)
        with torch.no_grad():
            self.localisation[-1].bias.copy_(torch.tensor(IDENTITIES[mode], dtype=torch.float32))

    def forward(self, maps):
        """(b, C, h, w) -> the same transformed, and theta (b, 2, 3)."""
        theta = matrices(self.localisation(maps), self.mode)
        return warp(maps, theta), theta


def _convolution(before, after):
    return (
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    )


class Registration(nn.Module):
    """Three stages of a backbone, each followed by a transformer; encoder and predictor (RegAD).

    Parameters
    ----------
    stages : list of nn.Module
        Each takes the maps that the one before answers.
    shapes : list of tuple (C, h, w)
        Of the stages' maps.
    mode : str or None
        Of the transformers; None: there are none.
    """

    def __init__(self, stages, shapes, mode):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.transformers = nn.ModuleList(
            SpatialTransformer(c, (h, w), mode) for c, h, w in shapes if mode is not None
        )
        c = shapes[-1][0]
        self.encoder = nn.Sequential(*_mixed(c), *_mixed(c), nn.Conv2d(c, c, 1))
        self.predictor = nn.Sequential(*_mixed(c), nn.Conv2d(c, c, 1))

    def forward(self, images):
        """(b, 3, H, W) -> registered maps (b, C, h, w) and theta (b, 2, 3) or None by stage."""
        maps, answer = images, []
        for i, stage in enumerate(self.stages):
            maps, theta = stage(maps), None
            if self.transformers:
                maps, theta = self.transformers[i](maps)
            answer.append((maps, theta))
        return answer

    def features(self, images):
        """Maps (b, C, h, w) by stage, registered and then moved back to where they came from."""
        thetas, answer = [], []
        for maps, theta in self(images):
            thetas.append(theta)
            for one in reversed(thetas):
                maps = maps if one is None else warp(maps, inverse(one))
            answer.append(maps)
        return answer

    def loss(self, maps, support):
        """Symmetric negative cosine of predictions and encodings, gradients stopped at the latter.

        Eq. 1 and 2: -1 where maps (b, C, h, w) and those of the support agree everywhere.
        """
        encoded, encoded_support = self.encoder(maps), self.encoder(support)
        there = -F.cosine_similarity(self.predictor(encoded), encoded_support.detach(), dim=1)
        back = -F.cosine_similarity(self.predictor(encoded_support), encoded.detach(), dim=1)
        return (there.mean() + back.mean()) / 2


def _mixed(channels):
    return nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()


class TrainingError(RuntimeError):
    """A training that cannot go on; what was trained is in its last good state.

    Parameters
    ----------
    message : str
        What went wrong, in which epoch, and the way out.
    history : dict of str to list of float
        The losses until then.
    """

    def __init__(self, message, history):
        super().__init__(message, history)  # both, so that it can travel between processes
        self.history = history

    def __str__(self):
        return self.args[0]


def cosine_descent(network, learning_rate, head_learning_rate, momentum, n_epochs):
    """Gradient descent of a Registration, its rates falling to 0 along a cosine."""
    heads = [*network.encoder.parameters(), *network.predictor.parameters()]
    rest = [*network.stages.parameters(), *network.transformers.parameters()]
    groups = [
        {"params": rest, "lr": learning_rate},
        {"params": heads, "lr": head_learning_rate or learning_rate},
    ]
    optimiser = torch.optim.SGD(groups, learning_rate, momentum=momentum)
    return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(n_epochs, 1))


def train(
    network, loss_of, batches_of, optimiser, scheduler, n_epochs, *, identity,
    checkpoint=None, validate=None, patience=None, name="training", verbose=0,
    way_out="lower the learning rate; the last good state is kept",
):  # fmt: skip
    """Train a network epoch by epoch; go on where an interrupted training of the same kind stopped.

    Parameters
    ----------
    network : nn.Module
    loss_of : callable
        ``loss_of(batch)`` answers a loss with gradients.
    batches_of : callable
        ``batches_of(epoch)`` answers a list of batches, the same ones whenever it is asked.
    optimiser, scheduler : of torch
        The scheduler steps once an epoch.
    n_epochs : int
    identity : str
        A checkpoint of another identity is refused.
    checkpoint : path or None
        File written after every epoch, whole or not at all.
    validate : callable or None
        Answers a loss to be low after each epoch; the network ends in its best state.
    patience : int or None
        Epochs without a better validation after which to stop; None: never.
    name : str
        What the progress bar says.
    verbose : int
        1 shows a progress bar.
    way_out : str
        What to do when the loss is no longer a number.

    Returns
    -------
    dict of str to list of float
        Mean loss by epoch and, with ``validate``, its answers.

    Raises
    ------
    TrainingError
        The loss is no longer a number: the network is as it was after the last good epoch.
    ValueError
        The checkpoint is of another training.
    """
    state = {"epoch": 0, "history": {"loss": []}, "best": None}
    if checkpoint is not None and Path(checkpoint).exists():
        state = _resume(checkpoint, identity, network, optimiser, scheduler)
    history = state["history"]
    with tqdm(desc=name, unit="batch", disable=not verbose) as bar:
        while state["epoch"] < n_epochs and not _is_stale(history, patience):
            batches = batches_of(state["epoch"])
            bar.total = bar.n + len(batches) * (n_epochs - state["epoch"])
            last_good = {key: value.clone() for key, value in network.state_dict().items()}
            try:
                loss = _one_epoch(network, loss_of, batches, optimiser, bar)
            except FloatingPointError as error:
                network.load_state_dict(last_good)
                message = f"{error} in epoch {state['epoch'] + 1}; {way_out}."
                raise TrainingError(message, history) from None
            scheduler.step()
            state["epoch"] += 1
            history["loss"].append(loss)
            if validate is not None:
                network.eval()
                history.setdefault("validation", []).append(validate())
                if history["validation"][-1] == min(history["validation"]):
                    state["best"] = {k: v.clone() for k, v in network.state_dict().items()}
            if checkpoint is not None:
                _save(checkpoint, identity, state, network, optimiser, scheduler)
    if state["best"] is not None:
        network.load_state_dict(state["best"])
    network.eval()
    return history


def _one_epoch(network, loss_of, batches, optimiser, bar):
    """Mean loss; raises FloatingPointError where it or a weight is no longer a number."""
    network.train()
    losses = []
    for batch in batches:
        optimiser.zero_grad()
        loss = loss_of(batch)
        losses.append(loss.item())
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {losses[-1]}")
        loss.backward()
        optimiser.step()
        bar.set_postfix(loss=f"{sum(losses) / len(losses):.4f}", refresh=False)
        bar.update()
    if not all(torch.isfinite(v).all() for v in network.state_dict().values()):
        raise FloatingPointError("a weight is not finite")
    return sum(losses) / len(losses)


def _is_stale(history, patience):
    """Whether the validation has not become better for so many epochs."""
    values = history.get("validation", [])
    return patience is not None and len(values) - 1 - _place_of_least(values) >= patience


def _place_of_least(values):
    return min(range(len(values)), key=values.__getitem__, default=-1)


def _save(path, identity, state, network, optimiser, scheduler):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {"network": network, "optimiser": optimiser, "scheduler": scheduler}
    states = {name: part.state_dict() for name, part in parts.items()}
    with whole_file(path) as unfinished, naming(path):
        torch.save({"identity": identity, **state, **states}, unfinished)


def _resume(path, identity, network, optimiser, scheduler):
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # torch raises many kinds; the user needs the file's name
        raise ValueError(f"{path}: not a checkpoint ({error}); delete it") from error
    if state.pop("identity", None) != identity:
        raise ValueError(
            f"{path} is a checkpoint of another training: other parameters, images or groups; "
            "delete it, or name another file"
        )
    for name, part in (("network", network), ("optimiser", optimiser), ("scheduler", scheduler)):
        part.load_state_dict(state.pop(name))
    return state
