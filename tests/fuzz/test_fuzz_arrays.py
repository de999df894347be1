"""Arrays, targets, features' slices, settings' files and command lines of all kinds.

Whatever is given, the answer is right or an error of ours: a ValueError or TypeError that says what
was expected. Never another exception, never a score that is not a number.
"""

import contextlib
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.strategies import arrays, bounded, masks, targets
from skanomaly import FeatureMaps, PaDiM, PatchCore, metrics
from skanomaly.cli import main
from skanomaly.cli._grid import read_grid
from skanomaly.images import ImageFit, check_images, load_batch
from skanomaly.model_selection import GoodOnlyKFold, scorers
from skanomaly.regions import map_regions
from skanomaly.utils.memory_budget import parse_memory
from skanomaly.utils.targets import good_images, is_defect

REFUSALS = (ValueError, TypeError)
N = 8


@contextlib.contextmanager
def refusal():
    """Nothing but a refusal may come of it, and one that says something."""
    try:
        yield
    except REFUSALS as error:
        assert len(str(error)) > 15, error


def fitted():
    rng = np.random.default_rng(0)
    return PatchCore(coreset_ratio=1.0, sigma=0.0, random_state=0).fit(
        rng.normal(size=(9, 2, 2, 3))
    )


DETECTOR = fitted()
ROWS = np.random.default_rng(0).normal(size=(N, 3))


# --- arrays -----------------------------------------------------------------------------------


@bounded(120)
@given(arrays())
def test_a_detector_learns_from_an_array_or_refuses_it(X):
    for detector in (PatchCore(coreset_ratio=1.0, random_state=0), PaDiM(random_state=0)):
        with refusal():
            scores = detector.fit(X).score_samples(X)
            assert scores.shape == (len(X),) and np.isfinite(scores).all()
            same = detector.score_samples(np.ascontiguousarray(X))
            np.testing.assert_array_equal(same, scores)


@bounded(120)
@given(arrays(min_dims=3, max_dims=4, max_side=3))
def test_a_fitted_detector_scores_an_array_or_refuses_it(X):
    with refusal():
        scores, maps = DETECTOR.score_samples_and_map(X)
        assert scores.shape == (len(X),) and np.isfinite(scores).all()
        assert maps.shape == X.shape[:3] and np.isfinite(maps).all()


@bounded(100)
@given(arrays(), st.booleans())
def test_images_are_read_or_refused(X, is_list):
    with refusal():
        images = check_images(list(X) if is_list and X.ndim else X)
        pixels, _ = load_batch(images, range(len(images)), ImageFit(8, 8), None)
        assert pixels.dtype == np.float32 and np.isfinite(pixels).all()
        assert pixels.shape[:3] == (len(images), 8, 8)


@bounded(120)
@given(arrays(max_dims=4, max_side=4), st.one_of(masks(3), arrays(max_dims=3, max_side=4)))
def test_metrics_of_pixels_lie_between_0_and_1(maps, truth):
    for metric in (
        metrics.pixel_roc_auc_score,
        metrics.pixel_average_precision_score,
        metrics.f1_max_score,
        metrics.aupro_score,
    ):
        with refusal():
            assert 0 <= metric(truth, maps) <= 1


@bounded(100)
@given(targets(N), arrays(max_dims=2, max_side=N))
def test_metrics_of_images_lie_between_0_and_1(y, scores):
    for metric in (
        metrics.image_roc_auc_score,
        metrics.image_average_precision_score,
        metrics.image_f1_max_score,
    ):
        with refusal():
            assert 0 <= metric(y, scores) <= 1


@bounded(80)
@given(arrays(max_dims=4, max_side=4), st.floats())
def test_regions_of_maps(maps, threshold):
    with refusal():
        for region in map_regions(maps, threshold):
            assert region["area"] >= 1 and region["peak"] > threshold


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones((4, 2, 2, 3), complex), "expected real features, got complex numbers"),
        (np.full((4, 2, 2, 3), 1e30), r"up to 1e\+17, whose squares.*got 1e\+30; scale them"),
        (np.full((4, 3), -1e20), r"got 1e\+20; scale them"),
    ],
    ids=["complex", "large", "large rows"],
)
def test_features_that_cannot_be_squared_are_refused(X, message):
    for call in (PaDiM(random_state=0).fit, DETECTOR.score_samples):
        with pytest.raises(ValueError, match=message):
            call(X)


# --- targets ----------------------------------------------------------------------------------


@bounded(150)
@given(targets(N))
def test_everything_reads_y_alike(y):
    try:
        is_bad = is_defect(y)
    except REFUSALS as error:
        assert len(str(error)) > 15
        with pytest.raises(REFUSALS):
            scorers("image_auroc")(DETECTOR, ROWS, y)
        if y is not None:
            with pytest.raises(REFUSALS):
                next(GoodOnlyKFold(2).split(ROWS, y))
        return
    if len(is_bad) != N:
        with pytest.raises(REFUSALS):
            good_images(y, N)
        with pytest.raises(REFUSALS):
            next(GoodOnlyKFold(2).split(ROWS, y))
        return
    assert is_bad.dtype == bool
    with refusal():
        np.testing.assert_array_equal(good_images(y, N), ~is_bad)
    with refusal():
        for train, test in GoodOnlyKFold(2).split(ROWS, y):
            assert not is_bad[train].any() and set(np.flatnonzero(is_bad)) <= set(test)


# --- slices of features -----------------------------------------------------------------------

MAPS = np.random.default_rng(0).normal(size=(N, 2, 3, 4)).astype(np.float32)
FRAMES = np.arange(2 * N).reshape(N, 2) + 5


def stream(rows, batch_size):
    for first in range(0, len(rows), batch_size):
        some = list(rows[first : first + batch_size])
        yield FeatureMaps({"only": MAPS[some]}, FRAMES[some], ImageFit(4, 6))


KEYS = st.one_of(
    st.integers(-N - 2, N + 1),
    st.slices(N),
    st.lists(st.integers(-N, N - 1), max_size=N),
    st.lists(st.integers(-N, N - 1), max_size=N).map(lambda key: np.array(key, dtype=int)),
    st.lists(st.booleans(), min_size=N, max_size=N).map(np.array),
    st.lists(st.integers(0, N - 1), min_size=1).map(lambda key: (key, Ellipsis)),
)


@bounded(150)
@given(st.lists(KEYS, min_size=1, max_size=3), st.booleans())
def test_slices_of_features_are_those_of_arrays(keys, is_streamed):
    """One after the other, as nested searches take them."""
    X = FeatureMaps({"only": MAPS}, FRAMES, ImageFit(4, 6))
    if is_streamed:
        X = FeatureMaps.streamed(list(range(N)), stream, X.layer_shapes, X.image_fit)
    rows = np.arange(N)
    for key in keys:
        plain = key[0] if isinstance(key, tuple) else key
        plain = [plain] if isinstance(plain, int) else plain
        plain = np.array(plain, dtype=int) if isinstance(plain, list) else plain
        try:
            rows = rows[plain]
        except IndexError:
            with pytest.raises(IndexError):
                X[key]
            return
        X = X[key]
    assert X.shape == (len(rows), MAPS.shape[3]) == (len(X), MAPS.shape[3])
    if len(rows):
        np.testing.assert_array_equal(X.arrays()["only"], MAPS[rows])
        np.testing.assert_array_equal(X.store().frames, FRAMES[rows])


# --- text -------------------------------------------------------------------------------------

SIZES = st.one_of(
    st.text(max_size=8),
    st.tuples(st.floats(), st.sampled_from(["", "B", "KB", "gb", "GiB", "X"])).map(
        lambda parts: f"{parts[0]}{parts[1]}"
    ),
    st.integers(),
    st.floats(),
    st.booleans(),
    arrays(max_dims=1),
)


@bounded(150)
@given(SIZES)
def test_sizes_of_memory(limit):
    with refusal():
        assert parse_memory(limit) >= 1


NAMES = st.sampled_from(
    ["features", "detector", "weights", "cv", "scoring", "synthetic", "target_fpr",
     "random_state", "grid", "grid.detector", "grid.features", "sigma", "coreset_ratio"]
)  # fmt: skip
VALUES = st.one_of(
    st.integers(-5, 5).map(str),
    st.floats(width=16).map(str),
    st.sampled_from(
        ['"patchcore"', '"regad"', '"filter_bank"', '["image_auroc"]', '["aupro", 3]', "[1, 2]",
         "[]", "{}", "true", "nan", "1979-05-27", '"\\u0000"', "{ sigma = [1] }", "[[1], [2]]"]
    ),
)  # fmt: skip
LINES = st.one_of(
    st.tuples(NAMES, VALUES).map(" = ".join),
    NAMES.map("[{}]".format),
    st.text(max_size=12),
)


@bounded(150)
@given(st.lists(LINES, max_size=5).map("\n".join), st.binary(max_size=6))
def test_files_of_settings(tmp_path_factory, text, more):
    path = tmp_path_factory.getbasetemp() / "grid.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass") + (more if len(more) > 4 else b""))
    with pytest.MonkeyPatch.context() as patch, refusal():
        patch.chdir(path.parent)
        grid = read_grid(path)
        assert grid.cv >= 2 and 0 < grid.target_fpr <= 0.5


COMMANDS = ["demo", "fit", "inspect", "evaluate", "tune", "check"]
WORDS = st.one_of(
    st.sampled_from(
        ["--json", "-o", "out", "--report", "r.html", "--threshold", "--target-fpr", "0.5", "-1",
         "nan", "inf", "--detector", "patchcore", "nothing", "--features", "resnet18", "--grid",
         "--verbose", "-q", "--quiet", "--cv", "--", "-", "", ".", "missing", "a.skanomaly",
         "--image-size", "64", "--seed", "0", "--limit"]
    ),
    st.text(max_size=6),
)  # fmt: skip


@bounded(60)
@given(st.sampled_from([*COMMANDS, "", "--version", "chek"]), st.lists(WORDS, max_size=5))
def test_command_lines_end_with_a_code_and_a_message(tmp_path_factory, command, words):
    if command == "demo" and not words:
        words = ["--nothing"]  # all alone it would show its work for seconds
    folder = tmp_path_factory.mktemp("empty")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("skanomaly.cli._demo.run", lambda options: 0)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main([command, *words])
            except SystemExit as end:  # of argparse
                code = end.code
    assert code in (0, 1, 2, None), code
    said = out.getvalue() + err.getvalue()
    assert "Traceback" not in said
    if code == 2:
        assert re.search(r"\S", err.getvalue())
