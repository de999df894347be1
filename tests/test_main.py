"""The command line: from a folder of good pictures to verdicts and heat maps."""

import csv

import joblib
import numpy as np
import pytest
from PIL import Image

from skanomaly.__main__ import main
from skanomaly.datasets import make_inspection


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """good/ with 24 pictures; new/ with 4 good and 4 bad ones."""
    root = tmp_path_factory.mktemp("part")
    data = make_inspection(24, 4, 4, size=(160, 192), random_state=0)
    for kind, images in (("good", data.train.images), ("new", data.test.images)):
        (root / kind).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(root / kind / f"{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def detector(folder):
    file = folder / "detector.joblib"
    arguments = ["fit", folder / "good", "-o", file, "--image-size", "128", "--target-fpr", "0.1"]
    assert main([str(a) for a in arguments]) == 0
    return file


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_fit_and_inspect(folder, detector, tmp_path, capsys):
    assert run("inspect", detector, folder / "new", "-o", tmp_path / "out") == 0
    assert "of 8 pictures look defective" in capsys.readouterr().out
    with open(tmp_path / "out" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [str(folder / "new" / f"{i:02d}.png") for i in range(8)]
    model = joblib.load(detector)
    expected = model.decision_function([row["name"] for row in rows])
    np.testing.assert_allclose([float(row["score"]) for row in rows], expected, rtol=1e-4)
    assert [row["verdict"] for row in rows] == ["defect" if s < 0 else "good" for s in expected]
    assert expected[4:].mean() < expected[:4].min()
    for row in rows:
        with Image.open(tmp_path / "out" / row["heat_map"]) as picture:
            assert picture.size == (2 * 192 + 4, 160)  # the picture beside its heat map


def test_heat_maps_of_namesakes_are_kept_apart(folder, detector, tmp_path):
    image = folder / "new" / "00.png"
    other = folder / "good" / "00.png"
    assert run("inspect", detector, image, other, "-o", tmp_path) == 0
    assert {p.name for p in tmp_path.glob("*.png")} == {"new_00.png", "good_00.png"}


def test_demo(tmp_path, capsys):
    assert run("demo", "-o", tmp_path / "demo") == 0
    printed = capsys.readouterr().out
    image_auroc = float(printed.split("image AUROC ")[1].split()[0])
    pixel_auroc = float(printed.split("pixel AUROC ")[1].split()[0])
    assert image_auroc > 0.95 and pixel_auroc > 0.9
    assert (tmp_path / "demo" / "overview.png").is_file()
    assert len(list((tmp_path / "demo").glob("*_*.png"))) == 40


def test_errors_are_one_sentence_and_code_2(folder, detector, tmp_path, capsys):
    not_one = tmp_path / "text.joblib"
    not_one.write_text("no detector")
    foreign = tmp_path / "foreign.joblib"
    joblib.dump({"a": 1}, foreign)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    cases = [
        (("inspect", not_one, folder / "new"), "not a detector file"),
        (("inspect", foreign, folder / "new"), "expected a detector written by fit, got dict"),
        (("inspect", tmp_path / "none", folder / "new"), "no such detector file"),
        (("inspect", detector, tmp_path / "gone.png", "-o", tmp_path / "o"), "no such image file"),
        (("inspect", detector, broken, "-o", tmp_path / "o"), "broken.png: not an image"),
        (("inspect", detector, folder / "new", "-o", in_the_way / "x"), "cannot be made"),
        (("fit", tmp_path / "nowhere"), "nowhere"),
        (("fit", folder / "good", "-o", tmp_path / "no" / "folder.joblib"), "no such folder"),
        (("fit", folder / "good", "--features", "resnet19"), "torchvision classification"),
    ]
    for arguments, message in cases:
        assert run(*arguments) == 2, arguments
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error, arguments


def test_help_is_there_and_unknown_commands_are_not(capsys):
    for arguments, code in ((["--help"], 0), (["fit", "--help"], 0), (["polish"], 2), ([], 2)):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == code
    capsys.readouterr()
