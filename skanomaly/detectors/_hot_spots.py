"""The good patch that a hot spot is nearest to, for detectors that keep good patches."""

from numbers import Integral

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skanomaly.embedding import finest_grid
from skanomaly.regions import as_table, separate_peaks
from skanomaly.utils.state import reading
from skanomaly.utils.threads import limit_blas_threads

PEAK_REACH = 2  # cells; of two hot spots nearer than this the higher one counts

_BOX = ("top", "left", "bottom", "right")
_COLUMNS = {
    "image": int,
    "peak": float,
    "peak_row": int,
    "peak_column": int,
    **dict.fromkeys(("cell_row", "cell_column", *_BOX), int),
    "distance": float,
    "good_image": int,
    **{f"good_{name}": int for name in ("cell_row", "cell_column", *_BOX)},
}


class HotSpotsMixin:
    """Mixin of the detectors that keep good patches; comes before BaseDetector.

    A child's ``_fit`` sets ``memory_frames_``, the frames (n, 2) of all images of the X of fit. Its
    hook ``_nearest_patches(X, images, cells)`` returns, for k patches of stored FeatureMaps, the
    distance to the nearest good patch (k,), its image's place in the X of fit (k,), and its cell
    (k, 2). ``_patch_grid`` is the finest grid where the child does not say otherwise.
    """

    # What of a child's forecast is there after the fit as well: its good patches.
    _kept_of_forecast = ("memory bank and its index", "memory", "its index")

    @reading
    def nearest_good(self, X, *, n_peaks=1, as_frame=False):
        """For each hot spot the good patch it is nearest to, and where that comes from.

        Parameters
        ----------
        X : FeatureMaps, or array of shape (n, h, w, d) or (n, d)
            What ``fit`` takes.
        n_peaks : int, default=1
            Hot spots per image, at most.
        as_frame : bool, default=False
            A pandas DataFrame instead of a list.

        Returns
        -------
        list of dict, or DataFrame
            One record per hot spot, by image and in it from the highest peak down:

            - ``image``: int, place in X;
            - ``peak``: float, the score map's value at the hot spot;
            - ``peak_row``, ``peak_column``: int, the hot spot, in the image's own pixels;
            - ``cell_row``, ``cell_column``: int, the cell of the grid of patches it lies in;
            - ``top``, ``left``, ``bottom``, ``right``: int, that cell's box in the image's own
              pixels, the last two outside of it;
            - ``distance``: float, from the cell's patch to the nearest good one;
            - ``good_image``: int, the image that this comes from: its place in the X of fit,
              images that were left out as defects counted;
            - ``good_cell_row``, ``good_cell_column``, ``good_top``, ``good_left``,
              ``good_bottom``, ``good_right``: int, its cell and box there.

        Raises
        ------
        ValueError
            n_peaks is not a positive integer, or X is not what ``score_map`` takes.
        ImportError
            ``as_frame=True`` and pandas is not installed.

        See Also
        --------
        skanomaly.nearest_good : The same for a Pipeline, a search or a wrapper.

        Notes
        -----
        A hot spot is a peak of the score map: no pixel within two cells is higher. The box is that
        of the patch's cell, while the patch depends on more than its cell: on the cells around
        (``patch_size``) and on the receptive field of the features. Of a cell in padding the box
        is the nearest pixel of the image.
        """
        check_is_fitted(self)
        is_count = isinstance(n_peaks, Integral) and not isinstance(n_peaks, bool)
        if not is_count or n_peaks < 1:
            raise ValueError(f"n_peaks must be an integer of at least 1, got {n_peaks!r}")
        X = self._check_X(X, reset=False)
        records, done = [], 0
        for piece in X.batches():
            records += self._nearest_of(piece, n_peaks, done)
            done += len(piece)
        return as_table(records, _COLUMNS, as_frame)

    def _patch_grid(self):
        """Rows and columns of patches in an image."""
        return finest_grid(self.layer_shapes_)

    def _nearest_of(self, X, n_peaks, first):
        """Records of a few images, which are numbered from the first one's number."""
        grid = self._patch_grid()
        spots = [
            {"image": i, **spot}
            for i, score_map in enumerate(self.score_map(X))
            for spot in _hot_spots(score_map, grid, X.image_fit, n_peaks)
        ]
        images = np.array([spot["image"] for spot in spots])
        cells = np.array([(spot["cell_row"], spot["cell_column"]) for spot in spots])
        with limit_blas_threads():
            found = self._nearest_patches(X, images, cells)
        for spot, distance, place, cell in zip(spots, *found, strict=True):
            box = self.image_fit_.cell_box(grid, self.memory_frames_[place], cell)
            spot.update(image=first + spot["image"], distance=float(distance))
            spot.update(good_image=int(place), **_cell("good_", cell, box))
        return spots


def _hot_spots(score_map, grid, image_fit, n_peaks):
    """Records of one score map's peaks and the cells they lie in."""
    frame = score_map.shape
    rows, columns = image_fit.cell_edges(grid, frame)
    # What a crop left out only repeats the scores of the border.
    seen = score_map[rows[0] : rows[-1], columns[0] : columns[-1]]
    reach = [max(1, round(PEAK_REACH * size)) for size in image_fit.cell_size(grid, frame)]
    for row, column in separate_peaks(seen, n_peaks, reach):
        peak = row + rows[0], column + columns[0]
        cell = image_fit.cell_at(grid, frame, peak)
        yield {
            "peak": float(score_map[peak]),
            "peak_row": int(peak[0]),
            "peak_column": int(peak[1]),
            **_cell("", cell, image_fit.cell_box(grid, frame, cell)),
        }


def _cell(prefix, cell, box):
    """Entries of a record for a cell and its box."""
    names = ("cell_row", "cell_column", *_BOX)
    return {prefix + name: int(n) for name, n in zip(names, (*cell, *box), strict=True)}


def nearest_in_images(memory, galleries, queries):
    """The nearest row of each query among those of a few images, named for each.

    Parameters
    ----------
    memory : ndarray of shape (n_images, n_rows, C)
    galleries : ndarray of shape (k, K), int
    queries : ndarray of shape (k, C), float32

    Returns
    -------
    distances : ndarray of shape (k,), float32
    images, rows : ndarray of shape (k,), int
        Of equally near rows that of the image named first, and in it the first one.
    """
    nearest = []
    for images, query in zip(galleries, queries, strict=True):
        best = np.inf, -1, -1
        for image in images:
            distances = np.linalg.norm(memory[image].astype(np.float32) - query, axis=1)
            row = distances.argmin()
            best = min(best, (distances[row], image, row), key=lambda one: one[0])
        nearest.append(best)
    return tuple(map(np.array, zip(*nearest, strict=True)))


def finest_layer(layer_shapes):
    """Name of the layer with the most positions, the first of several."""
    return max(layer_shapes, key=lambda name: layer_shapes[name][0] * layer_shapes[name][1])
