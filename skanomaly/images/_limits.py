"""How many pixels an image may have: checked in the header, before anything is decoded."""

import contextlib
import os
import threading

from PIL import Image

from skanomaly.exceptions import ImageError

PIXEL_LIMIT = 2**28  # 16,384 x 16,384; a line scan of 20,000 x 10,000 is below it
VARIABLE = "SKANOMALY_PIXEL_LIMIT"

_lock = threading.Lock()


def pixel_limit() -> int:
    """The number of pixels above which an image file is refused.

    Returns
    -------
    int
        Of :func:`set_pixel_limit`, or of the environment variable ``SKANOMALY_PIXEL_LIMIT``;
        otherwise 268,435,456 (16,384 x 16,384).
    """
    given = os.environ.get(VARIABLE, "")
    if not given:
        return PIXEL_LIMIT
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"expected a whole number of pixels in {VARIABLE}, got {given!r}")
    return int(given)


def set_pixel_limit(n_pixels: int | None) -> None:
    """Set the number of pixels above which an image file is refused.

    A small file can pretend to be an image of many gigabytes. So the size in its header is checked
    before anything is decoded. The limit is kept in the environment variable
    ``SKANOMALY_PIXEL_LIMIT``, so that it is valid in all threads, and in the processes that this
    one starts.

    Parameters
    ----------
    n_pixels : int or None
        Height times width. None: the default, 268,435,456 (16,384 x 16,384).

    Examples
    --------
    >>> from skanomaly.images import pixel_limit, set_pixel_limit
    >>> set_pixel_limit(30_000 * 20_000)
    >>> pixel_limit()
    600000000
    >>> set_pixel_limit(None)
    """
    if n_pixels is None:
        os.environ.pop(VARIABLE, None)
        return
    if int(n_pixels) != n_pixels or n_pixels < 1:
        raise ValueError(f"expected a whole number of pixels, at least 1, got {n_pixels!r}")
    os.environ[VARIABLE] = str(int(n_pixels))


def check_size(width: int, height: int) -> None:
    """Refuse an image of more pixels than the limit, or of none.

    Parameters
    ----------
    width, height : int

    Raises
    ------
    ImageError
        The message lacks the image's name.
    """
    if min(width, height) < 1:
        raise ValueError(f"its size is {width} x {height} pixels")
    limit = pixel_limit()
    if width * height > limit:
        raise ImageError(
            f"expected at most {limit:,} pixels, got {width} x {height} (width x height); if you "
            f"trust the file, raise the limit: skanomaly.images.set_pixel_limit({width * height})"
        )


@contextlib.contextmanager
def without_limit_of_pillow(n_pixels: int):
    """Within it Pillow takes an image of so many pixels, which :func:`check_size` has allowed.

    Pillow's own limit is a global that can only be lifted for all threads. So this is done for the
    few images that need it alone, one at a time.
    """
    if Image.MAX_IMAGE_PIXELS is None or n_pixels <= Image.MAX_IMAGE_PIXELS:
        yield
        return
    with _lock:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
