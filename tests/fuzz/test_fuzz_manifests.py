"""Tables and folders of any content are read, or refused by an error that names the file.

Each test draws the same few in each run. With a number SKANOMALY_FUZZ in the environment it draws
so many.
"""

import io
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skanomaly.datasets import check_dataset, load_folder, load_manifest

N_ASKED = int(os.environ.get("SKANOMALY_FUZZ", 0))
LAYOUTS = (
    *("auto", "auto", "auto", "classes", "images", "mvtec_ad", "mvtec_loco", "mvtec_ad_2", "btad"),
    *("visa", "kolektor_sdd", "kolektor_sdd2", "magnetic_tile", "dagm"),
)


def _content(kind, pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def _contents():
    """What files may hold: images, masks, images that are damaged, and others."""
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 255, (12, 10, 3), dtype=np.uint8) for _ in range(8)]
    mask = np.zeros((12, 10), dtype=np.uint8)
    mask[3:6, 4] = 255
    made = [_content("PNG", one) for one in pixels] + [_content("JPEG", pixels[0])]
    masks = [mask, 255 - mask, mask * 0, mask[:8], mask // 100, mask | 128, mask[:, :2]]
    made += [_content("PNG", one) for one in masks] * 2
    made.append(_content("PNG", np.dstack([pixels[1], pixels[2][..., 0]])))
    made.append(_content("PNG", pixels[1][..., 0].astype(np.uint16)))
    return [*made, made[0][:60], b"", b"text", b"image,label\n1.png,good\n"]


CONTENTS = _contents()
FOLDERS = (
    *("good", "good", "good", "OK", "dent", "dent", "dent_mask", "dent_masks", "mask", "masks"),
    *("ground_truth", "train", "test", "validation", "test_public", "test_private", "Train"),
    *("Test", "Label", "kos01", "kos02", "MT_Free", "MT_Crack", "Imgs", "Data", "Images"),
    *("Normal", "Masks", "split_csv", ".hidden", "x.png", "a\udce9", "u\u0308", "\u00fc"),
)
STEMS = ("1", "2", "10", "1_mask", "2_mask", "1_GT", "Part1", "Part1_label", "1_label", "ü", "-")
ENDINGS = (*[".png"] * 8, ".jpg", ".PNG", ".bmp", ".jpeg", ".heic", ".txt", ".csv", "", ".mask.png")


def _tree(rng, root):
    """Writes random files into random folders, most of them as a reader likes them."""
    starts = [["good"], ["train", "good"], ["test", "good"], ["test", "dent"], ["dent"], []]
    starts += [["ground_truth", "dent"], ["kos01"], ["MT_Free", "Imgs"], ["Train"], ["Test"]]
    names = []
    for _ in range(rng.integers(0, 14)):
        folders = list(starts[rng.integers(len(starts))])
        while rng.random() < 0.25:
            folders.append(FOLDERS[rng.integers(len(FOLDERS))])
        name = STEMS[rng.integers(len(STEMS))] + ENDINGS[rng.integers(len(ENDINGS))]
        path = Path(root, *folders, name)
        names.append("/".join([*folders, name]))
        if any(one.is_file() for one in path.parents) or path.is_dir():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if rng.random() < 0.03 and not path.exists() and not path.is_symlink():
            path.symlink_to([root, root / "none", path, root / "good"][rng.integers(4)])
        elif not path.is_symlink():
            path.write_bytes(CONTENTS[rng.integers(len(CONTENTS))])
    return names


def _use(load, path):
    """Whether all can be read; if not, the error is one of ours and names the file."""
    try:
        data = load()
        for part in (data.test, data.train_defects):
            if part is not None and part.masks is not None:
                for i, image in enumerate(part.images):
                    assert part.masks[i].ndim == 2, image
        assert data.DESCR.encode()
        return True
    except (ValueError, OSError) as error:
        assert str(path) in str(error), repr(error)
        return False


def _check(path, **options):
    try:
        assert str(check_dataset(path, n_jobs=1, **options)).encode()
        return True
    except (ValueError, OSError) as error:
        assert str(path) in str(error), repr(error)
        return False


def test_folders(tmp_path):
    n_read = n_checked = 0
    for seed in range(N_ASKED or 600):
        rng, root = np.random.default_rng(seed), tmp_path / str(seed) / "part"
        root.mkdir(parents=True)
        _tree(rng, root)
        options = {"layout": LAYOUTS[rng.integers(len(LAYOUTS))]}
        missing = ("error", "drop", "ignore")[rng.integers(3)]
        try:
            n_read += _use(partial(load_folder, root, missing_masks=missing, **options), root)
            n_checked += _check(root, **options)
        except Exception as error:
            pytest.fail(f"seed {seed}, {options}: {error!r}")
    assert n_read > 20 and n_checked > 20  # many are as they should be


CELLS = (
    *("good", "good", "dent", "Dent", "OK", "", "0", "1.0", "True", "train", "test", "val", "nan"),
    *(" ", "ä", '"', "'", "a\0", "x" * 300, "..", "/", "\\", "C:\\1.png", "good\\1.png"),
    *("GOOD/1.PNG", "image", "label", "mask", "split", "=1+1", "\u2028", "\x1c"),
)  # fmt: skip


def _table(rng, names):
    """The bytes of a table, right in most of its cells."""
    separator = (",", ",", ";", "\t", "|")[rng.integers(5)]
    columns = ["image", "label", "mask", "split"][: rng.integers(1, 5)]
    rng.shuffle(columns)
    rows = [columns]
    for _ in range(rng.integers(0, 8)):
        usual = {
            "image": names[rng.integers(len(names))],
            "label": ("good", "good", "dent")[rng.integers(3)],
            "mask": ("", names[rng.integers(len(names))])[rng.integers(2)],
            "split": ("train", "test", "val")[rng.integers(3)],
        }
        rows.append([usual[name] for name in columns])
    for row in rows:
        for i in range(len(row)):
            if rng.random() < 0.04:
                row[i] = CELLS[rng.integers(len(CELLS))]
        if rng.random() < 0.03:
            row.append(CELLS[rng.integers(len(CELLS))])
    newline = ("\n", "\r\n", "\r")[rng.integers(3)]
    text = newline.join(separator.join(row) for row in rows)
    encoding = ("utf-8", "utf-8-sig", "utf-16", "cp1252")[rng.integers(4)]
    content = bytearray(text.encode(encoding, errors="ignore"))
    for _ in range(rng.integers(0, 3) * (rng.random() < 0.3)):
        if content:
            content[rng.integers(len(content))] = rng.integers(256)
    return bytes(content)


def test_tables(tmp_path):
    names = [f"good/{i}.png" for i in range(6)] + ["dent/1.png", "m/1_mask.png", "broken.png"]
    for i, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(CONTENTS[i] if i < 7 else CONTENTS[9] if i == 7 else CONTENTS[0][:60])
    table, n_read, n_checked = tmp_path / "parts.csv", 0, 0
    for seed in range(N_ASKED or 2500):
        rng = np.random.default_rng(seed)
        table.write_bytes(_table(rng, names))
        try:
            n_read += _use(lambda: load_manifest(table, missing_masks="drop"), tmp_path)
            n_checked += _check(table) if seed % 5 == 0 else 0
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
    assert n_read > 100 and n_checked > 20


def test_bytes_that_are_no_table(tmp_path):
    table, n_refused = tmp_path / "parts.csv", 0
    for seed in range(N_ASKED or 500):
        rng = np.random.default_rng(seed)
        content = rng.integers(256, size=rng.integers(0, 60), dtype=np.uint8).tobytes()
        beginning = (b"", b"image,label\n", b"\xff\xfe", b"\xef\xbb\xbf", b"sep=")[seed % 5]
        table.write_bytes(beginning + content)
        try:
            n_refused += not _use(lambda: load_manifest(table), table)
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
    assert n_refused > 0.9 * (N_ASKED or 500)
