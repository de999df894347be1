"""skanomaly fit: what it says of the images, of the threshold, and of painted defects."""

import numpy as np
import pytest
from cli_parts import run
from PIL import Image

import skanomaly
from skanomaly.datasets import group_near_duplicates, make_textures

SIZE = ["--image-size", "64"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good images of 12 pieces in two exposures, and two images of other surfaces."""
    folder = tmp_path_factory.mktemp("fit") / "good"
    folder.mkdir()
    pieces = make_textures(12, kind="brushed", size=96, random_state=0)
    for i, image in enumerate(pieces):
        Image.fromarray(image).save(folder / f"piece_{i:02d}_a.png")
        darker = (0.8 * image.astype(float)).astype(np.uint8)
        Image.fromarray(darker).save(folder / f"piece_{i:02d}_b.png")
    for i, kind in enumerate(["weave", "grid"]):
        image = make_textures(1, kind=kind, size=96, random_state=1)[0]
        Image.fromarray(image).save(folder / f"piece_{i + 20}_a.png")
    return folder


def test_pieces_strange_images_and_painted_defects(folder, tmp_path, capsys):
    file = tmp_path / "part.skanomaly"
    assert run("fit", folder, "-o", file, *SIZE) == 0
    said = capsys.readouterr()
    assert "26 images show 14 different objects" in said.err
    assert "2 of the good images look unlike all others" in said.out
    assert "piece_20_a.png" in said.out and "piece_21_a.png" in said.out
    assert "--drop-suspicious leaves them out" in said.out
    assert "by leaving each image out: of 1,000 new good parts expect" in said.out
    rows = [line.split() for line in said.out.splitlines()]
    found = {row[0]: int(row[2]) for row in rows if row[3:4] == ["of"]}
    assert set(found) == {"0.25", "0.5", "1", "2"} and found["0.25"] <= found["2"]
    model = skanomaly.load(file)
    assert model.method_ == "leave_one_out" and model.n_independent_ == 14
    low, high = model.false_alarms_per_1000_
    assert f"expect {low} to {high} false alarms" in said.out


def test_strange_images_are_left_out_on_request(folder, tmp_path, capsys):
    file = tmp_path / "part.skanomaly"
    assert run("fit", folder, "-o", file, *SIZE, "--drop-suspicious", "--no-trial") == 0
    said = capsys.readouterr().out
    assert "piece_20_a.png" in said and "they were left out" in said
    assert "painted defects" not in said
    assert len(skanomaly.load(file).good_images_) == 24


def test_groups_by_file_name_or_none(folder, tmp_path, capsys):
    file = tmp_path / "part.skanomaly"
    common = ["fit", folder, "-o", file, *SIZE, "--no-trial"]
    assert run(*common, "--groups", r"piece_(\d+)") == 0
    by_name = skanomaly.load(file)
    assert by_name.n_independent_ == 14
    assert run(*common, "--groups", "none") == 0
    alone = skanomaly.load(file)
    assert alone.n_independent_ == 26
    assert np.median(alone.oof_scores_) > np.median(by_name.oof_scores_)
    assert "different objects" not in capsys.readouterr().err
    for pattern, message in {"part": "piece_00_a.png and 25 others", "(": "no regular"}.items():
        assert run(*common, "--groups", pattern) == 2
        assert message in capsys.readouterr().err


def test_large_and_long_images_are_noted(folder, tmp_path, capsys):
    for i, image in enumerate(make_textures(4, kind="brushed", size=(96, 208), random_state=0)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    options = ["-o", tmp_path / "part.skanomaly", *SIZE, "--no-trial", "--target-fpr", "0.3"]
    assert run("fit", tmp_path, *options) == 0
    said = capsys.readouterr().err
    assert "images of 96 x 208 pixels are reduced to 64 x 64" in said
    assert "try --resize pad" in said
    assert run("fit", tmp_path, *options, "--resize", "pad") == 0
    assert "try --resize pad" not in capsys.readouterr().err


def test_near_duplicates_are_one_group(folder):
    paths = sorted(map(str, folder.iterdir()))
    groups = group_near_duplicates(paths)
    pieces = [path.rsplit("_", 1)[0] for path in paths]
    expected = np.unique(pieces, return_inverse=True)[1]
    assert (groups[:, None] == groups).tolist() == (expected[:, None] == expected).tolist()
    with pytest.raises(ValueError, match=r"gone\.png"):
        group_near_duplicates([*paths, "gone.png"])
