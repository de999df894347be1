"""The training of GlobalLocal's networks: Local-Net from a teacher, then the others from it.

distillation   Local-Net and a linear decoder D learn what the teacher says of patches
fine-tuning    the same with D frozen
joint          Local-Net is frozen; Global-Net and the DAD head learn from clean patches and from
               the same patches stained
"""

from dataclasses import astuple, dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from skanomaly._cache import digest
from skanomaly.detectors._glance import ready
from skanomaly.detectors._glance_joint import Patches
from skanomaly.detectors._local_network import (
    N_FEATURES,
    compactness_loss,
    distillation_loss,
    network_stride,
    reach,
)
from skanomaly.detectors._networks import TrainingError, train
from skanomaly.detectors._teachers import TAUGHT_STRIDE, taught_grid
from skanomaly.feature_extraction._backbones import seeded

NOT_OF_LOCAL_NET = (
    "dad_weight", "global_mode", "hole_stride", "n_iter", "patch_size", "preset", "stains",
)  # fmt: skip
EPOCH = 25  # iterations; after each the checkpoint is written
PHASES = ("distillation", "fine-tuning", "joint")
WEIGHTS = ("distillation or compactness", "distillation or compactness", "dad_weight")  # of losses
CROP_MARGIN = 32  # pixels by which crops are larger than what is read of a patch: 5 x 5 of them


@dataclass(frozen=True)
class Schedule:
    """How long and how fast the three phases run."""

    n_iter: tuple
    batch_size: tuple  # crops, crops, images (dense), images (exact)
    rates: tuple  # of Local-Net, of Global-Net, of the DAD head
    falling: bool  # along a cosine, to 0


SCHEDULES = {
    "quick": Schedule((1000, 200, 2000), (16, 16, 4, 8), (1e-3, 1e-3, 1e-3), True),
    "paper": Schedule((50_000, 50_000, 200_000), (64, 16, 64, 64), (2e-4, 1e-4, 1e-5), False),
}


@dataclass(frozen=True)
class Training:
    """What all phases need to know."""

    schedule: Schedule
    distillation: float
    compactness: float
    dad_weight: float
    stains: dict
    seed: int
    identities: tuple | None  # of Local-Net's training, and of the whole; for a checkpoint
    checkpoint: str | None
    verbose: int

    def run(self, phase, side, network, loss_of, draw, groups, history):
        """Train for a phase and note the mean loss by epoch. ``draw(rng)`` answers a batch."""
        name = f"{side}-{PHASES[phase]}"
        n_iter, seed = self.schedule.n_iter[phase], [self.seed, phase]
        n_epochs = -(-n_iter // EPOCH)

        def batches_of(epoch):
            rng = np.random.default_rng([*seed, epoch])
            return [draw(rng) for _ in range(min(EPOCH, n_iter - EPOCH * epoch))]

        optimiser = torch.optim.Adam(groups)
        if self.schedule.falling:
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(n_epochs, 1))
        else:
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda epoch: 1.0)
        checkpoint = identity = None
        if self.checkpoint is not None:
            identity = self.identities[phase // 2]
            checkpoint = f"{self.checkpoint}.{identity[:8]}.{name}"
        try:
            answer = train(
                network, loss_of, batches_of, optimiser, scheduler, n_epochs,
                identity=identity, checkpoint=checkpoint, name=name, verbose=self.verbose,
                way_out=f"lower {WEIGHTS[phase]}, and look at the pictures",
            )  # fmt: skip
        except TrainingError as error:
            history[name] = error.history["loss"]
            raise
        history[name] = answer["loss"]


def schedule_of(preset, n_iter):
    """A preset's schedule, with other numbers of iterations where they are given.

    Raises ValueError where these are neither one nor three.
    """
    if n_iter is None:
        return SCHEDULES[preset]
    numbers = np.asarray(n_iter)
    if numbers.shape not in ((), (3,)) or numbers.dtype.kind not in "iu" or numbers.min() < 0:
        raise ValueError(
            "expected n_iter as one whole number or three, of distillation, fine-tuning and joint "
            f"training, got {n_iter!r}"
        )
    n_iter = tuple(np.broadcast_to(numbers, 3).tolist())
    return replace(SCHEDULES[preset], n_iter=n_iter)


def identities_of(settings, schedule, *seen):
    """Digests of what Local-Net's training depends on, and of what all depends on.

    ``settings`` are the detector's parameters, ``seen`` is what it learns from. Trainings that
    differ in the joint phase alone share Local-Net's checkpoints.
    """
    of_local = {k: v for k, v in settings.items() if k not in NOT_OF_LOCAL_NET}
    phases = schedule.n_iter[:2], schedule.batch_size[:2], schedule.rates[0], schedule.falling
    return digest(of_local, *phases, *seen), digest(settings, astuple(schedule), *seen)


def train_glance(glance, grid, pictures, taught, standard, training, history):
    """Train the networks of one patch size, and note their losses by phase.

    Parameters
    ----------
    glance : Glance
    grid : PatchGrid
        The patches that will be judged.
    pictures : tensor of shape (n, C, H, W)
        Standardised.
    taught : tensor of shape (n, rows, columns, n_teacher)
        From :func:`taught_vectors`.
    standard : pair of ndarray of shape (C,)
        What was taken out of the pictures, and what they were divided by.
    training : Training
    history : dict

    Raises
    ------
    TrainingError
        A loss is no longer a number; the networks are in their last good state.
    """
    with seeded(training.seed):
        decoder = nn.Linear(N_FEATURES, taught.shape[3])
    student = nn.ModuleDict({"local": glance.local, "decoder": decoder})
    for phase in (0, 1):
        _teach(student, grid.side, pictures, taught, training, phase, history)
    glance.local.requires_grad_(False)
    _join(glance, grid, pictures, standard, training, history)


def _teach(student, side, pictures, taught, training, phase, history):
    """Distillation (0) or fine-tuning (1) of Local-Net."""
    n, _, height, width = pictures.shape
    crop = [min(reach(side) + CROP_MARGIN, length) for length in (height, width)]
    per_crop = taught_grid(side, *crop).shape
    every = TAUGHT_STRIDE // network_stride(side)
    student["decoder"].requires_grad_(phase == 0)
    learns = [student["local"], student["decoder"]][: 2 - phase]
    size = training.schedule.batch_size[phase]

    def draw(rng):
        # First taught patch of each crop, (b, 2).
        limits = np.subtract(taught.shape[1:3], per_crop) + 1
        return rng.integers(n, size=size), rng.integers(limits, size=(size, 2))

    def loss_of(batch):
        which, first = batch
        y, x = (TAUGHT_STRIDE * first).T
        crops = [
            pictures[i, :, y[j] : y[j] + crop[0], x[j] : x[j] + crop[1]]
            for j, i in enumerate(which)
        ]
        vectors = student["local"](ready(torch.stack(crops)))[:, :, ::every, ::every]
        vectors = vectors.permute(0, 2, 3, 1).flatten(0, 2)  # (b rows columns, 128)
        told = [
            taught[i, r : r + per_crop[0], c : c + per_crop[1]]
            for i, (r, c) in zip(which, first, strict=True)
        ]
        told = torch.stack(told).float().flatten(0, 2)
        return training.distillation * distillation_loss(student["decoder"](vectors), told) + (
            training.compactness * compactness_loss(vectors)
        )

    rate = training.schedule.rates[0]
    groups = [{"params": part.parameters(), "lr": rate} for part in learns]
    training.run(phase, side, student, loss_of, draw, groups, history)


def _join(glance, grid, pictures, standard, training, history):
    """Joint training of Global-Net and the DAD head."""
    patches = Patches.of(glance, grid, pictures, standard, training)
    *_, n_dense, n_exact = training.schedule.batch_size
    draw, size, loss_of = (
        (patches.draw_images, n_dense, patches.dense_loss)
        if glance.mode == "dense"
        else (patches.draw_holes, n_exact, patches.exact_loss)
    )
    _, rate, head_rate = training.schedule.rates
    groups = [
        {"params": glance.context.parameters(), "lr": rate},
        {"params": glance.head.parameters(), "lr": head_rate},
    ]
    draw = partial(draw, size=size)
    loss_of = partial(loss_of, dad_weight=training.dad_weight)
    training.run(2, grid.side, glance, loss_of, draw, groups, history)
