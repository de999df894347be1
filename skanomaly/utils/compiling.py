"""numba's compiler, for folders that cannot be written to as well."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import numba

__all__ = ["compiled"]

logger = logging.getLogger("skanomaly")


def compiled(*signatures: Any, **options: Any) -> Callable[[Callable], Any]:
    """Decorator like ``numba.njit(cache=True)`` that does without a cache where it must.

    numba keeps what it has compiled in the package's folder or in the user's cache folder. In a
    container neither may be writable: then each process compiles what it uses.

    Parameters
    ----------
    *signatures, **options : as for ``numba.njit``

    Returns
    -------
    callable
    """

    def compile_(function):
        try:
            return numba.njit(*signatures, cache=True, **options)(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            _say_once()
            return numba.njit(*signatures, **options)(function)

    return compile_


@functools.cache
def _say_once():
    logger.warning(
        "compiled loops cannot be kept: neither skanomaly's folder nor the user's cache folder can "
        "be written to. Each process compiles them again, which takes some seconds; set "
        "NUMBA_CACHE_DIR to a folder that can be written to"
    )
