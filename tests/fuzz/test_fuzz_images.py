"""No damaged image file is scored that shows its damage, or raises what is not an ImageError."""

import os

from fuzz.images import OTHER, REFUSED, complaint_of_others, run, samples

N = int(os.environ.get("SKANOMALY_FUZZ", 6300))


def test_samples_are_whole():
    for name, content in samples().items():
        assert complaint_of_others(content) == "", name


def test_damaged_image_files():
    table, failures = run(N, seed=0)
    assert failures == []
    for name, found in table.items():
        assert found.total() > 0.9 * N / len(table), name
        if name.startswith("PNG"):  # whatever is changed, a checksum is wrong
            assert set(found) == {REFUSED}
    # Formats without a checksum are also damaged where nothing shows it.
    assert table["PPM"][OTHER] > 0
