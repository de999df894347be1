"""Memory banks as they would be without some of the images they were learned from.

An image is judged as if it were new by a bank without its own rows. A row that is taken out may
leave a gap: it stood for patches of other images as well, of which one would have been chosen had
this image not been there. As the greedy choice always takes the patch farthest from the bank, the
candidate is the one, among those that the row stood for, that lies farthest from the rest; it takes
the row's place if it lies farther from it than the patch at which the choice stopped. A bank of all
patches has no gaps: it is then exactly that of a fit without the image.
"""

import numpy as np

from skanomaly.detectors._memory_bank import gather, rarity
from skanomaly.embedding import finest_grid
from skanomaly.neighbors import PatchIndex

N_NEAREST = 8  # rows of the bank around a patch: one of another group is among them, as a rule


class LeftOutMixin:
    """Mixin of PatchCore: the hook ``_leave_one_out``; comes before BaseDetector."""

    def _leave_one_out(self, X, groups):
        owners = np.searchsorted(np.flatnonzero(self.learned_from_), self.memory_origin_[:, 0])
        index, bank = self._bank_index(), self.memory_bank_
        banks = LeftOutBanks(X, self._patches, bank, owners, groups, index, self.n_neighbors)
        shape, first = self._patch_grid(), 0
        for batch in X.batches():
            patches = self._patches(batch).reshape(len(batch), -1, bank.shape[1])
            parts = [
                banks.distances_of(i, own).mean(axis=1) for i, own in enumerate(patches, first)
            ]
            score_maps = batch.scored_inside(np.stack(parts).reshape(len(batch), *shape))
            raw = {"score_maps": score_maps}
            if self.image_score == "paper":
                raw["image_scores"] = self._left_out_scores(score_maps, patches, banks, first)
            yield batch, raw
            first += len(batch)

    def _left_out_scores(self, score_maps, patches, banks, first):
        """The paper's scores of a few images, each by the bank without its group."""
        scores = score_maps.max(axis=(1, 2))
        if self.n_reweight == 0:
            return scores
        worst = score_maps.reshape(len(patches), -1).argmax(axis=1)
        for i in range(len(patches)):
            bank = banks.without(first + i)
            patch = patches[i, worst[i]][None]
            scores[i] *= rarity(patch, None, plain_index(bank), bank, self.n_reweight)[0]
        return scores


class LeftOutBanks:
    """The bank without each group of images in turn, and distances to it.

    Parameters
    ----------
    X : FeatureMaps of shape (n, D)
        What the bank was chosen from.
    patches_of : callable
        FeatureMaps of b images in, (b * h * w, D) out.
    bank : ndarray of shape (m, D)
    owners : ndarray of shape (m,), int
        The image of X that each row comes from.
    groups : ndarray of shape (n,)
        Images of one group are left out together.
    index : PatchIndex
        Of the bank.
    n_neighbors : int
    """

    def __init__(self, X, patches_of, bank, owners, groups, index, n_neighbors):
        self.bank, self.groups, self.n_neighbors = bank, groups, n_neighbors
        self.row_groups = groups[owners]
        k = min(max(n_neighbors, N_NEAREST), len(bank))
        found, inside = [], []
        for batch in X.batches():
            found.append(index.kneighbors(patches_of(batch), k))
            inside.append(batch.inside(finest_grid(X.layer_shapes)))
        # (n, h * w, k): of each patch to its nearest rows of the whole bank.
        self.distances = np.concatenate([one for one, _ in found]).reshape(len(X), -1, k)
        nearest = np.concatenate([rows.astype(np.int32) for _, rows in found])
        self.nearest = nearest.reshape(self.distances.shape)
        # (n, h * w): patches that count, and so may take a row's place.
        counts = np.ones(self.nearest.shape[:2], dtype=bool)
        if inside[0] is not None:
            counts = np.concatenate(inside).reshape(counts.shape)
        gaps, numbers = self._candidates(counts)
        stand_ins, _ = gather(X, numbers, patches_of, bank.shape[1])
        is_missed = self._are_missed(gaps, stand_ins, index)
        self.gaps, self.stand_ins = gaps[is_missed], stand_ins[is_missed]

    def _candidates(self, counts):
        """Rows of the bank that have one, and the number of the patch that may take its place."""
        row, groups = self.nearest[..., 0], self.row_groups[self.nearest]  # (n, h * w), (.., k)
        is_left = groups != groups[..., :1]
        is_left[..., -1] = True
        first = is_left.argmax(axis=2)[..., None]  # of the nearest rows, without the first's group
        distance = np.take_along_axis(self.distances, first, axis=2)
        numbers = np.flatnonzero((self.row_groups[row] != self.groups[:, None]) & counts)
        row, distance = row.ravel()[numbers], distance.ravel()[numbers]
        order = np.lexsort((-distance, row))  # by row, the farthest patch first
        gaps, first = np.unique(row[order], return_index=True)
        return gaps, numbers[order[first]]

    def _are_missed(self, gaps, candidates, index):
        """Whether each candidate is farther from what is left than where the choice stopped."""
        if len(gaps) == 0 or len(self.bank) == 1:
            return np.ones(len(gaps), dtype=bool)
        stopped_at = index.kneighbors(self.bank[-1:], 2)[0][0, 1]
        distances, rows = index.kneighbors(candidates, min(N_NEAREST, len(self.bank)))
        is_left = self.row_groups[rows] != self.row_groups[gaps][:, None]
        nearest = np.where(is_left, distances, np.inf).min(axis=1)
        for i in np.flatnonzero(~is_left.any(axis=1)):  # all of the nearest are of its own group
            left = self.bank[self.row_groups != self.row_groups[gaps[i]]]
            nearest[i] = np.linalg.norm(left - candidates[i], axis=1).min(initial=np.inf)
        return nearest > stopped_at

    def without(self, i):
        """The bank (m', D) without the group of image i."""
        is_left = self.row_groups != self.groups[i]
        return np.concatenate([self.bank[is_left], self._stand_ins_of(i)])

    def _stand_ins_of(self, i):
        return self.stand_ins[self.row_groups[self.gaps] == self.groups[i]]

    def distances_of(self, i, patches):
        """(h * w, k): from image i's patches to the nearest of the bank without its group.

        k is n_neighbors, or fewer where what is left of the bank is smaller.
        """
        is_own = self.row_groups[self.nearest[i]] == self.groups[i]
        distances = np.sort(np.where(is_own, np.inf, self.distances[i]), axis=1)
        stand_ins = self._stand_ins_of(i)
        k = min(self.n_neighbors, len(stand_ins))
        if k > 0:  # they may be nearer than what is left of the bank
            found, _ = plain_index(stand_ins).kneighbors(patches, k)
            distances = np.sort(np.concatenate([distances, found], axis=1), axis=1)
        distances = distances[:, : self.n_neighbors]
        # Of the rows found, too few are left, or others that were not found may be nearer.
        n_left = self.distances.shape[2] - is_own.sum(axis=1)
        is_cut = n_left < min(self.n_neighbors, self.distances.shape[2])
        if is_cut.any():
            left = self.without(i)
            k = min(self.n_neighbors, len(left))
            distances = distances[:, :k]
            distances[is_cut], _ = plain_index(left).kneighbors(patches[is_cut], k)
        return distances


def plain_index(rows):
    """An index that is searched too little to be prepared."""
    return PatchIndex(engine="plain", n_jobs=1).fit(rows)
