"""inspect: scores, heat maps, JSON and reports, and exit codes for scripts."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_parts import SIZE, fit, make_part, run
from PIL import Image

import skanomaly
from skanomaly import FilterBank, PatchCore, map_regions
from skanomaly.cli import _predictions
from skanomaly.cli._results import _heat_map_names

RECORD = ["error", "name", "regions", "score", "verdict"]


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return make_part(tmp_path_factory.mktemp("inspect") / "part")


@pytest.fixture(scope="module")
def detector(part):
    return fit(part)


@pytest.fixture(scope="module")
def new(part):
    """Paths of 6 good and 4 defective images, in one folder."""
    folder = part.parent / "new"
    folder.mkdir()
    for kind in ("good", "hole", "stain"):
        for file in sorted((part / "test" / kind).iterdir()):
            shutil.copy(file, folder)
    return [str(path) for path in sorted(folder.iterdir())]


def test_scores_verdicts_and_heat_maps(new, detector, tmp_path, capsys):
    assert run("inspect", detector, part_of(new), "-o", tmp_path / "out") == 1
    model = skanomaly.load(detector)
    expected = model.decision_function(new)
    n_defects = (expected < 0).sum()
    assert f"{n_defects} of 10 images are predicted as defective" in capsys.readouterr().out
    with open(tmp_path / "out" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == new
    np.testing.assert_allclose([float(row["score"]) for row in rows], expected, rtol=1e-4)
    assert [row["verdict"] for row in rows] == ["defect" if s < 0 else "good" for s in expected]
    assert expected[6:].mean() < expected[:6].min()
    for row in rows:
        with Image.open(tmp_path / "out" / row["heat_map"]) as written:
            assert written.size == (2 * SIZE + 4, SIZE)  # the image beside its heat map
    assert len(list((tmp_path / "out").iterdir())) == 11


def test_exit_codes_say_whether_there_are_defects(new, detector, tmp_path):
    assert run("inspect", detector, *new[:6], "-o", tmp_path) == 0
    assert run("inspect", detector, new[0], new[-1], "-o", tmp_path) == 1
    assert run("inspect", detector, "gone.png", "-o", tmp_path) == 2


@pytest.fixture
def mixed(new, tmp_path):
    """A folder of 10 images, two more that cannot be read, and files that are no images."""
    folder = tmp_path / "mixed"
    shutil.copytree(part_of(new), folder)
    (folder / "035b.png").write_bytes(b"no image")
    (folder / "a.png").write_bytes(b"")
    for name in ("a.heic", "b.heic", "c.txt"):
        (folder / name).touch()
    return folder


def test_images_that_cannot_be_read_cost_no_other(new, mixed, detector, tmp_path, capsys):
    pytest.importorskip("jinja2")
    out, page = tmp_path / "out", tmp_path / "r.html"
    assert run("inspect", detector, mixed, "-o", out, "--report", page) == 3
    printed = capsys.readouterr()
    assert "of 12 images are predicted as defective" in printed.out
    assert '2 of 12 could not be read (verdict "error")' in printed.out
    assert "not read: 3 files (.heic, .txt), such as a.heic" in printed.err
    assert f"note: {mixed / '035b.png'}: not an image" in printed.err
    with open(out / "scores.csv", newline="") as file:
        rows = {row["name"].rpartition("/")[2]: row for row in csv.DictReader(file)}
    assert len(rows) == 12
    for name in ("035b.png", "a.png"):
        row = rows.pop(name)
        assert (row["score"], row["verdict"], row["heat_map"]) == ("", "error", "")
        assert row["error"].startswith(str(mixed / name))
    expected = skanomaly.load(detector).decision_function(new)
    np.testing.assert_allclose([float(r["score"]) for r in rows.values()], expected, rtol=1e-4)
    assert {row["error"] for row in rows.values()} == {""}
    heat_maps = {row["heat_map"] for row in rows.values()}
    assert {path.name for path in out.iterdir()} == heat_maps | {"scores.csv"}
    assert "2 images could not be read: mixed/035b.png, mixed/a.png" in page.read_text()
    assert run("inspect", detector, new[0], "-o", out) == 0  # replaces all of the above
    assert len(list(out.iterdir())) == 2


def test_json_of_images_that_cannot_be_read(mixed, detector, capsys, monkeypatch):
    codes, answers = [], []
    for chunk in (16, 3):
        monkeypatch.setattr("skanomaly.cli._predictions.CHUNK", chunk)
        codes.append(run("inspect", detector, mixed, "--json"))
        answers.append(json.loads(capsys.readouterr().out))
    assert codes == [3, 3]
    for records in answers:
        assert [sorted(record) for record in records] == [RECORD] * 12
        wrong = [record for record in records if record["error"]]
        assert [record["verdict"] for record in wrong] == ["error"] * 2
        assert all(one["score"] is None and one["regions"] == [] for one in wrong)
        assert all("not an image" in one["error"] or "empty" in one["error"] for one in wrong)
    by_chunk = [[record["verdict"] for record in records] for records in answers]
    assert by_chunk[0] == by_chunk[1]


def test_images_that_cannot_be_read_are_errors_if_asked(mixed, detector, tmp_path, capsys):
    assert run("inspect", detector, mixed, "-o", tmp_path / "out", "--strict") == 2
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run("inspect", detector, mixed / "a.png", "-o", tmp_path / "out") == 3


def test_an_image_that_memory_does_not_hold_costs_no_other(new, detector, tmp_path, monkeypatch):
    chunk = _predictions._predict_chunk

    def scarce(model, images, explainer):
        if new[2] in images:
            raise MemoryError
        yield from chunk(model, images, explainer)

    monkeypatch.setattr(_predictions, "_predict_chunk", scarce)
    assert run("inspect", detector, part_of(new), "-o", tmp_path / "out") == 3
    with open(tmp_path / "out" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == new
    assert [row["verdict"] == "error" for row in rows] == [i == 2 for i in range(len(new))]
    assert "memory" in rows[2]["error"]


def test_a_log_says_what_begins(new, detector, monkeypatch, capsys):
    monkeypatch.setattr("skanomaly.cli._predictions.CHUNK", 4)
    assert run("inspect", detector, *new, "--json") == 1
    assert capsys.readouterr().err == "predicting 10 images ...\n"
    assert run("inspect", detector, *new, "--json", "--quiet") == 1
    assert capsys.readouterr().err == ""


def test_no_maps(new, detector, tmp_path, capsys):
    assert run("inspect", detector, *new, "-o", tmp_path / "out", "--no-maps") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scores.csv"]
    assert "heat maps" not in capsys.readouterr().out
    with open(tmp_path / "out" / "scores.csv", newline="") as file:
        assert {row["heat_map"] for row in csv.DictReader(file)} == {""}


def test_json_is_all_there_is_on_stdout(new, detector, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("inspect", detector, *new, "--json") == 1
    printed = capsys.readouterr()
    assert printed.err == "" and list(tmp_path.iterdir()) == []  # no folder unless -o names one
    model = skanomaly.load(detector)
    scores, maps = model.score_samples_and_map(new)
    records = json.loads(printed.out)
    assert [sorted(record) for record in records] == [RECORD] * 10
    assert [record["name"] for record in records] == new
    np.testing.assert_allclose([r["score"] for r in records], scores - model.offset_)
    regions = [{"image": i, **region} for i, r in enumerate(records) for region in r["regions"]]
    assert regions == map_regions(maps, model.map_offset_) != []
    assert run("inspect", detector, new[0], "--json", "-o", "out") == 0
    assert json.loads(capsys.readouterr().out)[0]["verdict"] == "good"
    assert (tmp_path / "out" / "scores.csv").is_file()


def test_images_are_predicted_a_few_at_a_time(new, detector, monkeypatch, capsys):
    assert run("inspect", detector, *new, "--json") == 1
    at_once = json.loads(capsys.readouterr().out)
    monkeypatch.setattr("skanomaly.cli._predictions.CHUNK", 3)
    assert run("inspect", detector, *new, "--json") == 1
    in_parts = json.loads(capsys.readouterr().out)
    assert [r["verdict"] for r in in_parts] == [r["verdict"] for r in at_once]
    np.testing.assert_allclose(
        [r["score"] for r in in_parts], [r["score"] for r in at_once], rtol=1e-5, atol=1e-5
    )


def test_heat_maps_of_namesakes_are_kept_apart(part, new, detector, tmp_path):
    twin = part / "test" / "good" / new[0].rpartition("/")[2]
    assert run("inspect", detector, new[0], twin, "-o", tmp_path) == 0
    assert {p.name for p in tmp_path.glob("*.png")} == {"new_030.png", "good_030.png"}


def test_heat_map_names():
    images = ["a/x/1.png", "b/x/1.png", "2.png", "x_1.png", "a/x/1.jpg", "3.png"]
    expected = ["x_1.png", "x_1-2.png", "2.png", "x_1-3.png", "x_1-4.png", "3.png"]
    assert _heat_map_names(images) == expected


def test_heat_maps_of_an_earlier_inspection_are_no_images(new, detector, tmp_path, monkeypatch):
    shutil.copy(new[0], tmp_path)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("inspect", detector, ".") == 0
        with open("skanomaly-out/scores.csv", newline="") as file:
            assert [row["name"] for row in csv.DictReader(file)] == ["030.png"]
    assert run("inspect", detector, "skanomaly-out") == 2  # nothing else is there


def test_names_that_a_spreadsheet_takes_for_formulas(new, detector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(new[0], "=1+1.png")
    for _ in range(2):  # the second one deletes the heat map of the first, and writes it again
        assert run("inspect", detector, "=1+1.png", "-o", "out") in (0, 1)
        with open("out/scores.csv", newline="") as file:
            (row,) = csv.DictReader(file)
        assert row["name"] == row["heat_map"] == "'=1+1.png"
        assert sorted(os.listdir("out")) == ["=1+1.png", "scores.csv"]
    Path("=2.png").write_bytes(b"no image")
    assert run("inspect", detector, "=2.png", "-o", "out") == 3
    with open("out/scores.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["name"] == "'=2.png" and row["error"].startswith("'=2.png: ")
    shutil.copy(new[0], "a.png")
    assert run("inspect", detector, "a.png", "-o", "out") in (0, 1)
    assert sorted(os.listdir("out")) == ["a.png", "scores.csv"]


def part_of(paths):
    """The folder that paths are in."""
    return paths[0].rpartition("/")[0]


def test_report(new, detector, part, tmp_path, capsys):
    pytest.importorskip("jinja2")
    out, report = tmp_path / "out", tmp_path / "out" / "report.html"
    assert run("inspect", detector, *new, "-o", out, "--report", report) == 1
    assert f"report in {report}" in capsys.readouterr().out
    assert report.is_file() and (out / "scores.csv").is_file()
    assert (
        run("inspect", detector, *new, "-o", out, "--report", tmp_path / "b.html", "--good", part)
        == 1
    )
    plain, explained = report.read_text(), (tmp_path / "b.html").read_text()
    assert "new/036.png" in plain and "good/0" not in plain
    assert "good/0" in explained and str(part) not in explained  # names, but no paths


@pytest.mark.parametrize("with_good", [False, True], ids=["report", "report with good images"])
def test_features_of_every_image_are_computed_once(
    new, detector, part, with_good, tmp_path, monkeypatch
):
    pytest.importorskip("jinja2")
    n_images, features = [], FilterBank._features
    monkeypatch.setattr(
        FilterBank, "_features", lambda self, X: n_images.append(len(X)) or features(self, X)
    )
    arguments = ["-o", tmp_path / "out", "--report", tmp_path / "r.html", "--json"]
    arguments += ["--good", part] if with_good else []
    assert run("inspect", detector, *new, *arguments) == 1
    assert sum(n_images) == 10


def test_every_image_is_scored_once(new, detector, tmp_path, monkeypatch):
    pytest.importorskip("jinja2")
    n_images, score_maps = [], PatchCore._score_maps
    monkeypatch.setattr(
        PatchCore, "_score_maps", lambda self, X: n_images.append(len(X)) or score_maps(self, X)
    )
    arguments = ["-o", tmp_path / "out", "--report", tmp_path / "r.html", "--json"]
    assert run("inspect", detector, *new, *arguments) == 1
    assert sum(n_images) == 10


def test_good_images_must_be_those_of_the_fit(new, detector, part, tmp_path, capsys):
    pytest.importorskip("jinja2")
    padim = tmp_path / "padim.skanomaly"
    options = ["--image-size", SIZE, "--target-fpr", "0.1", "--folds", "2"]
    assert run("fit", part, "-o", padim, "--detector", "padim", *options) == 0
    others = tmp_path / "others"
    shutil.copytree(part / "train" / "good", others)
    shutil.copy(part / "test" / "good" / "030.png", others / "000.png")
    capsys.readouterr()
    for model, good, message in (
        (
            detector,
            part / "test" / "good",
            "expected the 30 images that the detector was fitted on",
        ),
        (detector, others, "got 30 good ones, of which it has seen 29"),
        (padim, part, "got PaDiM"),
    ):
        arguments = ["--good", good, "--report", tmp_path / "r.html", "-o", tmp_path / "out"]
        assert run("inspect", model, *new, *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: --good") and message in error
        assert not (tmp_path / "out").exists() and not (tmp_path / "r.html").exists()
