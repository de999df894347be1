"""What tests of the documentation share: the code blocks of a page, and a folder for them."""

import re
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image

from skanomaly.datasets import make_inspection

FENCE = re.compile(r"^(```+)([^\n`]*)\n(.*?)^\1$", flags=re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    language: str
    code: str


def blocks(text, language=None):
    """The fenced blocks of a page; of one language, only their code."""
    found = [Block(kind.split(" ")[0], code) for _, kind, code in FENCE.findall(text)]
    return found if language is None else [b.code for b in found if b.language == language]


def run_python(text, names=None):
    """Run a page's Python as a reader would type it, one block after the other."""
    names = {} if names is None else names
    for code in blocks(text, "python"):
        exec(code, names)
    return names


def make_my_part(root):
    """my_part/good, my_part/<defect> and their masks: 26 small good images and 10 bad ones."""
    data = make_inspection(22, 4, 10, size=64, random_state=0)
    for part in ("train", "test"):
        for name, image in zip(data[part].names, data[part].images, strict=True):
            _save(root / "my_part" / f"{name}_{part}.png", image)
    for name, mask in zip(data.test.names, data.test.masks, strict=True):
        if mask.any():
            file = root / "my_part" / "ground_truth" / f"{name}_test_mask.png"
            _save(file, 255 * mask.astype(np.uint8))
    return data


def make_workshop(root):
    """All that the pages speak of: the part, new images of it, a table, a weights file."""
    data = make_my_part(root)
    for i in (0, -1):
        _save(root / "new" / f"{i % 20:03d}.png", data.test.images[i])
    _save(root / "incoming" / "1.png", data.test.images[0])
    for folder in ("passed", "rejected"):
        (root / folder).mkdir()
    rows = [("a/001", "good", "", "train"), ("a/002", "good", "", "test")]
    for name, *_ in rows:
        _save(root / f"{name}.png", data.train.images[int(name[-1])])
    _save(root / "b" / "003.png", data.test.images[-1])
    _save(root / "masks" / "003.png", 255 * data.test.masks[-1].astype(np.uint8))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = torchvision.models.squeezenet1_1(weights=None).state_dict()
    torch.save(weights, root / "squeezenet1_1.pth")
    return root


def _save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
