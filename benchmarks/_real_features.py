"""Rows of real features for the benchmarks: SqueezeNet patches of real inspection images."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

LAYERS = ("7", "12")  # of squeezenet1_1.features: 256 channels on 27 x 27, 512 on 13 x 13
SIZE = 224
POOL = 3
BATCH = 8
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def real_features(root, weights, n_images, dataset=None):
    """Features of good training images, cached in a temporary folder between runs.

    Parameters
    ----------
    root : path
        Folder of data sets, each with ``train/good``.
    weights : path
        State dict of torchvision's squeezenet1_1.
    n_images : int
        Number of images, spread evenly over the data sets and within each.
    dataset : str or None
        Use only this data set.

    Returns
    -------
    ndarray of shape (n_images * 729, 768), float32
    """
    paths = _paths(Path(root), n_images, dataset)
    key = hashlib.sha1("\n".join([str(weights), *map(str, paths)]).encode()).hexdigest()[:12]
    kept = Path(tempfile.gettempdir()) / f"skanomaly_real_features_{key}.npy"
    if not kept.exists():
        rows = _extract(paths, _network(weights))
        partial = kept.with_suffix(".partial.npy")
        np.save(partial, rows)
        partial.rename(kept)
    return np.load(kept)


def _paths(root, n_images, dataset):
    """Good training images, evenly over the data sets."""
    names = (
        [dataset] if dataset else sorted(p.parent.parent.name for p in root.glob("*/train/good"))
    )
    if not names:
        raise ValueError(f"{root}: expected data sets with a folder train/good, found none.")
    chosen = []
    for rank, name in enumerate(names):
        wanted = n_images // len(names) + (rank < n_images % len(names))
        found = sorted((root / name / "train" / "good").iterdir())
        if len(found) < wanted:
            raise ValueError(f"{name}: {wanted} images are asked for, {len(found)} are there.")
        chosen += [found[i * len(found) // wanted] for i in range(wanted)]
    return chosen


def _network(weights):
    """SqueezeNet 1.1 up to the last layer used."""
    network = torchvision.models.squeezenet1_1(weights=None)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    network.load_state_dict({name: value.float() for name, value in state.items()})
    return network.features[: int(LAYERS[-1]) + 1].eval()


def _read(path):
    """One image as a normalized tensor of shape (3, SIZE, SIZE), stretched to a square."""
    image = Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    pixels = (np.asarray(image, dtype=np.float32) / 255 - MEAN) / STD  # (H, W, 3)
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))


@torch.inference_mode()
def _extract(paths, network):
    """Patch features of images, (n * 729, 768)."""
    rows = []
    for first in range(0, len(paths), BATCH):
        x = torch.stack([_read(path) for path in paths[first : first + BATCH]])
        kept = []
        for name, layer in network.named_children():
            x = layer(x)
            if name in LAYERS:
                kept.append(torch.nn.functional.avg_pool2d(x, POOL, stride=1, padding=POOL // 2))
        grid = kept[0].shape[-2:]
        deep = torch.nn.functional.interpolate(kept[1], grid, mode="bilinear", align_corners=False)
        joined = torch.cat([kept[0], deep], dim=1)  # (b, 768, 27, 27)
        rows.append(joined.permute(0, 2, 3, 1).flatten(0, 2).numpy())  # (b * 729, 768)
    return np.concatenate(rows)
