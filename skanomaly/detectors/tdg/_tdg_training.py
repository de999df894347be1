"""The training of TDG's networks, scale by scale, the coarsest first.

x_s      a good image at the side of scale s
below_s  x~_s-1 of G_s-1, brought to the side of scale s; 0 at the first
x~_s     G_s(a_s z + below_s, i) + below_s: generated, z noise and i the number of the image
a_s      0.1 * mean |x_s - below_s|, below_s from the fixed noise z*, of each image; 1 at the first
D_s      least CE(D(T_j x), j) + CE(D(T_j x~), M + 1)
G_s      least CE(D(T_j x~), j) + 100 MSE(x~ of z*, x)

CE is the cross-entropy, averaged over all transformations j and all patches.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from skanomaly.detectors.tdg._tdg_networks import (
    FIELD,
    Generator,
    build_discriminators,
    scale_width,
)
from skanomaly.training import fit
from skanomaly.utils.networks import seeded

EPOCH = 25  # iterations; after each the checkpoint is written
NOISE = 0.1  # of the mean difference of images from what the scale below generates
ALL = 10**6  # more images than are ever trained on
RECONSTRUCTION = 100  # weight of the mean square
BETAS = (0.5, 0.999)
# Values of float32 that a step holds for each channel and pixel of its views: measured.
STEP_VALUES = 25


@dataclass(frozen=True)
class Schedule:
    """The scales, and how each one is trained.

    Parameters
    ----------
    sizes : tuple of int
        Sides of the images, in pixels, the smallest first.
    n_iter : int
        Iterations of each scale.
    batch_size : int
        Images of a step, each in all transformations.
    n_steps : int
        Of D, and then of G, in an iteration.
    learning_rate : float
        A tenth of it for D in the second half.
    """

    sizes: tuple
    n_iter: int
    batch_size: int
    n_steps: int
    learning_rate: float = 5e-4


SCHEDULES = {
    "quick": Schedule((32, 64), 1000, 2, 1),
    # 64 * (25 / 64) ** (i / 4), rounded up as the authors' code does it.
    "paper": Schedule((26, 32, 41, 51, 64), 1000, ALL, 3),
}


def make_schedule(preset, n_iter, sizes, n_images, image_side):
    """A preset's schedule, with other numbers where they are given.

    Parameters
    ----------
    preset : {"quick", "paper"}
    n_iter : int or None
    sizes : sequence of int, or None
    n_images : int
        Good images that are trained on: the paper's batch.
    image_side : int
        Shorter side of the input, in pixels.

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        The sizes are not whole numbers that rise from 12 to the side of the input.
    """
    schedule = SCHEDULES[preset]
    sides = np.asarray(schedule.sizes if sizes is None else sizes)
    is_list = sides.ndim == 1 and sides.size and sides.dtype.kind in "iu"
    if not is_list or sides[0] <= FIELD or sides[-1] > image_side or (np.diff(sides) <= 0).any():
        raise ValueError(
            f"expected sizes as whole numbers that rise from {FIELD + 1} or more to at most "
            f"image_size={image_side}, got {sides.tolist()}; give sizes, or a larger image_size"
        )
    return replace(
        schedule,
        sizes=tuple(sides.tolist()),
        n_iter=schedule.n_iter if n_iter is None else n_iter,
        batch_size=min(schedule.batch_size, n_images),
    )


def resized(images, side):
    """Images (b, C, H, W) in [0, 1] at a scale: (b, C, side, side) in [-1, 1], in steps of bytes.

    Parameters
    ----------
    images : tensor of shape (b, C, H, W), float32
    side : int

    Returns
    -------
    tensor of shape (b, C, side, side), float32
    """
    small = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
    return small.clamp(0, 1).mul(255).round().div(127.5).sub(1)


def train_discriminators(images, places, transformations, schedule, has_generator, config):
    """Train the networks of all scales; the generators are dropped in the end.

    Parameters
    ----------
    images : tensor of shape (m, C, H, W), float32 in [0, 1]
        The good images and their augmented copies.
    places : tensor of shape (m,), float32 in [0, 1]
        By which a generator tells the good images apart; that of a copy is its image's.
    transformations : list of Transformation
    schedule : Schedule
    has_generator : bool
    config : TrainingConfig

    Returns
    -------
    discriminators : ModuleList
        In evaluation mode.
    history : dict of str to list of float
        Mean losses of D, plus those of G, every 25 iterations, by the scale's side.

    Raises
    ------
    TrainingError
        A loss is not finite.
    """
    n_channels, sizes, seed = images.shape[1], schedule.sizes, config.random_state
    with seeded(seed):
        discriminators = build_discriminators(n_channels, len(sizes), len(transformations))
        generators = [Generator(n_channels, scale_width(scale)) for scale in range(len(sizes))]
    fakes, history = Fakes(places, n_channels, seed), {}
    for scale, side in enumerate(sizes):
        discriminator, generator = discriminators[scale], generators[scale]
        if scale and scale_width(scale) == scale_width(scale - 1):
            discriminator.load_state_dict(discriminators[scale - 1].state_dict())
            generator.load_state_dict(generators[scale - 1].state_dict())
        training = ScaleTraining(discriminator, resized(images, side), transformations)
        if has_generator:
            fakes.to(config.torch_device)
            fakes.add(generator, training.images)
            training.fakes = fakes
        history[str(side)] = training.run(schedule, scale, config)
    return discriminators.eval(), history


class Fakes:
    """Generators of some scales, the coarsest first: images made from noise.

    Parameters
    ----------
    places : tensor of shape (m,)
        By which a generator tells images apart.
    n_channels : int
    seed : int
        Of the fixed noise.
    """

    def __init__(self, places, n_channels, seed):
        self.places, self.n_channels, self.seed = places, n_channels, seed
        self.generators, self.amplitudes, self.fixed, self.sides = [], [], [], []

    def to(self, device):
        """Move everything to a torch device."""
        self.places = self.places.to(device)
        for generator in self.generators:
            generator.to(device)
        self.amplitudes = [one.to(device) for one in self.amplitudes]
        self.fixed = [one.to(device) for one in self.fixed]

    def add(self, generator, images):
        """A generator for the next scale, whose images (m, C, s, s) set how much noise it gets."""
        device, scale = self.places.device, len(self.generators)
        images, every = images.to(device), torch.arange(len(images), device=device)
        self.sides.append(images.shape[-1])
        with torch.no_grad():
            below = self._below(every, self.fixed, scale)
        difference = (images - below).abs().mean(dim=(1, 2, 3))  # (m,)
        self.amplitudes.append(NOISE * difference if scale else torch.ones_like(difference))
        random = torch.Generator().manual_seed(self.seed)
        self.fixed.append(self.noise(len(images), scale, random).to(device))
        self.generators.append(generator.to(device))

    def noise(self, n, scale, random):
        """Noise (n, C, s, s) from a generator of numbers, on its device; gray at the first scale.

        Parameters
        ----------
        n, scale : int
        random : torch.Generator
        """
        side, n_channels = self.sides[scale], self.n_channels if scale else 1
        noise = torch.randn(n, n_channels, side, side, generator=random, device=random.device)
        return noise.expand(n, self.n_channels, side, side)

    def draw(self, which, random):
        """Images (b, C, s, s) of the finest scale, generated from noise.

        Parameters
        ----------
        which : tensor of shape (b,), int
            Of which images they are variants.
        random : torch.Generator
        """
        noises = [self.noise(len(which), i, random) for i in range(len(self.generators))]
        return self._generate(which, noises)

    def reconstruct(self, which):
        """Images (b, C, s, s) of the finest scale, generated from the fixed noise."""
        return self._generate(which, [fixed[which] for fixed in self.fixed])

    def _generate(self, which, noises):
        scale = len(self.generators) - 1
        with torch.no_grad():  # the scales below are trained
            below = self._below(which, noises, scale)
        return self._images(which, noises, scale, below)

    def _below(self, which, noises, scale):
        """What the scales below a scale generate, at its size."""
        shape = len(which), self.n_channels, self.sides[0], self.sides[0]
        below = torch.zeros(shape, device=which.device)
        for i in range(scale):
            images = self._images(which, noises, i, below)
            side = self.sides[i + 1]
            below = F.interpolate(images, (side, side), mode="bicubic")
        return below

    def _images(self, which, noises, scale, below):
        noise = self.amplitudes[scale][which, None, None, None] * noises[scale]
        return self.generators[scale](noise, below, self.places[which])


class ScaleTraining:
    """The training of a discriminator, and of the generator that tries to deceive it.

    Parameters
    ----------
    discriminator : PatchDiscriminator
    images : tensor of shape (m, C, s, s)
        In [-1, 1].
    transformations : list of Transformation
    fakes : Fakes or None
        The last generator of them is trained.
    """

    def __init__(self, discriminator, images, transformations, fakes=None):
        self.discriminator, self.images, self.fakes = discriminator, images, fakes
        self.transformations = transformations

    def run(self, schedule, scale, config):
        """Train, or resume; returns the losses by epoch."""
        n_epochs = math.ceil(schedule.n_iter / EPOCH)
        config = config.phase(f"side-{schedule.sizes[scale]}", n_epochs)
        networks = nn.ModuleDict({"discriminator": self.discriminator})
        if self.fakes is not None:
            networks["generator"] = self.fakes.generators[-1]
        networks.to(config.torch_device)
        self.images = self.images.to(config.torch_device)
        n_batch = min(schedule.batch_size, len(self.images))

        def batches(epoch):
            # The same ones whenever an interrupted training resumes.
            rng = np.random.default_rng([config.random_state, scale, epoch])
            n_left = schedule.n_iter - EPOCH * epoch
            return [self.draw_batch(rng, n_batch) for _ in range(min(EPOCH, n_left))]

        optimizers = [
            torch.optim.Adam(one.parameters(), schedule.learning_rate, BETAS)
            for one in networks.values()
        ]
        halfway = math.ceil(config.n_epochs / 2)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizers[0], [halfway])
        in_turn = [one for one in optimizers for _ in range(schedule.n_steps)]
        losses = fit(
            networks,
            lambda batch: self.losses(*batch, schedule.n_steps),
            batches,
            config,
            optimizers=in_turn,
            schedulers=scheduler,
        )
        self.discriminator.requires_grad_(True)
        self.settle()
        return losses["loss"]

    def draw_batch(self, rng, n_batch):
        """Numbers of images (b,), and a seed for the noise."""
        which = rng.choice(len(self.images), n_batch, replace=False)
        return torch.from_numpy(which), int(rng.integers(2**63))

    def losses(self, which, seed, n_steps):
        """Yield the losses of D, then those of G, each when the one before has been minimized."""
        which = which.to(self.images.device)
        random = torch.Generator(which.device).manual_seed(seed)
        real = self.images[which]
        names = torch.arange(len(self.transformations), device=which.device)
        self.discriminator.requires_grad_(True)
        for _ in range(n_steps):
            loss = self.cross_entropy(real, names)
            if self.fakes is not None:
                with torch.no_grad():
                    fake = self.fakes.draw(which, random)
                loss = loss + self.cross_entropy(fake, torch.full_like(names, len(names)))
            yield loss
        if self.fakes is None:
            return
        self.discriminator.requires_grad_(False)  # its gradients would be computed for nothing
        for _ in range(n_steps):
            loss = self.cross_entropy(self.fakes.draw(which, random), names)
            yield loss + RECONSTRUCTION * F.mse_loss(self.fakes.reconstruct(which), real)

    def cross_entropy(self, images, names):
        """CE(D(T_j x), name of j), averaged over j, images and patches.

        Parameters
        ----------
        images : tensor of shape (b, C, s, s)
        names : tensor of shape (M,), int
            What D should answer to each transformation.
        """
        views = torch.cat([one.apply(images) for one in self.transformations])
        logits = self.discriminator(views)  # (M b, M + 1, h, h)
        names = names.repeat_interleave(len(images))[:, None, None]  # (M b, 1, 1)
        return F.cross_entropy(logits, names.expand(-1, *logits.shape[2:]))

    def settle(self):
        """Set the batch norms' statistics to those of the good images, without generated ones."""
        norms = [one for one in self.discriminator if isinstance(one, nn.BatchNorm2d)]
        usual = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # each image counts the same
        self.discriminator.train()
        with torch.no_grad():
            for image in self.images.split(1):
                self.discriminator(torch.cat([one.apply(image) for one in self.transformations]))
        self.discriminator.eval()
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum


def training_needs(schedule, n_transformations, n_images, image_shape):
    """Bytes that the training holds, by what they are for.

    Parameters
    ----------
    schedule : Schedule
    n_transformations : int
    n_images : int
        With the augmented copies.
    image_shape : tuple (C, H, W)

    Returns
    -------
    dict of str to int
    """
    n_channels, height, width = image_shape
    steps = [
        STEP_VALUES * scale_width(scale) * side**2 for scale, side in enumerate(schedule.sizes)
    ]
    # Images, and of each scale fixed noise; the images of one scale at a time.
    pixels = height * width + 2 * sum(side**2 for side in schedule.sizes)
    n_views = n_transformations * schedule.batch_size
    return {
        "augmented images": 4 * n_channels * pixels * n_images,
        "a training step": 4 * max(steps) * n_views,
    }
