"""Files: whole or not at all, arrays without pickle, and the cache."""

from skanomaly.io._arrays import FORMAT, MAGIC, read_arrays, write_arrays
from skanomaly.io._atomic import (
    atomic_file,
    atomic_folder,
    check_writable,
    name_disk_errors,
    remove_leftovers,
    temporary_name,
)
from skanomaly.io._cache import Cache, open_cache
from skanomaly.io._cells import cell_text, text_cell
from skanomaly.io._digest import digest

# Public names; the others are shared with the other sub-packages.
__all__ = ["Cache", "atomic_file", "digest", "open_cache", "read_arrays", "write_arrays"]
