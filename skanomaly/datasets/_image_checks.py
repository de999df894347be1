"""Checks of images: what can be read, what is there twice, what is unlike the rest."""

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from skanomaly._image_fit import ImageFit
from skanomaly._images import ImageError, image_name, read_image
from skanomaly.datasets._near_duplicates import SIDE, NearDuplicates
from skanomaly.datasets._report import Finding

_FEWEST_GOOD = 10  # to know what is usual among them
_MOST_DEVIATIONS = 6  # robust ones of a measurement; one less for the distance to other images
_DOUBT = 60  # more deviations, over the number of images: few tell little of the usual spread
_NEIGHBOUR = 5
_SHARPNESS_STEP = 4  # every so many rows are enough


class Record(NamedTuple):
    """An image of the set: where it is, and what was read from it."""

    part: str
    name: str
    target: int
    facts: "Facts | None" = None  # None: cannot be read
    error: str = ""

    @property
    def place(self):
        return f"{self.part}/{self.name}"


class Facts(NamedTuple):
    """What is kept of an image."""

    digest: bytes  # of its pixels
    frame: tuple  # (H, W)
    mode: str
    thumbnail: np.ndarray  # (S, S) grey, float32 in [0, 1]
    brightness: float
    contrast: float  # logarithm
    sharpness: float  # logarithm
    red: float  # less the brightness, 0 for grey images
    blue: float


def read_records(parts, n_jobs, verbose):
    """A Record of each image of the parts (name, images, names, targets)."""
    items = [
        (name, images[i], image_name(images[i], i), names[i], int(targets[i]))
        for name, images, names, targets in parts
        for i in range(len(images))
    ]

    def read(item):
        part, image, called, name, target = item
        try:
            return Record(part, name, target, _facts(read_image(image, called)))
        except ImageError as error:
            return Record(part, name, target, error=str(error))

    with ThreadPoolExecutor(n_jobs or 2) as pool:
        found = pool.map(read, items)
        return list(tqdm(found, "images", len(items), unit="image", disable=not verbose))


def _facts(image):
    digest = hashlib.blake2b(f"{image.shape} {image.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image))
    small = ImageFit(SIDE, SIDE).apply(image)  # (S, S, C)
    grey = small.mean(axis=2)
    scale = {"u1": 255, "u2": 65535}.get(image.dtype.str[1:], 1)
    some = image[::_SHARPNESS_STEP].mean(axis=2, dtype=np.float32) / scale
    colour = small.mean(axis=(0, 1)) - grey.mean() if small.shape[2] == 3 else np.zeros(3)
    kind = {1: "grey", 3: "RGB"}.get(image.shape[2], f"{image.shape[2]} channels")
    return Facts(
        digest=digest.digest(),
        frame=image.shape[:2],
        mode=f"{kind} {image.dtype}",
        thumbnail=grey,
        brightness=float(grey.mean()),
        contrast=float(np.log(grey.std() + 0.004)),
        sharpness=float(np.log(np.abs(np.diff(some, axis=1)).mean() + 0.002)),
        red=float(colour[0]),
        blue=float(colour[2]),
    )


def check_readable(records):
    return [Finding("unreadable", "error", [r.place], r.error) for r in records if not r.facts]


def check_alike(records):
    """(findings on images that show the same, group of each record)."""
    groups = np.arange(len(records))
    rows = np.array([i for i, r in enumerate(records) if r.facts], dtype=int)
    if len(rows) == 0:
        return [], groups
    digests = [records[i].facts.digest for i in rows]
    _, first, copies = np.unique(digests, return_index=True, return_inverse=True)
    near = NearDuplicates(np.stack([records[i].facts.thumbnail for i in rows[first]]))
    findings = [_same_pixels([records[i] for i in same]) for same in _several(copies, rows)]
    several = np.bincount(near.groups)[near.groups] > 1  # of an image's copies, one counts
    for alike in _several(np.where(several[copies], near.groups[copies], -1), rows):
        closest = near.similarity[near.groups == near.groups[copies[rows == alike[0]]]].max()
        findings.append(_same_thing([records[i] for i in alike], closest, near))
    groups[rows] = rows[first][near.groups[copies]]
    even = [records[i].place for i in rows[near.is_even[copies]]]
    if even:
        text = "their contrast is below a fiftieth of what is usual here; not compared with others"
        findings.append(Finding("even_image", "warning", even, text))
    return findings, groups


def _several(numbers, rows):
    """Arrays of the rows that share a number of 0 or more, in the order of their first rows."""
    numbers_of_several = np.flatnonzero(np.bincount(numbers[numbers >= 0]) > 1)
    return sorted((rows[numbers == n] for n in numbers_of_several), key=lambda same: same[0])


def _same_pixels(records):
    names = [r.place for r in records]
    where = _where(records)
    if len({r.target for r in records}) > 1:
        return Finding("contradiction", "error", names, f"{where}: one of the labels is wrong")
    if len({r.part for r in records}) > 1:
        text = f"{where}: leave it in one part, else a score shows memory"
        return Finding("duplicate", "error", names, text)
    return Finding("duplicate", "note", names, where)


def _same_thing(records, closest, near):
    names = [r.place for r in records]
    usual = "" if np.isnan(near.usual) else f"unrelated images here: {near.usual:.2f}, "
    text = f"{_where(records)}; similarity up to {closest:.2f} ({usual}bar {near.bar:.2f})"
    across = len({r.part for r in records}) > 1
    return Finding("near_duplicate", "warning" if across else "note", names, text)


def _where(records):
    """As "6 images: 4 train good, 2 test defective"."""
    label = {1: "good", -1: "defective"}
    counts = Counter((r.part, label[r.target]) for r in records)
    parts = ", ".join(
        f"{n} {part}" + (f" {word}" if part == "test" else "") for (part, word), n in counts.items()
    )
    return f"{len(records)} images: {parts}"


def check_kinds(records):
    """Sizes and modes that differ."""
    records = [r for r in records if r.facts]
    findings = []
    modes = Counter(r.facts.mode for r in records)
    if len(modes) > 1:
        usual = modes.most_common(1)[0][0]
        names = [r.place for r in records if r.facts.mode != usual]
        text = ", ".join(f"{n} {mode}" for mode, n in modes.most_common())
        findings.append(Finding("mixed_modes", "warning", names, f"{text}; named are the fewer"))
    frames = Counter(r.facts.frame for r in records)
    if len(frames) > 1:
        (usual, n), *_ = frames.most_common(1)
        names = [r.place for r in records if r.facts.frame != usual]
        (low, narrow), (high, wide) = np.min(list(frames), axis=0), np.max(list(frames), axis=0)
        text = (
            f"{len(frames)} sizes, most often {usual[0]} x {usual[1]} ({n} of {len(records)}); "
            f"heights {low} to {high}, widths {narrow} to {wide}: see resize of the extractors"
        )
        findings.append(Finding("mixed_sizes", "note", names, text))
    return findings


def check_usual(records):
    """(good images that stand out from those for training, why this was not checked)."""
    good = [r for r in records if r.facts and r.target == 1]
    known = np.array([r.part == "train" for r in good], dtype=bool)
    if known.sum() < _FEWEST_GOOD:
        return [], [f"good images that stand out: {known.sum()} for training are too few to tell"]
    reasons = {}
    most = _MOST_DEVIATIONS + _DOUBT / known.sum()
    for what, (least, factor) in _MEASURES.items():
        values = np.array([getattr(r.facts, what) for r in good])
        usual = np.median(values[known])
        spread = max(1.4826 * np.median(np.abs(values[known] - usual)), least)
        for i in np.flatnonzero(np.abs(values - usual) > most * spread):
            deviations = abs(values[i] - usual) / spread
            reasons.setdefault(i, []).append(
                f"{what} {factor(values[i]):.3f}, usual {factor(usual):.3f} "
                f"({deviations:.1f} robust deviations)"
            )
    far, usual = _distances(np.stack([r.facts.thumbnail for r in good]), known, most - 1)
    for i in np.flatnonzero(far > 0):
        reasons.setdefault(i, []).append(
            f"distance to other good images {far[i]:.3f}, usual {usual:.3f}"
        )
    return [
        Finding("unusual_good_image", "warning", [good[i].place], "; ".join(reasons[i]))
        for i in sorted(reasons)
    ], []


# What is measured: the least deviation that counts as usual, and what messages show.
_MEASURES = {
    "brightness": (0.01, float),
    "contrast": (0.05, np.exp),
    "sharpness": (0.05, np.exp),
    "red": (0.005, float),
    "blue": (0.005, float),
}


def _distances(thumbnails, known, most):
    """(distance of those that are far from the known images, else 0; the usual distance).

    Root mean square difference of small grey copies, to the fifth nearest.
    """
    n, side = len(thumbnails), SIDE // 4
    rows = thumbnails.reshape(n, side, 4, side, 4).mean(axis=(2, 4)).reshape(n, -1)
    norms = (rows**2).sum(axis=1)
    squares = norms[:, None] + norms[known] - 2 * rows @ rows[known].T  # (n, known)
    squares[known, np.arange(known.sum())] = np.inf  # an image is no neighbour of its own
    nearest = np.partition(squares, _NEIGHBOUR - 1, axis=1)[:, _NEIGHBOUR - 1]
    distances = np.sqrt(np.maximum(nearest, 0) / side**2)
    levels = np.log(distances + 1e-4)
    usual = np.median(levels[known])
    spread = max(1.4826 * np.median(np.abs(levels[known] - usual)), 0.05)
    return np.where(levels > usual + most * spread, distances, 0), np.exp(usual) - 1e-4
