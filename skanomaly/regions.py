"""Connected regions of score maps above a threshold, and separate peaks."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from scipy import ndimage

__all__ = ["map_regions"]

_TOUCH = np.ones((3, 3), dtype=bool)  # 8 neighbors

_COLUMNS = {
    "image": int,
    "top": int,
    "left": int,
    "bottom": int,
    "right": int,
    "area": int,
    "peak": float,
    "peak_row": int,
    "peak_column": int,
    "mean": float,
    "centroid_row": float,
    "centroid_column": float,
}


def map_regions(maps: Any, threshold: float, *, as_frame: bool = False) -> Any:
    """Table of the connected regions of score maps above a threshold.

    Parameters
    ----------
    maps : array of shape (n, H, W), or list of n arrays (H, W)
        As ``score_map`` returns them, high for a defect; sizes may differ.
    threshold : float
        A region consists of pixels with a score above this. If infinite, there are no regions.
    as_frame : bool, default=False
        Whether to return a pandas DataFrame instead of a list.

    Returns
    -------
    list of dict, or DataFrame
        One record per region, sorted by image, then by decreasing peak:

        - ``image``: int, index in `maps`;
        - ``top``, ``left``, ``bottom``, ``right``: int, the bounding box in pixels of the image:
          ``score_map[top:bottom, left:right]``, so the last two are exclusive;
        - ``area``: int, number of pixels;
        - ``peak``, ``mean``: float, maximal and mean score of the pixels;
        - ``peak_row``, ``peak_column``: int, the pixel with the maximal score;
        - ``centroid_row``, ``centroid_column``: float, mean position of the pixels, not weighted
          by their scores; integers are centers of pixels.

        Of equal peaks the one in the upper row, then in the left column, comes first. Empty if no
        pixel is above the threshold.

    Raises
    ------
    ValueError
        If the threshold is not a number, or there are no maps, or they have another shape or are
        not finite.
    ImportError
        If ``as_frame=True`` and pandas is not installed.

    See Also
    --------
    score_regions : The same from an estimator and images.

    Notes
    -----
    Regions are 8-connected: pixels that touch by a side or a corner belong to the same region.

    Examples
    --------
    >>> from skanomaly import map_regions
    >>> score_map = [[0, 0, 9, 0, 0], [0, 7, 0, 0, 0], [0, 0, 0, 0, 8]]
    >>> for region in map_regions([score_map], threshold=5):
    ...     box = [region[side] for side in ("top", "left", "bottom", "right")]
    ...     print(region["peak"], region["area"], box)
    9.0 2 [0, 1, 2, 3]
    8.0 1 [2, 4, 3, 5]
    """
    is_number = isinstance(threshold, Real) and not np.isnan(threshold)
    if not is_number:
        raise ValueError(f"expected a number as the threshold on score maps, got {threshold!r}")
    records = []
    for i, score_map in enumerate(_check_maps(maps)):
        regions = _regions(score_map, float(threshold))
        records += [{"image": i, **region} for region in regions]
    return as_table(records, _COLUMNS, as_frame)


def _check_maps(maps):
    """List of (H, W) arrays of floats, all finite."""
    maps = list(maps)
    if not maps:
        raise ValueError("expected at least one score map, got none")
    return [_check_map(score_map, i) for i, score_map in enumerate(maps)]


def _check_map(score_map, i):
    score_map = np.asarray(score_map)
    if score_map.ndim != 2 or score_map.dtype.kind not in "fiub":
        raise ValueError(
            f"score map {i}: expected numbers of shape (H, W), got {score_map.dtype} of shape "
            f"{score_map.shape}; a single map becomes a list of one with [score_map]"
        )
    if score_map.dtype.kind != "f":
        score_map = score_map.astype(np.float64)
    if not np.isfinite(score_map).all():
        raise ValueError(f"score map {i} holds NaN or infinity; expected finite scores")
    return score_map


def _regions(score_map, threshold):
    """Records of the regions of one map, the highest peak first."""
    labels, n_regions = ndimage.label(score_map > threshold, structure=_TOUCH)
    if n_regions == 0:
        return []
    # One entry per pixel above the threshold from here on: its region, score, row and column.
    pixels = np.flatnonzero(labels)
    which, scores = labels.ravel()[pixels] - 1, score_map.ravel()[pixels]
    rows, columns = np.divmod(pixels, score_map.shape[1])
    area = np.bincount(which)
    # Sorted by region, then by decreasing score: the first pixel of each region is its peak.
    order = np.lexsort((pixels, -scores, which))
    peaks = order[np.cumsum(area) - area]
    boxes = [
        [*(s.start for s in box), *(s.stop for s in box)] for box in ndimage.find_objects(labels)
    ]
    values = [
        *np.transpose(boxes),
        area,
        scores[peaks].astype(np.float64),
        rows[peaks],
        columns[peaks],
        *(np.bincount(which, of) / area for of in (scores, rows, columns)),
    ]
    by_peak = np.lexsort((pixels[peaks], -scores[peaks]))
    table = zip(*(value[by_peak].tolist() for value in values), strict=True)
    names = list(_COLUMNS)[1:]
    return [dict(zip(names, record, strict=True)) for record in table]


def separate_peaks(score_map: np.ndarray, n_peaks: int, reach: tuple[int, int]) -> np.ndarray:
    """The highest local maxima of a map, with a minimal distance between them.

    Parameters
    ----------
    score_map : ndarray of shape (H, W)
    n_peaks : int
        Maximal number of peaks.
    reach : tuple (rows, columns)
        No pixel within this distance of a peak is higher, and there is no other peak within it.

    Returns
    -------
    ndarray of shape (n, 2), int
        Rows and columns, from the highest peak down; the first is always the maximum of the map.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly.regions import separate_peaks
    >>> score_map = np.array([[1, 8, 7, 3, 6, 2, 4]])
    >>> separate_peaks(score_map, 3, reach=(1, 1)).tolist()
    [[0, 1], [0, 4], [0, 6]]
    >>> separate_peaks(score_map, 3, reach=(2, 2)).tolist()
    [[0, 1]]
    """
    size = [2 * r + 1 for r in reach]
    is_top = score_map == ndimage.maximum_filter(score_map, size=size, mode="nearest")
    # A plateau is one peak: its first pixel.
    labels, _ = ndimage.label(is_top, structure=_TOUCH)
    _, first = np.unique(labels[is_top], return_index=True)
    places = np.argwhere(is_top)[first]
    scores = score_map[tuple(places.T)]
    left = places[np.argsort(-scores, kind="stable")]
    peaks: list[np.ndarray] = []
    while len(left) and len(peaks) < n_peaks:  # of equal peaks within reach the first one stays
        peaks.append(left[0])
        left = left[(np.abs(left - left[0]) > reach).any(axis=1)]
    return np.array(peaks)


def as_table(records: list[dict], columns: Mapping[str, type], as_frame: bool) -> Any:
    """Records as they are, or as a DataFrame.

    Parameters
    ----------
    records : list of dict
    columns : dict of str to type
        The columns of the DataFrame, which has them even if there are no records.
    as_frame : bool

    Returns
    -------
    list of dict, or DataFrame

    Raises
    ------
    ImportError
        If ``as_frame=True`` and pandas is not installed.
    """
    if not as_frame:
        return records
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "as_frame=True needs pandas; install it with: pip install pandas, or use the list of "
            "records that as_frame=False returns"
        ) from error
    return pd.DataFrame(
        {
            name: np.array([record[name] for record in records], kind)
            for name, kind in columns.items()
        }
    )
