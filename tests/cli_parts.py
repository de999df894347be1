"""What the tests of the command line share: a small part in folders, and a call as from a shell."""

import numpy as np
from PIL import Image

from skanomaly.cli import main
from skanomaly.datasets import make_defects, make_textures

SIZE = 64


def run(*arguments):
    """Exit code of a command."""
    return main([str(argument) for argument in arguments])


def make_part(root, n_train=30, n_good=6, n_bad=4, *, has_masks=True):
    """A labelled folder of brushed metal with stains and holes, in the usual layout."""
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
    file = root.parent / "part.joblib"
    options = ["--image-size", SIZE, "--target-fpr", "0.1", "--folds", "2"]
    assert run("fit", root, "-o", file, *options) == 0
    return file


def unfinished(folder):
    """What a stopped command has left behind."""
    return [path for path in folder.rglob("*") if "unfinished" in path.name]
