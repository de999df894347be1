"""PatchCore's fit: a coreset of all patches, or one of the coresets of parts of the images."""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from skanomaly.caching import recall_longest
from skanomaly.coreset import RandomProjection, merge_coresets, part_size, union_size
from skanomaly.detectors._memory_bank import (
    SCALE_IMAGES,
    Candidates,
    among_all,
    bank_size,
    check_any,
    choose_bank,
    first_rows,
    gather,
    project_patches,
    scales_of,
    stored,
)
from skanomaly.embedding import check_odd
from skanomaly.io import digest

AHEAD_RATIO = 0.1  # with a cache, banks up to this ratio are chosen at once
# Parameters that the choice of rows does not depend on.
_NOT_OF_THE_BANK = (
    "bank_size", "coreset_ratio", "memory_dtype", "n_neighbors", "n_reweight", "neighbors",
)  # fmt: skip


class BankPlan(NamedTuple):
    """What all parts share, until the bank is chosen."""

    projection: RandomProjection
    start: int  # number of the patch that is chosen first
    n_images: int
    candidates: Candidates | None  # None: the bank is chosen from all patches that count


class BankPartsMixin:
    """Mixin of PatchCore: its fit, in one part or several; comes before BaseDetector.

    The state of a part: ``rows`` (m, D) in greedy order and their ``origin`` (m, 2), the ``frames``
    (n, 2) of its ``images`` (n,), and the ``radius`` within which its patches lie of its rows.
    """

    _n_plan_images = SCALE_IMAGES
    _selects_rows = True

    def _fit(self, X):
        self._fit_as_one_part(X)

    def _plan_parts(self, X, n_images):
        check_odd(self.patch_size)
        self._begin_plan(X, n_images)
        rng = check_random_state(self.random_state)
        self.index_seed_ = rng.randint(2**31)
        self.layer_scales_ = scales_of(X) if self.balance_layers else {}
        first = self._patches(X[:1])  # (h * w, D)
        projection = RandomProjection(self.n_projections, rng)
        projection.fit(first.shape[1], origin=first[0].copy())
        start, candidates = rng.randint(n_images * len(first)), None
        if self.n_candidates is not None:
            candidates = Candidates(self.n_candidates, n_images, rng.randint(2**31))
        self._plan = BankPlan(projection, start, n_images, candidates)

    def _learn_part(self, X, first):
        plan, n_cells = self._plan, math.prod(self._patch_grid())
        choose = partial(
            choose_bank, X, first, self._patches, plan.projection, plan.start,
            candidates=plan.candidates, **self._bank_options(),
        )  # fmt: skip
        n_all = plan.n_images * n_cells
        n_rows = part_size(self._n_rows(plan.n_images), len(X) * n_cells, n_all)
        if len(X) < plan.n_images:
            found, key = choose(n_rows), None
        else:
            # With a cache: the bank of a ratio is the beginning of every larger one's.
            settings = partial(self._fit_settings, without=_NOT_OF_THE_BANK)
            n_ahead = partial(self._bank_ahead, X, n_all)
            found, key = recall_longest(X, settings, "rows", n_rows, n_ahead, choose)
        n_rows = min(n_rows, len(found["rows"]))  # of those that count there may be fewer
        return {
            "rows": first_rows(found["rows"], n_rows),
            "origin": found["origin"][:n_rows] + np.array([first, 0], dtype=np.int32),
            "images": np.arange(first, first + len(X)),
            "frames": found["frames"],
            "radius": float(found["radii"][n_rows - 1]),
            "digest": None if key is None else digest(key, n_rows, self.memory_dtype),
            "n_parts": 1,
        }

    def _join_parts(self, states):
        joined = _concatenated(states)
        joined["radius"] = max(state["radius"] for state in states)
        joined["digest"] = None
        joined["n_parts"] = sum(state["n_parts"] for state in states)
        most = union_size(self._n_rows(self._plan.n_images))
        return joined if len(joined["rows"]) <= most else self._chosen(joined, most)

    def _fit_from(self, state):
        n_rows = self._n_rows(len(state["images"]))  # of parts, some may be left out, as in folds
        if state["n_parts"] > 1 or len(state["rows"]) > n_rows:
            state = self._chosen(state, n_rows)
        self.memory_bank_ = stored(state["rows"], self.memory_dtype)
        self.covering_radius_ = state["radius"]
        self.bank_digest_ = state["digest"]
        frames = np.zeros((self._plan.n_images, 2), dtype=np.int32)
        frames[state["images"]] = state["frames"]
        origins = among_all(self.learned_from_, state["origin"], frames)
        self.memory_origin_, self.memory_frames_ = origins
        del self._plan

    def _project_part(self, X, first):
        plan = self._plan
        return project_patches(X, first, self._patches, plan.projection, plan.candidates)

    def _n_selected_and_start(self, n_patches, n_images):
        start = self._plan.start % check_any(n_patches, n_images)
        return min(self._n_rows(n_images), n_patches), start

    def _images_of(self, projected, places):
        return np.unique(projected.numbers[places] // math.prod(self._patch_grid()))

    def _gather_part(self, X, images, first, projected, places):
        n_images, n_features = len(projected.frames), self._plan.projection.n_features_in_
        rows, origin = np.empty((0, n_features), np.float32), np.empty((0, 2), np.int32)
        if len(places) > 0:
            which, cells = np.divmod(projected.numbers[places], math.prod(self._patch_grid()))
            numbers = np.searchsorted(images, which) * math.prod(self._patch_grid()) + cells
            rows, origin = gather(X, numbers, self._patches, n_features)
            origin[:, 0] = images[origin[:, 0]]
        return {
            "rows": rows,
            "origin": origin + np.array([first, 0], dtype=np.int32),
            "images": np.arange(first, first + n_images),
            "frames": projected.frames,
        }

    def _put_together(self, chosen, radius):
        places, states = zip(*chosen, strict=True)
        order = np.argsort(np.concatenate(places))
        joined = _concatenated(states)
        joined["rows"], joined["origin"] = joined["rows"][order], joined["origin"][order]
        return {**joined, "radius": radius, "digest": None, "n_parts": 1}

    def _n_rows(self, n_images):
        """Rows of the bank of so many images."""
        n_patches = n_images * math.prod(self._patch_grid())
        return bank_size(self.coreset_ratio, n_patches, self.bank_size)

    def _chosen(self, state, n_rows):
        """The state with so many of its rows, in greedy order."""
        projected = self._plan.projection.transform(state["rows"])
        radii, options = [state["radius"]], self._bank_options()
        order, radius = merge_coresets([projected], n_rows, radii=radii, **options)
        rows, origin = state["rows"][order], state["origin"][order]
        return {**state, "rows": rows, "origin": origin, "radius": radius}

    def _bank_options(self):
        return {"device": self.device, "n_jobs": self.n_jobs, "verbose": self.verbose}

    def _bank_ahead(self, X, n_patches):
        """Rows of the largest bank that a search is likely to ask for, if memory allows it."""
        is_allowed = self._fits_memory(X, ratio=AHEAD_RATIO)
        if not is_allowed:
            return 0
        is_ratio = self.bank_size is None and self.coreset_ratio != "auto"
        return bank_size(AHEAD_RATIO if is_ratio else "auto", n_patches)


def _concatenated(states):
    """What the states of several parts have for each row or image, one part after the other."""
    return {
        name: np.concatenate([state[name] for state in states])
        for name in ("rows", "origin", "images", "frames")
    }
