"""Several threads, forked processes, interrupted fits: nobody meets half of a model."""

import asyncio
import contextlib
import gc
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue

import joblib
import numpy as np
import pytest
from sklearn.feature_selection import VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import FeatureUnion
from threadpoolctl import ThreadpoolController

from skanomaly import (
    SPADE,
    FilterBank,
    PaDiM,
    PatchCore,
    Pipeline,
    nearest_good,
    score_map,
    score_regions,
)
from skanomaly.base import BaseDetector
from skanomaly.datasets import make_textures
from skanomaly.density import PositionwiseGaussian
from skanomaly.exceptions import TrainingError
from skanomaly.model_selection import HeldOutThreshold
from skanomaly.neighbors import GalleryIndex, PatchIndex
from skanomaly.utils import threads
from skanomaly.utils.threads import (
    ForkSafeLock,
    SharedSetting,
    count_processors,
    limit_blas_threads,
    single_threaded_pool,
    using_threads,
)
from skanomaly.utils.unwrapping import decisions_and_maps

N_THREADS = 8
GOOD = make_textures(12, size=64, random_state=0)
OTHERS = 255 - make_textures(12, size=64, random_state=1)
SEEN = make_textures(3, size=64, random_state=2)
can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def make_pipeline(detector=None):
    detector = PatchCore(random_state=0) if detector is None else detector
    features = FilterBank(image_size=64, random_state=0)
    return Pipeline([("features", features), ("detector", detector)])


class Watched(PatchCore):
    """A detector that lets a function look at things in the middle of each of its fits."""

    look = staticmethod(lambda: None)

    def __init__(self, coreset_ratio=0.1, sigma=4.0, contamination=0.01, random_state=0):
        super().__init__(coreset_ratio=coreset_ratio, sigma=sigma, contamination=contamination)
        self.random_state = random_state

    def _fit(self, X):
        super()._fit(X)
        Watched.look()


@pytest.fixture
def look(monkeypatch):
    """Sets the function that looks; what it does in another thread is waited for."""

    def set_look(function):
        def in_thread():
            with ThreadPoolExecutor(1) as pool:
                pool.submit(function).result(timeout=60)

        monkeypatch.setattr(Watched, "look", staticmethod(in_thread))

    return set_look


def answers(model, images=SEEN):
    """Everything a model says of images, as bytes."""
    parts = [model.score_samples(images), model.decision_function(images), model.predict(images)]
    return [np.asarray(part).tobytes() for part in (*parts, *score_map(model, images))]


# --- fit while others read ----------------------------------------------------------------------


def test_during_a_fit_others_see_the_model_before_it(look):
    pipe = make_pipeline(Watched()).fit(GOOD)
    before, seen = answers(pipe), []
    look(lambda: seen.append((answers(pipe), pickle.loads(pickle.dumps(pipe)))))
    assert pipe.fit(OTHERS) is pipe
    ((during, stored),) = seen
    assert during == before
    assert answers(stored) == before  # nor is half of a fit saved
    after = answers(pipe)
    assert after != before
    assert after == answers(make_pipeline(Watched(contamination=0.01)).fit(OTHERS))


@pytest.mark.parametrize("method", ["fit", "fit_predict"])
def test_what_users_hold_is_fitted(method):
    pipe = make_pipeline()
    features, detector = pipe["features"], pipe["detector"]
    getattr(pipe, method)(GOOD)
    assert pipe["features"] is features and pipe["detector"] is detector
    assert pipe.named_steps["detector"] is detector
    expected = pipe.score_samples(SEEN)
    assert np.array_equal(detector.score_samples(features.transform(SEEN)), expected)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt("stop"), ValueError("stop"), TrainingError("stop", {})], ids=repr
)
def test_a_fit_that_ends_early_changes_no_step(error, look):
    pipe = make_pipeline(Watched()).fit(GOOD)
    before = answers(pipe)
    states = [dict(vars(step)) for _, step in pipe.steps]

    def fail():
        raise error

    look(fail)
    with pytest.raises(type(error), match="stop"):
        pipe.fit(OTHERS)
    assert answers(pipe) == before
    for (_, step), state in zip(pipe.steps, states, strict=True):
        assert all(vars(step)[name] is value for name, value in state.items())


def test_a_last_step_that_keeps_what_it_had_learned_does_so_in_a_pipeline():
    class Stopping(PatchCore):
        def fit(self, X, y=None):
            super().fit(X, y)
            raise TrainingError("stopped", {})

    pipe = make_pipeline(Stopping(random_state=0))
    with pytest.raises(TrainingError, match="stopped"):
        pipe.fit(GOOD)
    assert np.array_equal(pipe.score_samples(SEEN), make_pipeline().fit(GOOD).score_samples(SEEN))


def test_steps_within_steps_change_together(look):
    inner = Pipeline([("none", "passthrough"), ("features", FilterBank(image_size=64))])
    pipe = Pipeline([("inner", inner), ("detector", Watched())])
    pipe.set_params(inner__features__random_state=0).fit(GOOD)
    assert pipe["inner"] is inner and pipe["inner"]["features"].random_state == 0
    before, seen = answers(pipe), []
    look(lambda: seen.append(answers(pipe)))
    pipe.fit(OTHERS)
    assert seen == [before]
    assert answers(pipe) != before


def test_a_union_within_a_pipeline_changes_with_it(look):
    union = FeatureUnion([("all", VarianceThreshold()), ("again", VarianceThreshold())])
    pipe = Pipeline([("union", union), ("detector", Watched(coreset_ratio=1.0))])
    rows = np.random.default_rng(0).normal(size=(20, 5))
    pipe.fit(rows)
    before, seen = pipe.score_samples(rows), []
    look(lambda: seen.append(pipe.score_samples(rows)))
    pipe.fit(rows * [1, 1, 1, 1, 0])  # of other widths: old and new do not fit together
    assert np.array_equal(seen[0], before)
    assert pipe["union"] is union and union["all"].get_support().sum() == 4


def test_pipelines_with_a_memory_are_as_in_scikit_learn(tmp_path):
    pipe = make_pipeline().set_params(memory=str(tmp_path))
    features = pipe["features"]
    expected = make_pipeline().fit(GOOD).score_samples(SEEN)
    for _ in range(2):
        assert np.array_equal(pipe.fit(GOOD).score_samples(SEEN), expected)
    assert pipe["features"] is not features  # scikit-learn fits a clone
    assert not hasattr(features, "mean_")


def test_methods_are_there_as_in_scikit_learn():
    assert not hasattr(make_pipeline(), "predict_proba")
    assert not hasattr(make_pipeline(), "transform")
    assert hasattr(Pipeline([("features", FilterBank())]), "transform")
    with pytest.raises(AttributeError, match="has no attribute 'predict_proba'"):
        _ = make_pipeline().predict_proba
    with pytest.raises(ValueError, match="Invalid parameter 'size'"):
        make_pipeline().set_params(detector__size=3)


def make_features():
    return FilterBank(image_size=64, random_state=0)


def of_features(detector):
    """A detector alone, fitted on and asked for features of one extractor."""
    features = make_features().fit(GOOD)
    sets = [features.transform(images) for images in (GOOD, OTHERS, SEEN)]
    return detector, *sets, [detector.predict, detector.score_samples_and_map]


def of_extractor():
    features = make_features()
    return (
        features,
        GOOD,
        OTHERS,
        SEEN,
        [lambda seen: features.transform(seen).arrays()["energies"]],
    )


def of_images(model):
    ask = [model.decision_function, model.score_samples, partial(score_map, model)]
    if isinstance(model, HeldOutThreshold):
        ask += [partial(score_regions, model), partial(decisions_and_maps, model)]
    return model, GOOD, OTHERS, SEEN, ask


REFITTED = {
    "PatchCore": lambda: of_features(PatchCore(coreset_ratio=0.05, random_state=0)),
    "PaDiM": lambda: of_features(PaDiM(n_components=10, random_state=0)),
    "SPADE": lambda: of_features(SPADE(n_neighbors=3)),
    "extractor": of_extractor,
    "Pipeline": lambda: of_images(make_pipeline(PatchCore(coreset_ratio=0.05, random_state=0))),
    "HeldOutThreshold": lambda: of_images(
        HeldOutThreshold(
            make_pipeline(PaDiM(n_components=5, random_state=0)),
            target_fpr=0.2,
            cv=2,
            random_state=0,
        )
    ),
}


@pytest.mark.parametrize("name", REFITTED)
def test_no_answer_mixes_two_models(name):
    model, first, second, seen, questions = REFITTED[name]()
    expected = []
    for images in (first, second):
        model.fit(images)
        expected.append([pickle.dumps(ask(seen)) for ask in questions])
    assert expected[0] != expected[1]
    stop, wrong, counts = threading.Event(), [], [0, 0]

    def read():
        while not stop.is_set():
            for i, ask in enumerate(questions):
                answer = pickle.dumps(ask(seen))
                is_of = [answer == answers[i] for answers in expected]
                counts[0] += is_of[0]
                counts[1] += is_of[1]
                if not any(is_of):
                    wrong.append(i)

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for _ in range(4):
                model.fit(first)
                model.fit(second)
        finally:
            stop.set()
        for reader in readers:
            reader.result(timeout=60)
    assert not wrong
    assert sum(counts) > 10


def test_the_nearest_good_images_are_those_of_one_fit(look):
    model = HeldOutThreshold(
        make_pipeline(Watched(coreset_ratio=1.0)), target_fpr=0.2, cv=2, random_state=0
    )
    model.fit(GOOD)
    before, seen = nearest_good(model, GOOD[:3]), []
    look(lambda: seen.append(nearest_good(model, GOOD[:3])))
    model.fit([*OTHERS, *GOOD], [-1] * len(OTHERS) + [1] * len(GOOD))
    assert all(one == before for one in seen) and seen
    after = nearest_good(model, GOOD[:3])
    assert [spot["good_image"] for spot in after] == [len(OTHERS) + i for i in range(3)]


def test_partial_fits_while_others_read():
    features = make_features().fit(GOOD)
    first, more, seen = (features.transform(images) for images in (GOOD, OTHERS, SEEN))
    detector = PaDiM(n_components=10, contamination=None, random_state=0).fit(first)
    stored = pickle.dumps(detector)
    expected = {detector.score_samples(seen).tobytes()}
    expected.add(detector.partial_fit(more).score_samples(seen).tobytes())
    for _ in range(5):
        one = pickle.loads(stored)  # its factors are not computed yet
        with ThreadPoolExecutor(4) as pool:
            reads = [pool.submit(one.score_samples, seen) for _ in range(4)]
            one.partial_fit(more)
            reads.append(pool.submit(one.score_samples, seen))
        assert {read.result().tobytes() for read in reads} <= expected
        assert one.score_samples(seen).tobytes() in expected
    assert len(expected) == 2


# --- parameters and thresholds that are set while others work -----------------------------------


class Slow(BaseDetector):
    """A detector whose hooks call a function first; scores are the means of the features."""

    def __init__(self, sigma=0.0, contamination=0.1, call=None):
        self.sigma = sigma
        self.contamination = contamination
        self.call = call

    def _fit(self, X):
        self.call.begun()
        self.mean_ = X.arrays()["features"].mean()

    def _score_maps(self, X):
        self.call.asked()
        return X.arrays()["features"].mean(axis=3) - self.mean_


class Calls:
    begun = asked = staticmethod(lambda: None)


ROWS = np.random.default_rng(0).normal(size=(10, 6, 6, 4)).astype(np.float32)


def test_a_running_call_keeps_to_its_parameters():
    calls = Calls()
    detector = Slow(sigma=0.0, call=calls).fit(ROWS)
    before = detector.score_samples(ROWS)
    calls.asked = lambda: detector.set_params(sigma=2.0)
    assert np.array_equal(detector.score_samples(ROWS), before)
    assert detector.sigma == 2.0
    assert not np.array_equal(detector.score_samples(ROWS), before)


def test_a_parameter_set_during_a_fit_stays_set():
    calls = Calls()
    detector = Slow(call=calls)
    calls.begun = lambda: detector.set_params(sigma=2.0)
    detector.fit(ROWS)
    assert detector.sigma == 2.0 and hasattr(detector, "mean_")


def test_a_refused_parameter_leaves_the_others():
    detector = PatchCore(sigma=3.0)
    with pytest.raises(ValueError, match="Invalid parameter"):
        detector.set_params(sigma=1.0, sigmoid=2)
    assert detector.sigma == 3.0


def test_a_threshold_stays_with_its_scores():
    calls = Calls()
    detector = Slow(call=calls).fit(ROWS)
    calls.asked = lambda: vars(calls).pop("asked") and detector.fit(ROWS + 1)
    detector.set_threshold(ROWS + 0.5, contamination=0.5)
    assert detector.offset_ == Slow(call=Calls()).fit(ROWS + 1).offset_


# --- what is rebuilt on first use ---------------------------------------------------------------


@pytest.mark.parametrize("detector", [PatchCore(random_state=0), SPADE(n_neighbors=3)], ids=repr)
def test_what_a_call_rebuilds_is_there_for_the_next_one(detector):
    pipe = pickle.loads(pickle.dumps(make_pipeline(detector).fit(GOOD)))
    features, detector = pipe["features"], pipe["detector"]
    names = ("_index", "_search")
    assert features._filters is None and all(getattr(detector, n, None) is None for n in names)
    pipe.predict(SEEN)
    built = [features._filters, *(getattr(detector, name, None) for name in names)]
    assert sum(one is not None for one in built) == 2
    pipe.predict(SEEN)
    again = [features._filters, *(getattr(detector, name, None) for name in names)]
    assert all(one is other for one, other in zip(built, again, strict=True))


@pytest.mark.parametrize("index", [PatchIndex(), GalleryIndex()])
def test_an_index_is_prepared_once(index, monkeypatch):
    rows = np.random.default_rng(0).normal(size=(4, 200, 8)).astype(np.float32)
    is_gallery = isinstance(index, GalleryIndex)
    index.fit(rows if is_gallery else rows.reshape(-1, 8))
    queries, start = rows[:2] + 1, threading.Barrier(4)

    def ask():
        start.wait()
        if is_gallery:
            index.distances(queries, [[0, 1], [2, 3]])
            return index._screens
        index.kneighbors(queries[0])
        return index._search

    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(ask) for _ in range(4)]
    assert len({id(one.result()) for one in found}) == 1


def test_a_stored_gaussian_is_never_half_finished():
    maps = np.random.default_rng(0).normal(size=(40, 8, 8, 6))
    expected = PositionwiseGaussian().fit(maps).mahalanobis(maps[:2])
    for _ in range(5):
        gaussian = PositionwiseGaussian().fit(maps)
        with ThreadPoolExecutor(2) as pool:
            pool.submit(gaussian.finish)
            stored = [pickle.dumps(gaussian) for _ in range(5)]
        for one in stored:
            assert np.array_equal(pickle.loads(one).mahalanobis(maps[:2]), expected)


# --- many threads that read ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "detector", [PatchCore(random_state=0), PaDiM(n_components=10, random_state=0)], ids=repr
)
def test_threads_answer_as_one_does(detector):
    pipe = make_pipeline(detector).fit(GOOD)
    images = make_textures(40, size=64, random_state=3)
    alone = [answers(pipe, images[i : i + 1]) for i in range(len(images))]
    with ThreadPoolExecutor(N_THREADS) as pool:
        together = list(pool.map(lambda i: answers(pipe, images[i : i + 1]), range(len(images))))
    assert together == alone


def test_an_event_loop_may_hand_out_requests():
    pipe = make_pipeline().fit(GOOD)

    async def serve():
        loop = asyncio.get_running_loop()
        requests = [
            loop.run_in_executor(None, pipe.score_samples, SEEN[i : i + 1]) for i in range(3)
        ]
        return np.concatenate(await asyncio.gather(*requests))

    assert np.array_equal(asyncio.run(serve()), pipe.score_samples(SEEN))


def test_a_frozen_pipeline_answers_from_its_present_state():
    pipe = make_pipeline().fit(GOOD)
    frozen = FrozenEstimator(pipe)
    assert np.array_equal(score_map(frozen, SEEN), score_map(pipe, SEEN))
    pipe.fit(OTHERS)
    assert np.array_equal(frozen.score_samples(SEEN), pipe.score_samples(SEEN))


def test_a_setting_ends_with_the_last_of_those_who_share_it():
    log = []

    def make():
        log.append("made")
        return lambda: log.append("taken back")

    setting = SharedSetting(make)
    with contextlib.ExitStack() as second:
        with setting:
            second.enter_context(setting)
        assert log == ["made"]  # the first to leave takes it from nobody
    assert log == ["made", "taken back"]


def test_any_thread_may_limit_the_matrix_products():
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    libraries[0].set_num_threads(2)  # from here on threadpoolctl obeys this thread alone
    before = [library.num_threads for library in libraries]

    def limited():
        with limit_blas_threads():
            return [library.num_threads for library in libraries]

    with ThreadPoolExecutor(1) as pool:
        assert set(pool.submit(limited).result()) == {1}
    assert [library.num_threads for library in libraries] == before


def test_callers_share_the_threads_of_pools():
    sizes, both = [], threading.Barrier(2)

    def names(_):
        time.sleep(0.01)  # so that others take their share
        return threading.current_thread().name

    def ask():
        with single_threaded_pool(2) as pool:
            sizes.append(getattr(pool, "n_threads", 1))
            both.wait()
            return set(pool.map(names, range(20))) == {threading.current_thread().name}

    with ThreadPoolExecutor(2) as pool:
        requests = [pool.submit(ask) for _ in range(2)]
    assert sorted(sizes) == [1, 2]  # the second one finds a processor taken
    assert sorted(request.result() for request in requests) == [False, True]


def test_a_pool_is_the_calling_thread_and_others_that_last():
    seen = set()

    def square(i):
        time.sleep(0.002)
        seen.add(threading.current_thread().name)
        return i * i

    with single_threaded_pool(3) as pool:
        assert list(pool.map(square, range(30))) == [i * i for i in range(30)]
        assert threading.current_thread().name in seen and 2 <= len(seen) <= 3
        assert list(pool.map(square, [])) == []
        assert list(pool.map(pow, range(4), (2, 3))) == [0, 1]  # until the shortest ends
    for _ in range(20):
        with single_threaded_pool(3) as pool:
            list(pool.map(square, range(6)))
    assert len(seen) < 20  # no pool starts threads of its own


def test_the_first_error_of_a_pool_is_raised_when_all_have_stopped():
    running, done = set(), []

    def fail(i):
        running.add(i)
        time.sleep(0.01 * (i % 3))
        running.discard(i)
        done.append(i)
        if i in (3, 4):
            raise ValueError(f"of {i}")

    with single_threaded_pool(3) as pool, pytest.raises(ValueError, match="of 3"):
        pool.map(fail, range(1000))
    assert not running and len(done) < 20  # the others were not begun
    with single_threaded_pool(3) as pool:
        assert list(pool.map(abs, [-1, 2])) == [1, 2]


def test_what_failed_is_not_held():
    class Large:
        pass

    large = Large()
    held = weakref.ref(large)

    def fail(_):
        raise MemoryError("too large")

    gc.disable()
    try:
        with single_threaded_pool(2) as pool, contextlib.suppress(MemoryError):
            pool.map(fail, [large, large])
        del large
        assert held() is None
    finally:
        gc.enable()


def test_threads_that_cannot_be_started_leave_nothing_running(monkeypatch):
    done, begin = [], threads._HELPERS.begin

    def refuse(*arguments):
        if refuse.n_asked:
            raise RuntimeError("can't start new thread")
        refuse.n_asked += 1
        return begin(*arguments)

    refuse.n_asked = 0
    monkeypatch.setattr(threads._HELPERS, "begin", refuse)

    def slow(i):
        time.sleep(0.02)
        done.append(i)

    with single_threaded_pool(3) as pool, pytest.raises(RuntimeError, match="start new thread"):
        pool.map(slow, range(20))
    n_done = len(done)
    time.sleep(0.1)
    assert len(done) == n_done < 20


def test_many_pools_take_turns_with_few_threads():
    before = threading.active_count()
    for _ in range(2000):
        with single_threaded_pool(3) as pool:
            pool.map(abs, range(6))
    assert threading.active_count() <= before + 2


def test_what_is_withdrawn_is_not_held():
    class Large:
        def __call__(self):
            pass

    large = Large()
    held = weakref.ref(large)
    tasks, idle = SimpleQueue(), []
    job = threads._Job(tasks, idle)
    job.end()  # before any thread has seen it
    assert idle == [tasks]
    tasks.put((job.future, large))
    del large
    threading.Thread(target=threads._help, args=(tasks, idle), daemon=True).start()
    done = threading.Event()
    later = threads._Job(tasks, idle)
    tasks.put((later.future, done.set))  # so that the thread has passed the first one
    assert done.wait(10)
    gc.collect()
    assert held() is None


def test_all_helpers_are_waited_for_if_one_fails(monkeypatch):
    ended = []

    class Failing:
        def __init__(self, function):
            self.number = len(ended)

        def end(self):
            ended.append(self)
            raise MemoryError("too large")

    monkeypatch.setattr(threads._HELPERS, "begin", Failing)
    with single_threaded_pool(4) as pool, pytest.raises(MemoryError, match="too large"):
        pool.map(abs, range(8))
    assert len(ended) == 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "3000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
    ids=str,
)
def test_waiting_threads_sleep_soon_unless_told_otherwise(given, expected):
    code = (
        "import os, sys; import skanomaly; assert 'torch' not in sys.modules; "
        "print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    names = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
    environment = {name: value for name, value in os.environ.items() if name not in names}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment | given, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert said.stdout.strip() == str(expected)


def test_a_thread_that_fails_says_so_and_goes_on():
    def fail():
        raise MemoryError("too large")

    job = threads._HELPERS.begin(fail)
    while not job.future.running() and not job.future.done():
        time.sleep(0.001)
    with pytest.raises(MemoryError, match="too large"):
        job.end()
    done = threading.Event()
    job = threads._HELPERS.begin(done.set)
    assert done.wait(10)
    job.end()


def test_the_share_is_that_of_the_caller_in_all_threads_of_a_pool():
    def share(_):
        time.sleep(0.005)
        return count_processors()

    with using_threads(5), single_threaded_pool(3) as pool:
        assert set(pool.map(share, range(12))) == {5}


def test_pools_within_pools_do_not_wait_for_each_other():
    def inner(i):
        with single_threaded_pool(4) as pool:
            return sum(pool.map(abs, range(i)))

    with single_threaded_pool(4) as pool:
        assert list(pool.map(inner, range(50))) == [i * (i - 1) // 2 for i in range(50)]


# --- forked processes ---------------------------------------------------------------------------


def in_fork(function):
    """Exit status and output of a function in a forked process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(writer, json.dumps(function()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    with open(reader, "rb") as file:
        return status, file.read()


@can_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_lock_that_another_thread_holds_is_free_after_a_fork():
    lock, is_held, is_done = ForkSafeLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            is_held.set()
            is_done.wait()

    def take():
        with lock:
            return "taken"

    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        is_held.wait()
        try:
            assert in_fork(take) == (0, b'"taken"')
        finally:
            is_done.set()


@can_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    def squares():
        def square(i):
            time.sleep(0.01)
            return threading.get_ident(), i * i

        with single_threaded_pool(2) as pool:
            found = list(pool.map(square, range(10)))
        return [value for _, value in found], len({ident for ident, _ in found})

    expected = [[i * i for i in range(10)], 2]
    assert list(squares()) == expected
    status, printed = in_fork(squares)
    assert status == 0 and json.loads(printed) == expected


FORK = """
import multiprocessing, os, queue
import numpy as np, torch
from skanomaly import FilterBank, FeatureExtractor, PaDiM, PatchCore, Pipeline
from skanomaly.datasets import make_textures

torch.set_num_threads(2)
torch.zeros(2_000_000).add_(1)  # so that the parent has threads
good = make_textures(4, size=64, random_state=0)
network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 7, 2), torch.nn.Conv2d(64, 64, 3))
features = FeatureExtractor(network.eval(), layers="1", image_size=64, device="cpu")
models = [
    Pipeline([("features", features), ("detector", PatchCore(random_state=0))]).fit(good),
    Pipeline([
        ("features", FilterBank(image_size=64, random_state=0)),
        ("detector", PaDiM(n_components=10, random_state=0)),
    ]).fit(good),
]
expected = [model.score_samples(good) for model in models]

def work(answers):
    answers.put(([model.score_samples(good) for model in models], torch.get_num_threads()))

context = multiprocessing.get_context("fork")
answers = context.Queue()
worker = context.Process(target=work, args=(answers,), daemon=True)
worker.start()
try:
    found, n_threads = answers.get(timeout=20)
except queue.Empty:
    worker.kill()
    raise SystemExit("a forked worker does not answer")
for one, other in zip(found, expected):
    np.testing.assert_allclose(one, other, rtol=1e-6)
assert n_threads == 1 and torch.get_num_threads() == 2
"""


def run(code, *arguments, **environment):
    """Output of Python code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@can_fork
def test_workers_forked_from_a_warm_process_answer():
    run(FORK, OMP_NUM_THREADS="2", NUMBA_NUM_THREADS="2")


def test_a_forked_process_searches_without_the_threads_of_its_parent(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    exact = PatchIndex().fit(rows).kneighbors(rows[:9] + 1, 3)
    monkeypatch.setattr("skanomaly.neighbors._approximate._PROCESS", -1)  # as after a fork
    index = PatchIndex("pynndescent", random_state=0, n_jobs=2).fit(rows)
    for found, expected in zip(index.kneighbors(rows[:9] + 1, 3), exact, strict=True):
        assert np.array_equal(found, expected)


# --- installations that cannot be written to, models in shared memory ---------------------------


def test_loops_compile_where_nothing_can_be_kept(tmp_path):
    (tmp_path / "loops.py").write_text(
        "from skanomaly.utils.compiling import compiled\n"
        "@compiled(nogil=True)\n"
        "def add(a, b):\n    return a + b\n"
        "@compiled()\n"
        "def double(a):\n    return add(a, a)\n"
    )
    (tmp_path / "__pycache__").touch()  # no folder of this name can be made
    code = "import loops; print(loops.double(21))"
    nowhere = str(tmp_path / "loops.py" / "cache")
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), nowhere)
    out, said = run(code, PYTHONPATH=str(tmp_path), NUMBA_CACHE_DIR="", **places)
    assert out == "42\n"
    assert said.count("NUMBA_CACHE_DIR") == 1


@pytest.mark.parametrize("mode", ["r", "c"])
@pytest.mark.parametrize(
    "detector",
    [PatchCore(random_state=0), PaDiM(n_components=10, random_state=0), SPADE(n_neighbors=3)],
    ids=lambda detector: type(detector).__name__,
)
def test_models_may_lie_in_a_mapped_file(detector, mode, tmp_path):
    pipe = make_pipeline(detector).fit(GOOD)
    joblib.dump(pipe, tmp_path / "model.joblib")
    mapped = joblib.load(tmp_path / "model.joblib", mmap_mode=mode)
    assert isinstance(mapped["features"].mean_, np.memmap)
    assert answers(mapped) == answers(pipe)  # and without a warning
    mapped.fit(OTHERS)
    assert answers(mapped) == answers(pipe.fit(OTHERS))


def test_a_mapped_bank_is_searched_in_place(tmp_path):
    rows = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    joblib.dump(rows, tmp_path / "rows.joblib")
    mapped = joblib.load(tmp_path / "rows.joblib", mmap_mode="c")
    assert np.shares_memory(PatchIndex().fit(mapped).rows_, mapped)


# --- the same everywhere ------------------------------------------------------------------------

EVERYWHERE = """
import hashlib, json, sys
import numpy as np, torch
from skanomaly import FeatureExtractor, FilterBank, PaDiM, PatchCore, Pipeline, SPADE, score_map
from skanomaly.datasets import make_textures

torch.set_num_threads(int(sys.argv[1]))
good, seen = (make_textures(6, size=64, random_state=seed) for seed in (0, 1))
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 7, 4), torch.nn.Conv2d(16, 32, 3)).eval()
options = {"layers": "1", "image_size": 64, "batch_size": int(sys.argv[2]), "device": "cpu"}
extractors = [
    FilterBank(image_size=64, random_state=0),
    FeatureExtractor(network, **options),
]
detectors = [
    PatchCore(coreset_ratio=0.3, random_state=0),
    PaDiM(n_components=10, random_state=0),
    SPADE(n_neighbors=3),
]
found = []

def arrays(value):
    if isinstance(value, np.ndarray):
        yield np.asarray(value, order="C")
    elif isinstance(value, dict):
        yield from arrays(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from arrays(one)
    elif type(value).__module__.startswith("skanomaly."):
        yield from arrays(vars(value))

for extractor in extractors:
    for detector in detectors:
        pipe = Pipeline([("features", extractor), ("detector", detector)]).fit(good)
        state = [step.__getstate__() for _, step in pipe.steps]
        for array in [*arrays(state), pipe.score_samples(seen), score_map(pipe, seen)]:
            found.append(hashlib.sha1(array.tobytes()).hexdigest())
print(json.dumps(found))
"""


def test_the_same_in_every_process_with_any_number_of_threads():
    runs = [
        run(EVERYWHERE, n, batch, PYTHONHASHSEED=seed, OMP_NUM_THREADS=n, NUMBA_NUM_THREADS=n)[0]
        for n, batch, seed in (("1", "16", "0"), ("2", "4", "7"))
    ]
    first, second = (json.loads(out) for out in runs)
    assert len(first) > 40
    assert first == second
