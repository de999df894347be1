"""Detectors that learn on and forget: as a refit where that is said, covered where it is not."""

import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from skanomaly import SPADE, FeatureMaps, FilterBank, PaDiM, PatchCore, Pipeline, nearest_good
from skanomaly.datasets import make_textures
from skanomaly.density import PositionwiseGaussian
from skanomaly.exceptions import MemoryLimitError
from skanomaly.model_selection import HeldOutThreshold

N_OLD, N_NEW = 12, 5


def some_maps(n, seed, shift=0.0):
    """Features of two layers whose grids differ."""
    rng = np.random.default_rng(seed)
    layers = {
        "fine": rng.normal(size=(n, 6, 5, 4)) + shift,
        "coarse": rng.normal(size=(n, 3, 3, 5)) + shift,
    }
    return FeatureMaps({name: one.astype(np.float32) for name, one in layers.items()})


def joined(*some):
    """FeatureMaps one after the other."""
    layers = {
        name: np.concatenate([one.arrays()[name] for one in some]) for name in some[0].layer_shapes
    }
    return FeatureMaps(layers)


OLD, NEW, STRANGE = some_maps(N_OLD, 0), some_maps(N_NEW, 1), some_maps(N_NEW, 2, shift=4.0)
TEST = some_maps(7, 3, shift=1.0)
ALL = joined(OLD, NEW)
IN_PATCHCORE = {"sigma": 0, "coreset_ratio": 0.2, "random_state": 0}
EXACT = {
    "spade_paper": SPADE(n_neighbors=3, balance_layers=False),
    "spade_map": SPADE(
        n_neighbors=3, balance_layers=False, image_score="map_max", patch_size=3, sigma=1.0
    ),
    "spade_half": SPADE(
        n_neighbors=3, balance_layers=False, image_score="map_max", memory_dtype="float16"
    ),
    "padim_dense": PaDiM(n_components=4, random_state=0),
    "padim_rows": PaDiM(n_components=None, random_state=0),
    "padim_shrunk": PaDiM(n_components=5, shrinkage="ledoit_wolf", random_state=0),
}
ALL_KINDS = {**EXACT, "patchcore": PatchCore(**IN_PATCHCORE)}
exact = pytest.mark.parametrize("detector", EXACT.values(), ids=EXACT)
each = pytest.mark.parametrize("detector", ALL_KINDS.values(), ids=ALL_KINDS)


def is_spade(detector):
    return isinstance(detector, SPADE)


def distances_to_bank(detector, X):
    """Of each patch to its nearest row, computed plainly: (n * h * w,)."""
    patches = detector._patches(X)
    return np.linalg.norm(patches[:, None] - detector.memory_bank_, axis=2).min(axis=1)


# --- equal to a fit -------------------------------------------------------------------------------


@exact
def test_partial_fit_is_a_fit_on_all(detector):
    learned = clone(detector).fit(OLD).partial_fit(NEW)
    fitted = clone(detector).fit(ALL)
    assert_allclose(learned.score_map(TEST), fitted.score_map(TEST), rtol=2e-4)
    assert_allclose(learned.score_samples(TEST), fitted.score_samples(TEST), rtol=2e-4)
    assert_array_equal(learned.learned_from_, fitted.learned_from_)
    if is_spade(detector):
        assert learned.offset_ == fitted.offset_
        assert_array_equal(learned.memory_frames_, fitted.memory_frames_)


@exact
def test_forget_is_a_fit_on_the_others(detector):
    gone = [14, 0, 7]
    others = np.setdiff1d(np.arange(len(ALL)), gone)
    learned = clone(detector).fit(OLD).partial_fit(NEW).forget(gone, ALL[gone])
    fitted = clone(detector).fit(ALL[others])
    assert_allclose(learned.score_map(TEST), fitted.score_map(TEST), rtol=2e-4)
    assert_allclose(learned.score_samples(TEST), fitted.score_samples(TEST), rtol=2e-4)
    assert_array_equal(np.flatnonzero(learned.learned_from_), others)
    if is_spade(detector):
        assert_allclose(learned.offset_, fitted.offset_, rtol=1e-6)
    # and on from there
    again = learned.partial_fit(ALL[gone])
    assert_allclose(
        again.score_samples(TEST), clone(detector).fit(ALL).score_samples(TEST), rtol=2e-4
    )


@pytest.mark.parametrize("low_rank", [True, False])
def test_a_gaussian_forgets_across_the_change_of_form(low_rank):
    maps = np.random.default_rng(0).normal(3, 1, size=(20, 2, 3, 6)).astype(np.float32)
    gaussian = PositionwiseGaussian(low_rank=low_rank).fit(maps[:9])
    gaussian.mahalanobis(maps)  # finished, then learned on
    gaussian.partial_fit(maps[9:]).forget(maps[[4, 15]], [4, 15])
    left = np.delete(maps, [4, 15], axis=0)
    expected = PositionwiseGaussian(low_rank=low_rank).fit(left)
    assert_allclose(gaussian.mahalanobis(maps), expected.mahalanobis(maps), rtol=1e-4)
    plain = np.cov(left[:, 1, 2].T.astype(np.float64)) + 0.01 * np.eye(6)
    assert_allclose(gaussian.covariance(1, 2), plain, rtol=1e-4, atol=1e-5)


# --- PatchCore: covered ---------------------------------------------------------------------------


@pytest.mark.parametrize("further", [NEW, STRANGE], ids=["alike", "strange"])
def test_every_patch_is_covered_and_nothing_else_changes(further):
    detector = PatchCore(max_bank_size=10_000, **IN_PATCHCORE).fit(OLD)
    bank, radius, offset = detector.memory_bank_, detector.covering_radius_, detector.offset_
    before, scores = distances_to_bank(detector, further), detector.score_samples(TEST)
    detector.partial_fit(further)
    assert_array_equal(detector.memory_bank_[: len(bank)], bank)
    assert (detector.covering_radius_, detector.offset_) == (radius, offset)
    after = distances_to_bank(detector, further)
    assert after.max() <= radius * (1 + 1e-5) < before.max()
    added = detector.memory_bank_[len(bank) :]
    assert 0 < len(added) < len(before)
    # Greedy: no two rows that were added are nearer to each other, or to the bank, than the radius.
    gaps = np.linalg.norm(added[:, None] - detector.memory_bank_, axis=2)
    gaps[np.arange(len(added)), len(bank) + np.arange(len(added))] = np.inf
    assert gaps.min() >= radius * (1 - 1e-5)
    assert (detector.score_samples(TEST) >= scores).all()
    assert (detector.score_samples(further) >= -radius * (1 + 1e-5)).all()


def test_rows_know_where_they_come_from():
    y = np.array([1, -1, 1, 1, -1])
    detector = PatchCore(**IN_PATCHCORE).fit(OLD, [1] * 11 + [-1])
    n_rows = len(detector.memory_bank_)
    detector.partial_fit(STRANGE, y)
    places, cells = detector.memory_origin_[n_rows:].T
    assert set(places) == {12, 14, 15} and detector.memory_origin_.dtype == np.int32
    patches = detector._patches(STRANGE).reshape(N_NEW, 30, -1)
    assert_array_equal(patches[places - N_OLD, cells], detector.memory_bank_[n_rows:])
    expected = [[6, 5]] * 11 + [[0, 0], [6, 5], [0, 0], [6, 5], [6, 5], [0, 0]]
    assert_array_equal(detector.memory_frames_, expected)
    assert_array_equal(detector.learned_from_, np.array(expected)[:, 0] > 0)
    spots = detector.nearest_good(STRANGE[[0, 3]])
    assert all(spot["good_image"] in (12, 14, 15) for spot in spots)


def test_a_full_bank_says_what_it_leaves_out():
    detector = PatchCore(max_bank_size=80, **IN_PATCHCORE).fit(OLD)
    n_rows, radius = len(detector.memory_bank_), detector.covering_radius_
    assert n_rows == 72
    with pytest.warns(UserWarning, match=r"full with 80 rows: \d+ of the patches"):
        detector.partial_fit(STRANGE)
    assert len(detector.memory_bank_) == 80
    after = distances_to_bank(detector, STRANGE)
    assert_allclose(detector.covering_radius_, after.max(), rtol=1e-5)
    assert detector.covering_radius_ > radius
    with pytest.warns(UserWarning, match="full with 80 rows"):
        detector.partial_fit(some_maps(2, 5, shift=-9.0))
    assert len(detector.memory_bank_) == 80


def test_the_bank_may_double_by_default():
    detector = PatchCore(**{**IN_PATCHCORE, "coreset_ratio": 0.02}).fit(OLD)
    with pytest.warns(UserWarning, match="the bank is full"):
        detector.partial_fit(STRANGE)
    assert len(detector.memory_bank_) == 2 * int(0.02 * 17 * 30)


def test_forgotten_rows_are_gone_and_numbers_stay():
    detector = PatchCore(**IN_PATCHCORE).fit(OLD).partial_fit(STRANGE)
    bank, origin = detector.memory_bank_, detector.memory_origin_
    scores = detector.score_samples(STRANGE)
    detector.forget([14, 3])
    is_kept = ~np.isin(origin[:, 0], [3, 14])
    assert 0 < is_kept.sum() < len(bank)
    assert_array_equal(detector.memory_bank_, bank[is_kept])
    assert_array_equal(detector.memory_origin_, origin[is_kept])
    assert_array_equal(detector.memory_frames_[[3, 14]], 0)
    expected = np.setdiff1d(np.arange(17), [3, 14])
    assert_array_equal(np.flatnonzero(detector.learned_from_), expected)
    assert detector.score_samples(STRANGE)[2] < scores[2]
    scores, _ = detector.leave_one_out(joined(OLD, STRANGE))  # of those that are left
    assert len(scores) == 15


def test_learning_does_not_depend_on_the_batches():
    one = PatchCore(max_bank_size=10_000, **IN_PATCHCORE).fit(OLD)
    more = joined(*[some_maps(20, seed, shift=3.0) for seed in (7, 8)])  # three batches
    plain = distances_to_bank(one, more)
    radius, n_rows = one.covering_radius_, len(one.memory_bank_)
    one.partial_fit(more)
    assert distances_to_bank(one, more).max() <= radius * (1 + 1e-5)
    numbers = (one.memory_origin_[n_rows:, 0] - N_OLD) * 30 + one.memory_origin_[n_rows:, 1]
    assert (plain[numbers] > radius).all()
    assert numbers[0] == plain.argmax()  # the strangest first


# --- the contract of all --------------------------------------------------------------------------


@each
def test_the_first_call_is_a_fit(detector):
    first, fitted = clone(detector).partial_fit(OLD), clone(detector).fit(OLD)
    assert first.offset_ == fitted.offset_ and vars(first).keys() == vars(fitted).keys()
    assert_array_equal(first.score_samples(TEST), fitted.score_samples(TEST))


@each
def test_refused_updates_change_nothing(detector):
    detector = clone(detector).fit(OLD)
    before = pickle.dumps(detector)
    with pytest.raises(ValueError, match="marks every image as a defect"):
        detector.partial_fit(NEW, [-1] * N_NEW)
    with pytest.raises(ValueError, match="expected features with layers"):
        detector.partial_fit(FeatureMaps({"other": np.zeros((2, 3, 3, 4), np.float32)}))
    for images, match in {
        (99,): "expected numbers of images that were learned from",
        (-1,): "expected numbers of images that were learned from",
        (2, 2): "expected each image once",
        (): "expected numbers of images, an array of int",
        (0.5,): "expected numbers of images, an array of int",
        tuple(range(N_OLD)): "expected at least one image to be left, got all 12",
    }.items():
        with pytest.raises(ValueError, match=match):
            detector.forget(images)
    with pytest.raises(ValueError, match="features of the 2 images to forget"):
        detector.forget([1, 2], OLD[:3])
    assert pickle.dumps(detector) == before


def test_what_cannot_be_forgotten():
    with pytest.raises(ValueError, match="PaDiM keeps sums"):
        PaDiM().fit(OLD).forget([1])
    with pytest.raises(ValueError, match="expected maps that were learned at these places"):
        PaDiM(n_components=None, epsilon=0.1).fit(OLD[:4]).forget([1], OLD[[2]])
    with pytest.raises(ValueError, match="at least 2 maps to be left, got 1"):
        PaDiM().fit(OLD[:3]).forget([0, 1], OLD[:2])
    with pytest.raises(ValueError, match="updatable=True to forget maps later"):
        PaDiM(updatable=False).fit(OLD).forget([0], OLD[:1])
    with pytest.raises(ValueError, match="at least n_neighbors=12 good images"):
        SPADE(n_neighbors=12).fit(OLD).forget([0])
    detector = PatchCore(**{**IN_PATCHCORE, "bank_size": 1}).fit(OLD)
    with pytest.raises(ValueError, match="n_neighbors=1 rows of the bank to be left, got 0 of 1"):
        detector.forget(detector.memory_origin_[:, 0])
    with pytest.raises(ValueError, match="forgotten before"):
        PatchCore(**IN_PATCHCORE).fit(OLD).forget([3]).forget([3])


@pytest.mark.parametrize("kind", [PatchCore, SPADE])
def test_updates_keep_to_the_memory_limit(kind):
    detector = kind().set_params(memory_limit="1GB")
    if kind is SPADE:
        detector.set_params(n_neighbors=3)
    detector.fit(OLD).set_params(memory_limit=1000)
    with pytest.raises(MemoryLimitError, match="1000"):
        detector.partial_fit(NEW)


def test_padim_leaves_out_images_of_several_calls():
    detector = PaDiM(n_components=4, random_state=0).fit(OLD).partial_fit(NEW)
    expected = PaDiM(n_components=4, random_state=0).fit(ALL).leave_one_out(ALL)
    assert_allclose(detector.leave_one_out(ALL), expected, rtol=1e-4)


# --- pipelines and thresholds ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return make_textures(20, kind="weave", size=64, random_state=0)


@pytest.fixture(scope="module")
def others():
    return make_textures(4, kind="brushed", size=64, random_state=1)


def small_pipeline():
    bank = FilterBank(n_filters=4, image_size=64, random_state=0)
    return Pipeline([("features", bank), ("detector", PatchCore(random_state=0))])


@pytest.fixture(scope="module")
def model(images):
    return HeldOutThreshold(small_pipeline(), target_fpr=0.1).fit(images)


def copied(model):
    return pickle.loads(pickle.dumps(model))


def test_a_pipeline_learns_on(images, others):
    pipe = small_pipeline().partial_fit(images)  # a fit
    assert_array_equal(
        pipe.score_samples(others), small_pipeline().fit(images).score_samples(others)
    )
    features = pipe["features"]
    expected = pickle.loads(pickle.dumps(pipe["detector"]))
    expected.partial_fit(features.transform(others))
    filters = pickle.dumps(features)
    pipe.partial_fit(others)
    assert pickle.dumps(pipe["features"]) == filters
    assert_array_equal(
        pipe.score_samples(others), expected.score_samples(features.transform(others))
    )
    assert all(spot["good_image"] >= 20 for spot in nearest_good(pipe, others))
    n_rows = len(pipe["detector"].memory_bank_)
    pipe.forget([20, 21])
    assert len(pipe["detector"].memory_bank_) < n_rows
    before = pickle.dumps(pipe)
    with pytest.raises(ValueError, match="marks every image as a defect"):
        pipe.partial_fit(others, [-1] * 4)
    assert pickle.dumps(pipe) == before


def test_a_frozen_detector_does_not_learn(images):
    pipe = small_pipeline().fit(images)
    frozen = Pipeline([("features", pipe[0]), ("detector", FrozenEstimator(pipe[1]))])
    assert not hasattr(frozen, "partial_fit") and not hasattr(frozen, "forget")
    held_out = HeldOutThreshold(frozen, target_fpr=0.1, cv=2).fit(images)
    with pytest.raises(NotImplementedError, match="put the detector there itself"):
        held_out.update(images)


def test_false_alarms_leave_the_threshold_as_it_is(model, images, others):
    model = copied(model)
    known = {name: getattr(model, name) for name in ("offset_", "map_offset_", "fpr_interval_")}
    scores = model.oof_scores_
    assert_array_equal(model.predict(others), -1)
    was = model.score_samples(images)
    model.update(others)
    assert {name: getattr(model, name) for name in known} == known
    assert_array_equal(model.oof_scores_, scores)
    assert_array_equal(model.predict(others), 1)
    assert (model.score_samples(images) >= was).all()
    assert_array_equal(model.good_images_, np.arange(24))
    assert model.n_images_ == 24
    assert all(spot["good_image"] >= 20 for spot in nearest_good(model, others))


def test_a_fair_sample_joins_the_held_out_scores(model, images):
    model = copied(model)
    more = make_textures(10, kind="weave", size=64, random_state=5)
    y = [1] * 8 + [-1, 1]
    new_scores = model.score_samples(more)[np.array(y) == 1]
    expected = np.concatenate([model.oof_scores_, new_scores])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "1 of these|2 of these", UserWarning)
        model.update(more, y, representative=True)
    assert_allclose(model.oof_scores_, expected, rtol=1e-6)
    assert model.n_independent_ == 29
    # The rank target_fpr (n + 1) = 3 of the 29.
    assert_allclose(model.offset_, np.sort(expected)[2], rtol=1e-6)
    assert_array_equal(model.held_out_images_, [*range(28), 29])


def test_a_threshold_set_by_hand_stays(model, images):
    model = copied(model).set_offset(model.offset_ - 1)
    offset, n = model.offset_, len(model.oof_scores_)
    model.update(make_textures(3, kind="weave", size=64, random_state=5), representative=True)
    assert model.offset_ == offset and len(model.oof_scores_) == n + 3
    model.forget([0])
    assert model.offset_ == offset and len(model.oof_scores_) == n + 2


def test_forgotten_images_leave_the_threshold(model, images):
    odd = make_textures(1, kind="brushed", size=64, random_state=9)
    mixed = [*images[:10], odd[0], images[10], *images[10:]]
    y = [1] * 11 + [-1] + [1] * 10
    held_out = HeldOutThreshold(small_pipeline(), target_fpr=0.1).fit(mixed, y)
    assert 10 in held_out.suspicious_images_
    scores, predicted = held_out.oof_scores_, held_out.predict(odd)
    held_out.forget([10])
    assert_array_equal(held_out.oof_scores_, np.delete(scores, 10))
    assert_array_equal(held_out.held_out_images_, [*range(10), *range(12, 22)])
    assert 10 not in held_out.suspicious_images_
    assert predicted == 1 and held_out.predict(odd) == -1
    for images_, match in {(11,): "good_images_ holds them", (10,): "forgotten before"}.items():
        with pytest.raises(ValueError, match=match):
            held_out.forget(images_)


def test_what_cannot_learn_on_says_so(model, others):
    with pytest.raises(ValueError, match="y with defects only"):
        model.update(others, [-1] * 4)
    class_of = type("NoUpdate", (PatchCore,), {"_partial_fit": property(), "_forget": property()})
    maps = some_maps(20, 0)
    held_out = HeldOutThreshold(class_of(random_state=0), target_fpr=0.1).fit(maps)
    for call in (lambda: held_out.update(NEW), lambda: held_out.forget([0])):
        with pytest.raises(NotImplementedError, match="it learns from all images at once"):
            call()


def test_images_that_stay_flagged_are_named(images):
    model = HeldOutThreshold(small_pipeline(), target_fpr=0.1).fit(images)
    model.set_offset(0.0)
    with pytest.warns(UserWarning, match=r"2 of these 2 images are flagged still, .* \[0, 1\]"):
        model.update(make_textures(2, kind="weave", size=64, random_state=8))
