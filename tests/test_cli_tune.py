"""tune: candidates from a TOML file, ranked, and the best one as a detector file."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from cli_parts import make_part, run, unfinished
from sklearn.base import clone
from sklearn.model_selection import cross_validate

import skanomaly
from skanomaly.cli import _tune
from skanomaly.cli._grid import Grid, make_candidates, read_grid
from skanomaly.datasets import load_folder
from skanomaly.model_selection import GoodOnlyKFold, HeldOutThreshold, scorers

GRID = """
cv = 2
scoring = ["image_auroc", "aupro"]
target_fpr = 0.1
[grid.features]
image_size = [64]
[grid.detector]
coreset_ratio = [0.02, 0.2]
sigma = [2, 8.0]
"""


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return make_part(tmp_path_factory.mktemp("tune") / "part", n_train=20)


def write(folder, text):
    path = folder / "grid.toml"
    path.write_text(text)
    return path


def test_the_ranking_is_that_of_cross_validation(part, tmp_path, capsys):
    best = tmp_path / "best.skanomaly"
    assert run("tune", part, "--grid", write(tmp_path, GRID), "-o", best, "--json") == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert printed.err == "" and result["output"] == str(best)
    ranking = result["ranking"]
    found = [(r["parameters"]["detector__coreset_ratio"], r["parameters"]["detector__sigma"])
             for r in ranking]  # fmt: skip
    assert sorted(found) == [(0.02, 2), (0.02, 8.0), (0.2, 2), (0.2, 8.0)]
    means = [[r["scores"][name]["mean"] for name in ("image_auroc", "aupro")] for r in ranking]
    assert means == sorted(means, reverse=True)
    assert ranking[0]["rank"] == 1 and means[0] != means[-1]

    model = skanomaly.load(best)
    assert isinstance(model, HeldOutThreshold) and model.target_fpr == 0.1
    pipe = model.estimator
    assert {k: v for k, v in pipe.get_params().items() if k in ranking[0]["parameters"]} == (
        ranking[0]["parameters"]
    )
    assert pipe.get_params()["features__cache"] is None
    data = load_folder(part)
    images = data.train.images + data.test.images
    masks = [None] * 20 + [mask if mask.any() else None for mask in data.test.masks]
    scores = cross_validate(
        clone(pipe),
        images,
        masks,
        cv=GoodOnlyKFold(2, shuffle=True, random_state=0),
        scoring=scorers("image_auroc", "aupro"),
    )
    np.testing.assert_allclose(scores["test_aupro"].mean(), means[0][1], rtol=1e-5)
    assert len(model.good_images_) == 20  # those for training
    assert run("inspect", best, part / "test" / "hole", "-o", tmp_path / "out") == 1
    assert run("evaluate", best, part) == 0
    assert "has used 10 of these images" in capsys.readouterr().err


def test_synthetic_defects_leave_the_real_ones_alone(part, tmp_path, capsys):
    grid = write(tmp_path, GRID.replace("cv = 2", "cv = 2\nsynthetic = true"))
    tables = []
    for folder in (part, part / "train" / "good"):
        best = tmp_path / "best.skanomaly"
        assert run("tune", folder, "--grid", grid, "-o", best) == 0
        printed = capsys.readouterr()
        assert "evaluate it on real defects" in printed.err
        tables.append(printed.out)
    assert tables[0] == tables[1]  # the test part was not looked at
    lines = tables[0].splitlines()
    assert lines[0].split() == ["settings", "rank", "image_auroc", "aupro"]
    assert len(lines) == 7 and "sigma=" in lines[1] and "image_size" not in lines[1]
    assert run("evaluate", best, part) == 0
    assert capsys.readouterr().err == ""  # nothing of the test part is known


def test_detectors_that_take_images(part, tmp_path, capsys):
    text = 'detector = "regad"\ncv = 2\nsynthetic = true\ntarget_fpr = 0.2\n'
    grid = write(tmp_path, text + "[grid.detector]\nimage_size = [64]\npatch_size = [1, 3]\n")
    best = tmp_path / "best.skanomaly"
    assert run("tune", part, "--grid", grid, "-o", best) == 0
    assert set(skanomaly.load(best).estimator.named_steps) == {"detector"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cv = ", "not a TOML file"),
        ("folds = 3", "folds is unknown; allowed are ['cv', 'detector'"),
        ("cv = 1", "cv must be a number of folds, at least 2, got 1"),
        ("cv = true", "cv must be a number of folds, at least 2, got True"),
        ("synthetic = 1", "synthetic must be true or false, got 1"),
        ("target_fpr = 0.9", "target_fpr must be a share above 0 and up to 0.5"),
        ("random_state = -1", "random_state must be an integer, at least 0"),
        ('detector = "patchwork"', "detector must be one of ['patchcore', 'padim'"),
        ('scoring = ["auroc"]', "scoring: expected names of metrics out of ['image_auroc'"),
        ("scoring = []", "scoring: expected names of metrics"),
        ("scoring = [1]", "scoring: expected names of metrics"),
        ('features = "resnet19"\n[grid.detector]\nsigma=[1]', "torchvision classification"),
        ('detector = "regad"\nfeatures = "filter_bank"', "regad takes images; leave out"),
        ('detector = "regad"\n[grid.features]\nimage_size = [64]', "allowed are ['detector']"),
        ("[grid]\nsigma = [1]", "grid.sigma is unknown; allowed are ['detector', 'features']"),
        ("[grid.detector]\nsigma = 2", "grid.detector.sigma must be a list of values"),
        ("[grid.detector]\nsigma = []", "grid.detector.sigma must be a list of values"),
        ("[grid.detector]\nsgima = [2]", "grid.detector.sgima is unknown; allowed are ['"),
        ("[grid.detector]\nverbose = [2]", "grid.detector.verbose is unknown"),
        ("[grid.detector]\nsigma = [-2]", "The 'sigma' parameter of PatchCore must be a float"),
        (
            'features = "filter_bank"\n[grid.features]\nresize = ["zoom"]',
            "The 'resize' parameter of FilterBank must be",
        ),
    ],
)
def test_grids_are_checked_before_any_work(part, text, message, tmp_path, capsys):
    best = tmp_path / "best.skanomaly"
    path = write(tmp_path, text)
    assert run("tune", part, "--grid", path, "-o", best) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not best.exists() and not unfinished(tmp_path)


@pytest.mark.parametrize("where", ["guide", "help"])
def test_documented_grids_are_accepted(where, tmp_path):
    if where == "guide":
        guide = (Path(__file__).parents[1] / "docs" / "guide" / "shell.md").read_text()
        text = re.search(r"^```toml\n(.*?)^```$", guide, flags=re.MULTILINE | re.DOTALL)[1]
    else:
        text = _tune.EPILOG.partition("grid.toml:")[2].partition("examples:")[0]
    grid = read_grid(write(tmp_path, text))
    candidates = make_candidates(grid, 20)
    assert grid.n_candidates == len(candidates) == 12
    for parameters, pipe in candidates:
        assert parameters == {name: pipe.get_params()[name] for name in parameters}
    said = {name for name in Grid.__dataclass_fields__ if re.search(f"^ *{name} = ", text, re.M)}
    assert said == set(Grid.__dataclass_fields__) - {"grid", "path", "weights"}
    if where == "guide":  # it says that these are the defaults
        defaults = Grid(features="filter_bank")
        assert all(getattr(grid, name) == getattr(defaults, name) for name in said)


def test_what_a_folder_lacks(part, tmp_path, capsys):
    bare = make_part(tmp_path / "bare", n_train=4, has_masks=False)
    cases = [
        (part, tmp_path / "no.toml", "no.toml: expected a TOML file to read"),
        (part, tmp_path, "expected a TOML file to read"),
        (part / "train" / "good", write(tmp_path, "cv = 2"), "or set synthetic = true"),
        (
            bare,
            write(tmp_path, 'scoring = ["aupro"]'),
            "aupro needs masks of the defects, got none",
        ),
    ]
    for folder, path, message in cases:
        assert run("tune", folder, "--grid", path, "-o", tmp_path / "best.skanomaly") == 2
        assert message in capsys.readouterr().err
