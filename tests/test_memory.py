"""Memory budgets in words and numbers."""

import pytest

from skanomaly._memory import parse_memory


def test_memory_in_words():
    assert parse_memory(None) is None
    assert parse_memory(12345) == 12345
    assert parse_memory("500MB") == 500_000_000
    assert parse_memory("1.5 gb") == 1_500_000_000
    assert parse_memory("2GiB") == 2**31
    for bad in ("", "4", "GB", "4 XB", "-1MB", "0MB", 0, -5, True, float("inf"), [1]):
        with pytest.raises(ValueError, match="memory_limit must be a positive number"):
            parse_memory(bad)
