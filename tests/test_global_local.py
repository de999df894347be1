"""GlobalLocal: its networks against slow loops, its training, its scores and its errors."""

import copy
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles_global_local import (
    slow_compactness,
    slow_distillation,
    slow_partial_convolution,
    slow_pool,
)
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch.overrides import TorchFunctionMode

from skanomaly import FeatureExtractor, FeatureMaps, FilterBank, GlobalLocal, Pipeline, score_map
from skanomaly.datasets import make_defects, make_textures
from skanomaly.detectors.global_local import _global_net, _local_net, _training_phases
from skanomaly.detectors.global_local._global_net import (
    DenseGlobalNet,
    ExactGlobalNet,
    MaskPool2d,
    PartialConv2d,
    ring,
)
from skanomaly.detectors.global_local._local_net import (
    LAYERS,
    LocalNet,
    compactness_loss,
    distillation_loss,
    receptive_field,
)
from skanomaly.detectors.global_local._patch_comparison import PatchComparison
from skanomaly.detectors.global_local._patch_grid import PatchGrid
from skanomaly.detectors.global_local._teacher_features import n_teacher_features, teacher_grid
from skanomaly.detectors.global_local._training_phases import (
    SCHEDULES,
    JointPatches,
    TeacherCrops,
    TrainingPlan,
)
from skanomaly.exceptions import TrainingError
from skanomaly.images import _files
from skanomaly.training import check_stains, stain

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"image_size": 64, "n_iter": 4}


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """Trainings of seconds: small batches, and few steps between checkpoints."""
    small = {
        key: replace(schedule, batch_size=(3, 3, 2, 2))
        for key, schedule in _training_phases.SCHEDULES.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_training_phases, "SCHEDULES", small)
        patch.setattr(_training_phases, "EPOCH", 4)
        yield


@pytest.fixture(scope="module")
def good():
    return make_textures(6, size=(64, 64), random_state=0)


@pytest.fixture(scope="module")
def fitted(good):
    return GlobalLocal(**SMALL).fit(good)


def score_maps_of(detector, images):
    """What the hook returns for uint8 images of the input's size."""
    return detector._score_maps(FeatureMaps({"pixels": images.astype(np.float32) / 255}))


# GlobalLocal takes images, which no array of shape (n, d) is; its tag two_d_array=False says so,
# and of scikit-learn's checks only that of cloning is left. The others are in the tests below.
@parametrize_with_checks([GlobalLocal()])
def test_passes_the_checks_that_need_no_arrays_of_two_axes(estimator, check):
    check(estimator)


def test_fit_returns_the_detector_and_changes_no_parameter(good):
    detector = GlobalLocal(**SMALL)
    before = detector.get_params()
    assert detector.fit(good) is detector
    assert all(detector.get_params()[name] is value for name, value in before.items())
    learned = {name for name in vars(detector) if name.endswith("_")}
    assert learned == {
        "architecture_", "failure_", "fit_digest_", "history_", "image_fit_", "layer_shapes_",
        "learned_from_", "mean_", "n_channels_in_", "n_features_in_", "offset_", "scale_", "state_",
        "statistics_", "teacher_", "tiling_",
    }  # fmt: skip
    verdicts = clone(detector).fit_predict(good)
    assert np.array_equal(verdicts, detector.predict(good))


# --- Local-Net --------------------------------------------------------------------------------


@pytest.mark.parametrize("side", LAYERS)
def test_local_network_on_an_image_equals_cropping_every_patch(side):
    torch.manual_seed(0)
    network = PatchComparison(side, 3, "dense", seed=0)
    image = torch.rand(1, 3, 96, 88)
    grid = PatchGrid(side, 96, 88, 8)
    with torch.inference_mode():
        together = network.local_embeddings(image, grid)[0].reshape(-1, 128)
        n = receptive_field(side)  # of the patch; the rest of it may lie beyond the border
        for vector, (y, x) in zip(together, grid.origins(), strict=True):
            crop = image[:, :, y : y + n, x : x + n]
            assert crop.shape[2:] == (n, n)
            alone = network.local_net(crop)[0, :, 0, 0]
            torch.testing.assert_close(vector, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", LAYERS)
def test_a_patch_becomes_one_vector_and_nothing_beyond_its_reach_matters(side):
    network, patch = LocalNet(side, 3), torch.rand(1, 3, side, side)
    vector = network(patch)
    assert vector.shape == (1, 128, 1, 1)
    beyond = patch.clone()
    beyond[:, :, receptive_field(side) :] += 1
    assert torch.equal(network(beyond), vector)
    inside = patch.clone()
    inside[:, :, receptive_field(side) - 1] += 1
    assert not torch.equal(network(inside), vector)


def test_pooling_over_patches_equals_a_loop():
    maps = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype(np.float32)
    grid = PatchGrid(33, 56, 72, 8)
    np.testing.assert_allclose(grid.pool(maps), slow_pool(grid, maps), rtol=1e-4, atol=1e-5)


def test_scores_are_interpolated_between_the_patches_centers():
    grid = PatchGrid(33, 128, 96, 4)
    centers = grid.origins().reshape(*grid.shape, 2) + 33 / 2
    cells = grid.interpolate(centers[..., 0].astype(float))
    assert cells.shape == (32, 24)
    expected = np.clip(4 * (np.arange(32) + 0.5), centers[0, 0, 0], centers[-1, 0, 0])
    np.testing.assert_allclose(cells[:, 5], expected, rtol=1e-6)


def test_losses_equal_slow_loops():
    rng = np.random.default_rng(0)
    vectors, decoded, taught = rng.normal(size=(3, 11, 6)).astype(np.float32)
    found = compactness_loss(torch.from_numpy(vectors)).item()
    assert found == pytest.approx(slow_compactness(vectors), rel=1e-4)
    found = distillation_loss(torch.from_numpy(decoded), torch.from_numpy(taught)).item()
    assert found == pytest.approx(slow_distillation(decoded, taught), rel=1e-5)


def test_entries_that_repeat_one_another_are_not_compact():
    column = np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32)
    alike = torch.from_numpy(np.hstack([column, -2 * column, 3 * column]))
    apart = torch.from_numpy(np.linalg.qr(np.random.default_rng(1).normal(size=(50, 3)))[0])
    assert compactness_loss(alike).item() == pytest.approx(1, abs=1e-4)
    assert compactness_loss(apart - apart.mean(dim=0)).item() < 0.05
    constant = torch.ones(5, 3, requires_grad=True)
    loss = compactness_loss(constant)
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(constant.grad).all()


# --- Global-Net -------------------------------------------------------------------------------


@pytest.mark.parametrize("stride, padding, dilation", [(1, 0, 1), (2, 0, 1), (1, 4, 2)])
def test_partial_convolution_equals_a_loop(stride, padding, dilation):
    torch.manual_seed(0)
    layer = PartialConv2d(2, 3, 3, stride=stride, padding=padding, dilation=dilation)
    maps, mask = torch.rand(2, 2, 11, 13), torch.ones(2, 1, 11, 13)
    mask[0, :, 2:9, 1:8] = 0  # windows of which nothing is left
    mask[1, :, 5, 5] = 0
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    expected = slow_partial_convolution(maps, mask, layer.weight, layer.bias, **options)
    for found, one in zip(layer(maps, mask), expected, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-5, atol=1e-5)


def test_the_mask_grows_until_its_hole_is_closed():
    net, mask = ExactGlobalNet(1), torch.ones(1, 1, 256, 256)
    mask[:, :, 100:133, 100:133] = 0
    maps, sides = torch.rand(1, 1, 256, 256), []
    for step in net.steps:
        for layer in step:
            maps, mask = layer(maps, mask)
        sides.append(int((mask[0, 0] == 0).any(dim=1).sum()))
    assert sides[:4] == [14, 6, 2, 0] and not any(sides[4:])


def test_pooling_keeps_the_mask_binary():
    mask = torch.ones(1, 1, 7, 7)
    mask[:, :, 1:6, 1:6] = 0
    maps, pooled = MaskPool2d(3, 2)(torch.rand(1, 2, 7, 7), mask)
    assert maps.shape == (1, 2, 3, 3)
    assert pooled[0, 0].tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    "size, side", [((256, 256), 33), ((256, 288), 65), ((264, 256), 17), ((256, 448), 33)]
)
def test_holes_with_shared_computation_equal_a_masked_pass_each(size, side):
    torch.manual_seed(1)
    net, image = ExactGlobalNet(3).eval(), torch.rand(3, *size)
    for parameter in net.parameters():
        parameter.data *= 2  # so that a hole shows in the output
    # The last hole of the usual grid lies on the border, or leaves the image.
    origins = np.concatenate(
        [PatchGrid(side, *size, 44).origins(), PatchGrid(side, *size, 8).origins()[-1:]]
    )
    with torch.inference_mode():
        together = net.predict_holes(image, torch.from_numpy(origins), side)
        passes = []
        for y, x in origins:
            mask = torch.ones(1, 1, *size)
            mask[:, :, y : y + side, x : x + side] = 0
            passes.append(net(image[None], mask))
        alone = torch.cat(passes)
    assert alone.std(dim=0).mean() > 1e-3 * alone.abs().mean()
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("height", [264, 272, 296, 304])
def test_a_hole_in_the_corner_that_later_layers_do_not_read(height):
    torch.manual_seed(1)
    net, image = ExactGlobalNet(3).eval(), torch.rand(3, height, 256)
    origins = PatchGrid(17, height, 256, 8).origins()[-1:]
    y, x = origins[0]
    mask = torch.ones(1, 1, height, 256)
    mask[:, :, y : y + 17, x : x + 17] = 0
    with torch.inference_mode():
        shared = net.predict_holes(image, torch.from_numpy(origins), 17)
        alone = net(image[None], mask)
    torch.testing.assert_close(shared, alone, rtol=1e-5, atol=1e-5)


def test_holes_with_shared_computation_have_the_same_gradients():
    torch.manual_seed(1)
    net, image = ExactGlobalNet(3), torch.rand(3, 256, 256)
    origins = torch.tensor([[0, 0], [40, 96], [48, 104], [223, 150]])
    masks = torch.ones(len(origins), 1, 256, 256)
    for mask, (y, x) in zip(masks, origins.tolist(), strict=True):
        mask[:, y : y + 33, x : x + 33] = 0
    gradients = []
    for output in (net.predict_holes(image, origins, 33), net(image.expand(4, -1, -1, -1), masks)):
        net.zero_grad()
        output.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])
    for together, alone in zip(*gradients, strict=True):
        assert alone.any()
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4 * alone.abs().max())


@pytest.mark.parametrize("side", LAYERS)
def test_dense_prediction_sees_nothing_of_its_patch_and_all_around_it(side):
    torch.manual_seed(0)
    size = (160, 168)
    comparison = PatchComparison(side, 3, "dense", seed=0).eval()
    grid, image = PatchGrid(side, *size, 8), torch.rand(1, 3, *size)
    with torch.inference_mode():
        before = comparison.global_embeddings(image, grid)[0].reshape(-1, 128)
        for place, (y, x) in list(enumerate(grid.origins()))[::23]:
            inside, outside = image.clone(), image.clone()
            inside[:, :, y : y + side, x : x + side] += 1
            after = comparison.global_embeddings(inside, grid)[0].reshape(-1, 128)
            assert torch.equal(after[place], before[place])
            assert not torch.equal(after, before)  # others see the change
            hole = torch.zeros(size, dtype=bool)
            hole[y : y + side, x : x + side] = True
            outside[:, :, ~hole] += 1
            after = comparison.global_embeddings(outside, grid)[0].reshape(-1, 128)
            assert not torch.equal(after[place], before[place])


def test_rings_leave_out_the_hole_and_nothing_else():
    taps = ring(2, 5)
    assert len(taps) == 7 and taps.sum() == 24  # the outermost circle, 6 cells away
    far = ring(8, 11)
    assert far[3].tolist() == [1, 1, 0, 0, 0, 1, 1]


def test_dense_prediction_knows_where_it_is():
    torch.manual_seed(0)
    net, grid = DenseGlobalNet(1, 9), PatchGrid(33, 320, 320, 4)
    with torch.inference_mode():
        vectors = net(torch.zeros(1, 1, 320, 320), grid)[0]
        inside = vectors[:, 33:37, 33:37].flatten(1)  # no ring leaves the image
        assert len(torch.unique(inside, dim=1).T) == 16
        net.predictor[0].weight[:, -2:] = 0  # of the coordinates
        inside = net(torch.zeros(1, 1, 320, 320), grid)[0][:, 33:37, 33:37].flatten(1)
        torch.testing.assert_close(inside, inside[:, :1].expand_as(inside))


# --- heads and stains -------------------------------------------------------------------------


def test_gradients_of_the_difference_come_from_clean_patches_alone():
    comparison = PatchComparison(33, 3, "dense", seed=0)
    clean, stained, expected = (torch.rand(4, 128, requires_grad=True) for _ in range(3))
    comparison.loss(clean, stained, expected, expected, 0.0).backward()
    assert not stained.grad.any() and clean.grad.any()
    difference = (clean - expected).square().mean()
    assert comparison.loss(clean, stained, expected, expected, 0.0).item() == difference.item()


def test_loss_of_the_classifier_equals_its_formula():
    comparison = PatchComparison(33, 3, "dense", seed=0)
    clean, stained, expected = torch.rand(3, 5, 128)
    total = comparison.loss(clean, stained, expected, expected, 2.0)
    p_clean, p_stained = (1 - comparison.distortion(one, expected) for one in (clean, stained))
    dad = -(p_clean.log().mean() + (1 - p_stained).log().mean()) / 2
    torch.testing.assert_close(total, (clean - expected).square().mean() + 2 * dad)


def test_a_stained_patch_scores_higher_after_training(good):
    stains = {"axes": (0.1, 0.2)}
    detector = GlobalLocal(image_size=64, n_iter=(60, 0, 300), iad_weight=0.0, stains=stains)
    detector.fit(good)
    rng, spoilt = np.random.default_rng(5), good.copy()
    patches = good[:, 16:49, 16:49].astype(np.float32) / 255
    spoilt[:, 16:49, 16:49] = 255 * stain(patches, rng, 64, 30, **check_stains(stains))
    middle = np.s_[:, 28:36, 28:36]
    before, after = detector.score_map(good)[middle], detector.score_map(spoilt)[middle]
    assert after.mean() > before.mean() + before.mean(axis=(1, 2)).std()


def test_stains_of_no_size_cover_the_pixel_of_their_center():
    patches = np.zeros((50, 33, 33, 3), np.float32)
    ranges = check_stains({"axes": (0, 0), "values": (1, 1)})
    found = stain(patches, np.random.default_rng(0), 256, 30, **ranges)
    assert np.isfinite(found).all() and np.all(found.max(axis=(1, 2, 3)) > 0.5)


def test_stains_cover_part_of_each_patch_with_one_color():
    patches = np.full((50, 33, 33, 3), 0.5, dtype=np.float32)
    patches[..., 0] = 0.4
    stained = stain(
        patches, np.random.default_rng(0), 256, 30, **check_stains({"softness": (0, 0)})
    )
    changed = (stained != patches).any(axis=3)
    assert changed.any(axis=(1, 2)).all() and not changed.all(axis=(1, 2)).all()
    assert stained.dtype == np.float32 and stained.min() >= 0 and stained.max() <= 1
    assert len(np.unique(changed.sum(axis=(1, 2)))) > 30  # of many sizes
    assert (patches[..., 1:] == 0.5).all()
    assert changed[:, :30, :30].any(axis=(1, 2)).all()  # where Local-Net looks


def test_gray_images_get_gray_stains():
    patches = np.full((20, 33, 33, 3), 0.5, dtype=np.float32)
    stained = stain(patches, np.random.default_rng(0), 256, 30, **check_stains(None))
    assert np.ptp(stained, axis=3).max() == 0 and np.ptp(stained) > 0.5


def test_ranges_of_stains_are_kept_to():
    black = check_stains({"values": (0, 0), "axes": (0.1, 0.1), "irregularity": (0, 0)})
    stained = stain(
        np.ones((20, 33, 33, 1), np.float32), np.random.default_rng(0), 100, 33, **black
    )
    area = (stained < 0.5).sum(axis=(1, 2, 3))
    assert stained.min() == 0 and area.max() == pytest.approx(np.pi * 100, rel=0.1)
    for wrong in (
        {"color": (0, 1)},
        {"axes": 0.1},
        {"axes": (0.2, 0.1)},
        {"values": (0, 255)},
        {"axes": ("a", "b")},
    ):
        with pytest.raises(ValueError, match="stains"):
            check_stains(wrong)


# --- the detector -----------------------------------------------------------------------------


def test_scores_are_the_formula_of_both_networks(good):
    fitted = GlobalLocal(**SMALL, iad_weight=0.8).fit(good)
    pixels = good[:2].astype(np.float32) / 255
    raw = fitted._scorer.patch_scores(pixels, logs=False)[0]
    assert raw.shape == (2, 9, 9, 2)
    (iad_mean, iad_std), (dad_mean, dad_std) = fitted.statistics_[0]
    iad, dad = np.log(raw[..., 0]), -np.log(1 - raw[..., 1])
    score = 0.8 * (iad - iad_mean) / iad_std + 0.2 * (dad - dad_mean) / dad_std
    grid = PatchGrid(33, 64, 64, 4)
    expected = np.stack([grid.interpolate(one) for one in score])
    found = score_maps_of(fitted, good[:2])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (0 <= raw[..., 1]).all() and (raw[..., 1] <= 1).all() and (raw[..., 0] >= 0).all()


def test_standardized_on_images_that_no_network_was_trained_on(good):
    detector = GlobalLocal(image_size=64, n_iter=4).fit(good)
    chosen = np.random.default_rng(0).permutation(len(good))[:1]
    pixels = good[chosen].astype(np.float32) / 255
    logs = detector._scorer.patch_scores(pixels, logs=True)[0].reshape(-1, 2)
    np.testing.assert_allclose(detector.statistics_[0, :, 0], logs.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(detector.statistics_[0, :, 1], logs.std(axis=0), rtol=1e-4)


def test_logs_of_the_scores_stay_finite_where_the_classifier_is_sure():
    comparison, image = PatchComparison(33, 3, "dense", seed=0).eval(), torch.rand(1, 3, 64, 64)
    grid = PatchGrid(33, 64, 64, 8)
    with torch.inference_mode():
        moderate = comparison.scores(image, grid, logs=True)
        raw = comparison.scores(image, grid, logs=False)
        expected = torch.stack([raw[..., 0].log(), -(1 - raw[..., 1]).log()], dim=-1)
        torch.testing.assert_close(moderate, expected, rtol=1e-4, atol=1e-5)
        comparison.dad_head[-1].bias.copy_(torch.tensor([0.0, 500.0]))
        sure = comparison.scores(image, grid, logs=True)[..., 1]
        torch.testing.assert_close(sure, moderate[..., 1] + 500, rtol=0, atol=2)
        comparison.local_embeddings = comparison.global_embeddings
        assert torch.isfinite(comparison.scores(image, grid, logs=True)).all()


def test_raw_scores_are_added_as_in_the_paper(good):
    detector = GlobalLocal(image_size=64, n_iter=4, iad_weight=0.8, standardize=False)
    assert detector.fit(good).statistics_ is None
    raw = detector._scorer.patch_scores(good[:1].astype(np.float32) / 255, logs=False)[0]
    expected = PatchGrid(33, 64, 64, 4).interpolate(0.8 * raw[0, ..., 0] + 0.2 * raw[0, ..., 1])
    found = score_maps_of(detector, good[:1])
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)


def test_table_of_signs_and_shapes(fitted, good):
    bad, _, _ = make_defects(good, kinds=["spot"], size=2, random_state=0)
    X = [*bad, good[0][:50]]
    maps, samples = fitted.score_map(X), fitted.score_samples(X)
    assert [one.shape for one in maps] == [(64, 64)] * 6 + [(50, 64)]
    assert all(one.dtype == np.float32 for one in maps)
    assert samples.shape == (7,) and samples.dtype == np.float64
    decision = fitted.decision_function(X)
    assert np.array_equal(decision, samples - fitted.offset_)
    assert np.array_equal(fitted.predict(X), np.where(decision < 0, -1, 1))
    assert fitted.score_map(good).shape == (6, 64, 64)


def test_the_same_random_state_trains_the_same_networks(fitted, good):
    again = GlobalLocal(**SMALL).fit(good)
    other = GlobalLocal(**SMALL, random_state=1).fit(good)
    assert np.array_equal(again.score_samples(good), fitted.score_samples(good))
    assert not np.array_equal(other.score_samples(good), fitted.score_samples(good))


def test_the_exact_networks_training_repeats_itself_bit_by_bit(good):
    options = {"global_mode": "exact", "n_iter": (1, 0, 3), "hole_stride": 16}
    states = [GlobalLocal(**options).fit(good[:3]).state_ for _ in range(2)]
    for name, array in states[0].items():
        assert np.array_equal(array, states[1][name]), name


def test_an_image_scores_alike_alone_and_among_others(fitted, good):
    together = fitted.score_samples(good)
    alone = [fitted.score_samples(good[i : i + 1])[0] for i in range(len(good))]
    np.testing.assert_allclose(alone, together, rtol=1e-6)
    paths_or_arrays = fitted.score_samples(list(good))
    np.testing.assert_allclose(paths_or_arrays, together, rtol=1e-6)


@pytest.mark.parametrize("mode", ["dense", "exact"])
def test_bfloat16_gives_nearly_the_same(mode):
    image, grid = torch.rand(1, 3, 256, 256), PatchGrid(33, 256, 256, 32)
    full, half = (PatchComparison(33, 3, mode, dtype) for dtype in ("float32", "bfloat16"))
    with torch.inference_mode():
        for vectors in ("local_embeddings", "global_embeddings"):
            a, b = (getattr(comparison, vectors)(image, grid) for comparison in (full, half))
            assert b.dtype == torch.float32 and not torch.equal(a, b)
            assert (a - b).abs().max() < 0.03 * a.abs().max()


def test_weights_and_scores_of_a_bfloat16_detector_are_float(good):
    detector = GlobalLocal(**SMALL, dtype="bfloat16").fit(good)
    assert all(array.dtype == np.float32 for array in detector.state_.values())
    assert np.isfinite(detector.decision_function(good)).all()


def test_a_pickle_scores_the_same_and_holds_no_image(fitted, good):
    stored = pickle.dumps(fitted)
    n_weights = sum(array.nbytes for array in fitted.state_.values())
    assert len(stored) < n_weights + 300_000
    np.testing.assert_array_equal(
        pickle.loads(stored).decision_function(good), fitted.decision_function(good)
    )


def test_refit_forgets(good):
    detector = GlobalLocal(**SMALL).fit(good[:3])
    detector.fit(good)
    once = GlobalLocal(**SMALL).fit(good)
    assert np.array_equal(detector.score_samples(good), once.score_samples(good))
    assert set(vars(detector)) == set(vars(once))


def test_images_marked_as_defects_are_left_out(good):
    bad = np.concatenate([good, 255 - good[:2]])
    labels = np.array([1] * 6 + [-1] * 2)
    detector = GlobalLocal(**SMALL).fit(bad, labels)
    once = GlobalLocal(**SMALL).fit(good)
    assert np.array_equal(detector.score_samples(good), once.score_samples(good))


def test_several_patch_sizes_are_averaged(good):
    sizes = (17, 33)
    both = GlobalLocal(image_size=64, n_iter=4, patch_size=sizes).fit(good)
    found = score_maps_of(both, good[:2])
    maps = []
    for side in sizes:
        one = GlobalLocal(image_size=64, n_iter=4, patch_size=side).fit(good)
        maps.append(score_maps_of(one, good[:2]))
    np.testing.assert_allclose(found, np.mean(maps, axis=0), rtol=1e-4, atol=1e-4)
    assert set(both.history_) == {
        f"{side}-{phase}" for side in sizes for phase in ("distillation", "fine-tuning", "joint")
    }


def test_exact_mode_scores_holes_a_stride_apart(good):
    detector = GlobalLocal(global_mode="exact", n_iter=2, hole_stride=56).fit(good[:2])
    raw = detector._scorer.patch_scores(np.zeros((1, 256, 256, 3), np.float32), logs=False)[0]
    assert raw.shape == (1, 5, 5, 2)
    assert detector.score_map(good[:1]).shape == (1, 64, 64)


def test_a_pipeline_and_a_clone_keep_the_teacher(good):
    teacher = FeatureExtractor("squeezenet1_1", weights=None, image_size=64).fit(good)
    detector = clone(GlobalLocal(teacher, **SMALL))
    assert detector.teacher is teacher
    pipe = Pipeline([("detector", detector)]).fit(good)
    assert score_map(pipe, good).shape == (6, 64, 64)
    assert pipe[-1].teacher_ is teacher


def test_channels_other_than_colors(good):
    four = np.concatenate([good, good[..., :1]], axis=3)
    detector = GlobalLocal(**SMALL).fit(four)
    assert detector.n_channels_in_ == 4 and detector.score_map(four).shape == (6, 64, 64)
    with pytest.raises(ValueError, match="expected 4 channels, got 3"):
        detector.score_map(good)
    gray = GlobalLocal(**SMALL).fit(good[..., 0])
    assert gray.n_channels_in_ == 3


def test_scores_of_images_are_the_maxima_of_raw_or_smoothed_maps(fitted, good):
    raw = score_maps_of(fitted, good)
    smooth = fitted.image_fit_.smooth(raw, fitted.sigma)
    np.testing.assert_allclose(fitted.score_samples(good), -smooth.max(axis=(1, 2)), rtol=1e-6)
    paper = copy.deepcopy(fitted).set_params(image_score="paper")
    assert np.array_equal(paper.score_samples(good), -raw.max(axis=(1, 2)).astype(np.float64))
    assert np.array_equal(paper.score_map(good), fitted.score_map(good))


def test_bytes_and_the_same_floats_give_the_same_detector(fitted, good):
    floats = good.astype(np.float32) / 255
    other = GlobalLocal(**SMALL).fit(floats)
    for name, array in fitted.state_.items():
        assert np.array_equal(other.state_[name], array), name
    assert other.offset_ == fitted.offset_
    assert np.array_equal(other.score_map(floats), fitted.score_map(good))


def test_without_contamination_there_are_scores_and_no_threshold(fitted, good):
    free = GlobalLocal(**SMALL, contamination=None).fit(good)
    assert np.array_equal(free.score_samples(good), fitted.score_samples(good))
    with pytest.raises(NotFittedError, match="set_threshold"):
        free.predict(good)
    free.set_threshold(good, contamination=fitted.contamination)
    assert free.offset_ == fitted.offset_


# --- memory, files and devices ----------------------------------------------------------------


def test_each_image_is_read_once_in_a_fit(good, tmp_path, monkeypatch):
    paths = [tmp_path / f"{i}.png" for i in range(len(good))]
    for path, image in zip(paths, good, strict=True):
        Image.fromarray(image).save(path)
    opened, read_path = [], _files._read_path

    def count(path):
        opened.append(Path(path))
        return read_path(path)

    monkeypatch.setattr(_files, "_read_path", count)
    detector = GlobalLocal(**SMALL).fit(paths)
    assert sorted(opened) == sorted(paths)
    assert hasattr(detector, "offset_")
    opened.clear()
    detector.score_samples_and_map(paths[:2])
    assert sorted(opened) == sorted(paths[:2])


def test_a_forecast_counts_what_is_held(fitted):
    detector = GlobalLocal(**SMALL, patch_size=(17, 33))
    few, many = (detector._forecast({"pixels": (64, 64, 3)}, n) for n in (10, 30))
    assert few["float16 images"] == 2 * 64 * 64 * 3 * 10
    rows, columns = PatchGrid(17, 64, 64, 4).shape  # of the most patches
    assert few["teacher features or patch embeddings"] == 128 * (2 * rows * columns + 4 * 32) * 10
    for name, n_bytes in many.items():
        assert n_bytes == few[name] * (1 if name == "a training step" else 3)
    n_features = fitted.teacher_.layer_shapes_["energies"][2]
    assert n_teacher_features(None, 3) == n_teacher_features(fitted.teacher_, 3) == n_features


def test_automatic_device_without_a_gpu_is_the_processor(fitted, good):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, which device='auto' takes")
    detector = GlobalLocal(**SMALL, device="cpu").fit(good)
    assert np.array_equal(detector.score_map(good), fitted.score_map(good))
    with pytest.raises(ValueError, match="GPU"):
        detector.set_params(device="cuda").score_map(good)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("mode", ["dense", "exact"])
def test_a_gpu_trains_and_scores_like_the_processor(good, mode, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    options = {"global_mode": mode, "n_iter": 1, "hole_stride": 32}
    on_cpu = GlobalLocal(**options, device="cpu").fit(good)
    on_gpu = GlobalLocal(**options, device="cuda").fit(good)
    assert all(isinstance(array, np.ndarray) for array in on_gpu.state_.values())
    np.testing.assert_allclose(on_gpu.offset_, on_cpu.offset_, rtol=0.05)
    expected = on_cpu.score_map(good)
    moved = pickle.loads(pickle.dumps(on_cpu)).set_params(device="cuda").score_map(good)
    np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-3)


class DevicesAreNamed(TorchFunctionMode):
    """Context that refuses tensors made without naming their device."""

    makers = (
        torch.arange, torch.empty, torch.eye, torch.full, torch.linspace, torch.ones, torch.tensor,
        torch.zeros,
    )  # fmt: skip

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert function not in self.makers or kwargs.get("device") is not None, function
        return function(*args, **kwargs)


def joint_patches(mode, size):
    """Patches of two images of random values."""
    torch.manual_seed(0)
    grid = PatchGrid(33, size, size, 8)
    rows, columns = grid.shape
    return JointPatches(
        PatchComparison(33, 3, mode), grid,
        images=torch.rand(2, 3, size, size).half(), clean=torch.rand(2, rows, columns, 128).half(),
        places=torch.tensor([[[0, 0], [1, 1]], [[1, 0], [0, 1]]]), stained=torch.rand(2, 2, 128),
    )  # fmt: skip


@pytest.mark.parametrize(("mode", "size"), [("dense", 64), ("exact", 248)])
def test_networks_make_tensors_on_the_device_of_their_input(mode, size):
    patches, rng = joint_patches(mode, size), np.random.default_rng(0)
    if mode == "dense":
        loss, batch = patches.dense_loss, patches.draw_images(rng, 2)
    else:
        loss, batch = patches.exact_loss, patches.draw_holes(rng, 2)
    image = patches.comparison.prepare(patches.images[:1])
    with DevicesAreNamed():
        assert torch.isfinite(loss(batch, dad_weight=1.0))
        with torch.inference_mode():
            scores = patches.comparison.scores(image, PatchGrid(33, size, size, 64), logs=True)
            assert torch.isfinite(scores).all()


def test_batches_of_the_training_go_to_the_networks_device(monkeypatch):
    # "meta" has shapes and no values: an operation on it and on the processor raises.
    for module in (_global_net, _local_net):  # it has no autocast
        monkeypatch.setattr(module, "convolution_autocast", lambda *_: nullcontext())
    patches, rng = joint_patches("dense", 64), np.random.default_rng(0)
    patches.comparison.to("meta")
    assert patches.dense_loss(patches.draw_images(rng, 2), dad_weight=1.0).device.type == "meta"
    features = torch.rand(2, *teacher_grid(33, 64, 64).shape, 5).half()
    decoder = torch.nn.Linear(128, 5).to("meta")
    crops = TeacherCrops(patches.comparison, decoder, 33, patches.images, features)
    plan = TrainingPlan(
        SCHEDULES["quick"], 1.0, 1.0, 0.01, check_stains(None), 0, "cpu", None, None, 0
    )
    assert crops.loss(crops.draw_crops(rng, 2), plan).device.type == "meta"


# --- training ---------------------------------------------------------------------------------


def test_losses_fall(good):
    history = GlobalLocal(image_size=64, n_iter=40).fit(good).history_
    for name, losses in history.items():
        assert len(losses) == 10
        assert losses[-1] < losses[0], name


def test_interrupted_training_goes_on(good, tmp_path, monkeypatch):
    once = GlobalLocal(**SMALL | {"n_iter": 12}).fit(good)
    detector = GlobalLocal(**SMALL | {"n_iter": 12}, checkpoint=tmp_path / "part")
    backward, seen = torch.Tensor.backward, []

    def stop(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 30:  # in the joint phase, between two checkpoints
            raise KeyboardInterrupt
        backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", stop)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(good)
    phases = sorted(path.name.split(".")[-1] for path in tmp_path.iterdir())
    assert phases == ["33-distillation", "33-fine-tuning", "33-joint"]
    detector.fit(good)
    assert len(seen) == 30 + 36 - 28  # 28 iterations were saved
    assert np.array_equal(detector.score_samples(good), once.score_samples(good))


def test_checkpoint_of_another_training_is_left_alone(good, tmp_path):
    options = SMALL | {"checkpoint": tmp_path / "part"}

    def n_files():
        return len(list(tmp_path.iterdir()))

    GlobalLocal(**options).fit(good)
    assert n_files() == 3
    GlobalLocal(**options, iad_weight=0.8, sigma=2).fit(good)  # no part of the training
    assert n_files() == 3
    other = GlobalLocal(**options | {"compactness": 0.5}).fit(good)
    once = GlobalLocal(**SMALL, compactness=0.5).fit(good)
    assert np.array_equal(other.score_samples(good), once.score_samples(good))
    # The image held out takes no part in the training.
    held_out = np.random.default_rng(0).permutation(len(good))[0]
    changed = good.copy()
    changed[held_out] = 255 - changed[held_out]
    GlobalLocal(**options).fit(changed)
    assert n_files() == 6
    GlobalLocal(**options).fit(good[1:])
    assert n_files() == 9


@pytest.mark.parametrize(
    "other", [{"dad_weight": 1.0}, {"stains": {"axes": (0.1, 0.2)}}, {"n_iter": (4, 4, 8)}]
)
def test_trainings_that_differ_in_the_joint_one_share_local_net(good, tmp_path, other):
    options = SMALL | {"n_iter": 4, "checkpoint": tmp_path / "part"}
    GlobalLocal(**options).fit(good)
    shared = GlobalLocal(**options | other).fit(good)
    assert len(list(tmp_path.iterdir())) == 4  # but one joint training more
    once = GlobalLocal(**SMALL | {"n_iter": 4} | other).fit(good)
    assert np.array_equal(shared.score_samples(good), once.score_samples(good))


def test_another_schedule_is_another_joint_training(good, tmp_path, monkeypatch):
    options = SMALL | {"checkpoint": tmp_path / "part"}
    GlobalLocal(**options).fit(good)
    quick = replace(_training_phases.SCHEDULES["quick"], batch_size=(3, 3, 1, 2))
    monkeypatch.setitem(_training_phases.SCHEDULES, "quick", quick)
    shared = GlobalLocal(**options).fit(good)
    assert len(list(tmp_path.iterdir())) == 4  # Local-Net's two and a joint training each
    assert np.array_equal(
        shared.score_samples(good), GlobalLocal(**SMALL).fit(good).score_samples(good)
    )


def test_a_diverging_joint_training_keeps_its_last_good_state(good, monkeypatch):
    loss, calls = PatchComparison.loss, []

    def diverging(self, *args):
        calls.append(1)
        return loss(self, *args) * (1 if len(calls) < 7 else np.nan)

    monkeypatch.setattr(PatchComparison, "loss", diverging)
    detector = GlobalLocal(image_size=64, n_iter=(4, 0, 12))
    with pytest.raises(TrainingError, match=r"nan in epoch 2; lower dad_weight.* kept") as caught:
        detector.fit(good)
    assert len(detector.history_["33-joint"]) == 1
    assert detector.failure_ == str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    decision = detector.decision_function(good)
    assert np.array_equal(pickle.loads(pickle.dumps(detector)).decision_function(good), decision)
    # Its state is that of the first epoch: there the learning rate has not begun to fall.
    calls.clear()
    one_epoch = GlobalLocal(image_size=64, n_iter=(4, 0, 4)).fit(good)
    for name, array in one_epoch.state_.items():
        np.testing.assert_array_equal(detector.state_[name], array)


def test_a_diverging_distillation_leaves_nothing_fitted(good):
    detector = GlobalLocal(image_size=64, n_iter=4, distillation=1e39)
    with pytest.raises(TrainingError, match=r"lower distillation .* images\.$"):
        detector.fit(good)
    with pytest.raises(NotFittedError):
        detector.predict(good)


def test_a_refused_fit_loses_nothing(good, fitted):
    detector = copy.deepcopy(fitted)
    before = detector.decision_function(good)
    spoilt = good.astype(np.float32) / 255
    spoilt[:, 5, 5] = np.nan
    features = FeatureMaps({"layer": np.zeros((4, 8, 8, 3), np.float32)})
    for X, y in (([], None), ("folder", None), (features, None), (good[:1], None), (spoilt, None),
                 (good, -np.ones(6))):  # fmt: skip
        with pytest.raises(ValueError):
            detector.fit(X, y)
        assert np.array_equal(detector.decision_function(good), before)
    with pytest.raises(TrainingError):
        detector.set_params(distillation=1e39).fit(good)
    assert np.array_equal(detector.decision_function(good), before)


def test_a_training_shows_one_bar_for_each_phase(good, capsys):
    GlobalLocal(**SMALL | {"n_iter": 9}, verbose=1).fit(good)
    shown = capsys.readouterr().err
    for phase in ("distillation", "fine-tuning", "joint"):
        last = re.findall(rf"33-{phase}.*?9/9.*?loss=[\d.]+", shown)
        assert last, phase
    assert shown.count("\n") == 4  # one for reading the images


def test_threads_draw_the_same_weights():
    def weights(_):
        return PatchComparison(17, 3, "dense").local_net[0].weight.detach().numpy()

    expected, before = weights(0), torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(weights, range(40)):
            assert np.array_equal(found, expected)
    assert torch.equal(torch.get_rng_state(), before)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"patch_size": 32}, "patch_size as one of .*, got 32"),
        ({"patch_size": (33, 33)}, "patch_size"),
        ({"patch_size": [33.0]}, "patch_size"),
        ({"patch_size": [[17, 33]]}, "patch_size"),
        ({"n_iter": (10.5, 1, 1)}, "whole number"),
        ({"patch_size": ()}, "patch_size"),
        ({"image_size": 32}, "at least 48 .* a patch of 33"),
        ({"image_size": 40}, "at least 48 .* a patch of 33"),
        ({"image_size": 60}, "multiples of 8"),
        ({"global_mode": "exact"}, "at least 243"),
        ({"global_mode": "exact", "image_size": 256, "hole_stride": 12}, "multiple of 8"),
        ({"n_iter": (1, 2)}, "one whole number or three"),
        ({"n_iter": (1, -2, 3)}, "one whole number or three"),
        ({"stains": {"size": (0, 1)}}, "axes"),
        ({"iad_weight": 1.5}, "iad_weight"),
        ({"global_mode": "fast"}, "global_mode"),
        ({"teacher": FilterBank()}, "expected a fitted teacher"),
    ],
)
def test_parameters_that_cannot_be(good, parameters, message):
    with pytest.raises(ValueError, match=message):
        GlobalLocal(**SMALL | parameters).fit(good)


@pytest.mark.parametrize(("side", "smallest"), [(17, 32), (33, 48), (65, 80)])
def test_in_the_smallest_input_something_is_seen_around_every_patch(side, smallest):
    comparison, grid = (
        PatchComparison(side, 3, "dense").eval(),
        PatchGrid(side, smallest, smallest, 4),
    )
    images = torch.rand(2, 3, smallest, smallest, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        one, other = comparison.global_embeddings(images, grid)
    assert (one != other).any(dim=-1).all()


def test_a_teacher_of_other_channels(good):
    teacher = FilterBank(image_size=64).fit(good)
    four = np.concatenate([good, good[..., :1]], axis=3)
    with pytest.raises(ValueError, match=r"with 4 channels, got one that was fitted on 3"):
        GlobalLocal(teacher, **SMALL).fit(four)


def test_a_teacher_that_sees_but_a_part_of_the_input(good):
    teacher = FilterBank(image_size=64, resize="crop").fit(good)
    with pytest.raises(ValueError, match="aspect ratio"):
        GlobalLocal(teacher, image_size=(64, 128), n_iter=4).fit(good)
    GlobalLocal(teacher, **SMALL).fit(good)


def test_parameters_set_after_a_fit_change_no_network(good):
    detector = GlobalLocal(**SMALL).fit(good)
    before = detector.score_samples(good)
    detector.set_params(patch_size=17, image_size=128, dtype="bfloat16", n_iter=1)
    again = pickle.loads(pickle.dumps(detector))
    assert np.array_equal(detector.score_samples(good), before)
    assert np.array_equal(again.score_samples(good), before)
    detector.set_params(stains={"color": (0, 1)})
    with pytest.raises(ValueError, match="stains"):
        detector.fit(good)
    assert np.array_equal(detector.score_samples(good), before)  # a refused fit loses nothing


def test_random_numbers_of_others_are_left_alone(good):
    before = torch.get_rng_state()
    pickle.loads(pickle.dumps(GlobalLocal(**SMALL).fit(good))).predict(good)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_no_image(good):
    detector = GlobalLocal(**SMALL)
    with pytest.raises(ValueError, match="at least 2 good images"):
        detector.fit(good[:1])
    with pytest.raises(ValueError, match="expects images, got features"):
        detector.fit(FeatureMaps({"layer": np.zeros((4, 8, 8, 3), np.float32)}))
    with pytest.raises(ValueError, match="expects images, got features"):
        detector.fit(np.zeros((10, 4)))
    spoilt = good.astype(np.float32) / 255
    spoilt[3, 5, 5] = np.nan
    with pytest.raises(ValueError, match="image 3"):
        detector.fit(spoilt)
    with pytest.raises(NotFittedError):
        detector.predict(good)
    one = GlobalLocal(**SMALL | {"standardize": False}).fit(good[:1])
    assert one.predict(good[:1]).shape == (1,)
