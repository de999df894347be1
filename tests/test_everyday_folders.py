"""Folders, masks and tables as people have them: odd names, odd endings, made on other systems."""

import os
import socket
import unicodedata

import numpy as np
import pytest
from PIL import Image

from skanomaly.cli._main import main
from skanomaly.cli._model_files import find_images, load_data
from skanomaly.datasets import check_dataset, load_folder, load_manifest, make_textures

SIDE = 32


@pytest.fixture(scope="module")
def textures():
    return make_textures(60, size=SIDE, random_state=0)


@pytest.fixture
def put(tmp_path, textures):
    """Writes images: textures, or the pixels that are given."""
    numbers = iter(range(len(textures)))

    def write(*names, pixels=None):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(textures[next(numbers)] if pixels is None else pixels).save(path)
        return tmp_path

    return write


def spot(row=3, column=4, side=SIDE):
    """A mask of one blob that is no box."""
    mask = np.zeros((side, side), dtype=np.uint8)
    mask[row : row + 3, column] = mask[row, column : column + 3] = 255
    return mask


def kinds(report):
    return sorted({finding.kind for finding in report.findings})


def only(report, kind):
    (finding,) = report.of_kind(kind)
    return finding


GOOD = [f"good/{i}.png" for i in range(6)]

# Kinds of defects that are called as masks are


@pytest.mark.parametrize("name", ["solder_mask", "solder_masks", "mask", "masks"])
def test_images_in_a_folder_called_as_masks_are_a_kind_of_defect(put, name):
    root = put(*GOOD, "solder/0.png", "solder/1.png", f"{name}/0.png", f"{name}/1.png")
    data = load_folder(root)
    assert sorted(data.defect_names) == sorted(["solder", name])
    assert data.test.masks is None and data.not_read == []
    assert f"The files in {name} look like images" in data.DESCR
    assert only(check_dataset(root), "named_as_masks").names == [name]


def test_images_in_a_test_part_called_as_masks(put):
    root = put("train/good/0.png", "test/good/1.png", "test/solder/2.png", "test/solder_mask/2.png")
    assert load_folder(root).test.defects == ["good", "solder", "solder_mask"]


@pytest.mark.parametrize("name", ["solder_mask", "solder_masks", "masks"])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_masks_in_a_folder_called_as_masks(put, name, ending):
    root = put(*GOOD)
    put("solder/0.png", "solder/1.png", pixels=make_textures(1, size=128, random_state=0)[0])
    mask = np.kron(spot(), np.ones((4, 4), dtype=np.uint8))  # (128, 128)
    put(f"{name}/0.{ending}", f"{name}/1.{ending}", pixels=mask)
    data = load_folder(root, test_size=0)
    assert data.defect_names == ["solder"]
    assert all(abs(found.sum() - 80) < 20 for found in data.test.masks)


def test_what_may_be_masks_or_images_is_refused(put):
    root = put(*GOOD)
    put("solder/0.png", "solder_mask/0.png", pixels=spot())  # images of two gray levels
    with pytest.raises(ValueError, match=r"solder_mask: .* two gray levels.*ground_truth/solder"):
        load_folder(root)
    data = load_folder(root, categories=["solder", "solder_mask"])
    assert data.defect_names == ["solder", "solder_mask"] and data.test.masks is None
    (root / "ground_truth").mkdir()
    (root / "solder_mask").rename(root / "ground_truth/solder")
    assert load_folder(root).test.masks[-1].sum() == 5


def test_a_folder_of_masks_and_images_is_refused(put):
    root = put(*GOOD, "solder/0.png", "solder/1.png", "solder_mask/0.png")
    put("solder_mask/1.png", pixels=spot())
    with pytest.raises(ValueError, match="some of its files look like masks, others like images"):
        check_dataset(root)


def test_images_called_as_masks_of_others_are_refused(put):
    root = put(*GOOD, "scratch/0.png", "scratch/0_mask.png")
    with pytest.raises(ValueError, match=r"0_mask\.png: expected the mask of 0\.png.*suffix=''"):
        load_folder(root)
    assert load_folder(root, mask_suffix="").test.names[-2:] == [
        "scratch/0.png",
        "scratch/0_mask.png",
    ]


def test_a_kind_called_as_the_masks_of_a_published_set(put):
    root = put(*GOOD, "x/0.png", "x_gt/0.png", "solder_mask/0.png")
    assert load_folder(root).defect_names == ["solder_mask", "x", "x_gt"]
    root = put("part/train/1_GT.png", "part/train/2.png")  # of no image 1
    assert len(load_folder(root / "part").train.images) == 2


# Masks that do not fit


@pytest.fixture
def with_masks(put):
    """Eight good images and four with a mask."""
    root = put(*(f"train/good/{i}.png" for i in range(6)), "test/good/0.png", "test/good/1.png")
    for i in range(4):
        put(f"test/dent/{i}.png")
        put(f"ground_truth/dent/{i}_mask.png", pixels=spot(3 * i, 2))
    return root


def test_inverted_masks(with_masks):
    masks = sorted((with_masks / "ground_truth/dent").iterdir())
    assert kinds(check_dataset(with_masks)) == []
    Image.fromarray(255 - spot()).save(masks[1])
    finding = only(check_dataset(with_masks), "inverted_mask")
    assert finding.names == ["test/dent/1.png"] and finding.severity == "warning"
    for i, path in enumerate(masks):
        Image.fromarray(255 - spot(i)).save(path)
    finding = only(check_dataset(with_masks), "inverted_mask")
    assert len(finding.names) == 4 and finding.severity == "error" and "invert" in finding.message
    assert "inverted_mask" in kinds(check_dataset(load_folder(with_masks)))


def test_the_same_mask_under_several_names(with_masks):
    path = with_masks / "ground_truth/dent"
    (path / "2_mask.png").write_bytes((path / "3_mask.png").read_bytes())
    finding = only(check_dataset(with_masks), "repeated_mask")
    assert finding.names == ["test/dent/2.png", "test/dent/3.png"]
    box = np.zeros((SIDE, SIDE), dtype=np.uint8)
    box[4:9, 4:12] = 255
    for i in (2, 3):  # boxes are often equal
        Image.fromarray(box).save(path / f"{i}_mask.png")
    assert kinds(check_dataset(with_masks)) == []


@pytest.mark.parametrize("part", ["ground_truth/good/1_mask.png", "test/good/1_mask.png"])
def test_masks_of_good_images(with_masks, put, part):
    put(part, pixels=np.zeros((SIDE, SIDE), dtype=np.uint8))
    assert kinds(check_dataset(with_masks)) == []  # an empty mask agrees with the label
    put(part, pixels=spot())
    assert only(check_dataset(with_masks), "mask_of_good_image").names == ["test/good/1.png"]
    assert len(load_folder(with_masks).test.images) == 6


def test_masks_of_other_images(with_masks):
    path = with_masks / "ground_truth/dent"
    (path / "3_mask.png").rename(path / "7_mask.png")
    report = check_dataset(with_masks)
    assert kinds(report) == ["defect_without_mask", "mask_without_image"]
    with pytest.raises(ValueError, match="1 of 4 defective images have no mask"):
        load_folder(with_masks)
    said = load_folder(with_masks, missing_masks="drop").DESCR
    assert "no mask: 1 defective" in said and "Masks without an image: 1" in said


def test_two_masks_of_one_image(with_masks, put):
    put("ground_truth/dent/3_mask.bmp", pixels=spot())
    with pytest.raises(ValueError, match=r"expected one mask, got .*3_mask\.bmp.*folder named '3'"):
        load_folder(with_masks)
    put("test/dent/0_mask.png", "test/dent/0_mask.bmp", pixels=spot())
    with pytest.raises(ValueError, match=r"dent/0\.png: expected one mask, got .*0_mask\.bmp"):
        load_folder(with_masks)


# Which files are read


ENDINGS = "png jpg JPEG jpe jfif bmp tif TIFF webp gif ppm pgm pnm jp2 j2k jpx".split()


def test_endings(tmp_path, textures):
    for i, ending in enumerate(ENDINGS):
        image, path = Image.fromarray(textures[i]), tmp_path / f"{i}.{ending}"
        image = image.convert("L") if ending in ("pgm", "gif") else image
        image.save(path, format={"jpe": "JPEG", "jfif": "JPEG"}.get(ending))
    data, report = load_folder(tmp_path), check_dataset(tmp_path)
    assert len(data.train.images) == len(ENDINGS) and data.not_read == []
    assert report.of_kind("unreadable") == [] and report.of_kind("not_read") == []


def test_files_that_are_not_read(put):
    root = put(*GOOD, "dent/0.png", "stray.png", "__MACOSX/0.png", "good/.hidden.png")
    for name in ["notes.txt", "good/Thumbs.db", "good/.DS_Store", "good/desktop.ini", "dent/noend"]:
        (root / name).touch()
    (root / "good/5.HEIC").touch()
    data = load_folder(root)
    assert data.not_read == ["dent/noend", "good/5.HEIC", "notes.txt", "stray.png"]
    assert "Not read: 4 files" in data.DESCR and "1 .heic" in data.DESCR
    found = {f.names[0]: f.severity for f in check_dataset(root).of_kind("not_read")}
    assert found == {
        "dent/noend": "warning",
        "good/5.HEIC": "warning",
        "notes.txt": "note",
        "stray.png": "warning",
    }
    (root / "good/5.HEIC").unlink()
    assert load_folder(root, categories=[]).not_read == ["notes.txt", "stray.png"]


def test_commands_say_what_they_do_not_read(put, capsys):
    root = put(*GOOD)
    (root / "good/5.heic").touch()
    for read in (load_data, lambda folder: find_images([folder])):
        read(root)
        assert (
            f"note: {root}: not read: 1 file (.heic), such as good/5.heic"
            in capsys.readouterr().err
        )
    (root / "good/out").mkdir()
    (root / "good/out/scores.csv").touch()
    (root / "good/5.heic").unlink()
    assert len(find_images([root], root / "good/out")) == 6 and capsys.readouterr().err == ""
    (root / "good/5.heic").touch()
    assert main(["check", str(root)]) == 1
    assert "not read: 1 .heic" in capsys.readouterr().out


def test_links(put, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    root = put(*GOOD, "dent/0.png")
    try:
        (root / "dent").rename(elsewhere / "dent")
        (root / "dent").symlink_to(elsewhere / "dent")
        (root / "good/loop").symlink_to(root)
        (root / "good/itself.png").symlink_to(root / "good/itself.png")
        (root / "good/gone.png").symlink_to(root / "gone.png")
        (root / "good/6.png").symlink_to(root / "good/0.png")
    except OSError:
        pytest.skip("links are not allowed here")
    data = load_folder(root, test_size=0)
    assert len(data.train.images) == 7 and data.defect_names == ["dent"]
    assert data.not_read == ["good/gone.png", "good/itself.png", "good/loop"]
    nowhere, loop = check_dataset(root).of_kind("not_read")
    assert "links that lead nowhere" in nowhere.message
    assert "links to a folder that contains them" in loop.message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes on this system")
def test_pipes(put):
    root = put(*GOOD)
    os.mkfifo(root / "good/pipe.png")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(root / "s.png"))
        said = load_folder(root).DESCR
    assert "1 named pipes" in said and "1 sockets" in said
    table = root / "parts.csv"
    table.write_text("image,label\ngood/0.png,good\ngood/pipe.png,good\n")
    with pytest.raises(FileNotFoundError, match=r"line 3: .*pipe\.png is no file"):
        load_manifest(table)


def test_a_folder_that_may_not_be_read(put, monkeypatch):
    root = put(*GOOD, "dent/0.png")
    scan = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("dent"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for read in (load_folder, check_dataset):
        with pytest.raises(PermissionError, match=r"dent: the folder cannot be read \(Permission"):
            read(root)


@pytest.mark.parametrize("names", [["0.png", "1.png"], [*GOOD, "dent/0.png"]])
def test_the_folder_one_is_in(put, monkeypatch, names):
    monkeypatch.chdir(put(*names))
    (put() / "notes.txt").touch()
    data = load_folder(".")
    assert data.not_read == ["notes.txt"] and all(map(os.path.isfile, data.train.images))
    assert kinds(check_dataset(".")) == ["not_read"]


def test_an_empty_folder(put):
    root = put(*GOOD)
    (root / "dent/deep").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"dent: expected images.*the folder is empty"):
        load_folder(root)


def test_images_of_the_same_stem(put):
    root = put("good/a.png", "good/a.jpg", "good/b/a.png", "dent/a.png", "dent/a.jpg")
    assert sorted(load_folder(root, test_size=0).train.names) == [
        "good/a.jpg",
        "good/a.png",
        "good/b/a.png",
    ]
    put("ground_truth/dent/a_mask.png", pixels=spot())
    with pytest.raises(ValueError, match=r"the mask matches both .*a\.jpg and .*a\.png"):
        load_folder(root)


def test_names_of_a_mac(put):
    name = "Kratzer_ü"
    root = put(*GOOD, f"dent/{unicodedata.normalize('NFD', name)}.png")
    put(f"ground_truth/dent/{unicodedata.normalize('NFC', name)}_mask.png", pixels=spot())
    assert load_folder(root).test.masks[-1].sum() == 5
    (root / "parts.csv").write_text(
        "image,label\n"
        + "".join(f"good/{i}.png,good\n" for i in range(6))
        + f"dent/{unicodedata.normalize('NFC', name)}.png,dent\n",
        encoding="utf-8",
    )
    assert len(load_manifest(root / "parts.csv").test.defects) == 2


def test_names_that_are_not_utf_8(put):
    root = put(*GOOD, "dent/0.png")
    old = os.fsencode(root / "dent") + b"/gepr\xfcft.png"
    try:
        os.rename(root / "dent/0.png", old)
        (root / "good" / os.fsdecode(b"\xe9.heic")).touch()
    except OSError:
        pytest.skip("this disk takes no such names")
    data, report = load_folder(root), check_dataset(root)
    assert data.test.images[-1] == os.fsdecode(old)
    assert r"good/\udce9.heic" in data.DESCR.encode().decode()
    assert str(report).encode()  # can be printed
    rows = b"".join(b"good/%d.png;good\r\n" % i for i in range(6))
    (root / "parts.csv").write_bytes(b"image;label\r\n" + rows + b"dent/gepr\xfcft.png;Beule\r\n")
    assert load_manifest(root / "parts.csv").test.images[-1] == os.fsdecode(old)


def test_many_files_are_listed_without_a_look_at_them(tmp_path, monkeypatch):
    folder = tmp_path / "good"
    folder.mkdir()
    for i in range(3000):
        (folder / f"{i}.png").touch()
    calls = []
    status = os.stat
    monkeypatch.setattr(os, "stat", lambda *a, **k: calls.append(a) or status(*a, **k))
    assert len(load_folder(tmp_path).train.images) == 3000
    assert len(calls) < 100


# Tables


WINDOWS = {
    "backslashes": "image,label\ngood\\0.png,good\ngood\\1.png,good\nbad\\ä.png,dent\n",
    "semicolons": "image;label\ngood/0.png;good\ngood/1.png;good\nbad/ä.png;dent\n",
    "tabs": "image\tlabel\ngood/0.png\tgood\ngood/1.png\tgood\nbad\\ä.png\tdent\n",
    "Excel": "sep=;\nimage;label;;\ngood\\0.png;ok;;\ngood\\1.png;OK;;\nbad\\ä.png;dent;;\n",
    "quotes": '"image","label"\n"good\\0.png","good"\n"good\\1.png","good"\n"bad/ä.png","dent"\n',
    "dots": "image,label\n.\\good\\0.png,Good \n./good/1.png,good\n.\\bad\\ä.png,dent\n",
    "capitals": "\n\nIMAGE,Label\nGOOD\\0.PNG,OK\nGood/1.png,ok\nBad\\Ä.PNG,dent\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["n", "rn", "r"])
def test_tables_of_windows(put, newline, encoding):
    root = put("good/0.png", "good/1.png", "bad/ä.png")
    for form, text in WINDOWS.items():
        (root / "parts.csv").write_bytes(text.replace("\n", newline).encode(encoding))
        data = load_manifest(root / "parts.csv", test_size=0)
        assert data.train.names == ["good/good/0.png", "good/good/1.png"], form
        assert data.test.images == [str(root / "bad/ä.png")], form
        assert data.test.names == ["dent/bad/ä.png"], form


def test_missing_files_are_named_at_once(put):
    root = put("good/0.png")
    table = root / "parts.csv"
    rows = "".join(f"good/{i}.png,good\n" for i in range(9))
    table.write_text("image,label\n" + rows)
    with pytest.raises(FileNotFoundError) as error:
        load_manifest(table)
    message = str(error.value)
    assert "line 3" in message and "good/1.png does not exist, nor do 7 of the other 8" in message
    assert "line 4" in message and "line 5" in message and "line 6" not in message
    table.write_text("image,label\nC:\\parts\\0.png,good\n")
    with pytest.raises(FileNotFoundError, match="path of Windows with its drive"):
        load_manifest(table)
    table.write_bytes(b"image,label\n\xe4.png,good\n")
    with pytest.raises(FileNotFoundError, match="read as Windows-1252"):
        load_manifest(table)


def test_names_that_differ_in_case_alone(put):
    root = put("good/a.png", "good/A.png", "good/b.png")
    if len(os.listdir(root / "good")) < 3:
        pytest.skip("this disk takes both for one name")
    table = root / "parts.csv"
    table.write_text("image,label\ngood/a.png,good\ngood/A.png,good\ngood/B.png,good\n")
    assert load_manifest(table, test_size=0).train.names[2] == "good/good/b.png"
    (root / "good/C.png").symlink_to("a.png")
    (root / "good/c.png").symlink_to("A.png")
    table.write_text("image,label\nGood/C.PNG,good\n")
    with pytest.raises(FileNotFoundError, match=r"Good/C\.PNG does not exist"):
        load_manifest(table)


@pytest.mark.parametrize(
    "again", ["good/0.png", "./good/0.png", "good\\0.png", "GOOD/0.png", "good/../good/0.png"]
)
def test_images_listed_twice(put, again):
    root = put("good/0.png", "good/1.png")
    (root / "parts.csv").write_text(f"image,label\ngood/0.png,good\n{again},good\n")
    with pytest.raises(ValueError, match=r"line 3: .* is already in .*line 2; list it once"):
        load_manifest(root / "parts.csv")


def test_spellings_of_labels(put):
    root = put(*(f"{i}.png" for i in range(6)))
    labels = ["Good", " GOOD ", "Deep  Scratch", "deep scratch", "dent", "ok"]
    rows = "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels))
    (root / "parts.csv").write_text("image,label\n" + rows)
    data = load_manifest(root / "parts.csv", test_size=0)
    assert len(data.train.images) == 3 and data.defect_names == ["Deep  Scratch", "dent"]
    assert "several spellings: 'Deep  Scratch' = 'deep scratch'" in data.DESCR


@pytest.mark.parametrize("label", ["0", "1.0", "-1", "True", "FALSE", "yes", "nan", "1e0"])
def test_labels_that_may_mean_either(put, label):
    root = put("0.png", "1.png")
    (root / "parts.csv").write_text(f"image,label,split\n0.png,{label},train\n1.png,7,test\n")
    with pytest.raises(ValueError, match="expected a word as label"):
        load_manifest(root / "parts.csv")
    spelling = {"1.0": "1", "1e0": "1.0"}.get(label, label.lower())
    data = load_manifest(root / "parts.csv", good_names=[spelling])
    assert data.train.names == ["good/0.png"] and data.test.names == ["7/1.png"]


@pytest.mark.parametrize(
    "content, error",
    [
        (b"PK\x03\x04...", "got a workbook; save it as CSV"),
        (b"\x89PNG\r\n\x1a\n\0\0", "expected a CSV file encoded in"),
        (b"\xff\xfei\0m\0", "no image and no label"),
        (b"", "there is no image and no label in"),
        (b"\n\n", "there is no image and no label in"),
        (b'image,label\n"0.png,good\n', r"line 2: expected separated values"),
        (b"image,image,label\n0.png,0.png,good\n", r"each column once, got \['image'\]"),
        (b"image,label,mask\n0.png,dent,0.png\n", r"line 2: expected an image and its mask"),
        (b"image,label\n" + b"x" * 200_000 + b",good\n", r"line 2: expected separated values"),
        (b"image,label\n" + b"x" * 2000 + b",good\n", r"line 2: .*does not exist"),
        (b"image;label\n0.png;good;x\n", "line 2: expected 2 values, got 3"),
        (b"image,label\nfolder,good\n", "line 2: .*folder is no file"),
    ],
)
def test_tables_that_are_none(put, content, error):
    root = put("0.png")
    (root / "folder").mkdir()
    (root / "parts.csv").write_bytes(content)
    for read in (load_manifest, check_dataset):
        with pytest.raises((ValueError, FileNotFoundError), match=error) as caught:
            read(root / "parts.csv")
        assert "parts.csv" in str(caught.value)


# What is in the images


def test_cameras_of_twelve_bits(put):
    root = put()
    rng = np.random.default_rng(0)
    for i in range(4):
        put(f"{i}.png", pixels=rng.integers(0, 4096, size=(SIDE, SIDE), dtype=np.uint16))
    finding = only(check_dataset(root), "unused_bits")
    assert len(finding.names) == 4 and "12 bits" in finding.message and "<< 4" in finding.message
    put("3.png", pixels=rng.integers(0, 65536, size=(SIDE, SIDE), dtype=np.uint16))
    assert "unused_bits" not in kinds(check_dataset(root))


def test_transparency_and_mixed_depth(put, textures):
    root = put("0.png", "1.png")
    put("2.png", pixels=np.dstack([textures[9], np.full((SIDE, SIDE), 255, np.uint8)]))
    assert kinds(check_dataset(root)) == []  # an alpha channel that hides nothing
    put("2.png", pixels=np.dstack([textures[9], textures[8][..., 0]]))
    finding = only(check_dataset(root), "transparency")
    assert finding.names == ["train/good/2.png"] and finding.severity == "warning"
    put("1.png", pixels=textures[1][..., 0].astype(np.uint16) * 257)
    assert "gray uint16" in only(check_dataset(root), "mixed_modes").message


def test_all_damaged_files_are_listed(put):
    root = put(*GOOD)
    for i in (1, 3, 4):
        (root / f"good/{i}.png").write_bytes((root / f"good/{i}.png").read_bytes()[:100])
    (root / "good/5.png").write_bytes(b"")
    assert len(check_dataset(root).of_kind("unreadable")) == 4


def test_masks_of_images_beyond_the_limit_of_pillow(put, monkeypatch):
    root = put(*GOOD, "dent/0.png")
    put("ground_truth/dent/0_mask.png", pixels=spot())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert load_folder(root).test.masks[-1].sum() == 5
    assert kinds(check_dataset(root)) == []
