"""The training of CutPaste's network: to tell good images from those with a piece pasted.

L = sum over kinds k of CE(g(view_k(x)), k),   view_0(x) = x, the others with a paste
    x is an image that is shifted, or a crop of one, with brightness and contrast changed: by the
    same draw for all of its views (eq. 1 and 3)
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from skanomaly.training import cut_paste, cut_paste_scar, fit, jitter_colors

KINDS = {"2way": ("pasted",), "scar": ("scar",), "3way": ("pasted", "scar")}  # beside "good"
N_CROPS = 32  # of a step; each gives a view of every kind
EPOCH = 25  # steps; after each epoch the checkpoint is written
SHIFT = 0.04  # of an image's sides
MOMENTUM, WEIGHT_DECAY = 0.9, 3e-5
FINE_TUNING_RATE = 1e-4
HEAD_SHARE = 10 / 74  # of the steps with published weights: those of the head alone
N_JUDGED = 4  # batches on which the trained network's accuracy is measured
PHASES = ("training",)
PHASES_OF_PRETRAINED = ("head", "fine-tuning")


@dataclass(frozen=True)
class ViewMaker:
    """Crops of images, and their views with a paste.

    Parameters
    ----------
    images : ndarray of shape (n, H, W, C), float32 in [0, 1]
    mean, scale : ndarray of shape (C,)
        By which views are standardized.
    side : int or None
        Of the crops, in pixels; None: whole images, shifted a little.
    variant : {"2way", "scar", "3way"}
    area, aspect : (float, float)
        Of rectangles, see :func:`skanomaly.training.cut_paste`.
    width, length : (float, float)
        Of scars, in pixels.
    jitter : float
    """

    images: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    side: int | None
    variant: str
    area: tuple
    aspect: tuple
    width: tuple
    length: tuple
    jitter: float

    @property
    def classes(self):
        """Names of the classes, in the order of the logits."""
        return ("good", *KINDS[self.variant])

    def views(self, rng):
        """A step's images of all classes, drawn: (classes * b, C, h, w), standardized."""
        crops = np.stack([self._crop(rng) for _ in range(N_CROPS)])  # (b, h, w, C)
        views = [crops]
        if "pasted" in self.classes:
            pasted, _ = cut_paste(
                crops, rng, area=self.area, aspect=self.aspect, jitter=self.jitter
            )
            views.append(pasted)
        if "scar" in self.classes:
            scarred, _ = cut_paste_scar(
                crops, rng, width=self.width, length=self.length, jitter=self.jitter
            )
            views.append(scarred)
        return standardize(np.concatenate(views), self.mean, self.scale)

    def labels(self):
        """The classes (classes * b,) of what ``views`` returns."""
        return torch.arange(len(self.classes)).repeat_interleave(N_CROPS)

    def _crop(self, rng):
        """A crop of an image, or a shifted image, (h, w, C), with other brightness and contrast."""
        image = self.images[rng.integers(len(self.images))]
        height, width, _ = image.shape
        if self.side is None:
            rows, columns = (
                np.clip(np.arange(n) + round(n * rng.uniform(-SHIFT, SHIFT)), 0, n - 1)
                for n in (height, width)
            )
            crop = image[rows][:, columns]
        else:
            y, x = rng.integers(height - self.side + 1), rng.integers(width - self.side + 1)
            crop = image[y : y + self.side, x : x + self.side]
        return jitter_colors(crop, rng, self.jitter, only_light=True)


def phases(n_iter, learning_rate, is_pretrained):
    """(name, steps, learning rate) of each phase of a training."""
    if not is_pretrained:
        return [(PHASES[0], n_iter, learning_rate)]
    n_head = round(HEAD_SHARE * n_iter)
    steps, rates = (n_head, n_iter - n_head), (learning_rate, FINE_TUNING_RATE)
    return list(zip(PHASES_OF_PRETRAINED, steps, rates, strict=True))


def train_network(network, views, n_iter, learning_rate, config):
    """Train a CutPasteNet in place.

    Parameters
    ----------
    network : CutPasteNet
    views : ViewMaker
    n_iter : int
        Steps of all phases together.
    learning_rate : float
        Of the first phase.
    config : TrainingConfig

    Returns
    -------
    dict of str to list of float
        Mean losses by epoch of 25 steps, of each phase.

    Raises
    ------
    TrainingError
        A loss is not finite.
    """
    history = {}
    labels = views.labels()
    steps_and_rates = phases(n_iter, learning_rate, network.is_pretrained)
    for number, (name, n_steps, rate) in enumerate(steps_and_rates):
        network.encoder.requires_grad_(name != "head")
        learning = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(learning, rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        n_epochs = -(-n_steps // EPOCH)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(n_epochs, 1))

        def batches(epoch, number=number, n_steps=n_steps):
            # Seeds of the steps: the same ones whenever an interrupted training resumes.
            n_left = n_steps - EPOCH * epoch
            return [
                (config.random_state, number, epoch, step) for step in range(min(EPOCH, n_left))
            ]

        def step(seeds):
            logits = network(views.views(np.random.default_rng(seeds)))
            return F.cross_entropy(logits, labels.to(logits.device))

        this = config.phase(name, n_epochs)
        losses = fit(network, step, batches, this, optimizers=optimizer, schedulers=scheduler)
        history[name] = losses["loss"]
    return history


def class_accuracy(network, views, seed):
    """Share of new views of each class that a trained network tells right, as {class: share}."""
    labels, found = views.labels(), []
    for number in range(N_JUDGED):
        # Three numbers: no step of the training has such a seed.
        batch = views.views(np.random.default_rng((seed, len(PHASES_OF_PRETRAINED), number)))
        with torch.inference_mode():
            found.append(network(batch).argmax(dim=1).cpu() == labels)
    shares = torch.stack(found).float().view(N_JUDGED, -1, N_CROPS).mean(dim=(0, 2))
    return dict(zip(views.classes, shares.tolist(), strict=True))


def standardize(pixels, mean, scale):
    """Images (n, H, W, C) float32 in [0, 1] -> tensor (n, C, H, W), standardized by channel."""
    images = np.ascontiguousarray((pixels - mean) / scale, dtype=np.float32)
    return torch.from_numpy(images).permute(0, 3, 1, 2)  # in memory the channels stay last
