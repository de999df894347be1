"""Detector files of each format that was released, and the scores that they gave when written.

    python tests/kept_files.py

writes those of the present format to tests/data. It is run once, when a format is released; the
files are kept from then on, and tests/test_kept_files.py loads them with every later version.
"""

from pathlib import Path

import numpy as np

import skanomaly
from skanomaly import SPADE, FilterBank, PaDiM, PatchCore, Pipeline, RegAD
from skanomaly.datasets import make_textures
from skanomaly.io import FORMAT
from skanomaly.model_selection import GoodOnlyKFold, HeldOutThreshold

DATA = Path(__file__).parent / "data"
SIZE = 64


def detectors():
    """{name: detector or pipeline}, each of which a file is kept of."""

    def on_features(detector):
        features = FilterBank(n_filters=2, image_size=SIZE, random_state=0)
        return Pipeline([("features", features), ("detector", detector)])

    patchcore = PatchCore(coreset_ratio=0.05, random_state=0)
    cv = GoodOnlyKFold(2)
    return {
        "patchcore": on_features(patchcore),
        "padim": on_features(PaDiM(n_components=4, random_state=0)),
        "spade": on_features(SPADE(n_neighbors=2, layers="energies", memory_dtype="float16")),
        "regad": RegAD(image_size=SIZE, augmentations=()),
        "held_out_threshold": HeldOutThreshold(on_features(patchcore), target_fpr=0.3, cv=cv),
    }


def main():
    folder = DATA / f"format_{FORMAT}"
    folder.mkdir(exist_ok=True)
    good = make_textures(5, size=SIZE, random_state=0)
    scores = {}
    for name, detector in detectors().items():
        detector.fit(good)
        skanomaly.dump(detector, folder / f"{name}.skanomaly")
        scores[name] = detector.score_samples(good)
    np.savez_compressed(folder / "scores.npz", images=good, **scores)


if __name__ == "__main__":
    main()
