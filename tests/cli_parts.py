"""What the tests of the command line share: a small data set, detectors, and calls of commands."""

import numpy as np
from PIL import Image

from skanomaly.base import BaseDetector, BaseImageDetector
from skanomaly.cli import main
from skanomaly.datasets import make_defects, make_textures
from skanomaly.persistence import register_class
from skanomaly.registry import Entry

SIZE = 64


class MeanFeatures(BaseDetector):
    """A detector that the command line knows only from the registry: distances to a mean."""

    def __init__(self, *, image_score="paper", sigma=4.0, contamination=0.01):
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination

    def _fit(self, X):
        self.mean_ = X.joined().mean(axis=(0, 1, 2))

    def _score_maps(self, X):
        return np.linalg.norm(X.joined() - self.mean_, axis=3)


class MeanImage(BaseImageDetector):
    """Another one that takes images; it can neither pad nor crop them."""

    resize, device, n_jobs = "stretch", "cpu", None

    def __init__(
        self, *, image_size=64, image_score="paper", sigma=4.0, contamination=0.01,
        random_state=None, verbose=0,
    ):  # fmt: skip
        self.image_size = image_size
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.random_state = random_state
        self.verbose = verbose

    def _fit(self, X):
        self.mean_ = X.arrays()["pixels"].mean(axis=0)

    def _score_maps(self, X):
        return np.abs(X.arrays()["pixels"] - self.mean_).mean(axis=3)


class Outside(Entry):
    """An entry whose class is defined here."""

    def load(self):
        return globals()[self.name]


NEW_DETECTORS = (
    Outside("MeanFeatures", "mean_features", "features", False),
    Outside("MeanImage", "mean_image", "images", True),
)
for entry in NEW_DETECTORS:
    register_class(entry.load(), name=f"tests.{entry.name}")


def run(*arguments):
    """Exit code of a command."""
    return main([str(argument) for argument in arguments])


def make_part(root, n_train=30, n_good=6, n_bad=4, *, has_masks=True):
    """A labeled folder of brushed metal with stains and holes, in the usual layout."""
    images = make_textures(n_train + n_good + n_bad, kind="brushed", size=SIZE, random_state=0)
    for i, image in enumerate(images[: n_train + n_good]):
        save(root / ("train" if i < n_train else "test") / "good" / f"{i:03d}.png", image)
    bad = images[n_train + n_good :]
    for i, (image, mask, kind) in enumerate(
        zip(*make_defects(bad, kinds=["stain", "hole"], random_state=0), strict=True),
        start=n_train + n_good,
    ):
        save(root / "test" / kind / f"{i:03d}.png", image)
        if has_masks:
            save(root / "ground_truth" / kind / f"{i:03d}_mask.png", 255 * mask.astype(np.uint8))
    return root


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def fit(root):
    """A detector file of the part."""
    file = root.parent / "part.skanomaly"
    options = ["--image-size", SIZE, "--target-fpr", "0.1", "--folds", "2"]
    assert run("fit", root, "-o", file, "--features", "filter_bank", *options) == 0
    return file


def unfinished(folder):
    """Files that a stopped command has left."""
    return [path for path in folder.rglob("*") if "unfinished" in path.name]
