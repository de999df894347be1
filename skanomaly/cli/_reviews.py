"""Review files: verdicts that a person has corrected, as JSON."""

import json
from pathlib import Path

import numpy as np

from skanomaly.cli._model_files import fingerprint
from skanomaly.cli._printing import print_note

VERDICTS = {"good": 1, "defect": -1}
_EXPECTED = 'a list of {"image": FILE, "verdict": "good" or "defect"}'


def add_review(parser, what):
    """Add the option of the commands that read a review file."""
    parser.add_argument(
        "--review",
        type=Path,
        metavar="FILE",
        help=f'{what}: a file saved from a report, or JSON, [{{"image": FILE, "verdict": "good" or '
        '"defect"}}, ...], files relative to its folder',
    )


def read_review(path):
    """{path of an image: +1 or -1} of a review file."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path}: expected {_EXPECTED}, got no JSON: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected {_EXPECTED}, got {type(entries).__name__}")
    review = {}
    for i, entry in enumerate(entries):
        is_entry = isinstance(entry, dict) and isinstance(entry.get("image"), str)
        if not is_entry or str(entry.get("verdict")) not in VERDICTS:
            raise ValueError(f"{path}: expected {_EXPECTED}, got {entry!r} as entry {i}")
        image, label = path.parent / entry["image"], VERDICTS[entry["verdict"]]
        if not image.is_file():
            raise FileNotFoundError(f"{path}: no such image file: {image}, of entry {i}")
        if review.setdefault(str(image), label) != label:
            raise ValueError(f"{path}: {image} is called good and defect; leave one verdict")
    return review


def apply_review(path, test):
    """The test images with the labels of a review file; images are told by their content.

    Of an image that is a defect after all nobody has drawn a mask: pixels are then not measured.
    """
    labels = {fingerprint(image): label for image, label in read_review(path).items()}
    target, defects = np.array(test.target), list(test.defects)
    masks = None if test.masks is None else list(test.masks)
    found = 0
    for i, image in enumerate(test.images):
        label = labels.get(fingerprint(image))
        found += label is not None
        if label is None or label == target[i]:
            continue
        target[i], defects[i] = label, "good" if label == 1 else "reviewed"
        if masks is not None and label == 1:
            masks[i] = np.zeros_like(masks[i])
        elif masks is not None:
            masks = None
            print_note(f"{image}: a defect without a mask; pixels are not measured")
    print_note(f"{path}: {found} of its {len(labels)} images are among the test images")
    return type(test)(**{**test, "target": target, "defects": defects, "masks": masks})
