"""Checks of images: unreadable ones, duplicates, and good images that differ from the others."""

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from skanomaly.datasets._findings import Finding
from skanomaly.datasets._near_duplicates import SIDE, NearDuplicates
from skanomaly.exceptions import ImageError
from skanomaly.images import (
    ImageFit,
    check_images,
    image_name,
    is_transparent,
    read_image,
    unused_high_bits,
)
from skanomaly.utils.threads import N_READERS

_MIN_GOOD = 10  # good images from which the usual spread is estimated
_MAX_DEVIATIONS = 6  # robust deviations of a feature; one less for the distance to other images
_SMALL_SET = 60  # divided by the number of images: further deviations, as the spread is uncertain
_NEIGHBOR = 5
_SHARPNESS_STEP = 4  # every fourth row is enough


class Record(NamedTuple):
    """An image of the data set, and what was read from it."""

    part: str
    name: str
    target: int  # +1 good, -1 defect
    facts: "Facts | None" = None  # None: unreadable
    error: str = ""  # why it is unreadable

    @property
    def place(self):
        """Part and name, by which findings refer to the image."""
        return f"{self.part}/{self.name}"


class Facts(NamedTuple):
    """Properties of an image."""

    digest: bytes  # of the pixels
    frame: tuple  # (H, W)
    mode: str  # channels and dtype
    thumbnail: np.ndarray  # (S, S) gray, float32 in [0, 1]
    brightness: float
    contrast: float  # logarithm
    sharpness: float  # logarithm
    red: float  # minus the brightness; 0 for gray images
    blue: float
    unused_bits: int  # highest bits that are 0, of 16
    is_transparent: bool  # in part


def read_records(parts, n_threads, verbose):
    """A Record for each image of the parts (name, images, names, targets)."""
    items = [
        (name, images[i], image_name(images[i], i), names[i], int(targets[i]))
        for name, images, names, targets in parts
        for i in range(len(images))
    ]

    def read(item):
        part, image, name_in_errors, name, target = item
        try:
            pixels = read_image(image, name_in_errors)
            return Record(part, name, target, _facts(pixels, is_transparent(image)))
        except ImageError as error:
            return Record(part, name, target, error=str(error))

    with ThreadPoolExecutor(n_threads) as pool:
        found = pool.map(read, items)
        return list(tqdm(found, "images", len(items), unit="image", disable=not verbose))


def _facts(image, is_transparent):
    """Facts of an image (H, W, C)."""
    digest = hashlib.blake2b(f"{image.shape} {image.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image))
    small = ImageFit(SIDE, SIDE).apply(image)  # (S, S, C)
    gray = small.mean(axis=2)
    scale = {"u1": 255, "u2": 65535}.get(image.dtype.str[1:], 1)
    some = image[::_SHARPNESS_STEP].mean(axis=2, dtype=np.float32) / scale
    color = small.mean(axis=(0, 1)) - gray.mean() if small.shape[2] == 3 else np.zeros(3)
    kind = {1: "gray", 3: "RGB"}.get(image.shape[2], f"{image.shape[2]} channels")
    return Facts(
        digest=digest.digest(),
        frame=image.shape[:2],
        mode=f"{kind} {image.dtype}",
        thumbnail=gray,
        brightness=float(gray.mean()),
        contrast=float(np.log(gray.std() + 0.004)),
        sharpness=float(np.log(np.abs(np.diff(some, axis=1)).mean() + 0.002)),
        red=float(color[0]),
        blue=float(color[2]),
        unused_bits=unused_high_bits(image),
        is_transparent=is_transparent,
    )


def check_readable(records):
    """Findings on unreadable images."""
    return [Finding("unreadable", "error", [r.place], r.error) for r in records if not r.facts]


def check_duplicates(records):
    """(findings on duplicates and near duplicates, group of each record)."""
    groups = np.arange(len(records))
    rows = np.array([i for i, r in enumerate(records) if r.facts], dtype=int)
    if len(rows) == 0:
        return [], groups
    # Of images with the same pixels only the first one is searched for near duplicates.
    digests = [records[i].facts.digest for i in rows]
    _, first, copies = np.unique(digests, return_index=True, return_inverse=True)
    near = NearDuplicates(np.stack([records[i].facts.thumbnail for i in rows[first]]))
    findings = [_same_pixels([records[i] for i in same]) for same in _several(copies, rows)]
    several = np.bincount(near.groups)[near.groups] > 1  # groups of more than exact copies
    for same in _several(np.where(several[copies], near.groups[copies], -1), rows):
        closest = near.similarity[near.groups == near.groups[copies[rows == same[0]]]].max()
        findings.append(_same_object([records[i] for i in same], closest, near))
    groups[rows] = rows[first][near.groups[copies]]
    even = [records[i].place for i in rows[near.is_even[copies]]]
    if even:
        text = "their contrast is below 1/50 of the usual contrast; not compared with others"
        findings.append(Finding("even_image", "warning", even, text))
    return findings, groups


def _several(numbers, rows):
    """Arrays of the rows with equal nonnegative numbers, sorted by their first rows."""
    numbers_of_several = np.flatnonzero(np.bincount(numbers[numbers >= 0]) > 1)
    return sorted((rows[numbers == n] for n in numbers_of_several), key=lambda same: same[0])


def _same_pixels(records):
    """Finding on images with the same pixels."""
    names = [r.place for r in records]
    where = _where(records)
    if len({r.target for r in records}) > 1:
        return Finding("contradiction", "error", names, f"{where}: one of the labels is wrong")
    if len({r.part for r in records}) > 1:
        text = f"{where}: keep it in one part only, else it is leakage"
        return Finding("duplicate", "error", names, text)
    return Finding("duplicate", "note", names, where)


def _same_object(records, closest, near):
    """Finding on near duplicates."""
    names = [r.place for r in records]
    usual = "" if np.isnan(near.usual) else f"unrelated images here: {near.usual:.2f}, "
    text = f"{_where(records)}; similarity up to {closest:.2f} ({usual}limit {near.limit:.2f})"
    across = len({r.part for r in records}) > 1
    return Finding("near_duplicate", "warning" if across else "note", names, text)


def _where(records):
    """Number of images in each part, such as "6 images: 4 train, 2 test defective"."""
    label = {1: "good", -1: "defective"}
    counts = Counter((r.part, label[r.target]) for r in records)
    parts = ", ".join(
        f"{n} {part}" + (f" {word}" if part == "test" else "") for (part, word), n in counts.items()
    )
    return f"{len(records)} images: {parts}"


def check_kinds(records):
    """Findings on images with different modes or sizes."""
    records = [r for r in records if r.facts]
    findings = []
    modes = Counter(r.facts.mode for r in records)
    if len(modes) > 1:
        usual = modes.most_common(1)[0][0]
        names = [r.place for r in records if r.facts.mode != usual]
        text = ", ".join(f"{n} {mode}" for mode, n in modes.most_common())
        text += f"; listed are those that are not {usual}"
        findings.append(Finding("mixed_modes", "warning", names, text))
    frames = Counter(r.facts.frame for r in records)
    if len(frames) > 1:
        (usual, n), *_ = frames.most_common(1)
        names = [r.place for r in records if r.facts.frame != usual]
        (low, narrow), (high, wide) = np.min(list(frames), axis=0), np.max(list(frames), axis=0)
        text = (
            f"{len(frames)} sizes, most often {usual[0]} x {usual[1]} ({n} of {len(records)}); "
            f"heights {low} to {high}, widths {narrow} to {wide}: see the parameter resize of "
            "extractors"
        )
        findings.append(Finding("mixed_sizes", "note", names, text))
    return findings + _check_depth(records) + _check_transparency(records)


def _check_depth(records):
    """Finding on images of a camera with fewer than 16 bits."""
    deep = [r for r in records if r.facts.mode.endswith("uint16")]
    unused = min((r.facts.unused_bits for r in deep), default=0)
    if unused == 0:
        return []
    text = (
        f"the brightest pixel of all needs {16 - unused} bits, so that the images are nearly black "
        f"to a network: bring them to the whole range, image << {unused}, in fit and in predict"
    )
    return [Finding("unused_bits", "warning", [r.place for r in deep], text)]


def _check_transparency(records):
    """Finding on images with transparent pixels."""
    names = [r.place for r in records if r.facts.is_transparent]
    if not names:
        return []
    text = f"{len(names)} of {len(records)} images; what is transparent is read as black"
    return [
        Finding("transparency", "note" if len(names) == len(records) else "warning", names, text)
    ]


def check_usual(records):
    """(findings on unusual good images, reasons why these were not checked)."""
    good = [r for r in records if r.facts and r.target == 1]
    known = np.array([r.part == "train" for r in good], dtype=bool)
    if known.sum() < _MIN_GOOD:
        return [], [f"unusual good images: {known.sum()} good training images are too few"]
    reasons = {}
    limit = _MAX_DEVIATIONS + _SMALL_SET / known.sum()
    for feature, (min_spread, unit) in _FEATURES.items():
        values = np.array([getattr(r.facts, feature) for r in good])
        usual = np.median(values[known])
        # The median absolute deviation, scaled to the standard deviation of a normal distribution.
        spread = max(1.4826 * np.median(np.abs(values[known] - usual)), min_spread)
        for i in np.flatnonzero(np.abs(values - usual) > limit * spread):
            deviations = abs(values[i] - usual) / spread
            reasons.setdefault(i, []).append(
                f"{feature} {unit(values[i]):.3f}, usual {unit(usual):.3f} "
                f"({deviations:.1f} robust deviations)"
            )
    far, usual = _distances(np.stack([r.facts.thumbnail for r in good]), known, limit - 1)
    for i in np.flatnonzero(far > 0):
        reasons.setdefault(i, []).append(
            f"distance to other good images {far[i]:.3f}, usual {usual:.3f}"
        )
    return [
        Finding("unusual_good_image", "warning", [good[i].place], "; ".join(reasons[i]))
        for i in sorted(reasons)
    ], []


# Features: the smallest spread that is assumed, and the function to the unit of messages.
_FEATURES = {
    "brightness": (0.01, float),
    "contrast": (0.05, np.exp),
    "sharpness": (0.05, np.exp),
    "red": (0.005, float),
    "blue": (0.005, float),
}


def _distances(thumbnails, known, limit):
    """(distances (n,) to the known images, 0 for those that are not far; the usual distance).

    The distance is the root mean square difference of small gray copies to the fifth nearest one.
    """
    n, side = len(thumbnails), SIDE // 4
    rows = thumbnails.reshape(n, side, 4, side, 4).mean(axis=(2, 4)).reshape(n, -1)
    norms = (rows**2).sum(axis=1)
    squares = norms[:, None] + norms[known] - 2 * rows @ rows[known].T  # (n, known)
    squares[known, np.arange(known.sum())] = np.inf  # an image is not its own neighbor
    nearest = np.partition(squares, _NEIGHBOR - 1, axis=1)[:, _NEIGHBOR - 1]
    distances = np.sqrt(np.maximum(nearest, 0) / side**2)
    levels = np.log(distances + 1e-4)
    usual = np.median(levels[known])
    spread = max(1.4826 * np.median(np.abs(levels[known] - usual)), 0.05)
    return np.where(levels > usual + limit * spread, distances, 0), np.exp(usual) - 1e-4


def group_near_duplicates(images: Any, *, verbose: int = 0) -> np.ndarray:
    """Groups of images that show the same object.

    Parameters
    ----------
    images : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    ndarray of shape (n,), int
        Images with the same number show the same object: their pixels are equal, or their detail
        is more similar than that of nearly all random pairs. It can be passed as ``groups``.

    Raises
    ------
    ImageError
        An image cannot be read; the message names it. It is a ValueError.

    See Also
    --------
    check_dataset : Names the groups, and finds other problems.

    Examples
    --------
    >>> from skanomaly.datasets import group_near_duplicates, make_textures
    >>> images = make_textures(12, kind="wood", size=64, random_state=0)
    >>> images[7] = images[2]
    >>> group_near_duplicates(images).tolist()
    [0, 1, 2, 3, 4, 5, 6, 2, 8, 9, 10, 11]
    """
    images = check_images(images)
    names = [image_name(image, i) for i, image in enumerate(images)]
    part = "images", images, names, np.ones(len(images), dtype=int)
    records = read_records([part], N_READERS, verbose)
    for record in records:
        if record.facts is None:
            raise ImageError(record.error)
    return check_duplicates(records)[1]
