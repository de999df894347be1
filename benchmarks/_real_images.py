"""Real good images of one size for the benchmarks."""

import numpy as np

from skanomaly import load_folder
from skanomaly.images import ImageFit, load_batch


def real_images(root, n_images, dataset=None):
    """(n_images, 224, 224, 3) uint8 from one data set or evenly from all, in random order."""
    folders = [root / dataset] if dataset else sorted(p for p in root.iterdir() if p.is_dir())
    sets = [load_folder(folder).train.images for folder in folders]
    each = -(-n_images // len(sets))
    paths = [path for images in sets for path in images[:: len(images) // each][:each]]
    batch, _ = load_batch(paths, range(len(paths)), ImageFit(224, 224), 3)
    batch = np.rint(batch[np.random.default_rng(0).permutation(len(batch))] * 255)
    return batch.astype(np.uint8)[:n_images]
