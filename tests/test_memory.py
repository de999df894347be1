"""Memory limits, forecasts, and fits that are refused before they start."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

from skanomaly import (
    FYD,
    MKD,
    SPADE,
    TDG,
    ARNet,
    CFlow,
    CutPaste,
    DifferNet,
    FilterBank,
    GANomaly,
    GlobalLocal,
    PaDiM,
    PatchCore,
    Pipeline,
    RegAD,
    estimate_memory,
)
from skanomaly.exceptions import MemoryLimitError
from skanomaly.model_selection import HeldOutThreshold
from skanomaly.utils.memory_budget import (
    available_memory,
    check_memory,
    format_bytes,
    parse_memory,
)


def test_memory_limits_are_parsed():
    assert parse_memory(None) is None
    assert parse_memory(12345) == 12345
    assert parse_memory("500MB") == 500_000_000
    assert parse_memory("1.5 gb") == 1_500_000_000
    assert parse_memory("2GiB") == 2**31
    for bad in ("", "4", "GB", "4 XB", "-1MB", "0MB", 0, -5, True, float("inf"), [1]):
        with pytest.raises(ValueError, match="memory_limit must be a positive number"):
            parse_memory(bad)


def test_bytes_with_a_unit():
    assert format_bytes(999) == "999 bytes"
    assert [format_bytes(n) for n in (1_500, 2_000_000, 3.21e9)] == ["1.5 kB", "2 MB", "3.21 GB"]


def test_too_much_is_refused_with_the_numbers_and_advice():
    needs = {"features": 3_000_000, "bank": 2_000_000, "nothing": 0}
    check_memory(needs, "5MB", "fewer images")
    with pytest.raises(MemoryLimitError) as refusal:
        check_memory(needs, "4MB", "fewer images")
    assert str(refusal.value) == (
        "expected to need 5 MB of memory (features 3 MB, bank 2 MB), which is more than "
        "memory_limit='4MB', 4 MB. Possible remedies: fewer images"
    )
    assert isinstance(refusal.value, MemoryError)


def test_without_a_limit_the_machine_is_the_limit():
    left = available_memory()
    if left is None:
        pytest.skip("the available memory of this machine is unknown")
    with pytest.raises(MemoryLimitError, match="the memory available to this process"):
        check_memory({"everything": 100 * left}, None, "less")


def pipeline(**parameters):
    pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", PatchCore())])
    return pipe.set_params(**parameters)


IMAGES = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)


def test_forecast_adds_up_and_grows_with_the_images():
    needs = estimate_memory(pipeline(), IMAGES)
    assert needs["features"] == 4 * 4 * 8 * 8 * 135
    assert needs["total"] == sum(needs.values()) - needs["total"]
    more = estimate_memory(pipeline(), IMAGES, n_images=4000)
    assert more["features"] == 1000 * needs["features"] and more["total"] > needs["total"]
    streamed = estimate_memory(pipeline(features__memory_limit="1MB"), IMAGES, n_images=4000)
    assert streamed["features"] == 0


@pytest.mark.parametrize(
    "estimator",
    [
        *(pipeline(detector=kind()) for kind in (PatchCore, PaDiM, SPADE, CFlow, DifferNet)),
        RegAD(image_size=64),
        GlobalLocal(image_size=64),
        CutPaste("tiny", image_size=64, patch_size=32),
        FYD("squeezenet1_1", weights=None, image_size=64),
        DifferNet(FilterBank(n_filters=4, image_size=64), n_views=2),
        GANomaly(image_size=64),
        ARNet(image_size=64),
        TDG(image_size=64),
        MKD(FilterBank(n_filters=4, image_size=64).fit(IMAGES), image_size=64),
    ],
    ids=str,
)
def test_forecast_knows_every_detector_and_what_it_is_wrapped_in(estimator):
    before = dict(vars(estimator))
    alone = estimate_memory(estimator, IMAGES, n_images=50)
    assert vars(estimator) == before
    assert alone["total"] > estimate_memory(estimator, IMAGES, n_images=20)["total"] > 0
    assert alone["total"] == sum(alone.values()) - alone["total"]
    held_out = estimate_memory(HeldOutThreshold(estimator, cv=3), IMAGES, n_images=50)
    kept = held_out.pop("the model in use")
    assert 0 <= kept <= alone["total"] == held_out["total"] - kept
    search = GridSearchCV(HeldOutThreshold(estimator), {"target_fpr": [0.1]})
    assert estimate_memory(search, IMAGES, n_images=50)["total"] == held_out["total"]
    search.set_params(n_jobs=2)
    both = estimate_memory(search, IMAGES, n_images=50)["total"]
    assert both == 2 * held_out["total"]
    assert estimate_memory(Pipeline([("only", estimator)]), IMAGES, n_images=50) == alone


def test_forecast_of_images_counts_their_pixels_once():
    for detector in (RegAD(image_size=(64, 56)), GlobalLocal(image_size=(64, 56))):
        needs = estimate_memory(detector, IMAGES[..., 0], n_images=50)
        assert needs["pixels"] == 4 * 64 * 56 * 3 * 50  # gray images count as RGB


def test_forecast_of_features_at_hand():
    features = FilterBank(image_size=64, random_state=0).fit(IMAGES)
    X = features.transform(IMAGES)
    assert estimate_memory(PatchCore(), X) == estimate_memory(pipeline(), IMAGES)
    rows = np.zeros((30, 5))
    assert estimate_memory(PaDiM(), rows)["features"] == 4 * 5 * 30
    maps = np.zeros((30, 2, 3, 5))
    assert estimate_memory(PaDiM(), maps)["features"] == 4 * 2 * 3 * 5 * 30
    streamed = features.set_params(memory_limit=1).transform(IMAGES)
    assert estimate_memory(PatchCore(), streamed)["features"] == 0
    wrapped = pipeline(detector=HeldOutThreshold(PatchCore(), n_jobs=2, cv=2))
    wrapped.set_params(features__memory_limit="1MB")
    needs = estimate_memory(wrapped, IMAGES, n_images=4000)
    assert needs["features"] == 0
    alone = estimate_memory(pipeline(features__memory_limit="1MB"), IMAGES, n_images=4000)
    assert needs["fits in other processes"] == alone["total"]


def test_forecast_of_features_that_come_from_a_cache(tmp_path):
    assert estimate_memory(pipeline(features__cache=tmp_path / "c"), IMAGES)["features"] == 0


def test_forecast_of_nothing_to_fit_and_of_what_is_no_detector():
    frozen = FrozenEstimator(pipeline().fit(IMAGES))
    assert estimate_memory(HeldOutThreshold(frozen), IMAGES)["total"] == 0
    for estimator in (PatchCore(), HeldOutThreshold(PatchCore()), IsolationForest(), FilterBank()):
        with pytest.raises(TypeError, match="expected a Pipeline of extractor and detector, or"):
            estimate_memory(estimator, IMAGES)


# --- what is left -----------------------------------------------------------------------------

MB = 10**6
FREE = "MemTotal:  9000000 kB\nMemFree:  1 kB\nMemAvailable:  500000 kB\n"  # 512 MB
SECOND = "31 30 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw\n"
FIRST = (
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def group(limit, used, inactive=0, version=2):
    """Files of a control group."""
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    stat = f"anon 7\n{names[2]} {inactive}\n"
    return {names[0]: f"{limit}\n", names[1]: f"{used}\n", "memory.stat": stat}


def make_system(root, member, mounts, groups, meminfo=FREE):
    """Folders proc and sys, as Linux has them."""
    files = {"proc/meminfo": meminfo, "proc/self/cgroup": member, "proc/self/mountinfo": mounts}
    for folder, content in groups.items():
        files |= {f"sys/fs/cgroup/{folder}/{name}": text for name, text in content.items()}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


SYSTEMS = {
    "no groups": ("", "", {}, 512 * MB),
    "a group without a limit": ("0::/job\n", SECOND, {"job": group("max", 9)}, 512 * MB),
    "a limit above what is left": ("0::/job\n", SECOND, {"job": group(10**12, 9)}, 512 * MB),
    "a limit": ("0::/job\n", SECOND, {"job": group(300 * MB, 100 * MB)}, 200 * MB),
    "caches can be given up": (
        "0::/job\n", SECOND, {"job": group(300 * MB, 100 * MB, 30 * MB)}, 230 * MB,
    ),
    "more than the limit in use": ("0::/job\n", SECOND, {"job": group(MB, 2 * MB)}, 0),
    "the tightest of nested groups": (
        "0::/user/job/step\n",
        SECOND,
        {
            "user": group(400 * MB, 100 * MB),
            "user/job": group(200 * MB, 50 * MB),
            "user/job/step": group("max", 50 * MB),
            "other": group(1, 0),
        },
        150 * MB,
    ),
    "a container that sees its own group as the topmost": (
        "0::/\n", SECOND, {".": group(300 * MB, 100 * MB)}, 200 * MB,
    ),
    "version 1": (
        "5:cpu,cpuacct:/\n4:memory:/jobs/7\n0::/\n",
        FIRST.format("/"),
        {
            "memory/jobs/7": group(9223372036854771712, 10, version=1),
            "memory/jobs": group(200 * MB, 80 * MB, 20 * MB, version=1),
        },
        140 * MB,
    ),
    "version 1 in a container": (
        "4:memory:/docker/abc\n",
        FIRST.format("/docker/abc"),
        {"memory": group(100 * MB, 40 * MB, version=1)},
        60 * MB,
    ),
    "a process outside of what can be seen": (
        "0::/../other\n", SECOND, {".": group(300 * MB, 100 * MB)}, 200 * MB,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("member", "mounts", "groups", "left"), SYSTEMS.values(), ids=SYSTEMS)
def test_limits_of_control_groups_count(tmp_path, member, mounts, groups, left):
    assert available_memory(make_system(tmp_path, member, mounts, groups)) == left


def test_a_system_that_tells_nothing(tmp_path):
    assert available_memory(tmp_path) is None
    assert available_memory(make_system(tmp_path, "", "", {}, "MemFree: 3 kB\n")) is None


def worker(limit, used):
    """Stands for a worker of dask."""
    monitor = SimpleNamespace(get_process_memory=lambda: used)
    return SimpleNamespace(memory_manager=SimpleNamespace(memory_limit=limit), monitor=monitor)


@pytest.mark.parametrize(
    ("limit", "used", "terminate", "left"),
    [
        (300 * MB, 100 * MB, 0.95, 185 * MB),
        (300 * MB, 100 * MB, False, 200 * MB),
        (300 * MB, 400 * MB, 0.95, 0),
        (900 * MB, 100 * MB, 0.95, 512 * MB),  # the machine has less
        (None, 100 * MB, 0.95, 512 * MB),
    ],
)
def test_the_limit_of_a_worker_counts(tmp_path, monkeypatch, limit, used, terminate, left):
    config = {"distributed.worker.memory.terminate": terminate}
    monkeypatch.setitem(sys.modules, "dask", SimpleNamespace(config=config))
    task = SimpleNamespace(get_worker=lambda: worker(limit, used))
    monkeypatch.setitem(sys.modules, "distributed", task)
    assert available_memory(make_system(tmp_path, "", "", {})) == left
    if limit and left < 512 * MB:  # where the system tells nothing
        assert available_memory(tmp_path / "nowhere") == left
        with pytest.raises(MemoryLimitError, match="available to this process"):
            check_memory({"everything": left + 1}, None, "less")


def test_outside_of_a_task_no_worker_counts(tmp_path, monkeypatch):
    def get_worker():
        raise ValueError("No worker found")

    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(get_worker=get_worker))
    assert available_memory(make_system(tmp_path, "", "", {})) == 512 * MB


def test_a_fit_that_cannot_fit_is_refused_before_it_starts():
    with pytest.raises(MemoryLimitError, match=r"memory_limit='100KB'.*coreset_ratio"):
        pipeline(detector__memory_limit="100KB").fit(IMAGES)


def test_a_limit_that_suffices_changes_nothing():
    free = pipeline(features__random_state=0, detector__random_state=0).fit(IMAGES)
    tight = pipeline(
        features__random_state=0,
        detector__random_state=0,
        features__memory_limit="1KB",
        detector__memory_limit="20MB",
    ).fit(IMAGES)
    assert np.array_equal(free.score_samples(IMAGES), tight.score_samples(IMAGES))
