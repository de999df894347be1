"""Data sets as they were published, each as a tiny tree of exactly its layout; and tables."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skanomaly.datasets import check_dataset, load_folder, load_manifest
from skanomaly.datasets._readers import LAYOUTS


def save(path, spot=None):
    """A black 12 x 9 image, with one white pixel where wanted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((12, 9), dtype=np.uint8)
    if spot is not None:
        pixels[spot] = 255
    Image.fromarray(pixels).save(path)


def plant(root, files, spots=()):
    """Save images below root; those of `spots`, {name: place}, have a white pixel."""
    for name in files:
        save(root / name)
    for name, spot in dict(spots).items():
        save(root / name, spot)
    return root


def mvtec_ad(root):
    files = ["train/good/000.png", "train/good/001.png", "test/good/000.png"]
    masks = {"ground_truth/bent/000_mask.png": (3, 4), "ground_truth/bent/001_mask.png": (3, 5)}
    return plant(root / "bottle", [*files, "test/bent/000.png", "test/bent/001.png"], masks)


def mvtec_loco(root):
    files = [
        "train/good/000.png",
        "validation/good/000.png",
        "validation/good/001.png",
        "test/good/000.png",
        "test/logical_anomalies/000.png",
        "test/structural_anomalies/000.png",
    ]
    masks = {
        "ground_truth/logical_anomalies/000/000.png": (1, 1),
        "ground_truth/logical_anomalies/000/001.png": (5, 5),
        "ground_truth/structural_anomalies/000/000.png": (2, 2),
    }
    return plant(root / "pushpins", files, masks)


def mvtec_ad_2(root):
    files = [
        "train/good/000_regular.png",
        "validation/good/000_regular.png",
        "test_public/good/000_regular.png",
        "test_public/good/000_overexposed.png",
        "test_public/bad/000_regular.png",
        "test_public/bad/000_shift_1.png",
        "test_private/000_regular.png",
        "test_private_mixed/000_mixed.png",
    ]
    masks = {
        "test_public/ground_truth/bad/000_regular_mask.png": (3, 4),
        "test_public/ground_truth/bad/000_shift_1_mask.png": (3, 5),
    }
    return plant(root / "vial", files, masks)


def btad(root):
    files = ["train/ok/0000.bmp", "test/ok/0000.bmp", "test/ko/0001.bmp"]
    return plant(root / "01", files, {"ground_truth/ko/0001.png": (3, 4)})


def mpdd(root):
    files = ["train/good/000.png", "test/good/000.png", "test/hole/000.png"]
    return plant(root / "tubes", files, {"ground_truth/hole/000_mask.png": (3, 4)})


def visa(root):
    images = "candle/Data/Images"
    rows = [
        "object,split,label,image,mask",
        f"candle,train,normal,{images}/Normal/0000.JPG,",
        f"candle,test,normal,{images}/Normal/0001.JPG,",
        f"candle,test,anomaly,{images}/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png",
        "fryum,train,normal,fryum/Data/Images/Normal/0000.JPG,",
    ]
    plant(root, [row.split(",")[3] for row in rows[1:]])
    save(root / "candle/Data/Masks/Anomaly/000.png", (3, 4))
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    return root / "candle"


def kolektor_sdd(root):
    good = [f"kos{i:02d}/Part{j}" for i in range(1, 6) for j in range(4)]
    plant(root, [f"{name}.jpg" for name in good] + [f"{name}_label.bmp" for name in good])
    for name in ("kos02/Part1_label.bmp", "kos10/Part7_label.bmp"):
        save(root / name, (3, 4))
    save(root / "kos10/Part7.jpg")
    return root


def kolektor_sdd2(root):
    names = [f"{part}/{i}" for part in ("train", "test") for i in (10000, 10001, 20000)]
    plant(root, [f"{name}{end}.png" for name in names for end in ("", "_GT")])
    save(root / "train/10001_GT.png", (3, 4))
    save(root / "test/20000_GT.png", (3, 4))
    return root


def magnetic_tile(root):
    names = [f"MT_Free/Imgs/exp{i}_num_{i}" for i in range(1, 6)]
    plant(root, [f"{name}{end}" for name in names for end in (".jpg", ".png")])
    for kind in ("Blowhole", "Crack"):
        save(root / f"MT_{kind}/Imgs/exp1_num_7.jpg")
        save(root / f"MT_{kind}/Imgs/exp1_num_7.png", (3, 4))
    (root / "README.md").write_text("Surface defects")
    return root


def dagm(root):
    root = root / "Class1"
    plant(root, [f"{part}/{i:04d}.PNG" for part in ("Train", "Test") for i in (1, 2, 3)])
    save(root / "Train/Label/0002_label.PNG", (3, 4))
    save(root / "Test/Label/0003_label.PNG", (3, 4))
    for part, i in (("Train", 2), ("Test", 3)):
        lines = ["1", f"000{i}\t1\t000{i}.PNG\t1\t000{i}_label.PNG"]
        (root / part / "Label/Labels.txt").write_text("\n".join(lines))
    return root


BUILDERS = {
    build.__name__: build
    for build in (
        mvtec_ad,
        mvtec_loco,
        mvtec_ad_2,
        btad,
        mpdd,
        visa,
        kolektor_sdd,
        kolektor_sdd2,
        magnetic_tile,
        dagm,
    )
}


def test_every_layout_is_tested():
    assert {*BUILDERS, "auto", "classes", "images"} == set(LAYOUTS)


@pytest.mark.parametrize("named", [False, True], ids=["auto", "named"])
@pytest.mark.parametrize(
    "layout, n_train, n_good, defects, area",
    [
        ("mvtec_ad", 2, 1, ["bent", "bent"], 2),
        ("mvtec_loco", 1, 1, ["logical_anomalies", "structural_anomalies"], 3),
        ("mvtec_ad_2", 1, 2, ["bad", "bad"], 2),
        ("btad", 1, 1, ["ko"], 1),
        ("mpdd", 1, 1, ["hole"], 1),
        ("visa", 1, 1, ["anomaly"], 1),
        ("kolektor_sdd", 15, 4, ["defect", "defect"], 2),
        ("kolektor_sdd2", 2, 2, ["defect"], 1),
        ("magnetic_tile", 4, 1, ["MT_Blowhole", "MT_Crack"], 2),
        ("dagm", 2, 2, ["defect"], 1),
    ],
)
def test_published_layouts(tmp_path, layout, named, n_train, n_good, defects, area):
    root = BUILDERS[layout](tmp_path)
    data = load_folder(root, layout=layout if named else "auto")
    assert len(data.train.images) == n_train and data.train.target.tolist() == [1] * n_train
    assert data.test.target.tolist() == [1] * n_good + [-1] * len(defects)
    assert data.test.defects == ["good"] * n_good + defects
    assert [mask.any() for mask in data.test.masks] == (data.test.target == -1).tolist()
    assert sum(mask.sum() for mask in data.test.masks) == area
    images = data.train.images + data.test.images
    assert len(set(images)) == len(images)
    assert not any(word in name for name in images for word in ("_mask", "_label", "_GT", "Label"))
    names = data.train.names + data.test.names
    assert all(
        name.startswith(f"{d}/") for name, d in zip(data.test.names, data.test.defects, strict=True)
    )
    assert data.name == root.name and all(name.startswith("good/") for name in names[:n_train])


def test_masks_of_one_image_are_united(tmp_path):
    data = load_folder(mvtec_loco(tmp_path))
    assert np.argwhere(data.test.masks[1]).tolist() == [[1, 1], [5, 5]]
    assert data.validation.names == ["good/000.png", "good/001.png"]
    assert data.validation.target.tolist() == [1, 1]
    save(tmp_path / "pushpins/test/good/001.png")
    assert [mask.sum() for mask in load_folder(tmp_path / "pushpins").test.masks[[0, 2]]] == [0, 2]


def test_one_of_several_masks_of_another_size(tmp_path):
    root = mvtec_loco(tmp_path)
    Image.new("L", (9, 11)).save(root / "ground_truth/logical_anomalies/000/001.png")
    with pytest.raises(ValueError, match=r"000/001\.png: the mask is 11 x 9"):
        load_folder(root).test.masks[1]


def test_private_parts_are_not_read(tmp_path):
    root = mvtec_ad_2(tmp_path)
    data = load_folder(root)
    images = data.train.images + data.validation.images + data.test.images
    assert not any(root.joinpath("test_private") in Path(name).parents for name in images)
    assert not any(root.joinpath("test_private_mixed") in Path(name).parents for name in images)
    assert "not published: test_private, test_private_mixed" in data.DESCR
    assert len(data.validation.images) == 1


def test_defects_for_validation_are_not_read(tmp_path):
    root = mvtec_ad(tmp_path)
    save(root / "validation/good/000.png")
    save(root / "validation/bent/000.png")
    data = load_folder(root)
    assert data.validation.names == ["good/000.png"] and "Not read: validation/bent" in data.DESCR


@pytest.mark.parametrize("layout", ["kolektor_sdd2", "dagm"])
def test_defects_in_a_published_training_part(tmp_path, layout):
    data = load_folder(BUILDERS[layout](tmp_path))
    defective = data.train_defects
    assert defective.target.tolist() == [-1] and defective.defects == ["defect"]
    assert not set(defective.images) & set(data.train.images + data.test.images)
    assert defective.masks[0].sum() == 1
    assert "training part of the source contains 1 defective" in data.DESCR
    assert load_folder(BUILDERS[layout](tmp_path), categories=[]).train_defects is None


def test_no_item_is_in_training_and_held_out(tmp_path):
    root = kolektor_sdd(tmp_path)
    data = load_folder(root)
    items = [
        {name.split("/")[1] for name in names} for names in (data.train.names, data.test.names[:4])
    ]
    assert len(items[1]) == 1 and not items[0] & items[1]
    assert data.test.names[4:] == ["defect/kos02/Part1.jpg", "defect/kos10/Part7.jpg"]
    others = {tuple(load_folder(root, random_state=seed).test.names) for seed in range(8)}
    assert len(others) > 1
    assert len(load_folder(root, test_size=0).train.images) == 19
    for name in ("kos01", "kos02", "kos03", "kos04"):
        shutil.rmtree(root / name)
    with pytest.raises(ValueError, match="good images of two items"):
        load_folder(root)


def test_visa_in_its_other_tables(tmp_path):
    root = visa(tmp_path)
    table = tmp_path / "split_csv/2cls_highshot.csv"
    text = (tmp_path / "split_csv/1cls.csv").read_text()
    table.write_text(text.replace("candle,test,anomaly", "candle,train,anomaly"))
    data = load_manifest(table, root=tmp_path, only={"object": "candle"})
    assert data.train.target.tolist() == [1] and data.test.target.tolist() == [1]
    assert data.train_defects.names == ["anomaly/candle/Data/Images/Anomaly/000.JPG"]
    assert data.train_defects.masks[0].sum() == 1
    assert load_folder(root).train_defects is None


def test_visa_from_within(tmp_path, monkeypatch):
    monkeypatch.chdir(visa(tmp_path))
    data = load_folder(".")
    assert data.name == "candle" and data.test.names == ["good/0001.JPG", "anomaly/000.JPG"]


def test_categories_of_a_published_layout(tmp_path):
    root = magnetic_tile(tmp_path)
    assert load_folder(root, categories="MT_Crack").defect_names == ["MT_Crack"]
    with pytest.raises(ValueError, match=r"no defects called \['MT_Fray'\].*MT_Blowhole"):
        load_folder(root, categories=["MT_Fray"])


# what is missing is named


@pytest.mark.parametrize("named", [False, True], ids=["auto", "named"])
@pytest.mark.parametrize(
    "layout, lost, error",
    [
        ("mvtec_ad_2", "test_public/ground_truth", r"no test_public/ground_truth/bad\. Found .*"),
        ("mvtec_ad_2", "validation", "MVTec AD 2.*no validation/good"),
        (
            "mvtec_loco",
            "ground_truth/logical_anomalies/000",
            r"1 of 2 .*logical_anomalies/000_mask",
        ),
        ("visa", "../split_csv/1cls.csv", r"object of VisA.*listed in .*split_csv/1cls\.csv"),
        ("visa", "Data/Images/Normal/0001.JPG", r"1cls\.csv, line 3: .*Normal/0001\.JPG does not"),
        ("kolektor_sdd", "kos03/Part2_label.bmp", r"Part2\.jpg, expected Part2_label next to it"),
        ("kolektor_sdd2", "test/10001_GT.png", r"10001\.png, expected 10001_GT next to it"),
        ("kolektor_sdd2", "test", "KolektorSDD2, with train, test; there is no test"),
        ("magnetic_tile", "MT_Free", "Magnetic Tile Defects.*no MT_Free/Imgs"),
        ("magnetic_tile", "MT_Crack/Imgs/exp1_num_7.png", r"1 of 2 .*expected .*exp1_num_7\.png"),
        ("magnetic_tile", "MT_Crack/Imgs/exp1_num_7.jpg", "1 masks and no image"),
        ("dagm", "Test/Label", "class of DAGM 2007.*no Test/Label"),
        ("dagm", "Train/Label/0002_label.PNG", r"lists 1 masks, but 1 .* first 0002_label"),
    ],
)
def test_a_part_is_missing(tmp_path, layout, lost, error, named):
    root = BUILDERS[layout](tmp_path)
    path = root / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError if "does not" not in error else FileNotFoundError, match=error):
        load_folder(root, layout=layout if named else "auto")


@pytest.mark.parametrize(
    "layout, looked_for",
    [
        ("mvtec_ad", "category of MVTec AD, with train/good, test/good, ground_truth"),
        ("mvtec_loco", "validation/good"),
        ("mvtec_ad_2", "no test_public/good"),
        ("btad", "no train/ok, no test/ok"),
        ("mpdd", "category of MPDD"),
        ("visa", "no Data/Images/Normal"),
        ("kolektor_sdd", r"folders kos01, kos02 .*found \['good'\]"),
        ("kolektor_sdd2", "no train, no test"),
        ("magnetic_tile", "no MT_Free/Imgs"),
        ("dagm", "no Train, no Train/Label, no Test"),
    ],
)
def test_a_layout_asked_for_by_name(tmp_path, layout, looked_for):
    plant(tmp_path, ["good/1.png", "good/2.png"])
    assert len(load_folder(tmp_path).train.images) == 2
    with pytest.raises(ValueError, match=looked_for):
        load_folder(tmp_path, layout=layout)


def test_plain_layouts_asked_for_by_name(tmp_path):
    plant(tmp_path, ["good/1.png", "good/2.png", "bad/1.png"])
    assert len(load_folder(tmp_path, layout="classes").test.images) == 2
    assert len(load_folder(tmp_path, layout="images").train.images) == 3
    with pytest.raises(ValueError, match=r"folder of good images.*found \['bad', 'good'\]"):
        load_folder(tmp_path, layout="classes", good_names="fine")
    with pytest.raises(ValueError, match="layout must be one of"):
        load_folder(tmp_path, layout="mvtec")


@pytest.mark.parametrize("layout", ["mvtec_ad_2", "visa", "dagm", "btad"])
def test_a_folder_of_data_sets_names_them(tmp_path, layout):
    root = BUILDERS[layout](tmp_path)
    with pytest.raises(ValueError, match=rf"load one of them: \['{root.name}'"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    "layout, left_over",
    [
        ("mvtec_ad", "ground_truth/dent/007_mask.png"),
        ("mvtec_loco", "ground_truth/logical_anomalies/007/000.png"),
        ("mvtec_ad_2", "test_public/ground_truth/bad/007_mask.png"),
        ("btad", "ground_truth/ko/0007.png"),
        ("visa", "Data/Masks/Anomaly/007.png"),
        ("kolektor_sdd", "kos01/Part7_label.bmp"),
        ("kolektor_sdd2", "test/7_GT.png"),
        ("magnetic_tile", "MT_Free/Imgs/exp7_num_7.png"),
        ("dagm", "Train/Label/0007_label.PNG"),
    ],
)
def test_masks_left_over(tmp_path, layout, left_over):
    root = BUILDERS[layout](tmp_path)
    assert check_dataset(root).of_kind("mask_without_image") == []
    before = load_folder(root).test.names
    save(root / left_over, (3, 4))
    (finding,) = check_dataset(root).of_kind("mask_without_image")
    assert finding.names == [str(root / left_over)]
    assert load_folder(root).test.names == before


# tables


@pytest.fixture
def table(tmp_path):
    """Writes a table; the images of each row, and the masks with one white pixel, are made."""

    def write(text, make=True):
        path = tmp_path / "parts.csv"
        path.write_text(text, encoding="utf-8")
        columns, *rows = [line.split(",") for line in text.strip().split("\n")]
        for row in filter(any, rows) if make else []:
            values = dict(zip(columns, row, strict=False))
            save(tmp_path / values["image"])
            if values.get("mask"):
                save(tmp_path / values["mask"], (3, 4))
        return path

    return write


def test_table(table):
    path = table(
        "\ufeffsplit,image,label,mask,shift\n"
        "train,a/1.png,OK,,early\n"
        "Test,b/2.png,dent,m/2.png,late\n"
        "test,a/3.png,good,,late\n"
        "val,a/4.png,good,,late\n"
        "train,b/5.png,crack,m/5.png,early\n",
    )
    data = load_manifest(path)
    assert data.name == "parts"
    assert data.train.names == ["good/a/1.png"] and data.validation.names == ["good/a/4.png"]
    assert data.test.names == ["good/a/3.png", "dent/b/2.png"]
    assert data.test.target.tolist() == [1, -1]
    assert [mask.sum() for mask in data.test.masks] == [0, 1]
    assert data.train_defects.names == ["crack/b/5.png"]
    early = load_manifest(path, only={"shift": "early"}, categories=[])
    assert early.train.names == ["good/a/1.png"] and early.test.images == []
    assert early.train_defects is None


def test_table_without_split_and_masks(table, tmp_path):
    rows = "".join(f"{i}.png,good\n" for i in range(10))
    path = table("image,label\n" + rows + "x.png,dent\ny.png,crack\n\nz.png,dent\n")
    data = load_manifest(path)
    assert len(data.train.images) == 8 and data.test.masks is None and data.train_defects is None
    assert data.test.defects == ["good"] * 2 + ["dent", "dent", "crack"]
    assert len(load_manifest(path, test_size=0).train.images) == 10
    path = path.rename(path.parent / "moved.csv")
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / "parts.csv")
    with pytest.raises(FileNotFoundError, match=r"line 2: .*elsewhere/0\.png does not exist"):
        load_manifest(moved)
    assert load_manifest(moved, root=tmp_path).train.images == data.train.images


def test_table_with_some_masks(table):
    path = table("image,label,mask,split\n1.png,a,1_m.png,test\n2.png,a,,test\n3.png,ok,,train\n")
    with pytest.raises(ValueError, match=r"1 of 2 .*2\.png.*column mask"):
        load_manifest(path)
    assert len(load_manifest(path, missing_masks="drop").test.images) == 1
    assert load_manifest(path, missing_masks="ignore").test.masks is None


@pytest.mark.parametrize(
    "text, error",
    [
        ("image:label\n1.png:good\n", "no image and no label"),
        ("image,split\n1.png,test\n", "there is no label in"),
        ("image,label\n", "only the first line"),
        ("image,label\n1.png,0\n", "line 2: expected a word as label, got '0'"),
        ("image,label\n1.png,-1\n", "expected a word as label"),
        ("image,label\n1.png,\n", "line 2: expected an image and its label"),
        ("image,label,split\n1.png,good,trian\n", "split must be one of .* got 'trian'"),
        ("image,label\n1.png,good\n1.png,dent\n", r"line 3: .*1\.png is already in .*line 2"),
        ("image,label,split\n1.png,dent,val\n", "images for validation must be good"),
        ("image,label\n1.png,good,2,3\n", "line 2: expected 2 values, got 4"),
        ("image,label\n1.png,dent\n", "found defects only"),
    ],
)
def test_table_errors(table, text, error):
    path = table(text, make=":" not in text and "split\n1.png,test" not in text)
    with pytest.raises(ValueError, match=error):
        load_manifest(path)


def test_numbers_as_labels(table):
    path = table("image,label,split\n1.png,0,train\n2.png,1,test\n")
    data = load_manifest(path, good_names=["0"])
    assert data.train.names == ["good/1.png"] and data.test.names == ["1/2.png"]


def test_choosing_rows(table):
    path = table("image,label,object\n1.png,good,cap\n2.png,good,nut\n")
    assert len(load_manifest(path, only={"object": "cap"}).train.images) == 1
    with pytest.raises(ValueError, match=r"no row with object 'pin', only \['cap', 'nut'\]"):
        load_manifest(path, only={"object": "pin"})
    with pytest.raises(ValueError, match="no column 'part'"):
        load_manifest(path, only={"part": "cap"})
    path.write_bytes(b"image,label\n\x81.png,good\n")
    with pytest.raises(ValueError, match="expected a CSV file encoded in UTF-8"):
        load_manifest(path)
    with pytest.raises(FileNotFoundError, match="expected a CSV file"):
        load_manifest(path.with_name("none.csv"))
    with pytest.raises(FileNotFoundError, match="load_manifest"):
        load_folder(path)
