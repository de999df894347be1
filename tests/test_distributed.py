"""Fits and scores on a cluster: those of one process, whatever is lost on the way."""

import genericpath
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import skanomaly
from skanomaly import SPADE, FilterBank, PaDiM, PatchCore, Pipeline
from skanomaly.base import BaseDetector
from skanomaly.coreset import greedy_order_and_radii
from skanomaly.datasets import make_defects, make_textures
from skanomaly.distributed import Distributed, _exact_fit, connect, score_files
from skanomaly.distributed._distributed import _with_fixed_draws
from skanomaly.distributed._fit_graph import FAN_IN
from skanomaly.distributed._partitions import Part
from skanomaly.distributed._running import compute
from skanomaly.exceptions import ImageError, MemoryLimitError, MissingImageError
from skanomaly.model_selection import HeldOutThreshold
from skanomaly.utils.state import snapshot

Client = pytest.importorskip("distributed", reason="needs the extra: dask, distributed").Client
pandas = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow")
dataset = pytest.importorskip("pyarrow.dataset")

N = 23


@pytest.fixture(scope="session")
def client():
    """Two processes of one thread each, with which all tests of this file work."""
    with connect("local:2") as client:
        yield client


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Good images, and in other folders defects and a damaged file."""
    root = tmp_path_factory.mktemp("images")
    good = make_textures(N, size=64, random_state=0)
    bad, _, _ = make_defects(good[:3], kinds=["hole"], size=2, random_state=0)
    return {
        "good": [_save(root / "good" / f"{i:03d}.png", image) for i, image in enumerate(good)],
        "bad": [_save(root / "bad" / f"{i:03d}.png", image) for i, image in enumerate(bad)],
        "damaged": str(root / "damaged.png"),
    }


def _save(path, image):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(image).save(path)
    return str(path)


@pytest.fixture(scope="module")
def damaged(paths):
    Path(paths["damaged"]).write_bytes(Path(paths["good"][0]).read_bytes()[:200])
    return paths["damaged"]


def pipeline(detector, seed=0):
    features = FilterBank(n_filters=4, image_size=64, random_state=seed)
    return Pipeline([("features", features), ("detector", detector)])


def padim(**parameters):
    return PaDiM(n_components=8, **{"random_state": 0, **parameters})


def patchcore(**parameters):
    return PatchCore(bank_size=40, **{"random_state": 0, **parameters})


def state_of(pipe):
    """All that is learned, as arrays that can be compared."""
    extractor, detector = pipe[0], pipe[-1]
    if isinstance(detector, PaDiM):
        own = detector.gaussian_.get_state()
    else:
        own = {k: getattr(detector, k) for k in ("memory_bank_", "memory_origin_", "index_seed_")}
    return {"mean": extractor.mean_, "scale": extractor.scale_, "offset": detector.offset_, **own}


def assert_equal_states(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


# --- fits ------------------------------------------------------------------------------------


class Means(BaseDetector):
    """A detector of ours alone: the mean of all patches, as sums of the parts."""

    def __init__(self, *, contamination=0.01, random_state=None):
        self.contamination = contamination
        self.random_state = random_state

    def _fit(self, X):
        self._fit_as_one_part(X)

    def _plan_parts(self, X, n_images):
        self._begin_plan(X, n_images)
        self.draw_ = np.random.RandomState(self.random_state).randint(2**31)

    def _learn_part(self, X, first):
        rows = X.joined().astype(np.float64)
        return {"sum": rows.sum(axis=(0, 1, 2)), "n": rows[..., 0].size, "order": [first]}

    def _join_parts(self, states):
        return {name: sum((s[name] for s in states[1:]), states[0][name]) for name in states[0]}

    def _fit_from(self, state):
        self.mean_, self.order_ = state["sum"] / state["n"], state["order"]

    def _score_maps(self, X):
        return np.linalg.norm(X.joined() - self.mean_, axis=3)


def test_the_tasks_add_up_to_a_plain_computation(client, paths):
    """Features of FilterBank from 40 images, sums in the order of the parts, y and places."""
    y = np.ones(N, int)
    y[[2, 7]] = -1
    model = Distributed(pipeline(Means(random_state=3)), partition_size=4, n_threshold=9)
    model.fit(paths["good"], y)
    assert model.partition_sizes_.tolist() == [4, 4, 4, 3, 3, 3]  # of 21 good images
    good = [path for path, label in zip(paths["good"], y, strict=True) if label == 1]
    extractor = FilterBank(n_filters=4, image_size=64, random_state=0).fit(good)
    np.testing.assert_array_equal(model.estimator_[0].mean_, extractor.mean_)
    features = extractor.transform(good).joined()
    detector = model.estimator_[-1]
    np.testing.assert_allclose(detector.mean_, features.mean(axis=(0, 1, 2)), rtol=1e-5, atol=1e-6)
    assert detector.order_ == [0, 4, 8, 12, 15, 18]
    np.testing.assert_array_equal(detector.learned_from_, y == 1)
    places = np.linspace(0, 20, 9).astype(int)
    np.testing.assert_array_equal(model.threshold_images_, np.flatnonzero(y == 1)[places])
    scores = model.estimator_.score_samples([good[i] for i in places])
    assert model.offset_ == detector.offset_ == np.percentile(scores, 1)


def test_padim_equals_one_process(client, paths):
    pipe = pipeline(padim())
    alone = clone(pipe).fit(paths["good"])
    model = Distributed(pipe, partition_size=5).fit(paths["good"])
    np.testing.assert_allclose(model.offset_, alone[-1].offset_, rtol=1e-6)
    images = [*paths["good"], *paths["bad"]]
    expected = alone.score_samples(images)
    np.testing.assert_allclose(model.estimator_.score_samples(images), expected, rtol=1e-6)
    # In partitions, by the cluster:
    np.testing.assert_array_equal(
        model.score_samples(images), model.estimator_.score_samples(images)
    )
    np.testing.assert_array_equal(model.predict(images), model.estimator_.predict(images))
    np.testing.assert_array_equal(model.score_map(images), model.estimator_.score_map(images))


def test_patchcore_of_one_part_is_that_of_fit(client, paths):
    pipe = pipeline(patchcore())
    model = Distributed(pipe).fit(paths["good"])
    assert_equal_states(state_of(model.estimator_), state_of(clone(pipe).fit(paths["good"])))


@pytest.fixture
def many_rounds(monkeypatch):
    """Partitions that send a few rows at a time; a list of all rounds."""
    rounds, order_of_shards = [], _exact_fit.order_of_shards

    def counted(ask, *arguments):
        def ask_and_count(numbers, rows):
            rounds.append(len(numbers))
            return ask(numbers, rows)

        return order_of_shards(ask_and_count, *arguments)

    monkeypatch.setattr(_exact_fit, "members_of_each", lambda n_shards: 4)
    monkeypatch.setattr(_exact_fit, "order_of_shards", counted)
    return rounds


@pytest.mark.parametrize("size", [3, 7, 100])
def test_an_exact_coreset_is_that_of_one_process(client, paths, many_rounds, size):
    y = np.ones(N, int)
    y[[4, 20]] = -1
    pipe = pipeline(patchcore())
    alone = clone(pipe).fit(paths["good"], y)
    model = Distributed(pipe, coreset="exact", partition_size=size).fit(paths["good"], y)
    found = model.estimator_
    assert_equal_states(state_of(found), state_of(alone))
    assert found[-1].covering_radius_ == alone[-1].covering_radius_
    np.testing.assert_array_equal(found[-1].memory_frames_, alone[-1].memory_frames_)
    np.testing.assert_array_equal(found[-1].learned_from_, y == 1)
    assert len(many_rounds) > 3
    # The merged one is another, where there are several parts.
    merged = Distributed(pipe, partition_size=3).fit(paths["good"], y).estimator_
    assert (merged[-1].memory_origin_ != alone[-1].memory_origin_).any()


def test_an_exact_coreset_of_regions_and_candidates(client, paths, tmp_path):
    """Partitions differ in patches that count; one has none."""
    roi, _ = corner(tmp_path)
    detector = PatchCore(n_candidates=9, coreset_ratio=0.05, random_state=0)
    pipe = pipeline(detector).set_params(features__roi=roi)
    model = Distributed(pipe, coreset="exact", partition_size=1).fit(paths["good"])
    alone = clone(pipe).fit(paths["good"])
    assert_equal_states(state_of(model.estimator_), state_of(alone))


def test_an_exact_coreset_of_no_patches_is_refused(client, paths):
    """The one candidate is of an image that a fold leaves out."""
    pipe = pipeline(PatchCore(n_candidates=1, random_state=0))
    model = Distributed(HeldOutThreshold(pipe, cv=2), coreset="exact", partition_size=5)
    with pytest.raises(ValueError, match=r"at least one patch of these 1\d images"):
        model.fit(paths["good"])


def test_an_exact_fit_that_loses_a_worker_between_rounds_gives_the_same(
    client, paths, many_rounds, monkeypatch
):
    pipe, order_of_shards = pipeline(patchcore()), _exact_fit.order_of_shards

    def killing(ask, *arguments):
        def ask_and_kill(numbers, rows):
            if len(many_rounds) == 3:
                pid = min(client.run(os.getpid).values())
                os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            return ask(numbers, rows)

        return order_of_shards(ask_and_kill, *arguments)

    monkeypatch.setattr(_exact_fit, "order_of_shards", killing)
    model = Distributed(pipe, coreset="exact", partition_size=4).fit(paths["good"])
    assert len(many_rounds) > 4
    assert_equal_states(state_of(model.estimator_), state_of(clone(pipe).fit(paths["good"])))
    client.wait_for_workers(2, timeout=60)  # the lost one is started again, for the other tests


def test_held_out_images_are_scored_by_exact_coresets_of_the_others(client, paths):
    pipe = pipeline(patchcore())
    inner = HeldOutThreshold(pipe, target_fpr=0.2, cv=2)
    model = Distributed(inner, coreset="exact", partition_size=4).fit(paths["good"])
    found = model.estimator_
    half = model.partition_sizes_[:3].sum()
    features = found.estimator_[0].transform(paths["good"])
    for fold, others in ((slice(half), slice(half, N)), (slice(half, N), slice(half))):
        plan = clone(pipe[-1])
        plan._plan_parts(features[plan._plan_places(N)], N)
        part, first = features[others], others.start or 0
        projected = plan._project_part(part, first)
        n, start = plan._n_selected_and_start(len(projected.rows), len(part))
        order, radii = greedy_order_and_radii(projected.rows, n, start)
        images = plan._images_of(projected, order)
        state = plan._gather_part(part[images], images, first, projected, order)
        plan._fit_from(plan._put_together([(np.arange(n), state)], radii[-1]))
        scores = plan.score_samples(features[fold])
        np.testing.assert_allclose(found.oof_scores_[fold], scores, rtol=1e-6)
    assert found.n_independent_ == len(found.oof_scores_) == N
    assert_equal_states(state_of(found.estimator_), state_of(clone(pipe).fit(paths["good"])))


def test_padim_has_no_coreset_to_be_exact_about(client, paths):
    fits = [
        Distributed(pipeline(padim()), coreset=kind, partition_size=5).fit(paths["good"])
        for kind in ("merged", "exact")
    ]
    assert_equal_states(*(state_of(model.estimator_) for model in fits))


def corner(tmp_path):
    """A file with a region of interest, and its mask."""
    mask = np.zeros((64, 64), dtype=bool)
    mask[:40, 8:] = True
    return mask, _save(tmp_path / "roi" / "roi.png", mask.astype(np.uint8) * 255)


def test_regions_tiles_and_candidates_are_those_of_one_process(
    client, paths, tmp_path, monkeypatch
):
    mask, file = corner(tmp_path)
    monkeypatch.chdir(Path(file).parent)  # not the folder of the workers
    options = {"image_size": 96, "tile_size": 64, "tile_overlap": 16, "roi": "roi.png"}
    options = {f"features__{name}": value for name, value in options.items()}
    detector = PatchCore(n_candidates=300, coreset_ratio=0.05, random_state=0)
    pipe = pipeline(detector).set_params(**options)
    model = Distributed(pipe, partition_size=100).fit(paths["good"]).estimator_
    alone = clone(pipe).fit(paths["good"])
    np.testing.assert_array_equal(model[1].memory_bank_, alone[1].memory_bank_)
    np.testing.assert_array_equal(model[0].roi, mask)
    assert pipe[0].roi == "roi.png"
    found = Distributed(pipe, partition_size=7).fit(paths["good"])
    maps = found.score_samples_and_map(paths["bad"])[1]
    assert (maps[:, ~mask] == 0).all() and maps.max() > 0


def test_a_region_for_each_image_is_refused(client, paths, fitted, tmp_path):
    mask, _ = corner(tmp_path)
    pipe = pipeline(padim()).set_params(features__roi=[mask] * N)
    with pytest.raises(ValueError, match=r"__roi to be one mask .* got one mask for each"):
        Distributed(pipe).fit(paths["good"])
    pipe.fit(paths["good"])
    with pytest.raises(ValueError, match=r"__roi to be one mask .* got one mask for each"):
        score_files(pipe, paths["good"], tmp_path / "scores")


def test_rows_of_the_bank_are_the_patches_they_name(client, paths):
    """In several parts, with images left out: numbers count all images given to fit."""
    y = np.ones(N, int)
    y[4] = -1
    pipe = Distributed(pipeline(patchcore()), partition_size=4).fit(paths["good"], y).estimator_
    patches = pipe[-1]._patches(pipe[0].transform(paths["good"])).reshape(N, 64, -1)
    images, cells = pipe[-1].memory_origin_.T
    assert 4 not in images and images.max() > 18 and len(images) == 40
    np.testing.assert_array_equal(pipe[-1].memory_bank_, patches[images, cells])
    assert pipe[-1].memory_frames_[4].tolist() == [0, 0]
    assert pipe.predict(paths["bad"]).tolist() == [-1, -1, -1]


class KillsOnce:
    """Mixin of detectors that end their process while they learn, the first time."""

    def _learn_part(self, X, first):
        if first >= 9:
            _kill_once(self.flag)
        return super()._learn_part(X, first)


def _kill_once(flag):
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


class KillingPaDiM(KillsOnce, PaDiM):
    def __init__(self, *, n_components=8, contamination=0.01, flag=None, random_state=None):
        super().__init__(
            n_components=n_components, contamination=contamination, random_state=random_state
        )
        self.flag = flag


class KillingPatchCore(KillsOnce, PatchCore):
    def __init__(self, *, bank_size=40, contamination=0.01, flag=None, random_state=None):
        super().__init__(
            bank_size=bank_size, contamination=contamination, random_state=random_state
        )
        self.flag = flag


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("kind", [KillingPaDiM, KillingPatchCore])
def test_a_fit_that_loses_a_worker_gives_the_same(kind, client, paths, tmp_path):
    flag = tmp_path / "killed"
    pipe = pipeline(kind(flag=str(flag)), seed=None)
    lost = Distributed(pipe, partition_size=3).fit(paths["good"]).estimator_
    assert flag.exists()
    # The ints that were drawn for random_state=None are parameters now.
    assert isinstance(lost[0].random_state, int) and isinstance(lost[-1].random_state, int)
    client.wait_for_workers(2, timeout=60)  # the lost one is started again
    again = Distributed(clone(lost), partition_size=3).fit(paths["good"]).estimator_
    assert_equal_states(state_of(lost), state_of(again))


@pytest.mark.parametrize("kind", [padim, patchcore])
def test_the_answer_does_not_depend_on_workers_or_on_who_is_done_first(kind, client, paths):
    def fit():
        return state_of(
            Distributed(pipeline(kind()), partition_size=4).fit(paths["good"]).estimator_
        )

    first = fit()
    for _ in range(3):
        assert_equal_states(first, fit())
    one = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    with Client(**one, dashboard_address=":0", set_as_default=False) as alone, alone.as_current():
        assert_equal_states(first, fit())


def test_random_states_become_ints_that_differ():
    rng = np.random.RandomState(0)
    fixed = [_with_fixed_draws(pipeline(padim(random_state=rng), seed=None)) for _ in range(2)]
    drawn = [[step.random_state for _, step in pipe.steps] for pipe in fixed]
    assert all(isinstance(one, int) for some in drawn for one in some)
    assert drawn[0][0] != drawn[1][0]  # None: another one each time
    assert drawn[0][1] == drawn[1][1] == np.random.RandomState(0).randint(2**31)
    kept = _with_fixed_draws(pipeline(padim(random_state=5)))
    assert (kept[0].random_state, kept[1].random_state) == (0, 5)


@pytest.mark.parametrize("detector", [padim(), patchcore()], ids=["padim", "patchcore"])
def test_held_out_thresholds_come_from_models_without_the_fold(client, paths, detector):
    pipe = pipeline(detector)
    y = np.ones(N, int)
    y[11] = -1
    inner = HeldOutThreshold(pipe, target_fpr=0.2, cv=2)
    model = Distributed(inner, partition_size=4).fit(paths["good"], y)
    found = model.estimator_
    good = [path for path, label in zip(paths["good"], y, strict=True) if label == 1]
    assert isinstance(found, HeldOutThreshold) and found.method_ == "folds"
    np.testing.assert_array_equal(found.good_images_, np.flatnonzero(y == 1))
    assert found.n_independent_ == len(found.oof_scores_) == 22
    # The parts are of 4, 4, 4 and 4, 3, 3 images: the second half's scores, by the first half.
    half = model.partition_sizes_[:3].sum()
    extractor = found.estimator_[0]
    plan = clone(detector)
    features = extractor.transform(good)
    plan._plan_parts(features[plan._plan_places(22)], 22)
    sizes = np.cumsum([0, *model.partition_sizes_[:3]])
    states = [plan._learn_part(features[a:b], a) for a, b in pairwise(sizes)]
    plan._fit_from(plan._join_parts(states))
    expected, maps = plan.score_samples_and_map(features[half:])
    np.testing.assert_allclose(found.oof_scores_[half:], expected, rtol=1e-6)
    np.testing.assert_allclose(found.oof_map_maxima_[half:], maps.max(axis=(1, 2)), rtol=1e-6)
    assert model.offset_ == found.offset_
    np.testing.assert_array_equal(model.predict(good), found.predict(good))


def test_it_can_be_wrapped_searched_and_pickled(client, paths):
    model = Distributed(pipeline(patchcore(contamination=None)), partition_size=8)
    wrapped = HeldOutThreshold(model, target_fpr=0.2, cv=2).fit(paths["good"])
    assert wrapped.predict(paths["bad"]).tolist() == [-1, -1, -1]
    again = pickle.loads(pickle.dumps(wrapped))
    np.testing.assert_array_equal(
        again.score_samples(paths["bad"]), wrapped.estimator_.score_samples(paths["bad"])
    )
    with pytest.raises(NotFittedError, match="without a threshold"):
        wrapped.estimator_.predict(paths["bad"])


def test_as_many_workers_as_are_asked_for():
    with connect("local:3") as client:
        assert list(client.nthreads().values()) == [1, 1, 1]


def test_few_states_are_held_at_a_time(client, paths, monkeypatch):
    """In the order that Dask gives the tasks, of 23 parts; a joined state holds several."""
    order = pytest.importorskip("dask.order").order
    handed_over = []

    def computed(client, task):
        handed_over.append(task)
        return compute(client, task)

    monkeypatch.setattr("skanomaly.distributed._distributed.compute", computed)
    Distributed(pipeline(padim()), partition_size=1).fit(paths["good"])
    graph = dict(handed_over[0].__dask_graph__())
    turn = order(graph)
    states = [key for key in graph if key.startswith("_learn")]
    last_used = {
        state: max(turn[key] for key in graph if state in graph[key].dependencies)
        for state in states
    }
    held = [sum(turn[state] <= now < last_used[state] for state in states) for now in turn.values()]
    assert len(states) == len(paths["good"]) == 23 and max(held) <= FAN_IN


def test_a_bar_counts_images_once(client, paths, capsys):
    Distributed(pipeline(padim()), partition_size=4, n_threshold=5, verbose=1).fit(paths["good"])
    deadline, text = time.monotonic() + 5, ""
    while time.monotonic() < deadline and "/28" not in text:
        text += capsys.readouterr().err
    assert "fit" in text and "/28" in text


# --- scores in files -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(paths):
    """A model with both thresholds, fitted without a cluster."""
    model = HeldOutThreshold(pipeline(patchcore()), target_fpr=0.1, cv=2)
    return model.fit(paths["good"])


def test_rows_are_in_order_with_what_is_found(client, paths, damaged, fitted, tmp_path):
    images = [*paths["good"], damaged, *paths["bad"], "nowhere.png"]
    counts = score_files(fitted, iter(images), tmp_path / "out", partition_size=4)
    table = pandas.read_parquet(tmp_path / "out")
    assert list(table["image"]) == images
    readable = [*paths["good"], *paths["bad"]]
    rows = table[table["error"].isna()]
    np.testing.assert_allclose(rows["score"], fitted.decision_function(readable), rtol=1e-6)
    np.testing.assert_array_equal(rows["is_defect"].astype(bool), rows["score"] < 0)
    regions = skanomaly.score_regions(fitted, readable)
    for i, (_, row) in enumerate(rows.iterrows()):
        own = [region for region in regions if region["image"] == i]
        assert row["n_regions"] == len(own)
        if own:
            largest = max(own, key=lambda region: region["area"])
            box = ("area", "top", "left", "bottom", "right")
            assert [row[k] for k in box] == [largest[k] for k in box]
        else:
            assert row[["area", "top"]].isna().all()
    failed = table[table["error"].notna()]
    assert list(failed["image"]) == [damaged, "nowhere.png"]
    assert failed[["score", "is_defect", "n_regions"]].isna().all(axis=None)
    assert damaged in failed["error"].iloc[0] and "no such image" in failed["error"].iloc[1]
    n_defects = int((rows["score"] < 0).sum())
    assert counts == {"n_images": 28, "n_defects": n_defects, "n_errors": 2} and n_defects >= 1
    assert len({pyarrow.parquet.read_schema(p) for p in (tmp_path / "out").iterdir()}) == 1
    assert sorted(os.listdir(tmp_path / "out")) == [f"{i:06d}.parquet" for i in range(7)]


def test_what_is_there_stays_and_what_is_missing_is_made(client, paths, fitted, tmp_path):
    folder = tmp_path / "out"
    options = {"partition_size": 6}
    score_files(fitted, paths["good"], folder, **options)
    files = sorted(folder.iterdir())
    before = {file: (file.stat().st_ino, file.read_bytes()) for file in files}
    files[1].unlink()
    files[2].write_bytes(b"PAR1")  # damaged
    files[3].write_bytes(before[files[3]][1][:4] + bytes(60) + before[files[3]][1][64:])
    # The model as it is loaded later is the same.
    joblib.dump(fitted, tmp_path / "model.joblib")
    skanomaly.dump(fitted, tmp_path / "model.skanomaly")
    for again in (
        joblib.load(tmp_path / "model.joblib"),
        skanomaly.load(tmp_path / "model.skanomaly"),
        pickle.loads(pickle.dumps(fitted)),
    ):
        assert score_files(again, paths["good"], folder, **options).n_images == N
    for number, file in enumerate(files):
        assert file.read_bytes() == before[file][1]
        assert (file.stat().st_ino == before[file][0]) == (number not in (1, 2, 3))


def test_files_of_another_job_are_refused(client, paths, fitted, tmp_path):
    folder = tmp_path / "out"
    score_files(fitted, paths["good"][:8], folder, partition_size=4)
    with pytest.raises(ValueError, match="scores of other images"):
        score_files(fitted, paths["bad"], folder, partition_size=4)
    with pytest.raises(ValueError, match="another estimator"):
        other = HeldOutThreshold(pipeline(patchcore()), target_fpr=0.2, cv=2).fit(paths["good"])
        score_files(other, paths["good"][:8], folder, partition_size=4)
    with pytest.raises(ValueError, match=r"1 more of an earlier job, such as 000001.parquet"):
        score_files(fitted, paths["good"][:4], folder, partition_size=4)
    counts = score_files(fitted, paths["bad"], folder, partition_size=4, restart=True)
    assert counts.n_images == 3 and os.listdir(folder) == ["000000.parquet"]


def test_relative_paths_from_another_folder_are_other_images(
    client, paths, fitted, tmp_path, monkeypatch
):
    monkeypatch.chdir(Path(paths["good"][0]).parent)
    names = ["000.png", "001.png"]
    score_files(fitted, names, tmp_path / "out")
    score_files(fitted, names, tmp_path / "out")
    monkeypatch.chdir(Path(paths["bad"][0]).parent)
    with pytest.raises(ValueError, match=r"scores of other images.*relative paths"):
        score_files(fitted, names, tmp_path / "out")
    score_files(fitted, paths["good"], tmp_path / "absolute")
    monkeypatch.chdir(tmp_path)
    score_files(fitted, paths["good"], tmp_path / "absolute")


def test_recorded_errors_are_tried_again_where_they_end_the_job(client, paths, fitted, tmp_path):
    images = [paths["good"][0], str(tmp_path / "late.png")]
    assert score_files(fitted, images, tmp_path / "out").n_errors == 1
    with pytest.raises(MissingImageError, match=r"late\.png"):
        score_files(fitted, images, tmp_path / "out", errors="raise")
    Path(images[1]).write_bytes(Path(paths["good"][1]).read_bytes())
    assert score_files(fitted, images, tmp_path / "out").n_errors == 1  # stays
    assert score_files(fitted, images, tmp_path / "out", errors="raise").n_errors == 0


def test_what_was_fitted_on_a_cluster_is_scored_as_what_it_holds(client, paths, tmp_path):
    model = HeldOutThreshold(Distributed(pipeline(padim()), partition_size=8), cv=2)
    model.fit(paths["good"])
    counts = score_files(model, paths["bad"], tmp_path / "scores", partition_size=2)
    table = pandas.read_parquet(tmp_path / "scores")
    assert counts.n_images == len(table) == len(paths["bad"])
    np.testing.assert_allclose(table["score"], model.decision_function(paths["bad"]), rtol=1e-6)
    alone = score_files(model.estimator_, paths["bad"], tmp_path / "alone")
    assert alone.n_images == len(paths["bad"])


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_bad_partition_sizes_are_refused(client, fitted, tmp_path, size):
    with pytest.raises(ValueError, match="partition_size"):
        score_files(fitted, [], tmp_path, partition_size=size)


def test_no_image_gives_an_empty_table(client, fitted, tmp_path):
    counts = score_files(fitted, [], tmp_path / "none")
    assert counts.n_images == 0
    table = pandas.read_parquet(tmp_path / "none")
    assert len(table) == 0 and list(table)[:3] == ["image", "score", "is_defect"]


def test_the_first_error_ends_the_job_if_asked(client, paths, damaged, fitted, tmp_path):
    images = [*paths["good"], damaged]
    with pytest.raises(ImageError, match=r"damaged\.png"):
        score_files(fitted, images, tmp_path / "out", errors="raise", partition_size=4)
    deadline = time.monotonic() + 30  # the other worker's task is not interrupted
    while unfinished := [name for name in os.listdir(tmp_path / "out") if "unfinished" in name]:
        assert time.monotonic() < deadline, unfinished
        time.sleep(0.05)


def test_maps_are_in_archives(client, paths, fitted, tmp_path):
    folder, images = tmp_path / "out", [*paths["good"][:3], *paths["bad"]]
    score_files(fitted, images, folder, partition_size=4)
    score_files(fitted, images, folder, partition_size=4, maps=True)  # made after the tables
    expected = fitted.score_map(images)
    for number, part in enumerate((expected[:4], expected[4:])):
        with np.load(folder / "_maps" / f"{number:06d}.npz") as found:
            assert list(found) == [str(i) for i in range(len(part))]
            np.testing.assert_allclose([found[name] for name in found], part, rtol=1e-5)
    assert len(pandas.read_parquet(folder)) == 6


def test_paths_are_relative_to_this_process(client, paths, fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(paths["good"][0]).parent)
    score_files(fitted, ["000.png", Path("001.png")], tmp_path / "out")
    table = pandas.read_parquet(tmp_path / "out")
    assert list(table["image"]) == ["000.png", "001.png"] and table["error"].isna().all()


def test_urls_are_read_by_the_workers(client, paths, fitted, tmp_path):
    urls = [f"file://{path}" for path in paths["bad"]]
    score_files(fitted, [*urls, "file:///nowhere/1.png", "unheard://1.png"], tmp_path / "out")
    table = pandas.read_parquet(tmp_path / "out")
    expected = fitted.decision_function(paths["bad"])
    np.testing.assert_allclose(table["score"][:3], expected, rtol=1e-6)
    assert "file:///nowhere/1.png: no such image" in table["error"].iloc[3]
    assert table["error"].iloc[4].startswith("unheard://1.png: the file cannot be read")


class Fragile(PaDiM):
    """Ends its process, or says so, when it scores with some files there already."""

    def __init__(self, *, n_components=8, contamination=0.01, flag=None, random_state=None):
        super().__init__(
            n_components=n_components, contamination=contamination, random_state=random_state
        )
        self.flag = flag

    def _score_maps(self, X):
        flag = Path(self.flag)
        if len(list(flag.parent.glob("out/*.parquet"))) >= 2:
            if (flag.parent / "gently").exists():
                flag.touch()
                time.sleep(0.2)
            else:
                _kill_once(flag)
        return super()._score_maps(X)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_job_that_loses_a_worker_is_complete(client, paths, tmp_path):
    flag = tmp_path / "killed"
    model = pipeline(Fragile(flag=str(flag), random_state=0)).fit(paths["good"])
    score_files(model, paths["good"], tmp_path / "out", partition_size=2)
    assert flag.exists()
    table = pandas.read_parquet(tmp_path / "out")
    assert list(table["image"]) == paths["good"]
    np.testing.assert_allclose(table["score"], model.decision_function(paths["good"]), rtol=1e-6)
    assert not [name for name in os.listdir(tmp_path / "out") if "parquet" not in name]
    assert table["n_regions"].isna().all()  # a threshold on maps is that of HeldOutThreshold


def _start(*arguments):
    command = [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_job_that_loses_its_scheduler_says_so_and_goes_on(client, paths, tmp_path):
    flag, place = tmp_path / "begun", tmp_path / "scheduler.json"
    (tmp_path / "gently").touch()
    model = pipeline(Fragile(flag=str(flag), random_state=0)).fit(paths["good"])
    where = ["--scheduler-file", str(place)]
    scheduler = _start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", *where)
    worker = _start("dask_worker", "--nthreads", "1", "--no-nanny", "--no-dashboard", *where)

    def end():
        while not flag.exists():
            time.sleep(0.01)
        scheduler.kill()

    thread = threading.Thread(target=end)
    thread.start()
    try:
        while not place.exists() or not place.stat().st_size:
            time.sleep(0.05)
        address = json.loads(place.read_text())["address"]
        message = r"scheduler was lost.*the same call again goes on"
        with pytest.raises(ConnectionError, match=message), connect(address):
            score_files(model, paths["good"], tmp_path / "out", partition_size=1)
    finally:
        flag.touch()
        thread.join()
        worker.kill()
        scheduler.wait()
        worker.wait()
    written = {file: file.stat().st_ino for file in (tmp_path / "out").glob("*.parquet")}
    assert 2 <= len(written) < N
    with client.as_current():
        assert score_files(model, paths["good"], tmp_path / "out", partition_size=1).n_images == N
    assert {file: file.stat().st_ino for file in written} == written
    table = pandas.read_parquet(tmp_path / "out")
    assert list(table["image"]) == paths["good"]


# --- what is refused -------------------------------------------------------------------------


def test_refusals(client, paths, tmp_path):
    with pytest.raises(NotImplementedError, match="for thousands of images, not millions"):
        Distributed(pipeline(SPADE())).fit(paths["good"])
    with pytest.raises(NotImplementedError, match="GANomaly cannot be fitted in parts"):
        Distributed(skanomaly.GANomaly()).fit(paths["good"])
    with pytest.raises(ValueError, match=r"expected a Pipeline of an extractor .* got FilterBank"):
        Distributed(FilterBank()).fit(paths["good"])
    with pytest.raises(ValueError, match="the paths of at least one image, got none"):
        Distributed(pipeline(padim())).fit([])
    with pytest.raises(ValueError, match=r"image 0: expected a path or a URL, got ndarray"):
        Distributed(pipeline(padim())).fit(make_textures(2, size=64))
    with pytest.raises(ValueError, match="expected a list of paths or URLs"):
        Distributed(pipeline(padim())).fit("my_part")
    with pytest.raises(ValueError, match=r"labels \+1"):
        Distributed(pipeline(padim())).fit(paths["good"], [0, 1] * 11 + [1])
    with pytest.raises(MissingImageError, match=r"nowhere\.png: no such image file"):
        Distributed(pipeline(padim())).fit([*paths["good"], str(tmp_path / "nowhere.png")])
    with pytest.raises(ValueError, match="n_components"):
        Distributed(pipeline(padim().set_params(n_components=-1))).fit(paths["good"])
    held = HeldOutThreshold(pipeline(padim()), method="leave_one_out")
    with pytest.raises(ValueError, match="whole partitions are held out"):
        Distributed(held).fit(paths["good"])
    with pytest.raises(ValueError, match="2 to 23 folds"):
        Distributed(HeldOutThreshold(pipeline(padim()), cv=24)).fit(paths["good"])
    with pytest.raises(NotFittedError):
        Distributed(pipeline(padim())).predict(paths["good"])


def test_without_a_client_it_says_how_to_get_one(paths, monkeypatch):
    import distributed

    def none():
        raise ValueError("No clients found")

    monkeypatch.setattr(distributed.Client, "current", none)
    with pytest.raises(ValueError, match=r"expected a client of a Dask cluster.*connect"):
        Distributed(pipeline(padim())).fit(paths["good"])


def test_a_failed_fit_changes_nothing(client, paths, damaged):
    model = Distributed(pipeline(padim()), partition_size=8).fit(paths["good"])
    before = state_of(model.estimator_)
    with pytest.raises(ImageError, match=r"damaged\.png"):
        model.fit([*paths["good"], damaged])
    assert_equal_states(state_of(model.estimator_), before)


def test_workers_of_another_version_are_refused(client, paths):
    worker = next(iter(client.scheduler_info()["workers"]))
    client.run(_set_version, "0.0.7", workers=[worker])
    try:
        with pytest.raises(RuntimeError, match=rf"got 0\.0\.7 on {worker}; install the same"):
            Distributed(pipeline(padim())).fit(paths["good"])
    finally:
        client.run(_set_version, skanomaly.__version__, workers=[worker])


def test_a_worker_of_another_version_that_joined_later_refuses_its_tasks(monkeypatch):
    part = Part(["/b/c.png"], 0)
    assert pickle.loads(pickle.dumps(part)).paths == ["/b/c.png"]
    monkeypatch.setattr(skanomaly, "__version__", "0.0.7")
    with pytest.raises(RuntimeError, match=r"on all workers, got 0\.0\.7 on one"):
        pickle.loads(pickle.dumps(part)).paths  # noqa: B018


def test_a_worker_refuses_a_partition_that_its_memory_does_not_hold(client, paths):
    pipe = pipeline(PatchCore(memory_limit=100_000, random_state=0))
    with pytest.raises(MemoryLimitError, match="expected to need"):
        Distributed(pipe, partition_size=23).fit(paths["good"])


def _set_version(version):
    skanomaly.__version__ = version


def test_what_one_worker_alone_sees_is_refused(client, paths, fitted, tmp_path, monkeypatch):
    """Here a file is hidden from one of the two."""
    worker = next(iter(client.scheduler_info()["workers"]))
    client.run(_hide, paths["good"][0], workers=[worker])
    try:
        with pytest.raises(ValueError, match=rf"000\.png: worker {worker} cannot read it"):
            Distributed(pipeline(padim())).fit(paths["good"])
        client.run(_hide, "exists", workers=[worker])
        with pytest.raises(ValueError, match=rf"out: worker {worker} does not see this folder"):
            score_files(fitted, paths["good"], tmp_path / "out")
    finally:
        client.run(_hide, None, workers=[worker])
    assert os.listdir(tmp_path / "out") == []


_TRUE_EXISTS = genericpath.exists  # as which os.path.exists travels


def _hide(what):
    """Make this process blind for a file, for every existing one, or for nothing."""
    from skanomaly.distributed import _clusters

    read = skanomaly.images.image_content

    def blind(item, name):
        if item == what:
            raise MissingImageError(f"{item}: hidden")
        return read(item, name)

    _clusters.image_content = blind
    genericpath.exists = (lambda path: False) if what == "exists" else _TRUE_EXISTS


@pytest.mark.parametrize("address", ["local", "local:0", "8786", "local:-1"])
def test_a_cluster_has_one_of_two_forms(address):
    with pytest.raises(ValueError, match=r'"local:4".*"tcp://HOST:8786"'):
        with connect(address):
            pass


def test_no_scheduler_there(monkeypatch):
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "200ms"}):
        with pytest.raises(ConnectionError, match="no scheduler answers there"):
            with connect("tcp://127.0.0.1:9"):
                pass


# --- the command line ------------------------------------------------------------------------


def test_fit_and_inspect_on_a_cluster(client, paths, damaged, tmp_path, capsys):
    from cli_parts import run

    cluster = "--cluster", client.scheduler.address
    file, out = tmp_path / "part.skanomaly", tmp_path / "out"
    good = Path(paths["good"][0]).parent
    options = ["--features", "filter_bank", "--image-size", 64, "--bank-size", 30, "--no-trial"]
    options += ["--target-fpr", 0.2, "--folds", 2, "-q"]
    assert run("fit", good, "-o", file, *options, *cluster, "--coreset", "exact") == 0
    model = skanomaly.load(file)
    assert isinstance(model, HeldOutThreshold) and model.method_ == "folds"
    assert len(model.estimator_[-1].memory_bank_) == 30
    assert "fitted on 23 good images" in capsys.readouterr().out

    root = good.parent
    assert run("inspect", file, root, "-o", out, "-q", *cluster) == 3
    table = pandas.read_parquet(out)
    names = [*paths["bad"], *paths["good"], damaged]  # bad, damaged.png, good: in natural order
    assert sorted(table["image"]) == sorted(names)
    assert list(table["image"]) == [*paths["bad"], damaged, *paths["good"]]
    rows = table[table["error"].isna()]
    expected = model.decision_function(list(rows["image"]))
    np.testing.assert_allclose(rows["score"], expected, rtol=1e-6)
    said = capsys.readouterr().out
    assert f"{int((expected < 0).sum())} of 27 images are predicted as defective" in said
    assert "1 of 27 could not be read" in said

    before = (out / "000000.parquet").stat().st_ino
    assert run("inspect", file, root, "-o", out, "-q", *cluster) == 3
    assert (out / "000000.parquet").stat().st_ino == before
    assert run("inspect", file, root, "-o", out, "-q", *cluster, "--restart") == 3
    assert run("inspect", file, root, "-o", out, "-q", *cluster, "--strict", "--restart") == 2
    assert "damaged.png" in capsys.readouterr().err
    assert run("inspect", file, root, "--json", *cluster) == 2
    assert "--json is not an option with --cluster" in capsys.readouterr().err
    assert run("inspect", file, root, tmp_path / "none", "-o", out, *cluster) == 2
    assert "none: no such image file" in capsys.readouterr().err
    assert run("inspect", file, root, "-o", out, "--restart") == 2
    (out / "scores.csv").write_text("of an inspection in one process")
    assert run("inspect", file, root, "-o", out, *cluster) == 2
    assert "got one with scores.csv" in capsys.readouterr().err
    assert run("fit", good, "-o", file, "--coreset", "exact", *options) == 2
    assert "--coreset needs --cluster" in capsys.readouterr().err
    exact = "--coreset", "exact", "--detector", "padim"
    assert run("fit", good, "-o", file, *exact, *options[:4], *cluster) == 2
    assert "--coreset is for patchcore, got --detector padim" in capsys.readouterr().err
    assert run("fit", good, "-o", file, "--groups", "0", *cluster) == 2
    assert "--groups with a pattern" in capsys.readouterr().err
    assert run("fit", good, "-o", file, "--detector", "spade", *options[:4], *cluster) == 2
    assert "for thousands of images, not millions" in capsys.readouterr().err


def test_files_are_listed_as_they_are_asked_for(tmp_path):
    from skanomaly.datasets import iterate_images

    for name in ("b/2.png", "b/10.png", "a.png", "c/out/1.png", "c/1.PNG", "d.txt", ".h/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [os.path.relpath(path, tmp_path) for path in iterate_images(tmp_path)]
    assert found == ["a.png", "b/2.png", "b/10.png", "c/1.PNG", "c/out/1.png"]
    without = list(iterate_images(tmp_path, without=tmp_path / "c" / "out"))
    assert [os.path.relpath(path, tmp_path) for path in without] == found[:-1]


SCRIPT = """
import numba, sys
from skanomaly import FilterBank, PatchCore, Pipeline
from skanomaly.distributed import Distributed, connect
from skanomaly.utils.threads import count_processors

if __name__ == "__main__":
    features = FilterBank(n_filters=2, image_size=64, random_state=0)
    pipe = Pipeline([("features", features), ("detector", PatchCore(bank_size=50, random_state=0))])
    with connect("local:1") as client:
        print(list(client.run(count_processors).values()))
        print(Distributed(pipe, partition_size=8).fit(sys.argv[1:]).estimator_[-1].offset_)
"""


def test_a_worker_compiles_what_nobody_has_compiled_before(paths, tmp_path):
    """It has imported numba with the script, before it gets its environment."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    places = {"PYTHONPATH": os.pathsep.join(sys.path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    environment = {**os.environ, **places}
    for name in ("NUMBA_NUM_THREADS", "LOKY_MAX_CPU_COUNT"):
        environment.pop(name, None)
    command = [sys.executable, str(script), *paths["good"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    n_processors, offset = done.stdout.split()  # of one worker
    assert n_processors == "[1]" and float(offset) < 0
    assert any((tmp_path / "cache").rglob("*.nbc"))


# --- without dask ----------------------------------------------------------------------------

WITHOUT_DASK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("dask", "distributed", "pyarrow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def test_the_fitted_estimator_needs_no_dask(client, paths, tmp_path):
    model = Distributed(pipeline(patchcore()), partition_size=8).fit(paths["good"])
    joblib.dump(model.estimator_, tmp_path / "model.joblib")
    skanomaly.dump(model.estimator_, tmp_path / "model.skanomaly")
    code = WITHOUT_DASK + (
        "import joblib, skanomaly\n"
        f"images = {paths['bad']!r}\n"
        f"one = joblib.load({str(tmp_path / 'model.joblib')!r}).score_samples(images)\n"
        f"two = skanomaly.load({str(tmp_path / 'model.skanomaly')!r}).score_samples(images)\n"
        "print(repr(one.tolist()) if (one == two).all() else 'they differ')\n"
        "from skanomaly.distributed import Distributed\n"
        "from skanomaly import FilterBank, PaDiM, Pipeline\n"
        "pipe = Pipeline([('features', FilterBank()), ('detector', PaDiM())])\n"
        "try:\n    Distributed(pipe).fit(images)\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    scores, message = done.stdout.strip().splitlines()
    assert scores == repr(model.estimator_.score_samples(paths["bad"]).tolist()), done.stderr
    assert 'pip install "skanomaly[distributed]"' in message


def test_paths_travel_compactly(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    part = Part(["a.png", "/b/c.png", "s3://d/e.png"], 7)
    assert part.paths == [str(tmp_path / "a.png"), "/b/c.png", "s3://d/e.png"]
    many = Part([f"/data/{i:07d}.png" for i in range(256)], 0)
    assert len(pickle.dumps(many)) < 256 * 40


def test_a_snapshot_reads_on(client, paths):
    """As every wrapper: what is read belongs to one fit."""
    model = Distributed(pipeline(padim()), partition_size=8).fit(paths["good"])
    same = snapshot(model)
    scores = same.estimator_.score_samples(paths["bad"])
    model.fit(paths["good"][:12])
    np.testing.assert_array_equal(same.estimator_.score_samples(paths["bad"]), scores)
    assert not np.array_equal(model.estimator_.score_samples(paths["bad"]), scores)
