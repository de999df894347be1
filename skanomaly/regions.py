"""Places in score maps: connected regions above a threshold, and separate peaks."""

from numbers import Real

import numpy as np
from scipy import ndimage

__all__ = ["as_table", "map_regions", "separate_peaks"]

_TOUCH = np.ones((3, 3), dtype=bool)  # 8 neighbours

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


def map_regions(maps, threshold, *, as_frame=False):
    """Table of the connected regions of score maps that lie above a threshold.

    Parameters
    ----------
    maps : array of shape (n, H, W), or list of n arrays (H, W)
        As ``score_map`` answers them, high for a defect; sizes may differ.
    threshold : float
        A pixel belongs to a region where its score is above this. Infinity: there are none.
    as_frame : bool, default=False
        A pandas DataFrame instead of a list.

    Returns
    -------
    list of dict, or DataFrame
        One record per region, by image and in it from the highest peak to the lowest:

        - ``image``: int, place in `maps`;
        - ``top``, ``left``, ``bottom``, ``right``: int, the bounding box in the image's own
          pixels; it is ``score_map[top:bottom, left:right]``, so the last two lie outside;
        - ``area``: int, pixels;
        - ``peak``, ``mean``: float, the highest and the mean score of its pixels;
        - ``peak_row``, ``peak_column``: int, the pixel with the highest score;
        - ``centroid_row``, ``centroid_column``: float, the mean place of its pixels, each
          counted alike; whole numbers are the centres of pixels.

        Of equal peaks the one that comes first row by row is first. Empty where no pixel is
        above the threshold.

    Raises
    ------
    ValueError
        The threshold is no number, or the maps are none, of another shape, or not finite.
    ImportError
        A frame is asked for and pandas is not there.

    See Also
    --------
    score_regions : The same from an estimator and images.

    Notes
    -----
    Pixels that touch by a side or a corner are of one region (8-connected).

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
    """Records of one map's regions, the highest peak first."""
    labels, n_regions = ndimage.label(score_map > threshold, structure=_TOUCH)
    if n_regions == 0:
        return []
    pixels = np.flatnonzero(labels)
    which, scores = labels.ravel()[pixels] - 1, score_map.ravel()[pixels]
    rows, columns = np.divmod(pixels, score_map.shape[1])
    area = np.bincount(which)
    # By region, in it from the highest score: the first of each is its peak.
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


def separate_peaks(score_map, n_peaks, reach):
    """The highest pixels of a map that are the highest far and wide.

    Parameters
    ----------
    score_map : ndarray of shape (H, W)
    n_peaks : int
        At most so many.
    reach : tuple (rows, columns)
        No pixel within this distance of a peak is higher, and no other peak is as near.

    Returns
    -------
    ndarray of shape (n, 2), int
        Rows and columns, from the highest peak down; the first is always the map's maximum.

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
    labels, _ = ndimage.label(is_top, structure=_TOUCH)  # a plateau is one peak: its first pixel
    _, first = np.unique(labels[is_top], return_index=True)
    places = np.argwhere(is_top)[first]
    scores = score_map[tuple(places.T)]
    left = places[np.argsort(-scores, kind="stable")]
    peaks = []
    while len(left) and len(peaks) < n_peaks:  # of equal ones within reach the first stays
        peaks.append(left[0])
        left = left[(np.abs(left - left[0]) > reach).any(axis=1)]
    return np.array(peaks)


def as_table(records, columns, as_frame):
    """Records as they are, or as a DataFrame of the columns {name: type}, empty or not."""
    if not as_frame:
        return records
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "as_frame=True needs pandas; install it with: pip install pandas, or take the list of "
            "records that as_frame=False answers"
        ) from error
    return pd.DataFrame(
        {
            name: np.array([record[name] for record in records], kind)
            for name, kind in columns.items()
        }
    )
