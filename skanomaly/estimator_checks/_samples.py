"""Small made-up data on which the rules are checked: features or images, good and defective."""

import numpy as np

from skanomaly.datasets import make_textures
from skanomaly.feature_maps import FeatureMaps, concatenate
from skanomaly.images import ImageFit

FRAME = (50, 31)  # of the features' images, in pixels


class FeatureSamples:
    """FeatureMaps of two layers, defects in their upper left corner."""

    n_training = 24
    # Pixels in a defect, and as far from it as can be.
    defect, far_away = np.s_[2:8, 2:8], np.s_[-8:-2, -8:-2]

    def good(self, n, seed=0):
        """n good images."""
        rng = np.random.default_rng(seed)
        layers = {
            "fine": rng.normal(size=(n, 6, 4, 12)).astype(np.float32),
            "coarse": rng.normal(size=(n, 3, 2, 20)).astype(np.float32),
        }
        return FeatureMaps(layers, np.tile(FRAME, (n, 1)), ImageFit(48, 32))

    def mixed(self, n, seed=1):
        """n images, the first half of them defective."""
        X = self.good(n, seed)
        layers = {name: maps.copy() for name, maps in X.arrays().items()}
        layers["fine"][: n // 2, :2, :2] += 9
        layers["coarse"][: n // 2, :1, :1] += 9
        return FeatureMaps(layers, X.frames, X.image_fit)

    def join(self, first, second):
        """One collection of two."""
        return concatenate([first, second])

    def mixed_sizes(self, n):
        """Images of two sizes, and these sizes."""
        sizes = [FRAME if i % 2 == 0 else (20, 90) for i in range(n)]
        X = self.good(n, 1)
        return FeatureMaps(X.arrays(), sizes, X.image_fit), sizes

    def bad_inputs(self):
        """{what is wrong: X}."""
        return {
            "no image": self.good(2)[:0],
            "an empty array": np.zeros((0, 6, 4, 12), np.float32),
            "NaN": np.full((4, 6, 4, 12), np.nan),
            "an array of five axes": np.zeros((2, 6, 4, 12, 1), np.float32),
            "images instead of features": np.zeros((4, 64, 64, 3), np.uint8),
            "paths instead of features": ["a.png", "b.png"],
        }


class ImageSamples:
    """Images of a woven fabric, with a patch of noise in the upper left corner as defect."""

    n_training = 8
    size = (72, 80)
    defect, far_away = np.s_[4:20, 4:20], np.s_[-20:-4, -20:-4]

    def good(self, n, seed=0):
        return list(make_textures(n, kind="weave", size=self.size, random_state=seed))

    def mixed(self, n, seed=1):
        images, rng = self.good(n, seed), np.random.default_rng(seed)
        for image in images[: n // 2]:
            image[2:24, 2:24] = rng.integers(0, 256, (22, 22, *image.shape[2:]))
        return images

    def join(self, first, second):
        return [*first, *second]

    def mixed_sizes(self, n):
        images = [
            image if i % 2 == 0 else image[:66, :70] for i, image in enumerate(self.good(n, 1))
        ]
        return images, [image.shape[:2] for image in images]

    def bad_inputs(self):
        return {
            "no image": [],
            "one path": "a.png",
            "a missing file": ["missing.png"],
            "NaN": [np.full((72, 80, 3), np.nan)] * 2,
            "None among the images": [*self.good(2), None],
        }


def take(X, rows):
    """Some of a collection's images."""
    return X[np.asarray(rows)] if isinstance(X, FeatureMaps) else [X[i] for i in rows]
