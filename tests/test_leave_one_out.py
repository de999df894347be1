"""leave_one_out: one fit, and the scores of as many fits as there are images."""

import numpy as np
import pytest
from sklearn.base import clone

from skanomaly import SPADE, FeatureMaps, PaDiM, PatchCore, Pipeline
from skanomaly.detectors._left_out import LeftOutBanks
from skanomaly.neighbors import PatchIndex

N = 9
GROUPS = np.array([0, 0, 1, 1, 1, 2, 3, 4, 5])


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    fine, coarse = rng.normal(size=(N, 8, 8, 6)), rng.normal(size=(N, 4, 4, 5))
    return FeatureMaps({"fine": fine.astype(np.float32), "coarse": coarse.astype(np.float32)})


def refits(detector, maps, groups):
    """Scores and maxima of the maps of each image, by a fit without its group."""
    scores, maxima = [], []
    for i in range(len(maps)):
        other = clone(detector).fit(maps[np.flatnonzero(groups != groups[i])])
        score, score_map = other.score_samples_and_map(maps[[i]])
        scores.append(score[0])
        maxima.append(score_map.max())
    return np.array(scores), np.array(maxima)


# The layers' scales are those of all images, also where one is left out.
PLAIN = {"coreset_ratio": 1.0, "balance_layers": False, "random_state": 0}
BANKS = [
    PatchCore(image_score="paper", **PLAIN),
    PatchCore(n_neighbors=3, **PLAIN),
    PatchCore(image_score="paper", n_reweight=0, patch_size=1, **PLAIN),
    SPADE(n_neighbors=4, sigma=1, image_score="paper", balance_layers=False),
    SPADE(n_neighbors=4, n_gallery_neighbors=2, image_score="map_max", layers="fine"),
    SPADE(n_neighbors=4, image_score="map_max", balance_layers=False),
]
GAUSSIANS = [
    PaDiM(random_state=0),  # fewer images than channels: low rank
    PaDiM(n_components=3, epsilon=1e-3, random_state=0),
    PaDiM(n_components=5, image_score="paper", patch_size=3, random_state=0),
]


@pytest.mark.parametrize("groups", [np.arange(N), GROUPS], ids=["images", "groups"])
@pytest.mark.parametrize("detector", BANKS, ids=str)
def test_a_memory_bank_without_an_image(detector, groups, maps):
    found = clone(detector).fit(maps).leave_one_out(maps, groups)
    for one, other in zip(found, refits(detector, maps, groups), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("detector", GAUSSIANS, ids=str)
def test_a_gaussian_without_an_image(detector, maps):
    found = clone(detector).fit(maps).leave_one_out(maps)
    for one, other in zip(found, refits(detector, maps, np.arange(N)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_balanced_layers_keep_the_scales_of_all_images(maps):
    """As a fit on the others, of features that were scaled as those of all images."""
    found = PatchCore(coreset_ratio=1.0, random_state=0).fit(maps)
    scaled = {name: one * found.layer_scales_[name] for name, one in maps.arrays().items()}
    scaled = FeatureMaps(scaled, maps.frames, maps.image_fit)
    expected = PatchCore(**PLAIN)
    for one, other in zip(
        found.leave_one_out(maps), refits(expected, scaled, np.arange(N)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_coreset_without_an_image(maps):
    """Slow and obvious: each image by the rows of others and by those that take its rows' place."""
    detector = PatchCore(coreset_ratio=0.3, patch_size=1, n_neighbors=2, sigma=0, random_state=0)
    detector.set_params(image_score="map_max", balance_layers=False).fit(maps)
    bank, owner = detector.memory_bank_, detector.memory_origin_[:, 0]
    patches = detector._patches(maps).reshape(N, 64, -1)
    distances = np.linalg.norm(patches[:, :, None] - bank, axis=3)  # (n, h * w, m)
    own_row = distances.argmin(axis=2)
    stopped_at = np.sort(np.linalg.norm(bank - bank[-1], axis=1))[1]
    expected, n_replaced = [], 0
    for i in range(N):
        left = bank[owner != i]
        rows = list(left)
        for row in np.flatnonzero(owner == i):
            stood_for = own_row == row
            stood_for[i] = False
            if stood_for.any():
                to_rest = np.where(owner == i, np.inf, distances)  # (n, h * w, m)
                eighth = np.sort(distances, axis=2)[:, :, 7]
                to_rest = np.minimum(to_rest.min(axis=2), eighth)
                place = np.argmax(np.where(stood_for, to_rest, -1))
                candidate = patches.reshape(N * 64, -1)[place]
                if np.linalg.norm(left - candidate, axis=1).min() > stopped_at:
                    rows.append(candidate)
                    n_replaced += 1
        to_rows = np.linalg.norm(patches[i][:, None] - np.array(rows), axis=2)
        expected.append(np.sort(to_rows, axis=1)[:, :2].mean(axis=1).max())
    assert n_replaced > 5
    scores, maxima = detector.leave_one_out(maps)
    np.testing.assert_allclose(scores, -np.array(expected), rtol=1e-5)
    np.testing.assert_allclose(maxima, expected, rtol=1e-5)


def test_what_a_row_of_all_own_neighbors_takes(maps):
    """One image owns all nearest rows: the search goes on among the others."""
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(40, 3)).astype(np.float32)
    owners = np.repeat([0, 1], [30, 10])
    bank[owners == 1] += 20
    one = FeatureMaps({"a": bank[[0, 35], None, None]})
    index = PatchIndex().fit(bank)
    banks = LeftOutBanks(one, _rows, bank, owners, np.arange(2), index, n_neighbors=1)
    expected = np.linalg.norm(bank[owners == 1] - bank[0], axis=1).min()
    np.testing.assert_allclose(banks.distances_of(0, bank[:1]), [[expected]], rtol=1e-6)


def _rows(batch):
    return batch.arrays()["a"].reshape(-1, 3)


def test_images_left_out_as_defects_are_not_scored(maps):
    y = np.ones(N, int)
    y[[2, 5]] = -1
    detector = PatchCore(coreset_ratio=1.0, random_state=0)
    scores, _ = clone(detector).fit(maps, y).leave_one_out(maps)
    expected, _ = clone(detector).fit(maps[y == 1]).leave_one_out(maps[y == 1])
    np.testing.assert_array_equal(scores, expected)


def test_what_cannot_be_left_out(maps):
    detector = PatchCore(random_state=0).fit(maps)
    with pytest.raises(ValueError, match=r"expected the 9 images of fit .*, got 4 images"):
        detector.leave_one_out(maps[:4])
    with pytest.raises(ValueError, match="expected at least two images, or groups"):
        detector.leave_one_out(maps, np.zeros(N))
    with pytest.raises(NotImplementedError, match="single images of one fit, not groups"):
        PaDiM().fit(maps).leave_one_out(maps, GROUPS)
    for parameters in {"shrinkage": "ledoit_wolf"}, {"updatable": False}:
        with pytest.raises(NotImplementedError, match="shrinkage=None and updatable=True"):
            PaDiM(**parameters).fit(maps).leave_one_out(maps)
    with pytest.raises(ValueError, match="at least 3 maps, of which one is left out"):
        PaDiM().fit(maps[:2]).leave_one_out(maps[:2])
    assert not hasattr(Pipeline([("detector", detector)]), "leave_one_out")
