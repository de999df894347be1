"""Searches and folds in processes and on a cluster: the numbers of one process, in fair shares."""

import functools
import pickle
import sys
import time
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_validate

from skanomaly import SPADE, FeatureMaps, FilterBank, PaDiM, PatchCore, Pipeline
from skanomaly.datasets import make_defects, make_textures
from skanomaly.density import _covariances
from skanomaly.io import digest
from skanomaly.metrics import _inputs, pixel_roc_auc_score
from skanomaly.model_selection import DetectorSearchCV, GoodOnlyKFold, HeldOutThreshold, scorers
from skanomaly.neighbors import PatchIndex
from skanomaly.utils import threads
from skanomaly.utils.dask_worker import current_worker
from skanomaly.utils.memory_budget import available_memory
from skanomaly.utils.threads import count_processors, count_threads


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Paths of good images."""
    folder = tmp_path_factory.mktemp("good")
    for i, image in enumerate(make_textures(18, size=64, random_state=0)):
        Image.fromarray(image).save(folder / f"{i:02}.png")
    return sorted(map(str, folder.iterdir()))


@pytest.fixture(scope="module")
def alone(good):
    """Results of one process, each computed once."""
    return functools.cache(lambda work: work(good))


@pytest.fixture(params=["loky", "dask"])
def elsewhere(request):
    """Context in which joblib computes in other processes."""
    options = {"n_jobs": 2}
    if request.param == "dask":
        options = {"client": request.getfixturevalue("cluster_client")}
    return joblib.parallel_config(request.param, **options)


def pipeline(detector):
    features = FilterBank(n_filters=4, image_size=64, random_state=0)
    return Pipeline([("features", features), ("detector", detector)])


def without_times(found):
    return {name: values for name, values in found.items() if "time" not in name}


def search(images):
    defects, masks, _ = make_defects(make_textures(4, size=64, random_state=1), random_state=0)
    grid = {
        "detector": [PatchCore(coreset_ratio=0.1, random_state=0), PaDiM(random_state=0)],
        "detector__sigma": [2.0, 4.0],
    }
    y = [None] * len(images) + list(masks)
    return without_times(
        GridSearchCV(
            pipeline(PaDiM()),
            grid,
            cv=GoodOnlyKFold(2),
            scoring=scorers("image_auroc", "aupro"),
            refit="aupro",
        )
        .fit([*images, *defects], y)
        .cv_results_
    )


def validate(images):
    model = pipeline(PatchCore(coreset_ratio=0.1, random_state=0))
    score = scorers("image_auroc", synthetic=True)
    return without_times(cross_validate(model, images, cv=3, scoring=score))


def held_out(images):
    model = HeldOutThreshold(
        pipeline(PaDiM(random_state=0)), target_fpr=0.2, cv=3, random_state=0, method="folds"
    ).fit(images)
    return {"offset": model.offset_, "scores": model.score_samples(images)}


def nested(images):
    model = HeldOutThreshold(pipeline(PaDiM(random_state=0)), cv=2, random_state=0, method="folds")
    score = scorers("image_auroc", synthetic=True)
    grid = {"target_fpr": [0.1, 0.3]}
    found = GridSearchCV(model, grid, cv=2, scoring=score).fit(images)
    return {**without_times(found.cv_results_), "offset": found.best_estimator_.offset_}


def candidates(images):
    named = [(str(n), pipeline(PaDiM(n_components=n, random_state=0))) for n in (4, 8)]
    found = DetectorSearchCV(named, cv=2, random_state=0).fit(images)
    return {**without_times(found.cv_results_), "offset": found.offset_}


@pytest.mark.parametrize(
    "work", [search, validate, held_out, nested, candidates], ids=lambda f: f.__name__
)
def test_the_numbers_are_those_of_one_process(work, good, elsewhere, alone):
    expected = alone(work)
    with elsewhere:
        found = work(good)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if not name.startswith("param"):
            np.testing.assert_array_equal(found[name], values)


# --- what travels -----------------------------------------------------------------------------


class Sent:
    """Bytes that pass through the scheduler or between workers."""

    def __init__(self, client, monkeypatch):
        from distributed.comm.tcp import TCP

        self.client, self.n_bytes, write = client, 0, TCP.write

        async def counted(comm, *args, **options):
            n_bytes = await write(comm, *args, **options)
            self.n_bytes += n_bytes
            return n_bytes

        self.before = self.of_workers()
        monkeypatch.setattr(TCP, "write", counted)

    def of_workers(self):
        sent = self.client.run(lambda dask_worker: dask_worker.transfer_outgoing_bytes_total)
        return sum(sent.values())

    def total(self):
        return self.n_bytes + self.of_workers() - self.before


@pytest.mark.parametrize("kind", ["stored", "streamed"])
def test_features_travel_to_each_worker_once(kind, cluster_client, monkeypatch):
    if kind == "stored":
        values = np.random.default_rng(0).random((40, 16, 16, 64), dtype=np.float32)
        X, n_bytes = FeatureMaps({"layer": values}), values.nbytes
    else:
        images = list(make_textures(24, size=256, random_state=0))
        features = FilterBank(n_filters=4, image_size=64, random_state=0, memory_limit=1)
        X, n_bytes = features.fit_transform(images), sum(image.nbytes for image in images)
        assert not X.is_stored
    y = np.ones(len(X))
    grid = {"n_components": [2, 3], "sigma": [1.0, 2.0]}
    detector = PaDiM(contamination=None, updatable=False, random_state=0)
    found = GridSearchCV(detector, grid, cv=2, refit=False, scoring=largest_score)
    sent = Sent(cluster_client, monkeypatch)
    with joblib.parallel_config("dask", client=cluster_client):
        found.fit(X, y)
    assert n_bytes < sent.total() < 4 * n_bytes  # 8 tasks


def largest_score(detector, X, y=None):
    return detector.score_samples(X).max()


def test_features_pickle_to_the_images_that_they_are_of(tmp_path):
    images = make_textures(20, size=128, random_state=0)
    for cache in (None, tmp_path):
        for collection in (images, list(images)):
            features = FilterBank(
                n_filters=4, image_size=64, random_state=0, memory_limit=1, cache=cache
            )
            X = features.fit_transform(collection)
            one, all_ = (len(pickle.dumps(maps)) for maps in (X[3:4], X))
            assert images[0].nbytes < one < 1.5 * images[0].nbytes
            assert images.nbytes < all_ < 1.1 * images.nbytes
            # By their size dask tells whether to send them once.
            assert images.nbytes < sys.getsizeof(X) < 1.1 * images.nbytes
            assert images[0].nbytes < sys.getsizeof(X[[5]]) < 1.1 * images[0].nbytes
            again = pickle.loads(pickle.dumps(X[[7, 2]])).arrays()["energies"]
            np.testing.assert_array_equal(again, X.arrays()["energies"][[7, 2]])
    stored = X.store()
    assert stored.nbytes < sys.getsizeof(stored) < stored.nbytes + 1000
    assert len(pickle.dumps(stored)) < 1.1 * stored.nbytes
    both = np.hstack([stored, stored[:]])
    assert 2 * stored.nbytes < sys.getsizeof(both) < 2 * stored.nbytes + 1000


# --- shares of a machine ----------------------------------------------------------------------


def test_threads_are_counted_in_this_process(cluster_client):
    rows = np.random.default_rng(0).random((50, 4), dtype=np.float32)
    with joblib.parallel_config("dask", client=cluster_client):
        assert joblib.effective_n_jobs(3) == 2  # the cluster's processors
        for n_jobs in (1, 2, 3):
            assert PatchIndex(n_jobs=n_jobs).fit(rows)._prepared().n_threads == n_jobs
        assert count_threads(-1, 1) == count_processors()


@pytest.mark.parametrize(
    ("of_machine", "of_numba", "expected"), [(8, None, 8), (8, "3", 3), (2, "3", 2), (4, "", 4)]
)
def test_the_share_is_the_smallest_limit(of_machine, of_numba, expected, monkeypatch):
    monkeypatch.setattr(threads, "_counted_by_joblib", lambda: of_machine)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    if of_numba is not None:
        monkeypatch.setenv("NUMBA_NUM_THREADS", of_numba)
    assert count_processors() == expected
    assert count_threads(None, 100) == count_threads(-1, 1) == expected
    assert count_threads(None, 2) == 2
    assert count_threads(-2, 1) == expected - 1
    assert count_threads(-50, 1) == 1
    assert count_threads(50, 1) == 50  # as asked
    with pytest.raises(ValueError, match="n_jobs must be None, -1 or at least 1, got 0"):
        count_threads(0, 1)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_share_reaches_densities_and_metrics(n_threads, monkeypatch):
    sizes = []

    class Counted(threads._Pool):
        def __init__(self, n_threads):
            sizes.append(n_threads)
            super().__init__(n_threads)

    monkeypatch.setattr(threads, "_Pool", Counted)
    monkeypatch.setattr(threads, "_counted_by_joblib", lambda: n_threads)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    _covariances.in_threads(abs, range(5))
    expected = [] if n_threads == 1 else [n_threads]  # one: the calling thread
    assert sizes == expected
    sizes.clear()
    monkeypatch.setattr(_inputs, "_PIECE_SIZE", 10)
    maps = np.random.default_rng(0).random((10, 5, 2))
    is_defect = np.arange(100).reshape(maps.shape) % 4 == 0
    wins = maps[is_defect][:, None] > maps[~is_defect]
    assert pixel_roc_auc_score(is_defect, maps) == pytest.approx(wins.mean())
    assert sizes == 2 * expected  # to check the images, and to sort their pixels


def test_detectors_take_as_many_threads_as_they_are_told(monkeypatch):
    sizes, pool = [], threads._Pool

    def counted(n_threads):
        sizes.append(n_threads)
        return pool(n_threads)

    X = np.random.default_rng(0).random((20, 8, 8, 20), dtype=np.float32)
    for detector in (PaDiM(n_components=None), SPADE(n_neighbors=2)):
        expected = detector.fit(X).score_map(X)
        monkeypatch.setattr(threads, "_Pool", counted)
        for n_jobs in (1, 3):
            sizes.clear()
            found = clone(detector).set_params(n_jobs=n_jobs).fit(X).score_map(X)
            np.testing.assert_array_equal(found, expected)
            # One is the calling thread; where there are fewer pieces of work there are fewer.
            assert max(sizes, default=1) == n_jobs
        monkeypatch.undo()
    with threads.using_threads(5), threads.using_threads(None):
        assert count_processors() == count_threads(None, 9) == 5


def test_torch_takes_no_more_threads_than_the_share(monkeypatch):
    import torch

    limits = []
    monkeypatch.setattr(threads, "_limit_openmp", lambda n=1: limits.append(n) or SimpleContext())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    for n, expected in ((2, [2]), (4, []), (9, [])):
        limits.clear()
        monkeypatch.setattr(threads, "_counted_by_joblib", lambda n=n: n)
        with threads.limit_if_shared():
            pass
        assert limits == expected


class SimpleContext:
    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None


def share_of_task():
    worker = current_worker()
    return {
        "processors": count_processors(),
        "threads": (count_threads(None, 8), count_threads(-1, 8), count_threads(2, 8)),
        "index": PatchIndex().fit(np.eye(3))._prepared().n_threads,
        "left": available_memory("/nowhere"),
        "used": worker.monitor.get_process_memory(),
    }


def test_a_worker_of_a_cluster_has_its_share(cluster_client):
    found = cluster_client.submit(share_of_task, pure=False).result()
    assert found["processors"] == found["index"] == 1
    assert found["threads"] == (1, 1, 2)
    n_bytes = 0.95 * 3e9  # where dask ends a process of 3 GB
    assert found["left"] + found["used"] == pytest.approx(n_bytes, rel=0.02)


def test_outside_of_tasks_there_is_no_worker(monkeypatch):
    assert current_worker() is None
    # A half imported package, or a script of that name.
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace())
    assert current_worker() is None


# --- one cache --------------------------------------------------------------------------------


class Slow(FilterBank):
    """Counts the images that it computes, slowly enough for another worker to be in between."""

    n_computed = 0

    def _features(self, batch):
        Slow.n_computed += len(batch)
        time.sleep(0.005 * len(batch))
        return super()._features(batch)


def fill(extractor, images):
    before = Slow.n_computed
    found = extractor.transform(images).arrays()["energies"]
    return Slow.n_computed - before, digest(found)


def test_two_cold_workers_share_the_work(cluster_client, tmp_path):
    images = list(make_textures(96, size=64, random_state=0))
    extractor = Slow(n_filters=4, image_size=64, random_state=0, cache=tmp_path).fit(images[:4])
    plain = FilterBank(n_filters=4, image_size=64, random_state=0).fit(images[:4])
    workers = list(cluster_client.scheduler_info()["workers"])
    tasks = [
        cluster_client.submit(fill, extractor, images, workers=[worker], pure=False)
        for worker in workers
    ]
    counts, digests = zip(*cluster_client.gather(tasks), strict=True)
    assert set(digests) == {digest(plain.transform(images).arrays()["energies"])}
    assert 96 <= sum(counts) <= 96 + 32  # 192 without claims
    assert not list(tmp_path.glob(".claim-*"))
