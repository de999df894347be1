"""Procedural surfaces and painted defects."""

import numpy as np
import pytest
from PIL import Image

from skanomaly.datasets import load_folder, make_defects, make_inspection, make_textures
from skanomaly.datasets._defect_kinds import KINDS, ON_REQUEST

TURNS = [kind for kind in KINDS if kind not in ON_REQUEST]
SURFACES = ["brushed", "weave", "wood", "speckle", "grid"]


@pytest.mark.parametrize("kind", SURFACES)
def test_textures(kind):
    images = make_textures(4, kind=kind, size=(67, 101), random_state=3)
    assert images.shape == (4, 67, 101, 3) and images.dtype == np.uint8
    assert np.array_equal(images, make_textures(4, kind=kind, size=(67, 101), random_state=3))
    assert np.array_equal(images[:2], make_textures(2, kind=kind, size=(67, 101), random_state=3))
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images, make_textures(4, kind=kind, size=(67, 101), random_state=4))
    # One material: all look alike in the mean, and none is flat or mostly clipped.
    assert np.ptp(images.mean(axis=(1, 2)), axis=0).max() < 40
    assert images.std(axis=(1, 2)).min() > 8
    assert np.isin(images, [0, 255]).mean() < 0.05


def test_texture_of_an_object_stays_in_place():
    images = make_textures(6, kind="grid", size=96, random_state=0).mean(axis=3)
    plates = [np.argwhere(image > 100).mean(axis=0) for image in images]
    assert np.ptp(plates, axis=0).max() < 5


def test_texture_errors():
    with pytest.raises(ValueError, match=r"kind must be one of .*weave"):
        make_textures(1, kind="marble")
    with pytest.raises(ValueError, match="at least 16 x 16"):
        make_textures(1, size=(64, 8))
    with pytest.raises(ValueError, match="one number or"):
        make_textures(1, size=(64, 64, 3))
    with pytest.raises(ValueError, match="0 or more"):
        make_textures(-1)
    assert make_textures(0, size=20).shape == (0, 20, 20, 3)


def images_of(form):
    """Three textured images of 75 x 61 in one form of pixels."""
    images = make_textures(3, kind="wood", size=(75, 61), random_state=0)
    return {
        "rgb": images,
        "gray": images[..., 0],
        "one channel": images[..., :1],
        "five channels": images[..., [0, 1, 2, 1, 0]],
        "16 bits": images.astype(np.uint16) * 257,
        "12 of 16 bits": images.astype(np.uint16) * 16,
        "float32": (images / 255).astype(np.float32),
        "float64": images / 255,
        "float16": (images / 255).astype(np.float16),
    }[form]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["rgb", "gray", "12 of 16 bits", "float64"])
def test_mask_is_what_changed(kind, form):
    images = images_of(form)
    before = images.copy()
    defective, masks, kinds = make_defects(images, kinds=[kind], random_state=1)
    assert kinds == [kind] * 3
    check_defective(defective, masks, images)
    assert np.array_equal(images, before)
    assert 6 <= masks.sum(axis=(1, 2)).min()
    assert masks.mean(axis=(1, 2)).max() < 0.3


@pytest.mark.parametrize(
    "form", ["one channel", "five channels", "16 bits", "12 of 16 bits", "float32", "float16"]
)
def test_other_pixels(form):
    images = images_of(form)
    defective, masks, _ = make_defects(images, random_state=1)
    check_defective(defective, masks, images)
    if images.dtype == np.uint16:  # a camera with fewer bits cannot give more
        assert defective.max() <= images.max()


def check_defective(defective, masks, images):
    assert defective.shape == images.shape and defective.dtype == images.dtype
    assert masks.shape == images.shape[:3] and masks.dtype == bool
    changed = defective != images
    assert np.array_equal(masks, changed.any(axis=3) if images.ndim == 4 else changed)
    assert masks.any(axis=(1, 2)).all()
    if defective.dtype.kind == "f":
        assert defective.min() >= 0 and defective.max() <= 1


def test_image_does_not_depend_on_the_others():
    images = make_textures(12, kind="brushed", size=48, random_state=0)
    defective, masks, kinds = make_defects(images, random_state=5)
    assert kinds == [*TURNS, *TURNS][:12]
    few, few_masks, _ = make_defects(images[:4], random_state=5)
    assert np.array_equal(few, defective[:4]) and np.array_equal(few_masks, masks[:4])
    other, _, _ = make_defects(images, random_state=6)
    assert not np.array_equal(other, defective)
    swapped = images.copy()
    swapped[0] = images[7]
    assert np.array_equal(make_defects(swapped, random_state=5)[0][1:], defective[1:])


def test_lists_paths_and_pil_images(tmp_path):
    wide = make_textures(1, size=(40, 80), random_state=0)[0]
    tall = make_textures(1, size=(80, 40), random_state=0)[0]
    path = tmp_path / "tall.png"
    Image.fromarray(tall).save(path)
    defective, masks, kinds = make_defects(
        [wide, str(path), Image.fromarray(tall)], kinds="hole", random_state=0
    )
    assert [image.shape for image in defective] == [(40, 80, 3), (80, 40, 3), (80, 40, 3)]
    assert isinstance(masks, list) and kinds == ["hole"] * 3
    for image, mask, original in zip(defective, masks, [wide, tall, tall], strict=True):
        assert np.array_equal(mask, (image != original).any(axis=2))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_even_images(level):
    """Some kinds cannot show on an even surface; another takes their turn."""
    images = np.full((len(TURNS), 40, 40), level, dtype=np.uint8)
    defective, masks, kinds = make_defects(images, random_state=0)
    check_defective(defective, masks, images)
    assert "blur" not in kinds
    with pytest.raises(ValueError, match="image 0: a defect of kind 'blur' is not visible"):
        make_defects(images, kinds=["blur"], random_state=0)


def test_gray_saved_as_rgb_stays_gray():
    images = make_textures(len(TURNS), size=48, random_state=0)[..., [1, 1, 1]]
    defective, _, kinds = make_defects(images, random_state=0)
    assert kinds == TURNS
    assert np.array_equal(defective, np.repeat(defective[..., :1], 3, axis=3))


def test_size_of_defects():
    images = make_textures(8, kind="weave", size=128, random_state=0)
    areas = [
        make_defects(images, kinds=["stain"], size=size, random_state=0)[1].sum()
        for size in (0.5, 1, 2)
    ]
    assert areas[0] * 2 < areas[1] and areas[1] * 2 < areas[2]


def test_defect_errors():
    images = make_textures(2, size=32, random_state=0)
    with pytest.raises(ValueError, match=r"kinds must be some of .*'rust'"):
        make_defects(images, kinds=["rust"])
    with pytest.raises(ValueError, match="kinds must be some of"):
        make_defects(images, kinds=[])
    with pytest.raises(ValueError, match="size must be positive"):
        make_defects(images, size=0)
    with pytest.raises(ValueError, match="at least one image"):
        make_defects(images[:0])
    with pytest.raises(ValueError, match=r"image 1: .*NaN"):
        make_defects([images[0], np.full((32, 32), np.nan)])


def test_inspection():
    data = make_inspection(5, 3, 12, kind="grid", size=(40, 48), random_state=0)
    again = make_inspection(5, 3, 12, kind="grid", size=(40, 48), random_state=0)
    assert data.train.images.shape == (5, 40, 48, 3)
    assert np.array_equal(data.test.images, again.test.images)
    assert data.train.target.tolist() == [1] * 5
    assert data.test.target.tolist() == [1] * 3 + [-1] * 12
    assert np.array_equal(data.test.masks.any(axis=(1, 2)), data.test.target == -1)
    assert data.defect_names == sorted(TURNS)
    assert data.test.names[3] == "scratch/008" and data.test.defects[:4] == ["good"] * 3 + [
        "scratch"
    ]
    assert len(data.train.names) == 5 and data.name == "grid" and "12 defective" in data.DESCR
    with pytest.raises(ValueError, match="n_defects must be at least 1"):
        make_inspection(3, 2, 0)


def test_same_fields_as_from_a_folder(tmp_path):
    Image.new("L", (16, 16)).save(tmp_path / "0.png")
    folder, made = load_folder(tmp_path), make_inspection(2, 1, 1, size=32, random_state=0)
    assert set(folder) == set(made)
    assert set(folder.train) == set(made.train) and set(folder.test) == set(made.test)
