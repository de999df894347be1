"""evaluate and check: the metrics of labeled folders, and the problems in them."""

import ast
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_parts import fit, make_part, run
from PIL import Image
from sklearn import metrics

import skanomaly
from skanomaly import datasets
from skanomaly.cli._operating_points import operating_points
from skanomaly.cli._shell_words import PYTHON_WORDS
from skanomaly.datasets import load_folder
from skanomaly.metrics import aupro_score


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return make_part(tmp_path_factory.mktemp("evaluate") / "part")


def test_advice_with_the_default_features(part, tmp_path, capsys, monkeypatch):
    """Their image size is the features' own, and not among the parameters."""
    file = tmp_path / "default.skanomaly"
    assert run("fit", part, "-o", file, "--target-fpr", "0.1", "--no-trial") == 0
    monkeypatch.setattr("skanomaly.cli._evaluate.LOW_AUROC", 2.0)
    capsys.readouterr()
    assert run("evaluate", file, part) == 0
    assert "to find more defects, try: more good images" in capsys.readouterr().out


@pytest.fixture(scope="module")
def detector(part):
    return fit(part)


def metrics_of(capsys, *arguments):
    capsys.readouterr()
    assert run("evaluate", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_metrics_are_those_of_scikit_learn(part, detector, capsys):
    found = metrics_of(capsys, detector, part)
    model, test = skanomaly.load(detector), load_folder(part).test
    scores, maps = model.score_samples_and_map(test.images)
    decisions, bad = scores - model.offset_, test.target == -1
    pixels, truth = np.concatenate(maps).ravel(), np.concatenate(list(test.masks)).ravel()
    by_kind, points = found.pop("by_kind"), found.pop("thresholds")
    order = np.argsort(decisions, kind="stable")
    for key, wrong, places in (
        ("false_alarms", (decisions < 0) & ~bad, order),
        ("missed", (decisions >= 0) & bad, order[::-1]),
    ):
        assert found.pop(key) == [test.names[i] for i in places if wrong[i]]
    assert [one["score"] for one in points] == sorted(one["score"] for one in points)
    for one in points:
        flagged = scores < one["offset"]
        assert one["good_flagged"] == flagged[~bad].mean(), one
        assert one["defects_found"] == flagged[bad].mean(), one
    (own,) = [one for one in points if one["chosen_by"] == "detector"]
    assert own["score"] == 0 and own["offset"] == model.offset_
    assert found == pytest.approx(
        {
            "n_good": 6,
            "n_defects": 4,
            "n_seen": 0,
            "good_flagged": np.mean(decisions[~bad] < 0),
            "defects_found": np.mean(decisions[bad] < 0),
            "f1": metrics.f1_score(bad, decisions < 0),
            "image_auroc": metrics.roc_auc_score(bad, -decisions),
            "image_ap": metrics.average_precision_score(bad, -decisions),
            "pixel_auroc": metrics.roc_auc_score(truth, pixels),
            "pixel_ap": metrics.average_precision_score(truth, pixels),
            "aupro": aupro_score(test.masks, maps),
        }
    )
    assert list(by_kind) == ["hole", "stain"]
    of_kind = [i for i, kind in enumerate(test.defects) if kind in ("good", "stain")]
    stains = [i for i, kind in enumerate(test.defects) if kind == "stain"]
    masks = [test.masks[i] for i in of_kind]
    truth = np.concatenate(masks).ravel()
    assert by_kind["stain"] == pytest.approx(
        {
            "n_defects": 2,
            "defects_found": np.mean(decisions[stains] < 0),
            "image_auroc": metrics.roc_auc_score(bad[of_kind], -decisions[of_kind]),
            "pixel_auroc": metrics.roc_auc_score(truth, np.concatenate(maps[of_kind]).ravel()),
            "aupro": aupro_score(masks, maps[of_kind]),
        }
    )


def test_the_table_has_the_same_metrics(part, detector, capsys):
    found = metrics_of(capsys, detector, part)
    assert run("evaluate", detector, part) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.split("\n\nother thresholds")[0].splitlines()
    assert lines[0] == f"{part}: 6 good and 4 defective images"
    assert f"image AUROC               {found['image_auroc']:.3f}" in lines
    assert f"defects found             {4 * found['defects_found']:.0f} of 4" in printed.out
    heading, *kinds = lines[-3:]
    assert heading.split()[:3] == ["kind", "of", "defect"] and "pixel AUROC" in heading
    assert [line.split()[0] for line in kinds] == ["hole", "stain"]


def test_without_masks_there_are_no_metrics_of_pixels(tmp_path, detector, capsys):
    part = make_part(tmp_path / "part", has_masks=False)
    found = metrics_of(capsys, detector, part)
    assert set(found) == {
        *("n_good", "n_defects", "n_seen", "good_flagged", "defects_found"),
        *("f1", "image_auroc", "image_ap", "by_kind", "thresholds", "missed", "false_alarms"),
    }
    assert set(found["by_kind"]["hole"]) == {"n_defects", "defects_found", "image_auroc"}
    assert run("evaluate", detector, part) == 0
    assert "pixel" not in capsys.readouterr().out


def test_pixels_are_measured_inside_a_region(part, detector, tmp_path, capsys):
    model, test = skanomaly.load(detector), load_folder(part).test
    maps, masks = model.score_map(test.images), list(test.masks)
    is_hole = np.array(test.defects) == "hole"
    region = np.ones(masks[0].shape, dtype=bool)
    region[: len(region) // 2] = False
    region |= np.any([mask for mask, hole in zip(masks, is_hole, strict=True) if hole], axis=0)
    for mask in (mask for mask, one in zip(masks, test.defects, strict=True) if one == "stain"):
        region &= ~mask  # of which nothing is left
    Image.fromarray(region.astype(np.uint8) * 255).save(tmp_path / "region.png")
    found = metrics_of(capsys, detector, part, "--roi", tmp_path / "region.png")
    truth = np.concatenate([mask[region] for mask in masks])
    scores = np.concatenate([one[region] for one in maps])
    assert found["pixel_auroc"] == pytest.approx(metrics.roc_auc_score(truth, scores))
    assert found["pixel_ap"] == pytest.approx(metrics.average_precision_score(truth, scores))
    assert found["aupro"] == pytest.approx(aupro_score(masks, maps, roi=region))
    assert found["by_kind"]["stain"]["aupro"] is None
    assert found["by_kind"]["hole"]["aupro"] is not None
    assert run("evaluate", detector, part, "--roi", tmp_path / "region.png") == 0
    assert capsys.readouterr().out.split("\nstain")[1].split("\n")[0].endswith("-")


@pytest.mark.parametrize("has_masks", [True, False])
def test_a_region_needs_masks_and_a_file(part, detector, tmp_path, capsys, has_masks):
    if not has_masks:
        part = make_part(tmp_path / "part", has_masks=False)
    region, expected = tmp_path / "region.png", "no such file"
    if not has_masks:
        Image.new("L", (8, 8), 255).save(region)
        expected = "expected masks of the defects"
    assert run("evaluate", detector, part, "--roi", region) == 2
    assert expected in capsys.readouterr().err


def test_a_region_of_another_size_is_found_before_images_are_scored(
    part, detector, tmp_path, capsys, monkeypatch
):
    Image.new("L", (8, 8), 255).save(tmp_path / "region.png")
    monkeypatch.setattr("skanomaly.cli._predictions.predict", None)  # is not called
    assert run("evaluate", detector, part, "--roi", tmp_path / "region.png") == 2
    assert "region of interest of the image's own size" in capsys.readouterr().err


def test_images_that_fit_has_seen_are_counted(part, detector, tmp_path, capsys):
    """Under another name, in another folder: the results would be biased."""
    shutil.copytree(part, tmp_path / "part")
    for name in ("000.png", "001.png"):
        shutil.copy(
            part / "train" / "good" / name, tmp_path / "part" / "test" / "good" / f"x{name}"
        )
    assert metrics_of(capsys, detector, tmp_path / "part")["n_seen"] == 2
    assert run("evaluate", detector, tmp_path / "part") == 0
    assert "has used 2 of these images" in capsys.readouterr().err


def test_operating_points():
    good, defects = np.arange(20) / 10 - 0.05, np.array([-3.0, -2.0, 0.1, 0.3, 5.0])
    target = np.repeat([1, -1], [20, 5])
    points = operating_points(target, np.r_[good, defects], 7.0)
    rows = [(p["chosen_by"], p["good_flagged"], p["defects_found"]) for p in points]
    assert rows == [
        ("false_alarms", 0, 0.4),
        ("detector", 0.05, 0.4),
        ("false_alarms", 0.05, 0.4),
        ("false_alarms", 0.1, 0.6),  # below 0.15, as 0.1 is
        ("balance", 0.2, 0.8),
    ]
    assert all(p["offset"] == p["score"] + 7 for p in points)
    perfect = operating_points(target, np.r_[good, defects - 9], 0.0)
    (balance,) = [p for p in perfect if p["chosen_by"] == "balance"]
    assert (balance["good_flagged"], balance["defects_found"]) == (0, 1)
    useless = operating_points(target, np.zeros(25), 0.0)
    assert {(p["good_flagged"], p["defects_found"]) for p in useless} == {(0, 0)}


@pytest.fixture(scope="module")
def blind(part, detector, tmp_path_factory):
    """A detector that misses all defects but one, and flags no good image."""
    file = tmp_path_factory.mktemp("blind") / "blind.skanomaly"
    model, test = skanomaly.load(detector), load_folder(part).test
    lowest = np.sort(model.score_samples(test.images))[:2]
    skanomaly.dump(model.set_offset(float(lowest.mean())), file)
    return file


def test_mistakes_are_named_and_advice_is_given(part, blind, capsys):
    assert run("evaluate", blind, part) == 0
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("missed defects")]
    assert "(3, the most normal looking first): " in line and line.count(".png") in (0, 3)
    assert "false alarms (" not in printed
    assert "to find more defects, try: " in printed and "--image-size" not in printed
    found = metrics_of(capsys, blind, part)
    assert line.endswith(", ".join(found["missed"])) and found["false_alarms"] == []


def test_the_report_has_labels_and_begins_with_the_mistakes(part, blind, tmp_path, capsys):
    pytest.importorskip("jinja2")
    page = tmp_path / "r.html"
    assert run("evaluate", blind, part, "--report", page) == 0
    assert f"report in {page}" in capsys.readouterr().out
    text = page.read_text()
    data = json.loads(text.split('id="data">')[1].split("<")[0])
    assert data["first"] == "mistake"
    assert [image["label"] for image in data["images"]] == [1] * 6 + [-1] * 4
    assert [image["truth"] is None for image in data["images"]] == [True] * 6 + [False] * 4
    assert [image["file"] for image in data["images"]] == load_folder(part).test.images
    assert "<small>of 4</small>" in text


def test_folders_of_one_kind_are_refused_in_words_of_the_shell(part, detector, tmp_path, capsys):
    shutil.copytree(part / "test" / "good", tmp_path / "good" / "good")
    shutil.copytree(part / "test" / "good", tmp_path / "flat")
    shutil.copytree(part / "test" / "hole", tmp_path / "bad" / "hole")
    for name, message in (
        ("good", "got good ones only; put images of defects into a folder beside the good ones"),
        ("flat", "got good ones only"),
        ("bad", "good images"),
    ):
        assert run("evaluate", detector, tmp_path / name) == 2
        error = capsys.readouterr().err
        assert message in error and "test_size" not in error and "good_names" not in error, error


def test_a_table_stands_for_a_folder(part, tmp_path, detector, capsys):
    data, table = load_folder(part), part / "part.csv"
    rows = [f"{image},good,,train" for image in data.train.images]
    rows += [
        f"{image},{kind},{part / 'ground_truth' / mask if kind != 'good' else ''},test"
        for image, kind, mask in zip(
            data.test.images,
            data.test.defects,
            [name.replace(".png", "_mask.png") for name in data.test.names],
            strict=True,
        )
    ]
    table.write_text("\n".join(["image,label,mask,split", *rows]))
    try:
        assert metrics_of(capsys, detector, table) == metrics_of(capsys, detector, part)
        options = ["--image-size", "64", "--target-fpr", "0.1", "--folds", "2"]
        options += ["--features", "filter_bank"]
        assert run("fit", table, "-o", tmp_path / "table.skanomaly", *options) == 0
    finally:
        table.unlink()
    model, same = skanomaly.load(tmp_path / "table.skanomaly"), skanomaly.load(detector)
    assert np.array_equal(model.seen_images_, same.seen_images_) and model.offset_ == same.offset_


def test_check(part, tmp_path, capsys):
    assert run("check", part) == 0
    assert "part: checked 40 images (30 train, 10 test)" in capsys.readouterr().out
    shutil.copytree(part, tmp_path / "part")
    train, test = tmp_path / "part" / "train" / "good", tmp_path / "part" / "test" / "good"
    shutil.copy(train / "000.png", test / "again.png")
    assert run("check", tmp_path / "part") == 1
    assert "error   duplicate" in capsys.readouterr().out
    assert run("check", tmp_path / "part", "--json") == 1
    finding = json.loads(capsys.readouterr().out)[0]
    assert finding["kind"] == "duplicate" and finding["severity"] == "error"
    assert finding["names"] == ["train/good/000.png", "test/good/again.png"]


def test_check_lists_all_on_request(part, tmp_path, capsys):
    shutil.copytree(part, tmp_path / "part")
    train = tmp_path / "part" / "train" / "good"
    for i in range(5):
        shutil.copy(train / f"00{i}.png", train / f"again{i}.png")
    assert run("check", tmp_path / "part") == 0
    short = capsys.readouterr().out
    assert "and 2 more" in short and "again4" not in short and "--all prints" in short
    assert run("check", tmp_path / "part", "--all") == 0
    full = capsys.readouterr().out
    assert " more" not in full and all(f"train/good/again{i}.png" in full for i in range(5))
    assert short.endswith("nothing found that harms a fit\n") and full.endswith("a fit\n")


def test_check_fails_for_what_harms_a_fit(part, tmp_path, capsys):
    shutil.copytree(part, tmp_path / "part")
    for path in (tmp_path / "part" / "ground_truth" / "hole").iterdir():
        Image.new("L", (64, 64), 255).save(path)  # warnings that concern an evaluation alone
    (tmp_path / "part" / "notes.txt").touch()
    assert run("check", tmp_path / "part", "--json") == 0
    found = {f["kind"]: f for f in json.loads(capsys.readouterr().out)}
    assert found["full_mask"]["severity"] == "warning" and not found["full_mask"]["harms_fit"]
    (tmp_path / "part" / "train" / "good" / "1.heic").touch()
    assert run("check", tmp_path / "part") == 1
    assert capsys.readouterr().out.endswith("harms a fit: not_read\n")


def test_every_translated_phrase_is_said_somewhere():
    """A message of the data sets that changes must be translated anew."""
    messages = [
        node.value
        for path in Path(datasets.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    text = re.sub(r"\s+", " ", "\0".join(messages))
    for pattern in PYTHON_WORDS:
        for piece in re.split(r"\.\*|\\S\+|'\(\\w\+\)'", pattern):
            assert piece.replace("\\", "") in text, piece


def test_messages_on_folders_speak_of_no_parameters(tmp_path, part, detector, capsys):
    shutil.copytree(part, tmp_path / "part")
    next((tmp_path / "part" / "ground_truth" / "hole").iterdir()).unlink()
    shutil.copytree(part / "test" / "good", tmp_path / "one" / "good")
    for path in sorted((tmp_path / "one" / "good").iterdir())[1:]:
        path.unlink()
    shutil.copytree(part / "test" / "hole", tmp_path / "one" / "hole")
    shutil.copytree(part / "test" / "hole", tmp_path / "train" / "train" / "hole")
    for name in ("part", "one", "train"):
        assert run("evaluate", detector, tmp_path / name) == 2
        assert not re.search(r"\b\w+_\w+=|\bpass\b", error := capsys.readouterr().err), error


def test_notes_alone_are_nothing_found(part, tmp_path, capsys):
    shutil.copytree(part, tmp_path / "part")
    train = tmp_path / "part" / "train" / "good"
    shutil.copy(train / "000.png", train / "again.png")  # twice in training: no test is biased
    assert run("check", tmp_path / "part") == 0
    assert "1 note" in capsys.readouterr().out
