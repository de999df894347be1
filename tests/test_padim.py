"""PaDiM: numbers by hand, against a loop over positions, learning in pieces."""

import logging

import numpy as np
import pytest
from numpy.testing import assert_allclose
from oracles_density import distances, gaussians, replicated
from scipy import ndimage

from skanomaly import FeatureMaps, FilterBank, PaDiM, Pipeline
from skanomaly.datasets import make_defects, make_textures
from skanomaly.embedding import repeat_cells
from skanomaly.metrics import image_roc_auc_score


def features(n=40, seed=0):
    """Three layers; the coarsest grid does not divide the finest."""
    rng = np.random.default_rng(seed)
    grids = {"fine": (6, 5, 12), "middle": (3, 5, 20), "coarse": (4, 2, 7)}
    return FeatureMaps(
        {name: rng.normal(size=(n, *grid)).astype(np.float32) for name, grid in grids.items()}
    )


def joined(X):
    """All channels at the finest grid, by a loop."""
    return np.concatenate([replicated(m, (6, 5)) for m in X.arrays().values()], axis=3)


def patch_scores(detector, X):
    return detector._score_maps(X)


def test_scores_by_hand():
    # One position with the numbers 0, 2, 4: mean 2, variance 4; with epsilon 5, deviation 3.
    detector = PaDiM(epsilon=5, sigma=0).fit([[0.0], [2.0], [4.0]])
    assert_allclose(detector.score_samples([[2.0], [5.0], [-7.0]]), [0, -1, -3], atol=1e-6)
    assert_allclose(detector.score_map([[5.0]]), [[[1]]])


@pytest.mark.parametrize("n_components", [None, 11, 500])
@pytest.mark.parametrize("shrinkage", [None, "ledoit_wolf"])
def test_patch_scores_are_those_of_the_loop(n_components, shrinkage):
    good, X = features(), features(5, seed=1)
    detector = PaDiM(n_components=n_components, shrinkage=shrinkage, random_state=0).fit(good)
    assert len(detector.channels_) == (11 if n_components == 11 else 39)
    vectors, queries = (joined(maps)[..., detector.channels_] for maps in (good, X))
    expected = distances(queries, *gaussians(vectors, 0.01, shrinkage))
    assert_allclose(patch_scores(detector, X), expected, rtol=1e-5)


def test_neighbourhood_means_come_before_replication():
    good, X = features(), features(5, seed=1)
    detector = PaDiM(patch_size=3).fit(good)

    def pooled(maps):
        layers = {
            name: ndimage.uniform_filter(m, (0, 3, 3, 0), mode="constant")
            for name, m in maps.arrays().items()
        }
        return joined(FeatureMaps(layers))

    expected = distances(pooled(X), *gaussians(pooled(good), 0.01))
    assert_allclose(patch_scores(detector, X), expected, rtol=1e-5)


@pytest.mark.parametrize("grid", [(12, 8), (7, 5), (5, 11), (4, 4)])
def test_replication(grid):
    maps = np.random.default_rng(0).random((2, 4, 4, 3))
    assert np.array_equal(repeat_cells(maps, grid), replicated(maps, grid))


def test_channels_are_drawn_once():
    good = features()
    drawn = [PaDiM(n_components=9, random_state=s).fit(good).channels_ for s in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    assert np.array_equal(drawn[0], np.unique(drawn[0]))
    detector = PaDiM(n_components=9, random_state=np.random.RandomState(0))
    for piece in good.batches(15):
        detector.partial_fit(piece)
        assert np.array_equal(detector.channels_, drawn[0])


@pytest.mark.parametrize("batch", [7, 16, 40])
def test_partial_fit_in_pieces_is_fit(batch):
    good, X = features(), features(5, seed=1)
    whole = PaDiM(random_state=0).fit(good)
    pieces = PaDiM(random_state=0)
    for piece in good.batches(batch):
        last = piece
        pieces.partial_fit(piece)
    assert_allclose(pieces.score_map(X), whole.score_map(X), rtol=1e-5)
    assert pieces.offset_ == np.percentile(pieces.score_samples(last), 1)
    more = features(30, seed=2)
    expected = PaDiM(random_state=0).partial_fit(good).partial_fit(more)
    assert_allclose(whole.partial_fit(more).score_map(X), expected.score_map(X), rtol=1e-5)
    assert whole.gaussian_.n_samples_seen_ == 70


def test_first_partial_fit_after_another_fit_forgets_nothing_but_fit_does():
    good, other = features(), features(seed=4)
    detector = PaDiM(random_state=0).partial_fit(other).fit(good)
    assert detector.gaussian_.n_samples_seen_ == 40
    assert_allclose(detector.score_map(other), PaDiM(random_state=0).fit(good).score_map(other))


def test_image_scores_are_maxima_before_and_after_smoothing():
    good, X = features(), features(5, seed=1)
    by_paper, by_map = (
        PaDiM(image_score=kind, sigma=1.5).fit(good) for kind in ("paper", "map_max")
    )
    expected = by_map.score_map(X).max(axis=(1, 2))
    assert_allclose(-by_map.score_samples(X), expected, rtol=1e-6)
    expected = by_paper._score_maps(X).max(axis=(1, 2))
    assert_allclose(-by_paper.score_samples(X), expected, rtol=1e-6)


def test_position_matters():
    """The same patch is good where it belongs and a defect elsewhere."""
    rng = np.random.default_rng(0)
    good = rng.normal(size=(30, 4, 4, 6)).astype(np.float32)
    good[:, :2] += 20
    swapped = good[:5].copy()
    swapped[:, 0, 0], swapped[:, 3, 3] = good[:5, 3, 3], good[:5, 0, 0]
    detector = PaDiM().fit(good)
    assert set(detector.predict(swapped)) == {-1}
    assert patch_scores(detector, FeatureMaps({"features": swapped}))[:, [0, 3], [0, 3]].min() > 15


def test_finds_defects_in_textures():
    good = make_textures(60, size=(64, 64), random_state=0)
    bad, _, _ = make_defects(good[50:], random_state=0)
    bank = FilterBank(image_size=64, random_state=0)
    pipe = Pipeline([("features", bank), ("detector", PaDiM(patch_size=3, random_state=0))])
    pipe.fit(good[:40])
    scores = -pipe.decision_function(np.concatenate([good[40:50], bad]))
    assert image_roc_auc_score(np.repeat([1, -1], [10, len(bad)]), scores) > 0.9


def test_few_images_are_noted_in_the_log(caplog):
    with caplog.at_level(logging.INFO, logger="skanomaly"):
        PaDiM().fit(features(45))
        assert not caplog.records
        PaDiM().fit(features(10))
    assert "10 images for 39 channels" in caplog.text


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"patch_size": 2}, "patch_size must be odd"),
        ({"n_components": 0}, "n_components"),
        ({"epsilon": -0.1}, "epsilon"),
        ({"shrinkage": "oas"}, "shrinkage"),
        ({"epsilon": 0}, "pass epsilon > 0"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        PaDiM(**parameters).fit(features(20))


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(ValueError, match="at least 2 good images"):
        PaDiM().partial_fit(features(1))
    hurt = features()
    hurt.arrays()["middle"][7, 1, 1, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        PaDiM().fit(hurt)
    closed = PaDiM(updatable=False).fit(features())
    with pytest.raises(ValueError, match="updatable=True"):
        closed.partial_fit(features())
    with pytest.raises(ValueError, match="use the extractor the detector was fitted with"):
        PaDiM().fit(features()).partial_fit(np.zeros((3, 6, 5, 12), np.float32))


def test_further_images_marked_as_defects_are_not_learned_from():
    rows = np.random.default_rng(0).normal(size=(40, 5))
    y = np.repeat([1, -1], [15, 5])
    with_labels = PaDiM(random_state=0).fit(rows[:20]).partial_fit(rows[20:], y)
    without = PaDiM(random_state=0).fit(rows[:20]).partial_fit(rows[20:35])
    assert np.array_equal(with_labels.score_samples(rows), without.score_samples(rows))
    assert with_labels.offset_ == without.offset_
