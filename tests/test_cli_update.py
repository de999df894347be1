"""skanomaly update: a detector file learns from good images, and forgets others."""

import json
import shutil

import numpy as np
import pytest
from cli_parts import fit, make_part, run
from PIL import Image

import skanomaly
from skanomaly.cli._model_files import fingerprint
from skanomaly.datasets import load_folder, make_textures


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return make_part(tmp_path_factory.mktemp("update") / "part")


@pytest.fixture(scope="module")
def fitted(part):
    return fit(part)


@pytest.fixture
def detector(fitted, tmp_path):
    return shutil.copy(fitted, tmp_path / "mine.skanomaly")


@pytest.fixture
def alarms(tmp_path):
    """A folder of good images that the detector flags: of another surface."""
    folder = tmp_path / "alarms"
    folder.mkdir()
    for i, image in enumerate(make_textures(3, kind="weave", size=64, random_state=1)):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def facts_of(capsys, *arguments):
    capsys.readouterr()
    assert run("update", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def error_of(capsys, *arguments):
    capsys.readouterr()
    assert run(*arguments) == 2
    return capsys.readouterr().err


def test_false_alarms_are_learned(detector, alarms, capsys):
    before = skanomaly.load(detector)
    facts = facts_of(capsys, detector, alarms)
    assert facts == {
        "file": str(detector), "n_learned": 3, "n_flagged": 3, "n_flagged_after": 0,
        "n_forgotten": 0, "offset": before.offset_, "offset_before": before.offset_,
    }  # fmt: skip
    model = skanomaly.load(detector)
    assert (model.predict(sorted(map(str, alarms.iterdir()))) == 1).all()
    assert model.n_images_ == before.n_images_ + 3
    prints = {fingerprint(image) for image in alarms.iterdir()}
    assert set(model.learned_images_.tolist()) == set(before.learned_images_.tolist()) | prints
    assert set(model.seen_images_.tolist()) == set(before.seen_images_.tolist()) | prints
    assert len(model.learned_images_) == model.n_images_


def test_the_same_images_are_learned_once(detector, alarms, capsys):
    content = detector.read_bytes()
    out = detector.with_name("out.skanomaly")
    assert run("update", detector, alarms, "-o", out) == 0
    printed = capsys.readouterr()
    assert "learned from 3 good images, of which 3 were flagged before and 0 are now" in printed.out
    assert "(as before)" in printed.out and f"written to {out}" in printed.out
    assert detector.read_bytes() == content
    assert "images that the detector does not know" in error_of(capsys, "update", out, alarms)
    Image.new("RGB", (64, 64), "gray").save(alarms / "new.png")
    assert run("update", out, alarms) == 0
    assert "note: 3 of 4 images are known already" in capsys.readouterr().err


def test_images_are_forgotten_and_may_come_back(detector, part, capsys):
    images = load_folder(part).train.images
    before = skanomaly.load(detector)
    facts = facts_of(capsys, detector, "--forget", images[3], images[5])
    assert facts["n_forgotten"] == 2 and facts["n_learned"] == 0
    model = skanomaly.load(detector)
    bank = model.estimator_["detector"]
    assert np.array_equal(np.flatnonzero(~bank.learned_from_), [3, 5])
    assert len(model.oof_scores_) == len(before.oof_scores_) - 2
    assert facts["offset"] == model.offset_
    assert not {fingerprint(images[i]) for i in (3, 5)} & set(model.learned_images_.tolist())
    assert facts_of(capsys, detector, images[3])["n_learned"] == 1
    known = skanomaly.load(detector).learned_images_.tolist()
    assert known[-1] == fingerprint(images[3]) and known[3] == known[5] == b""
    assert "expected images that the detector was fitted on" in error_of(
        capsys, "update", detector, "--forget", images[5]
    )


def test_a_fair_sample_moves_the_threshold(detector, part, capsys):
    good = part / "test" / "good"
    before = skanomaly.load(detector)
    facts = facts_of(capsys, detector, good, "--representative")
    model = skanomaly.load(detector)
    assert facts["n_learned"] == 6 and len(model.oof_scores_) == len(before.oof_scores_) + 6
    assert facts["offset"] == model.offset_ != before.offset_


def test_a_review_is_learned(detector, part, alarms, tmp_path, capsys):
    images = load_folder(part).train.images
    shutil.copy(images[2], tmp_path / "bad_after_all.png")
    missed = sorted((part / "test" / "stain").iterdir())[0]
    review = tmp_path / "review.json"
    entries = [
        {"image": "alarms/0.png", "verdict": "good"},
        {"image": "bad_after_all.png", "verdict": "defect"},
        {"image": str(missed), "verdict": "defect"},
    ]
    review.write_text(json.dumps(entries))
    capsys.readouterr()
    assert run("update", detector, "--review", review) == 0
    printed = capsys.readouterr()
    assert "learned from 1 good images" in printed.out and "forgot 1" in printed.out
    assert f"note: missed defects teach nothing, as they were not learned from: {missed}" in (
        printed.err
    )
    assert not skanomaly.load(detector).estimator_["detector"].learned_from_[2]


def test_padim_forgets_by_its_images(part, tmp_path, capsys):
    detector = tmp_path / "padim.skanomaly"
    assert run(
        "fit", part, "-o", detector, "--features", "filter_bank", "--image-size", 64,
        "--detector", "padim", "--target-fpr", 0.1, "--no-trial",
    ) == 0  # fmt: skip
    n = skanomaly.load(detector).estimator_["detector"].gaussian_.n_samples_seen_
    assert facts_of(capsys, detector, "--forget", load_folder(part).train.images[0])
    assert skanomaly.load(detector).estimator_["detector"].gaussian_.n_samples_seen_ == n - 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "got no JSON"),
        ("{}", "got dict"),
        ('[{"image": "a.png", "verdict": "fine"}]', "as entry 0"),
        ('[{"image": 3, "verdict": "good"}]', "as entry 0"),
        ('[{"image": "b.png", "verdict": ["good"]}]', "as entry 0"),
        ('[{"image": "b.png", "verdict": "good"}, null]', "as entry 1"),
        ('[{"image": "b.png", "verd', "got no JSON"),
        ('[{"image": "a.png", "verdict": "good"}]', "no such image file"),
        (
            '[{"image": "b.png", "verdict": "good"}, {"image": "b.png", "verdict": "defect"}]',
            "both",
        ),
    ],
)
def test_bad_reviews(detector, tmp_path, capsys, text, match):
    Image.new("L", (8, 8)).save(tmp_path / "b.png")
    review = tmp_path / "review.json"
    review.write_text(text)
    match = match.replace("both", "is called good and defect")
    content = detector.read_bytes()
    assert match in error_of(capsys, "update", detector, "--review", review)
    assert detector.read_bytes() == content


def test_what_update_refuses(detector, part, capsys):
    images = load_folder(part).train.images
    content = detector.read_bytes()
    assert "images to --forget, got none" in error_of(capsys, "update", detector)
    assert "no such image file" in error_of(capsys, "update", detector, "nowhere.png")
    everything = error_of(capsys, "update", detector, "--forget", *images)
    assert "expected at least one image to be left" in everything
    assert detector.read_bytes() == content
    model = skanomaly.load(detector)
    del model.learned_images_
    skanomaly.dump(model, detector)
    assert "the order of its images" in error_of(capsys, "update", detector, "--forget", images[0])


def test_evaluate_reads_a_review(detector, part, tmp_path, capsys):
    def metrics(*more):
        capsys.readouterr()
        assert run("evaluate", detector, part, "--json", *more) == 0
        printed = capsys.readouterr()
        return json.loads(printed.out), printed.err

    plain, _ = metrics()
    stain = sorted((part / "test" / "stain").iterdir())[0]
    good = sorted((part / "test" / "good").iterdir())[0]
    review = tmp_path / "review.json"
    review.write_text(json.dumps([{"image": str(stain), "verdict": "good"}]))
    found, notes = metrics("--review", review)
    assert (found["n_good"], found["n_defects"]) == (plain["n_good"] + 1, plain["n_defects"] - 1)
    assert "aupro" in found and "1 of its 1 images are among the test images" in notes
    review.write_text(json.dumps([{"image": str(good), "verdict": "defect"}]))
    found, notes = metrics("--review", review)
    assert (found["n_good"], found["n_defects"]) == (plain["n_good"] - 1, plain["n_defects"] + 1)
    assert "aupro" not in found and "a defect without a mask; pixels are not measured" in notes
    assert found["by_kind"]["reviewed"]["n_defects"] == 1
