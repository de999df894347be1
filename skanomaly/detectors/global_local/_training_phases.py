"""The training of GlobalLocal's networks: Local-Net from a teacher, then the others from it.

distillation   Local-Net L and a linear decoder D learn to predict the teacher's features of
               patches: distillation * l_k + compactness * l_c
fine-tuning    the same with D frozen
joint          L is frozen; Global-Net and the DAD head learn from clean patches and from the same
               patches with a synthetic stain: l_IAD + dad_weight * l_DAD

Images, features and embeddings stay in main memory; batches of them go to the networks' device.
"""

import math
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from skanomaly.detectors.global_local._local_net import (
    EMBEDDING_SIZE,
    compactness_loss,
    distillation_loss,
    network_stride,
    receptive_field,
)
from skanomaly.detectors.global_local._patch_comparison import PatchComparison, standardize
from skanomaly.detectors.global_local._patch_grid import PatchGrid
from skanomaly.detectors.global_local._teacher_features import (
    TEACHER_STRIDE,
    teacher_features,
    teacher_grid,
)
from skanomaly.exceptions import TrainingError
from skanomaly.io import digest
from skanomaly.training import TrainingConfig, fit, stain
from skanomaly.utils.device import resolve_device
from skanomaly.utils.networks import seeded

DISTILLATION, FINE_TUNING, JOINT = range(3)
PHASES = ("distillation", "fine-tuning", "joint")
WEIGHTS = ("distillation or compactness", "distillation or compactness", "dad_weight")  # of losses
EPOCH = 25  # iterations; after each the checkpoint is written
WARM_UP = 2  # epochs before the rate of an annealed schedule is the whole one
STAIN_SEED = 3  # second number of the stains' seed; the phases' own are 0 to 2
CROP_MARGIN = 32  # pixels by which crops are larger than what is read of a patch: 5 x 5 of them
N_STAINS = 32  # patches of each image that are stained
N_HOLES = 16  # that the exact network cuts out of an image at once
# Values of float32 that a step holds for each pixel of its batch's crops, and images: measured.
CROP_VALUES, IMAGE_VALUES = 576, {"dense": 112, "exact": 60}
# Parameters of the detector on which Local-Net's training does not depend, or not through them.
NOT_OF_LOCAL_NET = (
    "dad_weight", "global_mode", "hole_stride", "n_iter", "patch_size", "preset", "stains",
)  # fmt: skip


@dataclass(frozen=True)
class Schedule:
    """How long and how fast the three phases train."""

    n_iter: tuple
    batch_size: tuple  # crops, crops, images (dense), images (exact)
    learning_rate: tuple  # of Local-Net in both phases, Global-Net, DAD head
    is_annealed: bool  # after a warm-up along a cosine, to 0


SCHEDULES = {
    "quick": Schedule((500, 200, 800), (16, 16, 4, 8), (3e-3, 1e-3, 3e-3, 3e-3), True),
    "paper": Schedule((50_000, 50_000, 200_000), (64, 16, 64, 64), (2e-4, 2e-4, 1e-4, 1e-5), False),
}


def make_schedule(preset, n_iter):
    """A preset's schedule, with other numbers of iterations where they are given.

    Parameters
    ----------
    preset : {"quick", "paper"}
    n_iter : int, (int, int, int) or None

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        n_iter is neither one whole number nor three.
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


def rate(epoch, n_epochs):
    """Learning rate of an epoch in units of the highest: a warm-up on a cosine."""
    cosine = (1 + math.cos(math.pi * epoch / max(n_epochs, 1))) / 2
    return cosine * min(1, (epoch + 1) / (WARM_UP + 1))


def checkpoint_identities(parameters, schedule, *data):
    """Digests of all that Local-Net's training depends on, and the whole training.

    Trainings that differ in the joint phase alone share Local-Net's checkpoints.

    Parameters
    ----------
    parameters : dict
        Of the detector, those that training depends on.
    schedule : Schedule
    *data : object
        Digests of what is learned from.

    Returns
    -------
    tuple (str, str)
    """
    of_local = {k: v for k, v in parameters.items() if k not in NOT_OF_LOCAL_NET}
    phases = (
        schedule.n_iter[:JOINT], schedule.batch_size[:JOINT], schedule.learning_rate[:JOINT],
        schedule.is_annealed,
    )  # fmt: skip
    return digest(of_local, *phases, *data), digest(parameters, astuple(schedule), *data)


@dataclass(frozen=True)
class TrainingPlan:
    """What all phases need to know.

    Parameters
    ----------
    schedule : Schedule
    distillation, compactness, dad_weight : float
        Weights of the losses.
    stains : dict
        As from :func:`skanomaly.training.check_stains`.
    seed : int
    device : str
    checkpoint : str, Path or None
        Beginning of the names of the checkpoints.
    identities : tuple (str, str) or None
        From :func:`checkpoint_identities`, where there is a checkpoint.
    verbose : int
    """

    schedule: Schedule
    distillation: float
    compactness: float
    dad_weight: float
    stains: dict
    seed: int
    device: str
    checkpoint: str | Path | None
    identities: tuple | None
    verbose: int

    def run(self, phase, side, network, step, draw, groups, history):
        """Train for one phase.

        Parameters
        ----------
        phase : int
        side : int
            Of the patches.
        network : Module
        step : callable
            ``step(batch)`` returns a loss.
        draw : callable
            ``draw(rng)`` returns a batch.
        groups : list of dict
            Parameters and learning rates, as torch's optimizers take them.
        history : dict of str to list of float
            Gets the mean losses by epoch of 25 iterations.

        Raises
        ------
        TrainingError
            The loss is not finite; with the history, and the network in its last good state.
        """
        name, n_iter = f"{side}-{PHASES[phase]}", self.schedule.n_iter[phase]
        n_epochs = -(-n_iter // EPOCH)

        def batches(epoch):
            # The same ones whenever an interrupted training resumes.
            rng = np.random.default_rng([self.seed, phase, epoch])
            return [draw(rng) for _ in range(min(EPOCH, n_iter - EPOCH * epoch))]

        optimizer, schedulers = torch.optim.Adam(groups), []
        if self.schedule.is_annealed:
            schedulers.append(
                torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: rate(epoch, n_epochs))
            )
        config = self._config(phase, name, n_epochs)
        try:
            losses = fit(
                network, step, batches, config, optimizers=optimizer, schedulers=schedulers
            )
        except TrainingError as error:
            history[name] = error.history["loss"]
            raise TrainingError(str(error), history) from None
        history[name] = losses["loss"]

    def _config(self, phase, name, n_epochs):
        checkpoint = identity = None
        if self.checkpoint is not None:
            identity = self.identities[phase // JOINT]
            checkpoint = f"{self.checkpoint}.{identity[:8]}.{name}"
        # In float32: the networks themselves lower the precision of their convolutions.
        return TrainingConfig(
            n_epochs, device=self.device, checkpoint=checkpoint, identity=identity or "",
            random_state=self.seed, name=name, verbose=self.verbose,
            advice=f"lower {WEIGHTS[phase]}, and look at the images",
        )  # fmt: skip


def train_networks(networks, grids, images, mean, scale, teacher, plan):
    """Train the networks of all patch sizes, one size after the other.

    Parameters
    ----------
    networks : ModuleDict of PatchComparison
        By the patch's side, as ``Architecture.build`` makes them.
    grids : sequence of PatchGrid
        The patches that will be scored.
    images : list of n ndarray of shape (H, W, C), float32 in [0, 1]
    mean, scale : ndarray of shape (C,)
        By which images are standardized.
    teacher : FeatureExtractor or FilterBank
    plan : TrainingPlan

    Returns
    -------
    dict of str to list of float
        Mean losses by epoch, of each patch size and phase.

    Raises
    ------
    TrainingError
        A loss is not finite; with the losses so far, and the networks in their last good state.
    """
    device = resolve_device(plan.device)
    networks.to(device)
    height, width, n_channels = images[0].shape
    halves = torch.empty(len(images), n_channels, height, width, dtype=torch.float16)
    for half, image in zip(halves, images, strict=True):
        half.copy_(standardize(image[None], mean, scale)[0])
    history = {}
    for grid in grids:
        comparison = networks[str(grid.side)]
        features = teacher_features(teacher, images, grid.side)
        with seeded(plan.seed):
            decoder = nn.Linear(EMBEDDING_SIZE, features.shape[3]).to(device)
        crops = TeacherCrops(comparison, decoder, grid.side, halves, features)
        for phase in (DISTILLATION, FINE_TUNING):
            crops.train(phase, plan, history)
        del features, crops  # the joint training has large ones of its own
        comparison.local_net.requires_grad_(False)
        patches = JointPatches.draw(comparison, grid, halves, mean, scale, plan)
        patches.train(plan, history)
    return history


def training_needs(grids, global_mode, schedule, n_channels, n_features, n_images):
    """Bytes that the training holds, by what they are for.

    Parameters
    ----------
    grids : sequence of PatchGrid
    global_mode : {"dense", "exact"}
    schedule : Schedule
    n_channels : int
        Of the images.
    n_features : int
        Of the teacher.
    n_images : int

    Returns
    -------
    dict of str to int
    """
    height, width = grids[0].height, grids[0].width
    vectors, steps = [], []
    for grid in grids:
        rows, columns = teacher_grid(grid.side, height, width).shape
        taught = 2 * rows * columns * n_features
        rows, columns = grid.shape
        embedded = EMBEDDING_SIZE * (2 * rows * columns + 4 * N_STAINS)
        vectors.append(max(taught, embedded) * n_images)  # of one phase at a time
        crop = min(height, width, receptive_field(grid.side) + CROP_MARGIN) ** 2
        steps.append(4 * CROP_VALUES * crop * max(schedule.batch_size[:JOINT]))
    *_, n_dense, n_exact = schedule.batch_size
    n_joint = n_dense if global_mode == "dense" else n_exact
    steps.append(4 * IMAGE_VALUES[global_mode] * height * width * n_joint)
    return {
        "float16 images": 2 * height * width * n_channels * n_images,
        "teacher features or patch embeddings": max(vectors),  # of one patch size at a time
        "a training step": max(steps),
    }


@dataclass(frozen=True)
class TeacherCrops:
    """Crops of the images, with the teacher's features of the patches in them.

    Parameters
    ----------
    comparison : PatchComparison
    decoder : Module
        D, from Local-Net's embeddings to the teacher's features.
    side : int
        Of the patches, in pixels.
    images : tensor of shape (n, C, H, W), float16
        Standardized.
    features : tensor of shape (n, rows, columns, D), float16
        From :func:`teacher_features`.
    """

    comparison: PatchComparison
    decoder: nn.Module
    side: int
    images: torch.Tensor
    features: torch.Tensor

    def train(self, phase, plan, history):
        """Distillation or fine-tuning of Local-Net."""
        student = nn.ModuleDict({"local_net": self.comparison.local_net, "decoder": self.decoder})
        self.decoder.requires_grad_(phase == DISTILLATION)
        learning = [self.comparison.local_net]
        if phase == DISTILLATION:
            learning.append(self.decoder)
        rate = plan.schedule.learning_rate[phase]
        groups = [{"params": part.parameters(), "lr": rate} for part in learning]
        draw = partial(self.draw_crops, size=plan.schedule.batch_size[phase])
        step = partial(self.loss, plan=plan)
        plan.run(phase, self.side, student, step, draw, groups, history)

    @property
    def crop_shape(self):
        """Height and width of a crop, in pixels."""
        length = receptive_field(self.side) + CROP_MARGIN
        return tuple(min(length, n) for n in self.images.shape[2:])

    @property
    def n_patches(self):
        """Patches (rows, columns) of a crop that the teacher describes."""
        return teacher_grid(self.side, *self.crop_shape).shape

    def draw_crops(self, rng, size):
        """Images (size,), and the row and column of each crop's first patch, (size, 2)."""
        limits = np.subtract(self.features.shape[1:3], self.n_patches) + 1
        return rng.integers(len(self.images), size=size), rng.integers(limits, size=(size, 2))

    def loss(self, batch, plan):
        """distillation * l_k + compactness * l_c of the patches of some crops."""
        (height, width), (rows, columns) = self.crop_shape, self.n_patches
        crops, features = [], []
        for i, (r, c) in zip(*batch, strict=True):
            y, x = TEACHER_STRIDE * r, TEACHER_STRIDE * c
            crops.append(self.images[i, :, y : y + height, x : x + width])
            features.append(self.features[i, r : r + rows, c : c + columns])
        every = TEACHER_STRIDE // network_stride(self.side)
        crops = self.comparison.prepare(torch.stack(crops))  # (b, C, height, width)
        embeddings = self.comparison.local_net(crops)[:, :, ::every, ::every]
        embeddings = embeddings.permute(0, 2, 3, 1).flatten(0, 2)  # (b * rows * columns, 128)
        features = torch.stack(features).to(embeddings.device).float().flatten(0, 2)
        l_k = distillation_loss(self.decoder(embeddings), features)
        return plan.distillation * l_k + plan.compactness * compactness_loss(embeddings)


@dataclass(frozen=True)
class JointPatches:
    """Patches of the images for the joint training, clean and stained.

    Parameters
    ----------
    comparison : PatchComparison
    grid : PatchGrid
    images : tensor of shape (n, C, H, W), float16
        Standardized.
    clean : tensor of shape (n, rows, columns, 128), float16
        Z_l of all patches.
    places : int tensor of shape (n, stains, 2)
        Rows and columns of the patches that are stained.
    stained : tensor of shape (n, stains, 128)
        Z_l of these with a stain.
    """

    comparison: PatchComparison
    grid: PatchGrid
    images: torch.Tensor
    clean: torch.Tensor
    places: torch.Tensor
    stained: torch.Tensor

    @classmethod
    def draw(cls, comparison, grid, images, mean, scale, plan):
        """All patches of the images, with stains on some that the plan's seed draws."""
        rng = np.random.default_rng([plan.seed, STAIN_SEED])
        n_patches = grid.shape[0] * grid.shape[1]
        # Each patch once: gradients of a place taken twice would add up in any order.
        n_stains = min(N_STAINS, n_patches)
        chosen = [rng.choice(n_patches, n_stains, replace=False) for _ in images]
        places = np.stack(np.divmod(chosen, grid.shape[1]), axis=-1)  # (n, stains, 2)
        stained = []
        for image, here in zip(images, places, strict=True):
            image = image.float().permute(1, 2, 0).numpy() * scale + mean  # (H, W, C) in [0, 1]
            patches = _stained_patches(image, here, grid, plan.stains, rng)
            with torch.inference_mode():
                patches = comparison.prepare(standardize(patches, mean, scale))
                stained.append(comparison.local_net(patches)[:, :, 0, 0].cpu())
        # Tensors of inference mode cannot be trained on, their copies can.
        stained, clean = torch.stack(stained).clone(), _clean_embeddings(comparison, grid, images)
        return cls(comparison, grid, images, clean, torch.from_numpy(places), stained)

    def train(self, plan, history):
        """Joint training of Global-Net and the DAD head."""
        *_, n_dense, n_exact = plan.schedule.batch_size
        if self.comparison.global_mode == "dense":
            draw, loss = partial(self.draw_images, size=n_dense), self.dense_loss
        else:
            draw, loss = partial(self.draw_holes, size=n_exact), self.exact_loss
        *_, rate, head_rate = plan.schedule.learning_rate
        groups = [
            {"params": self.comparison.global_net.parameters(), "lr": rate},
            {"params": self.comparison.dad_head.parameters(), "lr": head_rate},
        ]
        step = partial(loss, dad_weight=plan.dad_weight)
        plan.run(JOINT, self.grid.side, self.comparison, step, draw, groups, history)

    def draw_images(self, rng, size):
        """Which images, (size,)."""
        return torch.from_numpy(rng.integers(len(self.images), size=size))

    def dense_loss(self, which, dad_weight):
        """Loss of all patches, and all stained ones, of images by number (b,)."""
        images = self.comparison.prepare(self.images[which])
        predicted = self.comparison.global_embeddings(images, self.grid)  # (b, rows, columns, 128)
        places = self.places[which].to(predicted.device)  # (b, stains, 2)
        pairs = zip(predicted, places, strict=True)
        of_stained = torch.cat([one[here[:, 0], here[:, 1]] for one, here in pairs])
        clean = self.clean[which].to(predicted.device).float().flatten(0, 2)
        stained = self.stained[which].to(predicted.device).flatten(0, 1)
        return self.comparison.loss(clean, stained, predicted.flatten(0, 2), of_stained, dad_weight)

    def draw_holes(self, rng, size):
        """Which images (size,), which of their stains (size, k), and other places (size, m, 2).

        Half of an image's holes are where there is a stained patch, half anywhere.
        """
        n_stains, half = self.places.shape[1], N_HOLES // 2
        stains = rng.permuted(np.tile(np.arange(n_stains), (size, 1)), axis=1)[:, :half]
        others = rng.integers(self.grid.shape[0] * self.grid.shape[1], size=(size, half))
        others = np.stack(np.divmod(others, self.grid.shape[1]), axis=-1)
        return self.draw_images(rng, size), torch.from_numpy(stains), torch.from_numpy(others)

    def exact_loss(self, batch, dad_weight):
        """Loss of what draw_holes returns; the holes of an image share their computation."""
        parts = []
        for i, stains, others in zip(*batch, strict=True):
            here = torch.cat([self.places[i, stains], others])  # (holes, 2)
            image = self.comparison.prepare(self.images[i][None])[0]
            predicted = self.comparison.global_net.predict_holes(
                image, self.grid.stride * here, self.grid.side
            )  # (holes, 128)
            clean = self.clean[i, here[:, 0], here[:, 1]].to(predicted.device).float()
            stained = self.stained[i, stains].to(predicted.device)
            parts.append((clean, stained, predicted, predicted[: len(stains)]))
        return self.comparison.loss(*map(torch.cat, zip(*parts, strict=True)), dad_weight)


def _stained_patches(image, places, grid, stains, rng):
    """Patches (n, side, side, C) of an image (H, W, C), by row and column, with a stain each."""
    side = grid.side
    # What of a patch is beyond the image is not read by Local-Net.
    image = np.pad(image, ((0, side), (0, side), (0, 0)), mode="edge")
    patches = np.stack([image[y : y + side, x : x + side] for y, x in grid.stride * places])
    image_side, n_read = min(grid.height, grid.width), receptive_field(side)
    return stain(patches, rng, image_side, n_read, **stains)


def _clean_embeddings(comparison, grid, images):
    """Z_l of all patches, (n, rows, columns, 128) float16."""
    embeddings = torch.empty(len(images), *grid.shape, EMBEDDING_SIZE, dtype=torch.float16)
    with torch.inference_mode():
        for i, image in enumerate(images):
            embeddings[i] = comparison.local_embeddings(comparison.prepare(image[None]), grid)[0]
    return embeddings
