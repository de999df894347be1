"""TrainingConfig: how a network is trained, in one frozen object."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from skanomaly.utils.device import resolve_device

_IN_PIXELS = ("roi", "tile_size", "tile_overlap")
DTYPES = ("float32", "bfloat16", "auto")


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    Parameters
    ----------
    n_epochs : int
    batch_size : int, default=32
        For whoever makes the batches.
    learning_rate : float, default=1e-3
        Of the optimizer that is made where none is given.
    device : str, default="auto"
        "cpu", "cuda", ...; "auto" takes a GPU where there is one.
    dtype : {"float32", "bfloat16", "auto"}, default="float32"
        Precision of the forward pass, with weights in float32; "auto" takes bfloat16 on a GPU
        that has it.
    checkpoint : str, Path or None, default=None
        File written after every epoch, from which an interrupted training of the same identity
        resumes.
    identity : str, default=""
        Digest of all that the training depends on, needed with a checkpoint; one of another
        identity is refused.
    random_state : int, default=0
        Seeds torch's generators for each epoch, so that dropout and the like repeat themselves,
        after a resumption too. For initial weights and batches it is up to the caller.
    patience : int or None, default=None
        Epochs without a better validation after which training stops early; None: never.
    name : str, default="training"
        Shown by the progress bar.
    advice : str, default="lower the learning rate"
        What to change if the loss becomes NaN, for the error's message.
    verbose : int, default=0
        1 shows a progress bar with the loss.

    Raises
    ------
    ValueError
        A number is out of its range, or the dtype or the device is unknown.
    """

    n_epochs: int
    batch_size: int = 32
    learning_rate: float = 1e-3
    device: str = "auto"
    dtype: str = "float32"
    checkpoint: str | Path | None = None
    identity: str = ""
    random_state: int = 0
    patience: int | None = None
    name: str = "training"
    advice: str = "lower the learning rate"
    verbose: int = 0

    def __post_init__(self):
        if self.checkpoint is not None and not self.identity:
            raise ValueError(
                "a checkpoint needs an identity, a digest of all that the training depends on, so "
                "that no other training resumes from it; pass identity=skanomaly.io.digest(...)"
            )
        smallest = {"n_epochs": 0, "batch_size": 1, "patience": 1}
        for name, least in smallest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {DTYPES}, got {self.dtype!r}")
        resolve_device(self.device)

    def phase(self, name, n_epochs):
        """The same for one phase of a training, which has a checkpoint of its own."""
        checkpoint = None if self.checkpoint is None else f"{self.checkpoint}.{name}"
        return replace(self, n_epochs=n_epochs, name=name, checkpoint=checkpoint)

    @property
    def torch_device(self):
        """The device as torch has it."""
        return resolve_device(self.device)

    def autocast(self):
        """Context in which a forward pass runs in the configured precision."""
        device = self.torch_device
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        enabled = self.dtype == "bfloat16" or (self.dtype == "auto" and has_bfloat16)
        return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def configured(estimator, schedule, identity, *, advice, n_epochs=None, dtype="float32"):
    """The TrainingConfig of an estimator's parameters and of a schedule.

    Parameters
    ----------
    estimator : estimator
        With ``device``, ``checkpoint``, ``random_state`` and ``verbose``.
    schedule : object
        ``n_epochs``, ``batch_size`` and ``learning_rate`` are taken from it, where it has them.
    identity : callable
        Returns the digest of all that the training depends on; called where there is a checkpoint,
        whose name ends in its beginning, so that those of other trainings stay.
    advice : str
        What to change if the loss becomes NaN.
    n_epochs : int or None, default=None
        Instead of the schedule's.
    dtype : {"float32", "bfloat16", "auto"}, default="float32"

    Returns
    -------
    TrainingConfig
    """
    checkpoint, found = None, ""
    if estimator.checkpoint is not None:
        found = identity()
        checkpoint = f"{estimator.checkpoint}.{found[:8]}"
    names = "n_epochs", "batch_size", "learning_rate"
    scheduled = {name: getattr(schedule, name) for name in names if hasattr(schedule, name)}
    if n_epochs is not None:
        scheduled["n_epochs"] = n_epochs
    return TrainingConfig(
        **scheduled,
        device=estimator.device,
        dtype=dtype,
        checkpoint=checkpoint,
        identity=found,
        random_state=estimator.random_state,
        name=type(estimator).__name__,
        advice=advice,
        verbose=estimator.verbose,
    )


def with_given(schedule, **given):
    """A preset's schedule, a dataclass, with what is given and not None instead of its own."""
    return replace(schedule, **{name: value for name, value in given.items() if value is not None})


def training_parameters(estimator, without):
    """Parameters of an estimator, by name, but for those that its training does not depend on.

    Tiles and regions of interest are left out as well: they show in the pixels that are learned.
    """
    parameters, without = estimator.get_params(deep=False), {*without, *_IN_PIXELS}
    return {name: value for name, value in sorted(parameters.items()) if name not in without}
