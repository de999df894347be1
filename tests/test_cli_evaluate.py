"""evaluate and check: the metrics of labeled folders, and the problems in them."""

import json
import shutil

import numpy as np
import pytest
from cli_parts import fit, make_part, run
from sklearn import metrics

import skanomaly
from skanomaly.datasets import load_folder
from skanomaly.metrics import aupro_score


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return make_part(tmp_path_factory.mktemp("evaluate") / "part")


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
    by_kind = found.pop("by_kind")
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
    lines = printed.out.splitlines()
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
        *("f1", "image_auroc", "image_ap", "by_kind"),
    }
    assert set(found["by_kind"]["hole"]) == {"n_defects", "defects_found", "image_auroc"}
    assert run("evaluate", detector, part) == 0
    assert "pixel" not in capsys.readouterr().out


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


def test_notes_alone_are_nothing_found(part, tmp_path, capsys):
    shutil.copytree(part, tmp_path / "part")
    train = tmp_path / "part" / "train" / "good"
    shutil.copy(train / "000.png", train / "again.png")  # twice in training: no test is biased
    assert run("check", tmp_path / "part") == 0
    assert "1 note" in capsys.readouterr().out
