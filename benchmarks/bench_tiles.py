"""What tiles gain on defects a few pixels wide, and the memory that large images take.

    python benchmarks/bench_tiles.py scratches|kolektor ROOT|memory

scratches: made-up brushed surfaces of 4000 x 3000 pixels, half of them with a scratch 3 pixels
wide; image AUROC of FilterBank + PatchCore with tiles and with the default input of 224 x 224.
kolektor: the set of that name below ROOT, its images as they are, by the same two. memory: peak
memory of a fit and of scores on image files of 6000 x 4000 pixels, in a process of its own, and
that after a small fit. Results are written to benchmarks/results as JSON, each beside the others.
"""

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _machine import machine
from PIL import Image
from sklearn.metrics import roc_auc_score

N_GOOD, N_TEST, SIZE = 10, 20, (3000, 4000)
LARGE, N_LARGE = (4000, 6000), 4
WIDTH, LENGTH, CONTRAST = 3, 150, 45  # of a scratch: pixels, and gray levels
TILES = {"tile_size": 512, "tile_overlap": 64}
SMALL_TILES = {"tile_size": 224, "tile_overlap": 32}  # of images 500 pixels wide
N_CANDIDATES = 200_000
RESULT = Path(__file__).parent / "results" / "bench_tiles.json"


class Surfaces:
    """Images made when they are asked for, of which no two are alike; every other is scratched.

    Parameters
    ----------
    n : int
    size : (int, int)
    seed : int
    is_scratched : bool
        Whether every other one has a scratch; otherwise none.
    """

    def __init__(self, n, size, seed, is_scratched=False):
        self.n, self.size, self.seed, self.is_scratched = n, size, seed, is_scratched

    def __len__(self):
        return self.n

    def __getitem__(self, key):
        if not isinstance(key, (int, np.integer)):
            return [self[i] for i in np.arange(self.n)[key]]
        rng = np.random.default_rng([self.seed, key])
        height, width = self.size
        lines = np.cumsum(rng.normal(0, 1, (height, 1)), axis=0)
        lines -= np.linspace(lines[0], lines[-1], height)
        lines = 10 * lines / max(1.0, np.abs(lines).max())
        gray = 128 + lines + rng.normal(0, 6, (height, width)).astype(np.float32)
        if self.is_scratched and key % 2:
            scratch(gray, rng)
        return np.clip(gray, 0, 255).astype(np.uint8)


def scratch(gray, rng):
    """Draw a straight scratch into an image, in place."""
    angle = rng.uniform(0, np.pi)
    center = rng.uniform(LENGTH, np.array(gray.shape) - LENGTH)
    rows, columns = np.ogrid[: gray.shape[0], : gray.shape[1]]
    along = (rows - center[0]) * np.sin(angle) + (columns - center[1]) * np.cos(angle)
    across = (rows - center[0]) * np.cos(angle) - (columns - center[1]) * np.sin(angle)
    gray[(np.abs(along) <= LENGTH / 2) & (np.abs(across) <= WIDTH / 2)] += CONTRAST


def make_pipeline(**features):
    from skanomaly import FilterBank, PatchCore, Pipeline

    bank = FilterBank(random_state=0, memory_limit="1GB", **features)
    detector = PatchCore(n_candidates=N_CANDIDATES, contamination=None, random_state=0)
    return Pipeline([("features", bank), ("detector", detector)])


def auroc(good, test, is_defect, **features):
    """Image AUROC, and seconds of fit and per scored image."""
    began = time.perf_counter()
    pipe = make_pipeline(**features).fit(good)
    fitted = time.perf_counter()
    scores = pipe.score_samples(test)
    return {
        "image_auroc": roc_auc_score(is_defect, -scores),
        "fit_seconds": fitted - began,
        "seconds_per_image": (time.perf_counter() - fitted) / len(test),
    }


def compare(good, test, is_defect, tiles):
    return {
        "untiled": auroc(good, test, is_defect),
        "tiled": auroc(good, test, is_defect, **tiles),
    }


def measure_scratches():
    test = Surfaces(N_TEST, SIZE, seed=1, is_scratched=True)
    return compare(Surfaces(N_GOOD, SIZE, seed=0), test, np.arange(N_TEST) % 2, TILES)


def measure_kolektor(root):
    from skanomaly import load_folder

    data = load_folder(Path(root) / "kolektor_sdd")
    is_defect = np.asarray(data.test.target) == -1
    return compare(data.train.images, data.test.images, is_defect, SMALL_TILES)


def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fit_and_score(paths):
    make_pipeline(image_size=(512, 512), **TILES).fit(Surfaces(2, (512, 512), 2))
    base, began = peak(), time.perf_counter()
    pipe = make_pipeline(**TILES).fit(paths[:N_LARGE])
    fitted = peak()
    pipe.score_samples(paths[N_LARGE:])
    return {
        "base_gb": base / 1e9,
        "fit_gb": fitted / 1e9,
        "peak_gb": peak() / 1e9,
        "seconds": time.perf_counter() - began,
    }


def measure_memory():
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{i}.png") for i in range(N_LARGE + 2)]
        for path, image in zip(paths, Surfaces(len(paths), LARGE, seed=0), strict=False):
            Image.fromarray(image).save(path)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.map(fit_and_score, [paths])[0]


def main(what, *arguments):
    measures = {
        "scratches": measure_scratches,
        "kolektor": measure_kolektor,
        "memory": measure_memory,
    }
    found = measures[what](*arguments)
    known = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    known[what] = {**found, **machine()}
    RESULT.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps({what: found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
