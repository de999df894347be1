"""The one training loop: epochs, optimizers, validation, checkpoints, divergence, progress."""

import hashlib
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from skanomaly.exceptions import DamagedFileError, TrainingError
from skanomaly.io import atomic_file, name_disk_errors
from skanomaly.training._config import TrainingConfig
from skanomaly.utils.networks import seeded

_HEAD = b"skanomaly checkpoint 1"  # then, in the same line, the SHA-256 of what follows


def fit(
    network: torch.nn.Module,
    step: Callable[[Any], Any],
    batches: Callable[[int], list],
    config: TrainingConfig,
    *,
    optimizers: Any = None,
    schedulers: Any = (),
    validate: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Train a network, or resume where an interrupted training of the same kind stopped.

    Parameters
    ----------
    network : torch.nn.Module
        Trained in place; it ends on the configured device, in evaluation mode. Several networks
        that are trained together go into one ``torch.nn.ModuleDict``.
    step : callable
        ``step(batch)`` returns a loss with gradients. With several optimizers it yields one loss
        for each, in their order: each is minimized before the next one is computed, as adversarial
        training has it.
    batches : callable
        ``batches(epoch)`` returns the list of an epoch's batches, the same ones whenever it is
        called. What a step draws at random it should draw from its batch.
    config : TrainingConfig
    optimizers : torch optimizer, list of them, or None, default=None
        None: Adam with the configured learning rate.
    schedulers : torch scheduler, or list of them, default=()
        Each steps once an epoch.
    validate : callable or None, default=None
        Called after each epoch, returns a loss to be low; the network ends in its best state.

    Returns
    -------
    dict of str to list of float
        "loss", the mean by epoch, summed over optimizers; with ``validate`` also "validation".

    Raises
    ------
    TrainingError
        The loss, the validation or a weight is not finite: the network is as it was after the last
        good epoch.
    ValueError
        The checkpoint is damaged or of another training; an epoch has no batches; or there is
        patience and no validation.

    Examples
    --------
    >>> import torch
    >>> from skanomaly import training
    >>> network = torch.nn.Linear(1, 1)
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> config = training.TrainingConfig(n_epochs=200, learning_rate=0.1, device="cpu")
    >>> def step(batch):
    ...     return (network(batch) - 3 * batch).square().mean()
    >>> history = training.fit(network, step, lambda epoch: [x], config)
    >>> len(history["loss"]), round(network.weight.item(), 2)
    (200, 3.0)
    """
    if config.patience is not None and validate is None:
        raise ValueError("patience counts epochs without a better validation; pass validate, too")
    network.to(config.torch_device)
    if optimizers is None:
        optimizers = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    optimizers, schedulers = _as_list(optimizers), _as_list(schedulers)
    parts = {"network": [network], "optimizers": optimizers, "schedulers": schedulers}
    state: dict[str, Any] = {"epoch": 0, "history": {"loss": []}, "best": None}
    if config.checkpoint is not None and Path(config.checkpoint).exists():
        state = _resume(config, parts)
    history = state["history"]
    with tqdm(desc=config.name, unit="batch", disable=not config.verbose) as bar:
        while state["epoch"] < config.n_epochs and not _is_stale(history, config.patience):
            epoch_batches = batches(state["epoch"])
            if not len(epoch_batches):
                raise ValueError(f"expected batches, got none in epoch {state['epoch'] + 1}")
            bar.total = bar.n + len(epoch_batches) * (config.n_epochs - state["epoch"])
            last_good = _copy(network)
            try:
                with seeded(_seed(config, state["epoch"]), config.torch_device):
                    loss = _train_epoch(network, step, epoch_batches, optimizers, config, bar)
                validation = _validate(network, validate)
            except FloatingPointError as error:
                network.load_state_dict(last_good)
                network.eval()
                message = f"{error} in epoch {state['epoch'] + 1}; {config.advice}."
                raise TrainingError(message, history) from None
            for scheduler in schedulers:
                scheduler.step()
            state["epoch"] += 1
            history["loss"].append(loss)
            if validation is not None:
                history.setdefault("validation", []).append(validation)
                if history["validation"][-1] == min(history["validation"]):
                    state["best"] = _copy(network)
            if config.checkpoint is not None:
                _save(config, state, parts)
    if state["best"] is not None:
        network.load_state_dict(state["best"])
    network.eval()
    return history


def _train_epoch(network, step, batches, optimizers, config, bar):
    """Mean loss; raises FloatingPointError where it or a weight is not finite."""
    network.train()
    totals = []
    for batch in batches:
        totals.append(0.0)
        with config.autocast():
            losses = step(batch)
        # Of a generator each loss is computed here, after the step of the optimizer before.
        losses = [losses] if torch.is_tensor(losses) else _autocast_each(losses, config)
        for optimizer, loss in zip(optimizers, losses, strict=True):
            value = loss.item()
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {value}")
            totals[-1] += value
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        bar.set_postfix(loss=f"{sum(totals) / len(totals):.4f}", refresh=False)
        bar.update()
    if not all(torch.isfinite(v).all() for v in network.state_dict().values()):
        raise FloatingPointError("a weight is not finite")
    return sum(totals) / len(totals)


def _validate(network, validate):
    """The loss to be low, or None; raises FloatingPointError where it is not finite."""
    if validate is None:
        return None
    network.eval()
    loss = float(validate())
    if not math.isfinite(loss):
        raise FloatingPointError(f"the validation is {loss}")
    return loss


def _seed(config, epoch):
    """Another seed for each epoch, the same one whenever it is trained."""
    return (config.random_state * 1_000_003 + epoch) % 2**63


def _autocast_each(losses, config):
    """The losses of a generator, each computed in the configured precision."""
    losses = iter(losses)
    while True:
        with config.autocast():
            try:
                loss = next(losses)
            except StopIteration:
                return
        yield loss


def _is_stale(history, patience):
    """Whether the validation has not become better for so many epochs."""
    values = history.get("validation", [])
    best = min(range(len(values)), key=values.__getitem__, default=-1)
    return patience is not None and len(values) - 1 - best >= patience


def _as_list(parts):
    return list(parts) if isinstance(parts, (list, tuple)) else [parts]


def _copy(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def _save(config, state, parts):
    """Write the checkpoint, whole or not at all."""
    path = Path(config.checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    states = {name: [part.state_dict() for part in some] for name, some in parts.items()}
    buffer = io.BytesIO()
    torch.save({"identity": config.identity, **state, **states}, buffer)
    content = buffer.getbuffer()
    with atomic_file(path) as unfinished, name_disk_errors(path), open(unfinished, "wb") as file:
        file.write(b"%s %s\n" % (_HEAD, hashlib.sha256(content).hexdigest().encode()))
        file.write(content)


def _resume(config, parts):
    """Load the checkpoint's states into the parts; returns epoch, history and best state."""
    path = config.checkpoint
    first, _, content = Path(path).read_bytes().partition(b"\n")
    if not first.startswith(_HEAD):
        raise DamagedFileError(f"{path}: not a checkpoint of this version; delete it")
    # torch itself reads on over changed bytes, and the training would go on from wrong numbers.
    if first != b"%s %s" % (_HEAD, hashlib.sha256(content).hexdigest().encode()):
        raise DamagedFileError(f"{path}: damaged, it differs from its checksum; delete it")
    state = torch.load(io.BytesIO(content), weights_only=True, map_location=config.torch_device)
    if state.pop("identity") != config.identity:
        raise ValueError(
            f"{path} is a checkpoint of another training: other parameters, images or groups; "
            "delete it, or name another file"
        )
    for name, some in parts.items():
        for part, one in zip(some, state.pop(name), strict=True):
            part.load_state_dict(one)
    return state
