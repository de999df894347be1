"""Two detectors on the same images: verdicts that differ, counts, the page, the command."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
from cli_parts import fit, make_part, run, unfinished
from PIL import Image
from scipy.stats import binomtest
from sklearn.exceptions import NotFittedError

import skanomaly
from skanomaly import FilterBank, PaDiM, PatchCore, Pipeline
from skanomaly.datasets import load_folder, make_textures
from skanomaly.exceptions import ImageError
from skanomaly.model_selection import HeldOutThreshold
from skanomaly.report import Comparison, compare


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return make_part(tmp_path_factory.mktemp("compare") / "part")


@pytest.fixture(scope="module")
def first(part):
    return fit(part)


@pytest.fixture(scope="module")
def second(part, first):
    """Another detector, which flags three of the six good test images."""
    features = FilterBank(n_filters=4, image_size=64, random_state=0)
    pipe = Pipeline([("features", features), ("detector", PaDiM(random_state=0))])
    data = load_folder(part)
    model = HeldOutThreshold(pipe, target_fpr=0.1).fit(data.train.images)
    model.set_offset(float(np.median(model.score_samples(data.test.images[:6]))))
    file = part.parent / "other.skanomaly"
    skanomaly.dump(model, file)
    return file


@pytest.fixture(scope="module")
def found(part, first, second):
    data = load_folder(part)
    models = map(skanomaly.load, (first, second))
    return compare(*models, data.test.images, data.test.target, names=data.test.names)


# Results ----------------------------------------------------------------------------------------


def test_verdicts_and_scores_are_those_of_the_detectors(part, first, second, found):
    data = load_folder(part)
    for column, file in enumerate((first, second)):
        model = skanomaly.load(file)
        expected = model.decision_function(data.test.images)
        np.testing.assert_allclose(found.decisions[:, column], expected, rtol=1e-6)
        np.testing.assert_array_equal(found.verdicts[:, column], model.predict(data.test.images))
        typical = np.median(model.oof_scores_) - model.offset_
        assert (typical > 0) == (file == first)  # the other's threshold is above most good images
        typical = typical if typical > 0 else np.median(np.abs(expected))
        np.testing.assert_allclose(found.relative[:, column], expected / typical, rtol=1e-6)
    assert found.differs.any() and not found.differs.all()
    np.testing.assert_array_equal(found.labels, data.test.target)


def test_the_strongest_disagreement_comes_first(found):
    records = found.records()
    assert sorted(record["name"] for record in records) == sorted(found.names)
    n = int(found.differs.sum())
    assert [record["differs"] for record in records] == [True] * n + [False] * (len(records) - n)
    for some in (records[:n], records[n:]):
        gaps = [abs(record["relative_a"] - record["relative_b"]) for record in some]
        assert gaps == sorted(gaps, reverse=True)
    for record in records:
        verdicts = [record[f"verdict_{one}"] == record["label"] for one in "ab"]
        assert verdicts == [record["right"] in (one, "both") for one in "ab"]


def test_counts_add_up_and_the_p_value_is_that_of_the_binomial_test(found):
    counts, records = found.counts, found.records()
    for kind, label in (("good", "good"), ("defects", "defect")):
        some = [record["right"] for record in records if record["label"] == label]
        expected = [some.count(one) for one in ("both", "a", "b", "neither")]
        assert list(counts[kind].values()) == expected
    flagged = [(r["verdict_a"] == "defect", r["verdict_b"] == "defect") for r in records]
    keys = ("both_defect", "only_a_defect", "only_b_defect", "both_good")
    pairs = [(True, True), (True, False), (False, True), (False, False)]
    assert [counts[key] for key in keys] == [flagged.count(pair) for pair in pairs]
    n_a = counts["good"]["only_a_right"] + counts["defects"]["only_a_right"]
    n_b = counts["good"]["only_b_right"] + counts["defects"]["only_b_right"]
    assert n_a + n_b == found.differs.sum()
    assert found.pvalue == pytest.approx(binomtest(n_a, n_a + n_b).pvalue)


@pytest.mark.parametrize(
    ("n_a", "n_b", "pvalue"), [(0, 0, 1), (5, 0, 1 / 16), (1, 1, 1), (8, 1, 10 / 256)]
)
def test_p_values_known_by_hand(n_a, n_b, pvalue):
    decisions = np.array([[1.0, -1.0]] * n_a + [[-1.0, 1.0]] * n_b + [[1.0, 1.0]] * 4)
    names = [str(i) for i in range(len(decisions))]
    labels = np.ones(len(decisions), int)
    made = Comparison(names, ("A", "B"), decisions, decisions, labels, {})
    assert made.pvalue == pytest.approx(pvalue)
    assert Comparison(names, ("A", "B"), decisions, decisions, None, {}).pvalue is None


def test_a_detector_against_itself_never_differs(part, first, tmp_path):
    model, images = skanomaly.load(first), load_folder(part).test.images
    same = compare(model, model, images)
    assert not same.differs.any() and same.views == {} and same.labels is None
    assert set(same.counts) == {"both_good", "both_defect", "only_a_defect", "only_b_defect"}
    assert {record["right"] for record in same.records()} == {""}
    text = same.save(tmp_path / "same.html").read_text(encoding="utf-8")
    assert "the same verdict on every image" in text and "McNemar" not in text


def test_a_detector_without_held_out_scores_is_measured_by_the_images(part, first):
    data = load_folder(part)
    pipe = skanomaly.load(first).estimator_
    pipe[-1].offset_ = np.median(pipe.score_samples(data.test.images))
    made = compare(pipe, pipe, data.test.images)
    decisions = pipe.decision_function(data.test.images)
    expected = decisions / np.median(decisions[decisions >= 0])
    np.testing.assert_allclose(made.relative[:, 0], expected, rtol=1e-6)


def test_heat_maps_are_kept_of_the_images_that_differ_most(part, first, second, found, tmp_path):
    data = load_folder(part)
    models = [skanomaly.load(file) for file in (first, second)]
    few = compare(*models, data.test.images, max_images=1, batch_size=3)
    np.testing.assert_allclose(few.decisions, found.decisions, rtol=1e-6)
    assert set(found.views) == set(np.flatnonzero(found.differs).tolist())
    assert set(few.views) == {found.order[0]}
    text = few.save(tmp_path / "few.html").read_text(encoding="utf-8")
    assert f"{found.differs.sum() - 1} more are in the table alone" in text
    assert text.count("<article>") == 1


# Bad input and hostile names --------------------------------------------------------------------

HOSTILE = [
    '=HYPERLINK("http://a.b")',
    "</h3><script>alert(1)</script>",
    "+1",
    "-2",
    "@cmd",
    "two\nlines, and a comma",
    "not utf-8 \udcff",
]


def test_names_are_text_in_the_page_and_no_formulas_in_the_table(part, first, second, tmp_path):
    data = load_folder(part)
    images = data.test.images[: len(HOSTILE)]
    models = [skanomaly.load(file) for file in (first, second)]
    made = compare(*models, images, names=HOSTILE, detector_names=("<i>", "=B"))
    with open(made.to_csv(tmp_path / "t.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert not any(row["name"].startswith(("=", "+", "-", "@")) for row in rows)
    written = {row["name"].removeprefix("'") for row in rows}
    assert written == {name.replace("\udcff", "\\udcff") for name in HOSTILE}
    assert made.records()[0]["name"] in HOSTILE  # names themselves stay as they are
    made.views.update(dict.fromkeys(range(len(images)), next(iter(made.views.values()))))
    text = made.save(tmp_path / "t.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in text and "<script" not in text and "&lt;i&gt;" in text
    assert text.count("<article>") == len(images)
    assert "default-src &#39;none&#39;; img-src data:" in text
    notebook = made._repr_html_()
    assert "<script" not in notebook and "\udcff" not in notebook and "<i>" not in notebook


def test_what_is_refused(part, first, second, tmp_path):
    data = load_folder(part)
    images, models = data.test.images, [skanomaly.load(file) for file in (first, second)]
    with pytest.raises(ValueError, match="one entry of y per image, got 3 for 10 images"):
        compare(*models, images, data.test.target[:3])
    with pytest.raises(ValueError, match="one name per image"):
        compare(*models, images, names=["a"])
    with pytest.raises(ValueError, match="names of two detectors, got 'AB'"):
        compare(*models, images, detector_names="AB")
    with pytest.raises(ValueError, match="at least one image"):
        compare(*models, [])
    pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", PatchCore())])
    with pytest.raises(NotFittedError):
        compare(models[0], pipe, images)
    pipe["detector"].set_params(contamination=None)
    pipe.fit(data.train.images)
    with pytest.raises(NotFittedError, match="without one; call set_threshold"):
        compare(models[0], pipe, images)
    with pytest.raises(OSError, match="no folder"):
        compare(models[0], models[0], images[:1]).to_csv(tmp_path / "nowhere" / "t.csv")


def test_an_error_names_the_detector_that_does_not_fit_the_images(first):
    four = np.random.default_rng(0).random((12, 64, 64, 4)).astype(np.float32)
    pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", PatchCore())]).fit(four)
    rgb = make_textures(2, size=64, random_state=0)
    with pytest.raises(ImageError, match="B: image 0: expected 4 channels, got 3"):
        compare(skanomaly.load(first), pipe, rgb)


# The command ------------------------------------------------------------------------------------


def test_the_command_writes_a_table_and_a_page(part, first, second, found, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("compare", first, second, part, "--labeled", "-o", out) == 0
    printed = capsys.readouterr()
    n = int(found.differs.sum())
    assert f"verdicts differ on {n} of 10 images" in printed.out
    assert f"McNemar's exact test: p = {found.pvalue:.3g}" in printed.out
    assert sorted(path.name for path in out.iterdir()) == ["comparison.csv", "comparison.html"]
    with open(out / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["right"] for row in rows] == [record["right"] for record in found.records()]
    assert [row["differs"] for row in rows].count("yes") == n
    assert "A: part · B: other" in (out / "comparison.html").read_text(encoding="utf-8")


def test_images_without_labels_and_json(part, first, second, found, tmp_path, capsys):
    arguments = "compare", first, second, part / "test" / "good", part / "test" / "hole"
    assert run(*arguments, "--json", "-o", tmp_path / "out") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["n_images"] == 8 and facts["pvalue"] is None
    assert facts["n_differing"] == sum(record["differs"] for record in facts["images"])
    assert set(facts["counts"]) == {"both_good", "both_defect", "only_a_defect", "only_b_defect"}


def test_a_review_corrects_the_labels(part, first, second, tmp_path, capsys):
    stain = min((part / "test" / "stain").iterdir())
    review = tmp_path / "review.json"
    review.write_text(json.dumps([{"image": str(stain), "verdict": "good"}]))
    arguments = "compare", first, second, part, "--labeled", "--json", "-o", tmp_path / "out"
    sizes = []
    for more in ([], ["--review", review]):
        assert run(*arguments, *more) == 0
        counts = json.loads(capsys.readouterr().out)["counts"]
        sizes.append([sum(counts[kind].values()) for kind in ("good", "defects")])
    assert sizes == [[6, 4], [7, 3]]


def test_detectors_of_one_name_are_told_apart_and_known_images_noted(part, first, tmp_path, capsys):
    other = tmp_path / first.name
    model = skanomaly.load(first)
    shutil.copy(first, other)
    known = part.parent / "known"
    shutil.copytree(part, known)
    shutil.copy(min((part / "train" / "good").iterdir()), known / "test" / "good" / "seen.png")
    assert run("compare", first, other, known, "--labeled", "-o", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert f"A: {first}\nB: {other}\n" in printed.out and "p = 1" in printed.out
    assert len(model.seen_images_) == 30
    assert f"note: {first}: fit or tune has used 1 of these images" in printed.err


def test_errors_leave_what_was_there(part, first, second, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "comparison.csv").write_text("earlier")
    broken, four = tmp_path / "broken.png", tmp_path / "four.tiff"
    broken.write_bytes(b"no image")
    Image.new("CMYK", (64, 64)).save(four)
    damaged, review = tmp_path / "damaged.skanomaly", tmp_path / "review.json"
    damaged.write_bytes(first.read_bytes()[:-100])
    review.write_text('[{"image": ')
    new, bare = part / "test" / "hole", tmp_path / "bare"
    shutil.copytree(part / "train", bare / "train")
    cases = [
        ((first, tmp_path / "none", new), "none: no such detector file"),
        ((first, damaged, new), "damaged"),
        ((first, second, tmp_path / "gone.png"), "gone.png: no such image file"),
        ((first, second, new, broken), "broken.png: not an image"),
        ((first, second, new, "--review", review), "--review needs --labeled"),
        ((first, second, part, "--labeled", "--review", review), "got no JSON"),
        ((first, second, part, new, "--labeled"), "expected one folder or table"),
        ((first, second, bare, "--labeled"), "expected labeled test images, got none"),
    ]
    for arguments, message in cases:
        assert run("compare", *arguments, "-o", out) == 2, arguments
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error, error
    assert (out / "comparison.csv").read_text() == "earlier"
    assert not unfinished(tmp_path)


def test_without_jinja_the_command_says_so_first(first, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert run("compare", first, first, tmp_path, "-o", tmp_path / "out") == 2
    assert "skanomaly compare needs jinja2" in capsys.readouterr().err
