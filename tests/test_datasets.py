"""Folders of images in every layout, and masks that are read on access."""

import pickle

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from skanomaly.datasets import load_folder

MVTEC = [
    "train/good/0.png",
    "train/good/1.png",
    "test/good/2.png",
    "test/crack/10.png",
    "test/crack/9.JPG",
    "test/hole/3.png",
]
MVTEC_MASKS = [
    "ground_truth/crack/9_mask.png",
    "ground_truth/crack/10_mask.png",
    "ground_truth/hole/3_mask.png",
]


@pytest.fixture
def plant(tmp_path):
    """Plants a tree of 12 x 9 images; masks, known by their path, have one white pixel."""

    def build(files):
        for name in files:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((12, 9), dtype=np.uint8)
            pixels[3, 4] = 255
            Image.fromarray(pixels).save(path)
        return tmp_path

    return build


# folders


def test_split_layout(plant):
    root = plant([*MVTEC, *MVTEC_MASKS, "test/.hidden/4.png", "train/good/.5.png"])
    (root / "test/hole/notes.txt").write_text("no image")
    data = load_folder(root)
    assert data.train.names == ["good/0.png", "good/1.png"]
    assert data.train.target.tolist() == [1, 1]
    assert data.test.names == ["good/2.png", "crack/9.JPG", "crack/10.png", "hole/3.png"]
    assert data.test.target.tolist() == [1, -1, -1, -1]
    assert data.test.defects == ["good", "crack", "crack", "hole"]
    assert data.defect_names == ["crack", "hole"]
    assert data.name == root.name
    assert data.test.images[3] == str(root / "test/hole/3.png")
    assert [mask.sum() for mask in data.test.masks] == [0, 1, 1, 1]
    assert "1 good and 3 defective" in data.DESCR


def test_no_masks_at_all(plant):
    assert load_folder(plant(MVTEC)).test.masks is None


def test_train_and_test_without_classes(plant):
    data = load_folder(plant(["train/a.png", "train/b.png"]))
    assert data.train.names == ["good/a.png", "good/b.png"]
    assert data.test.images == [] and data.test.target.shape == (0,)
    root = plant(["test/c.png"])
    with pytest.raises(ValueError, match="not labeled as good or defective"):
        load_folder(root)


def test_defects_in_train_are_refused(plant):
    root = plant([*MVTEC, "train/def_front/5.png"])
    with pytest.raises(ValueError, match=r"must all be good.*def_front"):
        load_folder(root)
    assert len(load_folder(root, good_names=["good", "def_front"]).train.images) == 3


@pytest.mark.parametrize(
    "mask",
    [
        "ground_truth/bad/x_mask.png",
        "masks/bad/x.bmp",
        "bad_masks/x.png",
        "bad_mask/x_mask.png",
        "masks/x_mask.png",
        "bad/x_mask.png",
    ],
)
def test_classes_side_by_side(plant, mask):
    good = [f"OK/{i}.png" for i in range(11)]
    root = plant([*good, "bad/x.png", mask])
    data = load_folder(root)
    assert data.test.names[-1] == "bad/x.png"
    assert data.test.target.tolist() == [1, 1, -1]
    assert len(data.train.images) == 9
    assert sorted(data.train.names + data.test.names[:2]) == sorted(
        f"good/{i}.png" for i in range(11)
    )
    assert [mask.sum() for mask in data.test.masks] == [0, 0, 1]


def test_held_out_images(plant):
    root = plant([f"good/{i}.png" for i in range(20)] + ["bad/x.png"])
    first, again, other = (load_folder(root, random_state=seed) for seed in (0, 0, 1))
    assert first.test.names == again.test.names != other.test.names
    assert len(load_folder(root, test_size=0.5).train.images) == 10
    everything = load_folder(root, test_size=0)
    assert everything.train.names == [f"good/{i}.png" for i in range(20)]
    assert everything.test.names == ["bad/x.png"]


def test_too_few_to_hold_out(plant):
    root = plant(["good/0.png", "bad/x.png"])
    with pytest.raises(ValueError, match="at least two good images"):
        load_folder(root)


def test_images_only(plant):
    data = load_folder(plant(["10.png", "9.tif", "B.webp", "a.jpeg"]))
    assert data.train.names == ["good/9.tif", "good/10.png", "good/a.jpeg", "good/B.webp"]
    assert data.test.images == [] and data.test.masks is None and data.defect_names == []


def test_folders_inside_a_class_belong_to_it(plant):
    root = plant(["train/good/a/1.png", "test/bad/a/1.png", "ground_truth/bad/a/1_mask.png"])
    data = load_folder(root)
    assert data.train.names == ["good/a/1.png"]
    assert data.test.masks[0].sum() == 1


def test_categories(plant):
    root = plant([*MVTEC, *MVTEC_MASKS])
    assert load_folder(root, categories=["hole"]).test.defects == ["good", "hole"]
    assert load_folder(root, categories=[]).test.defects == ["good"]
    with pytest.raises(ValueError, match=r"no defects called \['dent'\].*crack"):
        load_folder(root, categories=["dent"])


def test_missing_masks(plant):
    root = plant([*MVTEC, *MVTEC_MASKS[:2]])
    with pytest.raises(ValueError, match=r"1 of 3 .*3\.png, expected .*3_mask\.png"):
        load_folder(root)
    assert load_folder(root, missing_masks="drop").test.defects == ["good", "crack", "crack"]
    ignored = load_folder(root, missing_masks="ignore").test
    assert ignored.masks is None and len(ignored.images) == 4
    with pytest.raises(ValueError, match="missing_masks must be one of"):
        load_folder(root, missing_masks="skip")


def test_masks_under_other_names(plant):
    root = plant([*MVTEC[:4], "ground_truth/crack/10_label.png"])
    for missing_masks in ["error", "drop"]:
        with pytest.raises(ValueError, match="mask_suffix='_mask'"):
            load_folder(root, missing_masks=missing_masks)
    assert load_folder(root, mask_suffix="_label").test.masks[1].sum() == 1


def test_mask_of_two_images(plant):
    root = plant(["good/0.png", "good/1.png", "a/x.png", "b/x.png", "masks/x.png"])
    with pytest.raises(ValueError, match="the mask matches both"):
        load_folder(root)


def test_wrong_folders(plant, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"found nothing(.|\n)*Supported layouts"):
        load_folder(tmp_path)
    root = plant(["bottle/train/good/0.png"])
    with pytest.raises(ValueError, match=r"found bottle/\.(.|\n)*load one of them: \['bottle'\]"):
        load_folder(root)
    (root / "bottle/test/hole").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"hole: expected images.*empty"):
        load_folder(root / "bottle")
    (root / "bottle/test/hole/film.mp4").touch()
    with pytest.raises(ValueError, match=r"only files ending in \['\.mp4'\]"):
        load_folder(root / "bottle")
    with pytest.raises(ValueError, match="test_size"):
        load_folder(root, test_size=1.5)


# masks


@pytest.mark.parametrize("key", [slice(1, 3), [2, 0], np.array([2, 0]), np.arange(4) > 1, []])
def test_masks_are_cut_like_arrays(plant, key):
    masks = load_folder(plant([*MVTEC, *MVTEC_MASKS])).test.masks
    whole = np.stack(list(masks))
    assert masks.shape == (len(masks),) == (4,)
    assert np.array_equal(list(masks[key]), list(whole[key]))
    assert np.array_equal(list(masks[key, ...]), list(whole[key]))
    assert np.array_equal(masks[-1], whole[-1])
    with pytest.raises(IndexError):
        masks[4]


def test_masks_in_scikit_learn_and_pickle(plant):
    test = load_folder(plant([*MVTEC, *MVTEC_MASKS])).test
    masks = pickle.loads(pickle.dumps(test.masks))
    parts = train_test_split(masks, test.target, test_size=0.5, random_state=0)
    for part, target in [(parts[0], parts[2]), (parts[1], parts[3])]:
        assert [mask.any() for mask in part] == (target == -1).tolist()
    assert "4 images, 3 of them" in repr(masks)


def test_kinds_of_mask_files(plant):
    root = plant([*MVTEC[:4], MVTEC_MASKS[1]])
    masks, path = load_folder(root).test.masks, root / MVTEC_MASKS[1]
    values = np.zeros((12, 9), dtype=np.uint8)
    values[0], values[1], values[2] = 20, 180, 250  # gray edges of a resized mask
    Image.fromarray(values).save(path)
    assert masks[1].sum(axis=1).tolist() == [0, 9, 9] + [0] * 9
    values[0], values[1], values[2] = 1, 2, 3  # numbers of classes
    Image.fromarray(values).save(path)
    assert masks[1].sum() == 27
    palette = Image.fromarray(values).convert("P")
    palette.putpalette([0, 0, 0, 0, 0, 64, 250, 0, 0, 128, 128, 128])
    palette.save(path)
    assert masks[1].sum() == 27
    Image.fromarray(values > 1).save(path)
    assert masks[1].dtype == bool and masks[1].sum() == 18


def test_mask_of_another_size(plant):
    root = plant([*MVTEC, *MVTEC_MASKS])
    Image.new("L", (8, 11)).save(root / MVTEC_MASKS[2])
    masks = load_folder(root).test.masks
    with pytest.raises(ValueError, match=r"3_mask\.png: the mask is 11 x 8 .* is 12 x 9"):
        masks[3]


def test_frame_of_an_image_lying_on_its_side(plant):
    root = plant([*MVTEC, *MVTEC_MASKS])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (9, 12)).save(root / "test/good/2.png", exif=exif)
    assert load_folder(root).test.masks[0].shape == (9, 12)


def test_broken_files(plant):
    root = plant([*MVTEC, *MVTEC_MASKS])
    masks = load_folder(root).test.masks
    (root / MVTEC_MASKS[2]).write_bytes((root / MVTEC_MASKS[2]).read_bytes()[:50])
    with pytest.raises(ValueError, match="3_mask"):
        masks[3]
    (root / "test/good/2.png").write_text("no image")
    with pytest.raises(ValueError, match=r"2\.png: not an image"):
        masks[0]


@pytest.mark.parametrize(
    "name, counts, has_masks",
    [
        ("magnetic_tile", (400, 190, 388), True),
        ("kolektor_sdd", (120, 50, 52), True),
        ("printed_circuit", (200, 65, 120), True),
        ("solar_cell", (300, 100, 150), False),
        ("casting", (300, 82, 120), False),
    ],
)
def test_real_folders(real_data, name, counts, has_masks):
    data = load_folder(real_data / name)
    target = data.test.target
    assert (len(data.train.images), (target == 1).sum(), (target == -1).sum()) == counts
    assert (data.test.masks is not None) == has_masks
    if has_masks:
        some = np.linspace(0, len(target) - 1, 25).astype(int)
        assert [mask.any() for mask in data.test.masks[some]] == (target[some] == -1).tolist()
