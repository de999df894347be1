"""threshold: what a detector file's threshold is, and another one without a fit."""

import json

import numpy as np
import pytest
from cli_parts import fit, make_part, run, unfinished

import skanomaly


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return make_part(tmp_path_factory.mktemp("threshold") / "part")


@pytest.fixture(scope="module")
def detector(part):
    return fit(part)


def shown(capsys, *arguments):
    capsys.readouterr()
    assert run("threshold", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_it_shows_what_the_file_holds(detector, capsys):
    before, model = detector.read_bytes(), skanomaly.load(detector)
    found = shown(capsys, detector)
    assert found["file"] == str(detector) and found["offset"] == model.offset_
    assert found["target_fpr"] == found["expected_fpr"] == 0.1 and found["method"] == "folds"
    assert tuple(found["fpr_interval"]) == model.fpr_interval_
    assert tuple(found["false_alarms_per_1000"]) == model.false_alarms_per_1000_
    assert found["n_good"] == found["n_independent"] == 30
    assert found["n_flagged"] == (model.oof_scores_ < model.offset_).sum()
    scores, by_share = np.sort(model.oof_scores_), {r["share"]: r for r in found["scores"]}
    assert by_share[0]["offset"] == scores[0] and by_share[1]["offset"] == scores[-1]
    assert by_share[0.5]["score"] == pytest.approx(scores[14] - model.offset_)
    assert run("threshold", detector) == 0
    printed = capsys.readouterr().out
    low, high = model.false_alarms_per_1000_
    assert f"false alarms        {low} to {high} of 1,000 new good images" in printed
    assert "for 10 % false alarms" in printed and "30 good images, models of other" in printed
    assert detector.read_bytes() == before


def test_another_target(part, detector, tmp_path, capsys):
    other, before = tmp_path / "other.skanomaly", detector.read_bytes()
    found = shown(capsys, detector, "--target-fpr", "0.3", "-o", other)
    assert found["target_fpr"] == 0.3 and found["file"] == str(other)
    assert detector.read_bytes() == before
    model, old = skanomaly.load(other), skanomaly.load(detector)
    assert model.offset_ == found["offset"] > old.offset_ and model.map_offset_ < old.map_offset_
    assert np.array_equal(model.seen_images_, old.seen_images_)
    images = sorted(map(str, (part / "test").rglob("*.png")))
    np.testing.assert_array_equal(model.score_samples(images), old.score_samples(images))
    assert run("threshold", other, "--target-fpr", "0.1") == 0  # and back, in place
    assert "written" in capsys.readouterr().out
    assert other.read_bytes() == before and not unfinished(tmp_path)


def test_an_offset_by_hand_decides_in_inspect(part, detector, tmp_path, capsys):
    new, other = part / "test" / "hole", tmp_path / "other.skanomaly"
    assert run("inspect", detector, new, "--json") == 1
    scores = [record["score"] for record in json.loads(capsys.readouterr().out)]
    offset = skanomaly.load(detector).offset_
    for shift, code in ((min(scores) - 0.01, 0), (max(scores) + 0.01, 1)):
        found = shown(capsys, detector, f"--offset={offset + shift}", "-o", other)
        assert found["target_fpr"] is None and found["offset"] == offset + shift
        assert run("inspect", other, new, "--json") == code
    capsys.readouterr()
    assert run("threshold", other) == 0
    assert "set by hand" in capsys.readouterr().out


def test_what_is_refused(detector, tmp_path, capsys):
    before = detector.read_bytes()
    for arguments, message in (
        (["--target-fpr", "2"], "--target-fpr must be a share above 0 and up to 0.5"),
        (["--target-fpr", "nan"], "--target-fpr must be a share"),
        (["--offset", "nan"], "offset must be a finite number"),
        (["-o", tmp_path / "x"], "add --target-fpr or --offset"),
        (["--offset", "1", "-o", tmp_path], "got a folder"),
    ):
        assert run("threshold", detector, *arguments) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        run("threshold", detector, "--offset", "1", "--target-fpr", "0.1")
    assert stop.value.code == 2
    assert detector.read_bytes() == before and list(tmp_path.iterdir()) == []


def test_a_detector_of_an_earlier_version_is_to_be_fitted_again(detector, tmp_path, capsys):
    model = skanomaly.load(detector)
    del model.expected_fpr_
    skanomaly.dump(model, tmp_path / "old.skanomaly")
    assert run("threshold", tmp_path / "old.skanomaly") == 2
    assert "written by an earlier version" in capsys.readouterr().err


def test_too_few_images_are_a_note(detector, tmp_path, capsys, recwarn):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        arguments = ["--target-fpr", "0.001", "-o", tmp_path / "other.skanomaly"]
        assert run("threshold", detector, *arguments) == 0
    assert "note: target_fpr=0.001 takes 999" in capsys.readouterr().err
