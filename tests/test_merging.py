"""What is learned of parts of the images, put together, against one fit of all of them."""

import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles_coreset import covering_radius, sequential_greedy_float64
from oracles_density import distances, gaussians
from part_fits import fit_in_parts
from sklearn.base import clone

from skanomaly import (
    SPADE,
    ARNet,
    EnsembleDetector,
    FeatureMaps,
    FilterBank,
    PaDiM,
    PatchCore,
    estimate_memory,
    load_folder,
)
from skanomaly.coreset import (
    greedy_order,
    greedy_order_and_radii,
    merge_coresets,
    part_size,
    union_size,
)
from skanomaly.coreset._greedy_torch import greedy_order_torch
from skanomaly.datasets import make_defects, make_textures
from skanomaly.density import PositionwiseGaussian
from skanomaly.metrics import image_roc_auc_score
from skanomaly.neighbors import PatchIndex, merge_neighbors

GRID = (3, 2)


def edges_of(n, n_parts):
    """Where n images are cut into parts of unequal sizes, of one image at the beginning."""
    inner = n * np.linspace(0, 1, n_parts + 1)[1:-1] ** 1.5
    return np.unique(np.r_[0, np.maximum(inner.astype(int), np.arange(1, n_parts)), n])


def assert_same_maps(one, other, X):
    for a, b in zip(one.score_map(X), other.score_map(X), strict=True):
        assert_array_equal(a, b)


# Gaussians ------------------------------------------------------------------------------------


def vectors(n, d, seed=0):
    """(n, h, w, d) float32: correlated, of various size, far from zero."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(*GRID, d, d)) / np.sqrt(d)
    maps = np.einsum("nhwd,hwde->nhwe", rng.normal(size=(n, *GRID, d)), mixing)
    return (maps * np.geomspace(0.3, 3, d) + np.linspace(-2, 5, d)).astype(np.float32)


def learned(maps, edges, **parameters):
    """A Gaussian of each part."""
    pieces = np.split(maps, edges[1:-1])
    return [PositionwiseGaussian(**parameters).fit(piece) for piece in pieces]


def merged(parts, **parameters):
    total = PositionwiseGaussian(**parameters)
    for part in parts:
        total.merge(part)
    return total


def moments(gaussian):
    """n, mean (cells, d), scatter (cells, d, d) and sum of |u|^4 (cells,), from the state."""
    state = gaussian.get_state()
    n, origin = state["n"], state["origin"]
    cells, d = origin.shape
    if state["is_low_rank"]:
        blocks = [array for name, array in state.items() if name.startswith("blocks_")]
        rows = np.concatenate([one.astype(np.float64) for one in blocks], axis=1)  # (cells, n, d)
        u = rows - rows.mean(axis=1, keepdims=True)
        scatter = u.swapaxes(1, 2) @ u
        return n, origin + rows.mean(axis=1), scatter, (np.square(u).sum(axis=2) ** 2).sum(axis=1)
    lower = np.zeros((cells, d, d))
    stripes, first = [a for name, a in state.items() if name.startswith("products_")], 0
    for stripe in stripes:
        lower[:, first : first + stripe.shape[1], : stripe.shape[2]] = stripe
        first += stripe.shape[1]
    product = np.tril(lower) + np.tril(lower, -1).swapaxes(1, 2)
    m = state["sums"] / n
    scatter = product - n * m[:, :, None] * m[:, None]
    square, trace = np.square(m).sum(axis=1), np.trace(product, axis1=1, axis2=2)
    fourth = state["fourths"] - 4 * (m * state["cubes"]).sum(axis=1)
    fourth += 4 * np.einsum("pi,pij,pj->p", m, product, m) + 2 * square * trace
    return n, origin + m, scatter, fourth - 3 * n * square**2


def assert_same_moments(one, other, tolerance):
    for a, b in zip(moments(one), moments(other), strict=True):
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize("shrinkage", [None, "ledoit_wolf"])
@pytest.mark.parametrize("low_rank", ["auto", False, True])
@pytest.mark.parametrize(("n", "d"), [(50, 9), (33, 40), (17, 70)])  # the last: n at most d / 2
@pytest.mark.parametrize("n_parts", [1, 2, 7, 16])
def test_merged_gaussians_are_those_of_all_maps(n, d, n_parts, low_rank, shrinkage):
    parameters = {"shrinkage": shrinkage, "low_rank": low_rank}
    maps, queries = vectors(n, d), vectors(5, d, seed=1)
    total = merged(learned(maps, edges_of(n, n_parts), **parameters), **parameters)
    whole = PositionwiseGaussian(**parameters).fit(maps)
    assert (total.n_samples_seen_, total.form_) == (n, whole.form_)
    assert_allclose(total.mahalanobis(queries), whole.mahalanobis(queries), rtol=1e-6)
    assert_allclose(total.mean_, whole.mean_, rtol=1e-6, atol=1e-7)
    expected = distances(queries, *gaussians(maps, 0.01, shrinkage))
    assert_allclose(total.mahalanobis(queries), expected, rtol=2e-5)


@pytest.mark.parametrize("low_rank", ["auto", False, True])
def test_merging_commutes_and_associates(low_rank):
    parts = learned(vectors(40, 30), [0, 5, 17, 40], low_rank=low_rank)  # "auto": of both forms
    first, second, third = parts
    kept = [pickle.dumps(part.get_state()) for part in parts]

    def both(one, other):
        return merged([one, other], low_rank=low_rank)

    left = both(both(first, second), third)
    assert_same_moments(left, both(first, both(second, third)), 1e-12)
    assert_same_moments(left, both(third, both(second, first)), 1e-12)
    assert_same_moments(both(first, second), both(second, first), 1e-12)
    assert [pickle.dumps(part.get_state()) for part in parts] == kept


def test_moved_sums_are_those_about_the_other_origin():
    """All five sums, third and fourth moments too, against the definitions."""
    maps = vectors(30, 6).astype(np.float64)
    first, second = learned(maps, [0, 11, 30], low_rank=False)
    state = first.merge(second).get_state()
    y = maps.astype(np.float32).astype(np.float64).reshape(30, -1, 6) - state["origin"]
    squares = np.square(y).sum(axis=2)
    assert_allclose(state["sums"], y.sum(axis=0), rtol=1e-10, atol=1e-9)
    assert_allclose(state["products_0"], np.einsum("npi,npj->pij", y, y), rtol=1e-10, atol=1e-9)
    assert_allclose(state["cubes"], (squares[..., None] * y).sum(axis=0), rtol=1e-10, atol=1e-8)
    assert_allclose(state["fourths"], (squares**2).sum(axis=0), rtol=1e-10)


def test_learning_goes_on_after_merging():
    maps, queries = vectors(47, 20), vectors(6, 20, seed=1)
    parts = learned(maps[:30], [0, 4, 30])
    for part in parts:
        part.finish()  # the first, of few images, becomes a basis of its vectors
    total = merged(parts).partial_fit(maps[30:])
    expected = distances(queries, *gaussians(maps, 0.01))
    assert_allclose(total.mahalanobis(queries), expected, rtol=1e-5)
    twice = learned(maps[:5], [0, 5])[0]
    twice.merge(twice)
    assert_same_moments(twice, PositionwiseGaussian().fit(np.tile(maps[:5], (2, 1, 1, 1))), 1e-6)


def test_what_cannot_be_merged_is_refused():
    gaussian = PositionwiseGaussian().fit(vectors(9, 4))
    kept = pickle.dumps(gaussian)
    closed = PositionwiseGaussian(updatable=False).fit(vectors(9, 4)).finish()
    with pytest.raises(TypeError, match="expected a PositionwiseGaussian to merge, got dict"):
        gaussian.merge(gaussian.get_state())
    with pytest.raises(ValueError, match="call fit or partial_fit"):
        gaussian.merge(PositionwiseGaussian())
    with pytest.raises(ValueError, match=r"one shape \(h, w, d\), got \(3, 2, 4\) and \(3, 2, 5\)"):
        gaussian.merge(PositionwiseGaussian().fit(vectors(9, 5)))
    with pytest.raises(ValueError, match="updatable=True"):
        gaussian.merge(closed)
    with pytest.raises(ValueError, match="updatable=True"):
        closed.merge(gaussian)
    assert pickle.dumps(gaussian) == kept


# Coresets -------------------------------------------------------------------------------------


def clusters(n, d=6, seed=0):
    """Rows of unequal density: a few crowds and what lies between them."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(12, d))[rng.integers(12, size=n)] * 4 + rng.normal(size=(n, d))
    return (rows * rng.exponential(size=(n, 1))).astype(np.float32)


@pytest.mark.parametrize("n_samples", [1, 7, 60, 400])
def test_radii_are_the_covering_radii(n_samples):
    rows = clusters(400)
    order, radii = greedy_order_and_radii(rows, n_samples, 3)
    assert_array_equal(order, greedy_order(rows, n_samples, 3))
    for m in {1, n_samples // 2 or 1, n_samples}:
        assert_allclose(radii[m - 1], covering_radius(rows, order[:m]), rtol=1e-5, atol=1e-6)


def test_radii_of_many_rows_in_few_rounds():
    """More rows than a round looks at: the farthest one may not be among its members."""
    rows = clusters(30_000, d=3)
    order, radii = greedy_order_and_radii(rows, 50, 0)
    for m in (1, 49, 50):
        assert_allclose(radii[m - 1], covering_radius(rows, order[:m]), rtol=1e-5)


def test_duplicates_are_covered():
    rows = np.repeat(clusters(5), 4, axis=0)
    order, radii = greedy_order_and_radii(rows, 9, 0)
    assert len(set(order)) == 9 and (radii[:4] > 0).all()
    assert_array_equal(radii[4:], 0)


@pytest.mark.parametrize("floor", [0, 1.5**2])
def test_a_gpus_loop_reaches_the_same(floor):
    rows = clusters(300)
    picks, reached = greedy_order_torch(rows, 40, 0, floor, "cpu", lambda n_picks: None)
    assert reached[0] == np.inf
    for m in (1, len(picks)):
        assert_allclose(np.sqrt(reached[m]), covering_radius(rows, picks[:m]), rtol=1e-5)


def test_a_merged_coreset_is_greedy_among_what_was_sent():
    parts = [clusters(n, seed=n) for n in (40, 25, 70)]
    order, radius = merge_coresets(parts, 30, radii=[0.5, 2.0, 0.25])
    union = np.concatenate(parts)
    assert_array_equal(order, sequential_greedy_float64(union, 30, 0))
    assert_allclose(radius, 2 + covering_radius(union, order), rtol=1e-5)
    everything, radius = merge_coresets(parts, 1000)
    assert sorted(everything) == list(range(135)) and radius == 0
    with pytest.raises(ValueError, match="at least one part"):
        merge_coresets([], 3)


def test_rows_that_a_part_sends():
    assert part_size(10_000, 784 * 250, 784 * 1000) == 10_000  # four times its share
    assert part_size(10_000, 784 * 4, 784 * 1000) == 1000  # of a small part, so many
    assert part_size(10_000, 784, 784 * 1000) == 784  # or all
    assert part_size(10_000, 50_000, 50_000) == 10_000  # one part chooses the coreset itself
    assert (union_size(10_000), union_size(20)) == (40_000, 1000)


# Shards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_neighbors", [1, 5])
@pytest.mark.parametrize("sizes", [[700], [350, 350], [1, 3, 400, 296], [90] * 7 + [70]])
def test_shards_give_the_very_bits_of_the_whole(sizes, n_neighbors):
    bank, queries = clusters(700, d=24), clusters(200, d=24, seed=1)
    bank[600:640] = bank[20:60]  # equally far rows in several shards
    queries[:50] = bank[20:70]
    expected = PatchIndex().fit(bank).kneighbors(queries, n_neighbors)
    firsts = np.cumsum([0, *sizes[:-1]])
    found = [
        PatchIndex().fit(shard).kneighbors(queries, min(n_neighbors, len(shard)))
        for shard in np.split(bank, firsts[1:])
    ]
    for one, other in zip(merge_neighbors(found, firsts, n_neighbors), expected, strict=True):
        assert one.dtype == other.dtype
        assert_array_equal(one, other)


def test_shards_that_do_not_fit_are_refused():
    found = PatchIndex().fit(clusters(10)).kneighbors(clusters(3), 2)
    with pytest.raises(ValueError, match="got 1 shards and 2 numbers"):
        merge_neighbors([found], [0, 10])
    with pytest.raises(ValueError, match=r"n_neighbors must be from 1 to .* 2, got 3"):
        merge_neighbors([found], [0], 3)


# PaDiM ----------------------------------------------------------------------------------------


def features(n, seed=0):
    """Two layers of unlike grids and units."""
    rng = np.random.default_rng(seed)
    grids = {"fine": (6, 5, 12), "coarse": (3, 2, 28)}
    layers = {name: rng.normal(size=(n, *grid)) * len(name) for name, grid in grids.items()}
    frames = rng.integers(40, 90, size=(n, 2))
    layers = {name: maps.astype(np.float32) for name, maps in layers.items()}
    return FeatureMaps(layers, frames)


@pytest.mark.parametrize("shrinkage", [None, "ledoit_wolf"])
@pytest.mark.parametrize("n", [60, 18])  # of 36 channels: 18 is d / 2
@pytest.mark.parametrize("n_parts", [1, 2, 7, 16])
def test_padim_of_parts_is_padim(n, n_parts, shrinkage):
    X, test = features(n), features(5, seed=1)
    detector = PaDiM(n_components=36, shrinkage=shrinkage, random_state=0)
    whole = clone(detector).fit(X)
    fitted = fit_in_parts(detector, X, edges_of(n, n_parts))
    fitted.offset_ = np.percentile(fitted.score_samples(X), 1)
    assert fitted.gaussian_.form_ == whole.gaussian_.form_
    assert_allclose(fitted.score_samples(test), whole.score_samples(test), rtol=1e-6)
    assert_allclose(fitted.offset_, whole.offset_, rtol=1e-6)
    if n_parts == 1:
        assert_same_maps(fitted, whole, test)
        assert fitted.offset_ == whole.offset_


def test_padim_of_one_image_is_refused():
    with pytest.raises(ValueError, match="at least 2 good images"):
        PaDiM()._plan_parts(features(1), 1)


# PatchCore ------------------------------------------------------------------------------------


def radius_of(detector, X):
    """Largest distance of a good patch to its nearest row of the bank."""
    return PatchIndex().fit(detector.memory_bank_).kneighbors(detector._patches(X))[0].max()


def assert_rows_are_patches(detector, X):
    images, cells = detector.memory_origin_.T
    patches = detector._patches(X).reshape(len(X), -1, detector.n_features_in_)
    assert_array_equal(detector.memory_bank_, patches[images, cells])
    assert len(np.unique(detector.memory_origin_, axis=0)) == len(detector.memory_bank_)
    assert_array_equal(detector.memory_frames_, X.frames)


STATE = ("memory_bank_", "memory_origin_", "memory_frames_", "covering_radius_", "index_seed_")


def assert_same_state(one, other):
    for name in STATE:
        assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.layer_scales_ == other.layer_scales_ and not hasattr(one, "_plan")


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"bank_size": 150},
        {"coreset_ratio": 1.0},
        {"n_projections": 8},
        {"n_neighbors": 2},
        {"n_candidates": 500},
    ],
    ids=str,
)
def test_one_part_is_a_fit(parameters):
    X, test = features(70), features(4, seed=1)
    detector = PatchCore(random_state=0, **parameters)
    whole, fitted = clone(detector).fit(X), fit_in_parts(detector, X, [0, 70])
    assert_same_state(fitted, whole)
    assert_same_maps(fitted, whole, test)
    assert_rows_are_patches(fitted, X)
    patches = whole._patches(X)
    # No more columns than projections: none are projected.
    if parameters.keys().isdisjoint({"n_projections", "n_candidates"}):
        picks = [image * 30 + cell for image, cell in whole.memory_origin_]
        radius = covering_radius(patches, picks)
        assert_allclose(whole.covering_radius_, radius, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def textures():
    """Features of textures of 64 px to learn from, and to score, half of them with defects."""
    good = make_textures(100, size=(64, 64), random_state=0)
    bad, _, _ = make_defects(good[60:], size=2, random_state=0)
    bank = FilterBank(n_filters=4, image_size=64, random_state=0).fit(good[:60])
    return bank.transform(good[:60]), bank.transform(np.concatenate([good[60:], bad]))


@pytest.mark.parametrize("bank_size", [100, 400])
def test_banks_of_parts_are_as_good(textures, bank_size):
    """In how well they cover, for each random state; in what they find, on average."""
    X, test = textures
    labels = np.repeat([1, -1], len(test) // 2)
    detectors = [PatchCore(bank_size=bank_size, random_state=seed) for seed in range(3)]
    wholes = [clone(one).fit(X) for one in detectors]

    def auroc(fitted):
        return np.mean([image_roc_auc_score(labels, -f.score_samples(test)) for f in fitted])

    expected = auroc(wholes)
    for n_parts in (2, 4, 7, 16):
        fitted = [fit_in_parts(one, X, edges_of(60, n_parts)) for one in detectors]
        assert auroc(fitted) >= expected - 0.03
        for one, whole in zip(fitted, wholes, strict=True):
            assert len(one.memory_bank_) == bank_size
            assert_rows_are_patches(one, X)
            radius = radius_of(one, X)  # in all 39 columns: none are projected
            assert radius <= 1.25 * radius_of(whole, X)
            assert radius <= one.covering_radius_


def test_the_union_is_thinned_along_the_tree(textures):
    X, _ = textures
    detector = PatchCore(bank_size=300, random_state=0)
    plan = clone(detector)
    plan._plan_parts(X[plan._plan_places(60)], 60)
    states = [plan._learn_part(X[i : i + 20], i) for i in (0, 20, 40)]
    assert [len(state["rows"]) for state in states] == [1000] * 3  # more than 4 k / P
    joined = plan._join_parts(states)
    assert len(joined["rows"]) == 1200 == union_size(300)
    assert joined["radius"] > max(state["radius"] for state in states)
    assert_array_equal(joined["images"], np.arange(60))


def test_states_and_plans_stay_as_they_are(textures):
    X, _ = textures
    for detector in (PatchCore(bank_size=50, random_state=0), PaDiM(random_state=0)):
        plan = clone(detector)
        plan._plan_parts(X[plan._plan_places(60)], 60)
        kept = pickle.dumps(plan)
        states = [plan._learn_part(X[:7], 0), plan._learn_part(X[7:9], 7)]
        before = pickle.dumps(states)
        joined = plan._join_parts(states)
        of_both = pickle.dumps(joined)
        assert pickle.dumps(plan) == kept
        copy.copy(plan)._fit_from(joined)
        copy.copy(plan)._fit_from(states[0])
        assert pickle.dumps(states) == before
        assert pickle.dumps(joined) == of_both


def test_a_part_learned_again_is_the_same_without_a_seed(textures):
    """All that is random is in the plan: a part that is lost may be learned again."""
    X, _ = textures
    plan = PatchCore(bank_size=50)
    plan._plan_parts(X[plan._plan_places(60)], 60)
    once, again = (plan._learn_part(X[8:30], 8) for _ in range(2))
    assert pickle.dumps(once) == pickle.dumps(again)


@pytest.mark.parametrize("n_candidates", [50, 333, 10**6])
def test_candidates_do_not_depend_on_the_parts(n_candidates):
    X = features(70)
    options = {"n_candidates": n_candidates, "coreset_ratio": 1.0, "random_state": 0}
    whole = PatchCore(**options).fit(X)
    drawn = {tuple(one) for one in whole.memory_origin_}
    assert len(drawn) == len(whole.memory_bank_) == min(n_candidates, 70 * 30)
    for n_parts in (2, 7):
        edges = np.linspace(0, 70, n_parts + 1).astype(int)
        fitted = fit_in_parts(PatchCore(**options), X, edges)
        assert {tuple(one) for one in fitted.memory_origin_} == drawn
    plan = PatchCore(**options)
    plan._plan_parts(X[plan._plan_places(70)], 70)
    states = [plan._learn_part(X[i:end], i) for i, end in [(0, 30), (30, 70)]]
    assert {tuple(one) for state in states for one in state["origin"]} == drawn
    other = PatchCore(**{**options, "random_state": 1}).fit(X)
    assert n_candidates == 10**6 or {tuple(one) for one in other.memory_origin_} != drawn


def test_more_candidates_than_patches_change_nothing():
    X = features(20)
    one, other = (PatchCore(n_candidates=n, random_state=0).fit(X) for n in (None, 10**6))
    assert_same_state(one, other)


def test_the_forecast_of_few_candidates_does_not_grow():
    X, detector = features(2), PatchCore(n_candidates=2_000)
    few, many = (
        estimate_memory(detector, X, n_images=n)["the coreset's search"] for n in (100, 100_000)
    )
    assert few == many


def test_parts_may_be_left_out(textures):
    """As the models of folds do: numbers stay those among all images."""
    X, _ = textures
    plan = PatchCore(coreset_ratio=0.05, random_state=0)
    plan._plan_parts(X[plan._plan_places(60)], 60)
    plan._fit_from(plan._join_parts([plan._learn_part(X[i : i + 20], i) for i in (0, 40)]))
    assert len(plan.memory_bank_) == 40 * 64 // 20
    assert set(plan.memory_origin_[:, 0]) <= {*range(20), *range(40, 60)}
    assert_array_equal(plan.memory_frames_[20:40], 0)
    assert_array_equal(plan.memory_frames_[40:], X.frames[40:])


def test_images_left_out_as_defects_are_counted():
    X, y = features(30), np.ones(30, dtype=int)
    y[[0, 4, 18]] = -1
    detector = PatchCore(bank_size=200, random_state=0).fit(X, y)
    images, cells = detector.memory_origin_.T
    assert set(y[images]) == {1}
    patches = detector._patches(X).reshape(30, 30, -1)
    assert_array_equal(detector.memory_bank_, patches[images, cells])
    fitted = fit_in_parts(detector, X[y == 1], [0, 27])
    assert_array_equal(fitted.memory_bank_, detector.memory_bank_)


# The size of a bank ---------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "n_rows"), [(1, 1), (77, 77), (10**6, 20 * 30), (None, 60)])
def test_rows_of_a_bank_of_fixed_size(size, n_rows):
    detector = PatchCore(bank_size=size, coreset_ratio=0.1, random_state=0).fit(features(20))
    assert len(detector.memory_bank_) == n_rows


def test_a_bank_is_the_beginning_of_a_larger_one(tmp_path):
    images = make_textures(9, size=64, random_state=0)
    bank = FilterBank(n_filters=4, image_size=64, random_state=0, cache=tmp_path).fit(images)
    small, large, by_ratio = (
        PatchCore(random_state=0, **size).fit(bank.transform(images))
        for size in ({"bank_size": 40}, {"bank_size": 150}, {"coreset_ratio": 0.1})
    )
    assert_array_equal(large.memory_bank_[:40], small.memory_bank_)
    assert_array_equal(large.memory_bank_[:57], by_ratio.memory_bank_)
    assert large.covering_radius_ < by_ratio.covering_radius_ < small.covering_radius_


def test_the_forecast_of_a_bank_of_fixed_size_does_not_grow():
    X = features(2)
    few, many = (
        estimate_memory(PatchCore(bank_size=500), X, n_images=n)["memory bank and its index"]
        for n in (100, 100_000)
    )
    assert few == many == (2 * 4 * 40 + 8) * 500


@pytest.mark.parametrize("size", [0, -1, 0.5, "auto"])
def test_bad_sizes_are_refused(size):
    with pytest.raises(ValueError, match="bank_size"):
        PatchCore(bank_size=size).fit(features(3))


# Detectors that cannot --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("detector", "reason"),
    [
        (SPADE(), "SPADE cannot be fitted in parts: it keeps the patches of every training image"),
        (ARNet(), "ARNet cannot be fitted in parts: it learns from images in one process"),
        (EnsembleDetector([("a", PaDiM())]), "it learns from all images at once"),
    ],
)
def test_others_say_why_they_cannot(detector, reason):
    X = features(2)
    for call in (
        lambda: detector._plan_parts(X, 2),
        lambda: detector._learn_part(X, 0),
        lambda: detector._join_parts([{}]),
        lambda: detector._fit_from({}),
    ):
        with pytest.raises(NotImplementedError, match=f"{reason}.*use PatchCore or PaDiM"):
            call()


# Real images ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["casting", "solar_cell"])
def test_real_banks_of_parts_cover_as_well(real_data, name):
    images = load_folder(real_data / name, missing_masks="ignore").train.images[:48]
    X = FilterBank(n_filters=4, image_size=96, random_state=0).fit_transform(images)
    detector = PatchCore(bank_size=200, random_state=0)
    single = radius_of(clone(detector).fit(X), X)
    for n_parts in (2, 6, 16):
        fitted = fit_in_parts(detector, X, edges_of(48, n_parts))
        assert_rows_are_patches(fitted, X)
        assert radius_of(fitted, X) <= 1.25 * single
