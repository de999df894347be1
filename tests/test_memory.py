"""Memory limits, forecasts, and fits that are refused before they start."""

import numpy as np
import pytest

from skanomaly import FilterBank, PaDiM, PatchCore, Pipeline, estimate_memory
from skanomaly.exceptions import MemoryLimitError
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
    with pytest.raises(MemoryLimitError, match="the memory available on this machine"):
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


def test_forecast_knows_every_detector():
    padim = Pipeline([("features", FilterBank(image_size=64)), ("detector", PaDiM())])
    assert estimate_memory(padim, IMAGES)["total"] > 0
    with pytest.raises(TypeError, match="expected a Pipeline"):
        estimate_memory(PatchCore(), IMAGES)


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
