"""PatchCore's bank learns on: rows for patches that it does not cover, and without some images'."""

import math
import warnings

import numpy as np

from skanomaly.coreset import greedy_order
from skanomaly.detectors._memory_bank import CORESET_ROW_BYTES, bank_size, stored, those_that_count
from skanomaly.neighbors import PatchIndex

GROWTH = 2  # of max_bank_size=None: how many times the rows of a fit


class BankUpdatesMixin:
    """Mixin of PatchCore: the hooks of partial_fit and forget; comes before BaseDetector."""

    _replaced_by_updates: tuple[str, ...] = (
        "memory_bank_", "memory_origin_", "memory_frames_", "learned_from_",
    )  # fmt: skip

    def _partial_fit(self, X):
        radius = self._radius_to_cover()
        n_before = len(self.memory_frames_)
        numbers = n_before + np.flatnonzero(self.learned_from_[n_before:])
        found = self._outside(X, numbers, radius)
        n_room = max(0, self._most_rows(int(self.learned_from_.sum())) - len(self.memory_bank_))
        picks, left = self._cover(found["rows"], found["distances"], radius, n_room)
        more = stored(found["rows"][picks], self.memory_bank_.dtype)
        self.memory_bank_ = np.concatenate([self.memory_bank_, more])
        self.memory_origin_ = np.concatenate([self.memory_origin_, found["origin"][picks]])
        frames = np.zeros((len(self.learned_from_), 2), dtype=np.int32)
        frames[:n_before], frames[numbers] = self.memory_frames_, found["frames"]
        self.memory_frames_ = frames
        self.bank_digest_ = self._index = None
        if len(left):
            self.covering_radius_ = max(self.covering_radius_, float(left.max()))
            warnings.warn(
                f"the bank is full with {len(self.memory_bank_)} rows: {len(left)} of the patches "
                f"of these images lie outside of its covering radius still, the farthest at "
                f"{left.max():.3g} instead of {radius:.3g}; set a larger max_bank_size, or fit on "
                "all images again",
                stacklevel=2,
            )

    def _forget(self, images, places, X):
        is_kept = ~np.isin(self.memory_origin_[:, 0], images)
        if is_kept.sum() < self.n_neighbors:
            raise ValueError(
                f"expected at least n_neighbors={self.n_neighbors} rows of the bank to be left, "
                f"got {is_kept.sum()} of {len(is_kept)}; fit the detector anew on other images"
            )
        self.memory_bank_ = self.memory_bank_[is_kept]
        self.memory_origin_ = self.memory_origin_[is_kept]
        self.memory_frames_ = self.memory_frames_.copy()
        self.memory_frames_[images] = 0
        self.bank_digest_ = self._index = None

    def _update_offset(self, X):
        """It stays: more rows make no patch more abnormal, and images before are not there."""

    def _forecast_update(self, layer_shapes, n_before, n_new):
        n_features = sum(shape[2] for shape in layer_shapes.values())
        n_patches = n_new * math.prod(self._patch_grid())
        n_rows = min(self._most_rows(n_before + n_new), len(self.memory_bank_) + n_patches)
        return {
            "patches outside of the bank": 2 * 4 * n_features * n_patches,
            "the coreset's search": CORESET_ROW_BYTES * n_patches,
            "memory bank and its index": 4 * 3 * n_features * n_rows,
        }

    def _radius_to_cover(self):
        if not hasattr(self, "covering_radius_"):
            raise ValueError(
                "expected a PatchCore that knows its covering radius, got one that was stored by "
                "an earlier version; fit it again"
            )
        return self.covering_radius_

    def _most_rows(self, n_images):
        """Rows up to which the bank may grow, after so many good images."""
        if self.max_bank_size is not None:
            return self.max_bank_size
        n_patches = n_images * math.prod(self._patch_grid())
        return min(n_patches, GROWTH * bank_size(self.coreset_ratio, n_patches, self.bank_size))

    def _outside(self, X, numbers, radius):
        """Patches (k, D) farther than the radius from the bank, with distances (k,) and origins.

        Those outside the regions of interest are not among them.
        """
        index, first = self._bank_index(), 0
        parts = {name: [] for name in ("rows", "distances", "origin", "frames")}
        for batch in X.batches():
            places = those_that_count(batch)
            patches = self._patches(batch)  # (b * h * w, D)
            patches = patches if len(places) == len(patches) else patches[places]
            distances = index.kneighbors(patches)[0][:, 0]
            is_outside = distances > radius
            images, cells = np.divmod(places[is_outside], math.prod(self._patch_grid()))
            parts["rows"].append(patches[is_outside])
            parts["distances"].append(distances[is_outside])
            parts["origin"].append(np.column_stack([numbers[first + images], cells]))
            parts["frames"].append(batch.frames)
            first += len(batch)
        found = {name: np.concatenate(some) for name, some in parts.items()}
        return {**found, "origin": found["origin"].astype(np.int32)}

    def _cover(self, rows, distances, radius, n_rows):
        """Places of rows to add, at most n_rows, and distances of those that stay uncovered.

        None of them lies within the radius of the bank: a greedy choice among them alone, from
        the farthest on, is what covers them.
        """
        n_rows = min(n_rows, len(rows))
        if n_rows == 0:
            return np.zeros(0, dtype=int), distances
        options, start = self._bank_options(), int(distances.argmax())
        picks = greedy_order(rows, n_rows, start, radius=radius, **options)
        if len(picks) < n_rows or n_rows == len(rows):
            return picks, distances[:0]
        index = PatchIndex(n_jobs=self.n_jobs).fit(rows[picks])
        left = np.minimum(distances, index.kneighbors(rows)[0][:, 0])
        return picks, left[left > radius]
