"""What a check of a data set finds, planted one by one, and on real images."""

import io
import re
from itertools import pairwise

import numpy as np
import pytest
from oracles_datasets import block_fits
from PIL import Image, ImageFilter
from sklearn.utils import Bunch

from skanomaly.datasets import _near_duplicates as near
from skanomaly.datasets import check_dataset, load_folder, make_inspection, make_textures
from skanomaly.datasets._findings import KINDS


def inspection(kind="speckle", **shape):
    return make_inspection(20, 6, 6, kind=kind, size=96, random_state=0, **shape)


@pytest.fixture
def folder(tmp_path):
    """A folder of 20 good training images, 4 good and 3 defective test images with masks."""
    images = make_textures(27, kind="speckle", size=96, random_state=1)
    for i, image in enumerate(images[:20]):
        save(image, tmp_path / f"train/good/{i:02d}.png")
    for i, image in enumerate(images[20:24]):
        save(image, tmp_path / f"test/good/{i}.png")
    mask = np.zeros((96, 96), dtype=np.uint8)
    mask[10:20, 30:50] = 255
    for i, image in enumerate(images[24:]):
        save(image, tmp_path / f"test/dent/{i}.png")
        save(mask, tmp_path / f"ground_truth/dent/{i}_mask.png")
    return tmp_path


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def only(report, kind):
    """The one finding there is, which must be of this kind."""
    assert [finding.kind for finding in report.findings] == [kind], report
    return report.findings[0]


@pytest.mark.parametrize("kind", ["brushed", "weave", "wood", "speckle", "grid"])
def test_nothing_to_find(kind):
    report = check_dataset(inspection(kind))
    assert report.findings == []
    assert report.counts == {"error": 0, "warning": 0, "note": 0}
    assert report.n_images == {"train": 20, "test": 12}
    assert np.unique(np.concatenate(list(report.groups.values()))).size == 32
    assert "0 errors, 0 warnings, 0 notes" in str(report)


def test_a_folder_with_nothing_to_find(folder):
    report = check_dataset(folder)
    assert report.findings == [] and report.not_checked == []
    assert report.name == folder.name
    loaded = check_dataset(load_folder(folder))
    assert loaded.findings == [] and "pass the folder" in loaded.not_checked[0]


# images that show the same


def test_duplicates():
    data = inspection()
    data.train.images[3] = data.train.images[1]
    data.test.images[0] = data.train.images[7]
    report = check_dataset(data)
    across, within = report.findings
    assert (across.kind, across.severity) == ("duplicate", "error")
    assert across.names == ["train/good/007", "test/good/020"]
    assert "1 train, 1 test good" in across.message
    assert (within.kind, within.severity) == ("duplicate", "note")
    assert within.names == ["train/good/001", "train/good/003"]
    train, test = report.groups["train"], report.groups["test"]
    assert train[1] == train[3] and train[7] == test[0]
    assert len({*train, *test}) == 30


def test_the_same_pixels_as_good_and_as_defective():
    data = inspection()
    data.test.images[11] = data.train.images[0]
    finding = only(check_dataset(data), "contradiction")
    assert finding.severity == "error" and finding.names[0] == "train/good/000"


def as_jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file)


SAME = {
    "darker": lambda image: image.point(lambda value: value * 0.4),
    "gamma": lambda image: image.point(lambda value: 255 * (value / 255) ** 2),
    "gray": lambda image: image.convert("L"),
    "JPEG": as_jpeg,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "smaller": lambda image: image.resize((72, 72), Image.Resampling.BILINEAR),
    "cut": lambda image: image.crop((3, 2, 94, 93)),
    "moved": lambda image: image.crop((4, 3, 96, 96)),
}


@pytest.mark.parametrize("change", SAME)
@pytest.mark.parametrize("kind", ["wood", "speckle"])
def test_near_duplicates(change, kind):
    data = inspection(kind)
    changed = SAME[change](Image.fromarray(data.train.images[4]))
    data.test.images = [*data.test.images[:2], np.asarray(changed), *data.test.images[3:]]
    data.test.masks = None
    report = check_dataset(data)
    (finding,) = report.of_kind("near_duplicate")
    assert finding.severity == "warning"
    assert finding.names == ["train/good/004", "test/good/022"]
    assert "1 train, 1 test good; similarity up to" in finding.message
    assert report.groups["test"][2] == report.groups["train"][4]
    assert len({*report.groups["train"], *report.groups["test"]}) == 31


def test_copies_and_near_duplicates_are_one_group():
    data = inspection()
    images = data.train.images
    images[5] = images[6] = images[4]
    images[9] = images[4] // 2
    report = check_dataset(data)
    copies, alike = (report.of_kind(kind) for kind in ("duplicate", "near_duplicate"))
    assert [len(found.names) for found in copies + alike] == [3, 4]
    assert [found.severity for found in copies + alike] == ["note", "note"]
    assert len(set(report.groups["train"][[4, 5, 6, 9]])) == 1


def test_the_light_of_one_side_changes():
    data = inspection("wood")
    lamp = np.linspace(0.3, 1, 96)[None, :, None]
    data.test.images[0] = data.train.images[8] * lamp
    (finding,) = check_dataset(data).of_kind("near_duplicate")
    assert finding.names == ["train/good/008", "test/good/020"]


def test_few_images():
    """Too few show what is usual; only what is nearly identical counts."""
    data = make_inspection(2, 1, 1, size=96, random_state=0)
    assert check_dataset(data).findings == []
    data.test.images[0] = data.train.images[0] // 2
    message = only(check_dataset(data), "near_duplicate").message
    assert "limit 0.95" in message and "nan" not in message


def test_even_images():
    data = inspection()
    data.train.images[2], data.train.images[3], data.test.images[0] = 100, 101, 102
    report = check_dataset(data)
    (even,) = report.of_kind("even_image")
    assert even.names == ["train/good/002", "train/good/003", "test/good/020"]
    assert report.of_kind("near_duplicate") == []
    everything = make_inspection(12, 1, 1, size=32, random_state=0)
    everything.train.images[:], everything.test.images[:] = 7, 7
    assert len(check_dataset(everything).of_kind("even_image")[0].names) == 14


def test_similarity_as_a_slow_loop():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(3, near.SIDE, near.SIDE)).astype(np.float32)
    second = np.roll(first, (2, -1), axis=(1, 2)) + rng.normal(size=first.shape) * 0.5
    second = second.astype(np.float32)
    first[1, :20], second[1, :35] = 0, 0  # blocks without detail in one or both
    fits, counts = near._block_fits(first, second)
    for i in range(3):
        slow = block_fits(first[i], second[i], near._BLOCKS, near._REACH, near._MIN_DETAIL)
        np.testing.assert_allclose(fits[i], slow[0], atol=2e-5)
        assert np.array_equal(counts[i], slow[1])
    assert counts[0].all() and not counts[1].all()


def test_likely_pairs_do_not_depend_on_how_rows_are_cut(monkeypatch):
    images = make_textures(21, size=64, random_state=0).mean(axis=3, dtype=np.float32)
    pairs = near._likely_pairs(images)
    monkeypatch.setattr(near, "_ROWS_AT_ONCE", 8)
    monkeypatch.setattr(near, "_PAIRS_AT_ONCE", 5)
    assert np.array_equal(near._likely_pairs(images), pairs)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert (np.bincount(pairs.ravel(), minlength=21) >= 5).all()


# images that are unlike the others


def test_unreadable_images(folder):
    path = folder / "train/good/03.png"
    path.write_bytes(path.read_bytes()[:200])
    (folder / "test/good/1.png").write_text("no image")
    report = check_dataset(folder)
    assert [f.names for f in report.of_kind("unreadable")] == [
        ["train/good/03.png"],
        ["test/good/1.png"],
    ]
    assert "not an image file" in report.findings[1].message and len(report.findings) == 2
    assert report.findings[0].severity == "error"
    assert len(report.groups["train"]) == 20


def test_nothing_can_be_read(tmp_path):
    (tmp_path / "0.png").write_text("no image")
    assert only(check_dataset(tmp_path), "unreadable").names == ["train/good/0.png"]


def test_sizes_and_modes():
    data = inspection()
    images = [*data.train.images]
    images[0], images[1] = images[0][:80], images[1][:, :, 0]
    images[2] = images[2].astype(np.uint16) * 257
    data.train.images = images
    modes, sizes = check_dataset(data).findings
    assert (modes.kind, modes.severity) == ("mixed_modes", "warning")
    assert modes.names == ["train/good/001", "train/good/002"]
    assert modes.message.startswith("30 RGB uint8, 1 gray uint8, 1 RGB uint16")
    assert (sizes.kind, sizes.severity) == ("mixed_sizes", "note")
    assert sizes.names == ["train/good/000"]
    assert "2 sizes, most often 96 x 96 (31 of 32); heights 80 to 96" in sizes.message


UNUSUAL = {
    "brightness": lambda image: image // 3 * 2,
    "contrast": lambda image: image // 3 + 90,
    "sharpness": lambda image: np.asarray(
        Image.fromarray(image).filter(ImageFilter.GaussianBlur(2))
    ),
    "red": lambda image: np.clip(image + np.array([25, -12, -12]), 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("part, row", [("train", 7), ("test", 2)])
@pytest.mark.parametrize("what", UNUSUAL)
def test_unusual_good_images(what, part, row):
    data = inspection()
    data[part].images[row] = UNUSUAL[what](data[part].images[row])
    found = [f for f in check_dataset(data).findings if f.kind == "unusual_good_image"]
    assert [finding.names for finding in found] == [[f"{part}/{data[part].names[row]}"]]
    assert what in found[0].message and "usual" in found[0].message


@pytest.mark.parametrize("part, row", [("train", 7), ("test", 2)])
def test_a_part_that_lies_elsewhere(part, row):
    data = inspection("grid")
    data[part].images[row] = np.roll(data[part].images[row], 30, axis=1)
    finding = only(check_dataset(data), "unusual_good_image")
    assert finding.names == [f"{part}/{data[part].names[row]}"]
    assert finding.message.startswith("distance to other good images")


def test_defects_may_be_unusual():
    data = inspection()
    data.test.images[11] = 255 - data.test.images[11]
    assert check_dataset(data).findings == []


def test_too_few_good_images_to_know_what_is_usual():
    data = make_inspection(9, 2, 2, kind="speckle", size=64, random_state=0)
    data.train.images[0] //= 4
    report = check_dataset(data)
    assert report.findings == [] and "9 good training images are too few" in report.not_checked[-1]


# masks


def remove_mask(folder):
    (folder / "ground_truth/dent/1_mask.png").unlink()


def add_mask(folder):
    save(np.zeros((96, 96), dtype=np.uint8), folder / "ground_truth/scratch/9_mask.png")


def damage_mask(folder):
    (folder / "ground_truth/dent/1_mask.png").write_text("no image")


def replace_mask(pixels):
    return lambda folder: save(pixels, folder / "ground_truth/dent/1_mask.png")


EMPTY = np.zeros((96, 96), dtype=np.uint8)
CLASSES = EMPTY + np.arange(4, dtype=np.uint8).repeat(24)
EDGE = EMPTY + np.where(np.arange(96) < 50, 0, 255).astype(np.uint8)
EDGE[:60, 49] = 120
SOFT = EMPTY + np.linspace(0, 255, 96).astype(np.uint8)


@pytest.mark.parametrize(
    "change, kind, severity, name, text",
    [
        (remove_mask, "defect_without_mask", "error", "test/dent/1.png", "missing_masks"),
        (add_mask, "mask_without_image", "warning", "scratch/9_mask.png", "no image"),
        (damage_mask, "unreadable_mask", "error", "dent/1_mask.png", "not an image file"),
        (
            replace_mask(EMPTY[:90]),
            "mask_size",
            "error",
            "dent/1_mask.png",
            "90 x 96 .* is 96 x 96",
        ),
        (replace_mask(EMPTY), "empty_mask", "error", "test/dent/1.png", "no pixel is marked"),
        (replace_mask(EMPTY + 255), "full_mask", "warning", "dent/1_mask.png", "no black pixel"),
        (replace_mask(CLASSES), "mask_not_binary", "note", "dent/1_mask.png", "class numbers"),
        (
            replace_mask(SOFT),
            "mask_not_binary",
            "warning",
            "dent/1_mask.png",
            r"96 gray values, 98 %",
        ),
        (
            replace_mask(EDGE),
            "mask_not_binary",
            "note",
            "dent/1_mask.png",
            r"3 gray values, 0\.65 %",
        ),
    ],
    ids=["missing", "extra", "file", "size", "empty", "full", "classes", "soft", "edge"],
)
def test_masks(folder, change, kind, severity, name, text):
    change(folder)
    finding = only(check_dataset(folder), kind)
    assert finding.severity == severity
    assert finding.names[0].endswith(name)
    assert re.search(text, finding.message)


def test_masks_in_memory():
    data = inspection()
    data.test.masks[7], data.test.masks[0, 3, 4] = False, True
    empty, marked = check_dataset(data).findings
    assert (empty.kind, empty.names) == ("empty_mask", [f"test/{data.test.names[7]}"])
    assert (marked.kind, marked.names) == ("mask_of_good_image", ["test/good/020"])
    data.test.masks = [mask[:50] for mask in data.test.masks]
    assert len(check_dataset(data).of_kind("mask_size")) == 12


def test_arrays_are_masks_as_for_metrics():
    """Nonzero on the defect, whatever the values; None for a good image; no fractions."""
    data = inspection()
    masks = [None] * 6 + [mask * np.uint8(255) for mask in data.test.masks[6:]]
    data.test.masks = masks
    assert check_dataset(data).findings == []
    masks[7] = masks[7].tolist()
    masks[8] = np.where(masks[8], np.uint8(20), 0)
    masks[8][0, :5] = 200  # of a file, only this would be a defect
    masks[9] = masks[9] / 300
    masks[10] = masks[10][..., None]
    soft, fractions, channels = check_dataset(data).findings[::-1]
    assert soft.kind == "mask_not_binary" and "what is above 0" in soft.message
    assert [f.kind for f in (fractions, channels)] == ["unreadable_mask"] * 2
    assert fractions.names == [f"mask of test/{data.test.names[10]}"]
    messages = fractions.message + channels.message
    assert "fractions or NaN" in messages and "(96, 96, 1)" in messages


def test_targets_are_read_as_by_detectors():
    data = inspection()
    data.test.target = (data.test.target == -1).astype(int)
    with pytest.raises(ValueError, match=r"y holds \[0, 1\]"):
        check_dataset(data)
    data.test.target = np.ones(3, int)
    with pytest.raises(ValueError, match="got 3 for 12 images"):
        check_dataset(data)


def test_no_masks(folder):
    for path in (folder / "ground_truth/dent").iterdir():
        path.unlink()
    report = check_dataset(folder)
    assert report.findings == [] and report.not_checked == ["masks: there are none."]


# the report and its arguments


def test_report():
    data = inspection()
    data.train.images[3] = data.train.images[1]
    for i in range(5):
        data.test.images[i] = data.train.images[7 + i]
    report = check_dataset(data)
    assert report.counts == {"error": 5, "warning": 0, "note": 1}
    lines = repr(report).split("\n")
    assert (
        lines[0] == "speckle: checked 32 images (20 train, 12 test): 5 errors, 0 warnings, 1 note"
    )
    assert lines[1].startswith("error   duplicate: ") and "(5; 5 train, 5 test)" in lines[1]
    assert "and 2 more" in lines[8] and lines[9].startswith("note    duplicate")
    with pytest.raises(ValueError, match="kind must be one of"):
        report.of_kind("copies")
    assert all(report.of_kind(kind) == [] for kind in KINDS if kind != "duplicate")


def test_progress(folder, capsys):
    check_dataset(folder, verbose=1, n_jobs=3)
    assert "27/27" in capsys.readouterr().err
    check_dataset(folder)
    assert capsys.readouterr().err == ""


def test_table(folder):
    rows = ["image,label,split"] + [f"train/good/{i:02d}.png,good,train" for i in range(20)]
    (folder / "parts.csv").write_text("\n".join([*rows, "test/dent/1.png,dent,test"]))
    report = check_dataset(folder / "parts.csv")
    assert report.name == "parts" and report.n_images == {"train": 20, "test": 1}


def test_a_bunch_of_nothing_but_images():
    images = make_textures(3, kind="speckle", size=64, random_state=0)
    report = check_dataset(Bunch(train=Bunch(images=images), test=Bunch(images=images[:1])))
    assert only(report, "duplicate").names == ["train/000", "test/000"]
    assert report.name == "data" and "masks: there are none." in report.not_checked


def test_wrong_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder of images or a CSV file"):
        check_dataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"expected a data set.*got ndarray"):
        check_dataset(np.zeros((3, 32, 32)))
    with pytest.raises(ValueError, match="n_jobs must be None, -1 or at least 1, got 0"):
        check_dataset(inspection(), n_jobs=0)


# real images


def test_pieces_under_several_exposures(real_data):
    """The numbers in the names rise with exposure while a piece lies under the camera."""
    report = check_dataset(real_data / "magnetic_tile")
    assert report.counts["error"] == 0 and report.of_kind("unusual_good_image") == []
    groups = [f.names for f in report.of_kind("near_duplicate")]
    across = [f for f in report.of_kind("near_duplicate") if f.severity == "warning"]
    assert len(across) >= 95
    good = {name for names in groups for name in names if "/good/" in name}
    n_pieces = sum(any("/good/" in name for name in names) for names in groups)
    assert len(good) >= 580 and 150 <= n_pieces <= 170
    in_test = {name for f in across for name in f.names if name.startswith("test/good")}
    assert len(in_test) >= 150  # of 190
    numbers = [sorted(int(name.split("_")[-1][:-4]) for name in names) for names in groups]
    apart = [max(b - a for a, b in pairwise(row)) for row in numbers]
    assert np.mean(np.array(apart) <= 150) > 0.9


def test_items_that_occur_twice(real_data):
    report = check_dataset(real_data / "kolektor_sdd")
    found = report.of_kind("duplicate") + report.of_kind("near_duplicate")
    pairs = {tuple(sorted(name[-7:-4] for name in finding.names)) for finding in found}
    first = {("004", "147"), ("007", "150"), ("005", "148"), ("098", "225"), ("101", "228")}
    second = {("103", "230"), ("231", "251"), ("235", "252"), ("236", "248"), ("237", "254")}
    assert pairs == first | second and len(found) == 10
    assert sum(finding.severity == "warning" for finding in found) == 2


def test_boards_and_their_templates(real_data):
    report = check_dataset(real_data / "printed_circuit")
    found = [f.names for f in report.of_kind("near_duplicate")]
    boards = [{name.split("/")[-1][:8] for name in names} for names in found]
    assert len(found) >= 95 and sum(len(board) > 1 for board in boards) <= 1
    (blank,) = report.of_kind("duplicate")
    assert blank.names == ["train/good/20085168_temp.jpg", "test/good/20085159_temp.jpg"]


def test_cells_that_are_much_alike(real_data):
    report = check_dataset(real_data / "solar_cell")
    assert report.findings == []
