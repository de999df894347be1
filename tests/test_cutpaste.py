"""CutPaste: its pastes against slow loops, its network, its densities, its scores and errors."""

import colorsys
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from oracles_cutpaste import slow_cut_paste, slow_scar
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks
from torchvision.models import get_model

from skanomaly import CutPaste, FeatureMaps, dump, estimate_memory, load
from skanomaly.datasets import make_textures
from skanomaly.detectors.cutpaste import _paste_training
from skanomaly.detectors.cutpaste._cutpaste_net import CutPasteNet, narrow_resnet18
from skanomaly.detectors.cutpaste._cutpaste_scoring import cam, image_map
from skanomaly.detectors.cutpaste._feature_density import (
    choose_gaussians,
    fit_gaussian,
    mean_log_density,
    unit,
)
from skanomaly.detectors.cutpaste._paste_training import ViewMaker, class_accuracy
from skanomaly.detectors.cutpaste._window_grid import WindowGrid
from skanomaly.exceptions import TrainingError
from skanomaly.training import cut_paste, cut_paste_scar, jitter_colors
from skanomaly.utils.networks import seeded

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"encoder": "tiny", "image_size": 64, "patch_size": 32, "n_iter": 3}
AREA, ASPECT = (0.02, 0.15), (0.3, 3.3)
PASTES = {"area": AREA, "aspect": ASPECT, "width": (2, 16), "length": (10, 25)}


@pytest.fixture(scope="module", autouse=True)
def small_steps():
    """Trainings of parts of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_paste_training, "N_CROPS", 4)
        patch.setattr(_paste_training, "EPOCH", 2)
        yield


@pytest.fixture(scope="module")
def good():
    return make_textures(6, size=(64, 64), random_state=0)


@pytest.fixture(scope="module")
def fitted(good):
    return CutPaste(**SMALL).fit(good)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


# CutPaste takes images, which no array of shape (n, d) is: of scikit-learn's checks that of cloning
# is left. The others are in the tests below and in tests/test_contract.py.
@parametrize_with_checks([CutPaste()])
def test_passes_the_checks_that_need_no_arrays_of_two_axes(estimator, check):
    check(estimator)


# --- pastes -----------------------------------------------------------------------------------


def test_rectangles_are_those_of_a_slow_loop():
    images = np.concatenate([noise(9000, 20, 30, 1), 0.02 * noise(1000, 20, 30, 1, seed=1)])
    pasted, boxes = cut_paste(images, np.random.default_rng(5), jitter=0)
    rng = np.random.default_rng(5)
    for image, found, box in zip(images, pasted, boxes, strict=True):
        expected, place = slow_cut_paste(image, rng, AREA, ASPECT)
        assert np.array_equal(found, expected) and tuple(box) == place


def test_rectangles_have_the_areas_and_aspects_asked_for():
    """Of 10,000 pastes; on large images, where rounding to pixels hardly shows."""
    image = noise(1, 200, 300, 1)
    images = np.broadcast_to(image, (10_000, *image.shape[1:]))
    rng = np.random.default_rng(0)
    boxes = np.concatenate([cut_paste(one, rng, jitter=0)[1] for one in np.split(images, 100)])
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and (boxes[:, 2:] <= [200, 300]).all()
    shares, ratios = height * width / (200 * 300), np.log(height / width)
    for found, (least, most) in ((shares, AREA), (ratios, np.log(ASPECT))):
        edge = 0.03 * (most - least)
        assert least - edge < found.min() < least + edge
        assert most - edge < found.max() < most + edge
        quarters = np.quantile(found, [0.25, 0.5, 0.75])
        expected = least + (most - least) * np.array([0.25, 0.5, 0.75])
        np.testing.assert_allclose(quarters, expected, atol=edge)
    # Uniform over all places where the piece fits.
    for first, size, side in ((0, height, 200), (1, width, 300)):
        free = side - size > 20
        assert abs((boxes[:, first] / (side - size))[free].mean() - 0.5) < 0.02


@pytest.mark.parametrize("shape", [(40, 30), (12, 9)], ids=["free", "too large for the frame"])
def test_scars_are_those_of_a_slow_loop(shape):
    images = noise(300, *shape, 2)
    pasted, boxes = cut_paste_scar(images, np.random.default_rng(5), jitter=0)
    rng = np.random.default_rng(5)
    for image, found, box in zip(images, pasted, boxes, strict=True):
        expected, place = slow_scar(image, rng, (2, 16), (10, 25))
        assert np.array_equal(found, expected) and tuple(box) == place
    assert boxes.min() >= 0 and (boxes[:, 2:] <= shape).all()


@pytest.mark.parametrize("paste", [cut_paste, cut_paste_scar])
def test_a_paste_changes_nothing_outside_of_its_box(paste):
    images = noise(200, 32, 48, 3)
    before = images.copy()
    pasted, boxes = paste(images, np.random.default_rng(0))
    assert np.array_equal(images, before) and pasted.dtype == np.float32
    assert pasted.min() >= 0 and pasted.max() <= 1
    for image, result, (top, left, bottom, right) in zip(images, pasted, boxes, strict=True):
        inside = np.zeros(image.shape[:2], dtype=bool)
        inside[top:bottom, left:right] = True
        assert (image == result)[~inside].all() and not (image == result)[inside].all()


def test_a_scar_is_smaller_than_a_pixel_at_no_size():
    images = noise(50, 16, 16, 1)
    pasted, _ = cut_paste_scar(images, np.random.default_rng(0), width=(0.1, 0.2), length=(0.1, 3))
    assert (pasted != images).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("paste", [cut_paste, cut_paste_scar])
def test_a_piece_that_changes_nothing_is_drawn_again(paste):
    ground = np.full((100, 64, 64, 1), 0.5, np.float32)
    ground[:, 28:36, 28:36] = 0.9  # a small mark; most pieces are even and lie on even ground
    pasted, _ = paste(ground, np.random.default_rng(0), jitter=0)
    n_seen = (np.abs(pasted - ground) > 0.02).sum(axis=(1, 2, 3))
    assert (n_seen >= 6).mean() > 0.75
    even = np.full((3, 32, 32, 3), 0.5, np.float32)
    assert np.array_equal(paste(even, np.random.default_rng(0), jitter=0)[0], even)
    jittered = paste(even, np.random.default_rng(0), jitter=0.1)[0]
    assert (np.abs(jittered - even).max(axis=(1, 2, 3)) > 0.02).all()


def test_colors_change_as_one_pixel_at_a_time():
    """Each pixel by plain formulas, in the order drawn."""
    for seed in range(20):
        pixels = 0.2 + 0.6 * noise(3, 4, 3, seed=seed)
        found = jitter_colors(pixels, np.random.default_rng(seed), 0.1)
        rng = np.random.default_rng(seed)
        factors, turn = rng.uniform(0.9, 1.1, 3), 2 * np.pi * rng.uniform(-0.1, 0.1)
        expected = pixels.astype(np.float64)
        luma = [0.299, 0.587, 0.114]
        for kind in rng.permutation(4):
            grays = [
                sum(w * v for w, v in zip(luma, p, strict=True)) for p in expected.reshape(-1, 3)
            ]
            mean, axis = np.mean(grays), np.ones(3) / np.sqrt(3)
            for i, gray in enumerate(grays):
                pixel = expected.reshape(-1, 3)[i]
                if kind == 3:  # Rodrigues' rotation
                    pixel = (
                        pixel * np.cos(turn)
                        + np.cross(axis, pixel) * np.sin(turn)
                        + axis * (axis @ pixel) * (1 - np.cos(turn))
                    )
                else:
                    fixed = (0, mean, gray)[kind]
                    pixel = fixed + factors[kind] * (pixel - fixed)
                expected.reshape(-1, 3)[i] = pixel
        np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=1e-5)


def test_gray_stays_gray_and_light_keeps_the_hue():
    rng = np.random.default_rng(0)
    gray = np.repeat(noise(8, 8, 1), 3, axis=2)
    assert np.ptp(jitter_colors(gray, rng, 0.1), axis=2).max() < 1e-6
    color = np.full((1, 1, 3), (0.2, 0.5, 0.4), np.float32)
    assert jitter_colors(color, rng, 0) is color
    hue = colorsys.rgb_to_hsv(*color[0, 0])[0]
    light = jitter_colors(color, rng, 0.1, only_light=True)
    assert light.max() != color.max()
    assert colorsys.rgb_to_hsv(*light[0, 0])[0] == pytest.approx(hue, abs=0.02)
    assert jitter_colors(noise(4, 4, 5), rng, 0.1).shape == (4, 4, 5)


# --- training ---------------------------------------------------------------------------------


def maker(images, side, variant="3way", jitter=0.1):
    n_channels = images.shape[3]
    mean, scale = np.zeros(n_channels, np.float32), np.ones(n_channels, np.float32)
    return ViewMaker(images, mean, scale, side, variant, **PASTES, jitter=jitter)


@pytest.mark.parametrize("side", [32, None], ids=["crops", "whole images"])
def test_views_of_an_image_share_their_jitter(side):
    images = noise(3, 64, 48, 3)
    views = maker(images, side).views(np.random.default_rng(0))
    good_views, pasted, scarred = views.view(3, 4, *views.shape[1:]).permute(0, 1, 3, 4, 2).numpy()
    assert good_views.shape[1:3] == ((32, 32) if side else (64, 48))
    for other in (pasted, scarred):
        same = (other == good_views).all(axis=3).mean(axis=(1, 2))
        assert (same > 0.5).all() and (same < 1).all()  # but for the paste
    brightness = good_views.mean(axis=(1, 2, 3))
    assert np.ptp(brightness) > 0.01  # other images have other draws


def test_crops_are_cut_from_the_images():
    images = noise(3, 40, 33, 1)
    found = maker(images, 32, jitter=0).views(np.random.default_rng(0))[:4, 0].numpy()
    windows = np.lib.stride_tricks.sliding_window_view(images[..., 0], (32, 32), axis=(1, 2))
    for crop in found:
        assert (windows == crop).all(axis=(3, 4)).any()


@pytest.mark.parametrize(
    "variant, classes",
    [
        ("2way", ["good", "pasted"]),
        ("scar", ["good", "scar"]),
        ("3way", ["good", "pasted", "scar"]),
    ],
)
def test_variants_learn_their_classes(good, variant, classes):
    detector = CutPaste(**SMALL, variant=variant).fit(good)
    assert list(detector.accuracy_) == classes
    assert all(0 <= share <= 1 for share in detector.accuracy_.values())
    assert detector.architecture_["n_classes"] == len(classes)
    views = maker(good.astype(np.float32) / 255, 32, variant)
    assert views.labels().tolist() == np.repeat(np.arange(len(classes)), 4).tolist()


def test_accuracy_is_the_share_of_views_told_right():
    images = noise(3, 64, 64, 3)
    network = CutPasteNet("tiny", 3, 3).eval()
    shares = class_accuracy(network, maker(images, 32), seed=3)
    found = []
    for number in range(_paste_training.N_JUDGED):
        views = maker(images, 32).views(np.random.default_rng((3, 2, number)))
        with torch.inference_mode():
            found.append([int(network(one[None]).argmax()) for one in views])
    for label, share in enumerate(shares.values()):
        mine = [row[4 * label : 4 * label + 4] for row in found]
        assert share == pytest.approx(np.mean(np.equal(mine, label)))


def test_the_loss_falls(good):
    losses = CutPaste(**SMALL | {"n_iter": 80}).fit(good).history_["training"]
    assert len(losses) == 40 and np.mean(losses[-20:]) < np.mean(losses[:20])


def test_a_narrow_network_of_full_width_is_resnet18():
    with seeded(0):
        published = get_model("resnet18", weights=None).eval()
    ours = narrow_resnet18(3, 64).eval()
    kept = [v for k, v in published.state_dict().items() if not k.startswith("fc")]
    ours.load_state_dict(dict(zip(ours.state_dict(), kept, strict=True)))
    images = torch.from_numpy(noise(2, 3, 64, 64))
    with torch.inference_mode():
        expected = published.fc(ours(images).mean(dim=(2, 3)))
        torch.testing.assert_close(published(images), expected)
        by_name = CutPasteNet("resnet18", 3, 2, seed=0)
        by_name.encoder.load_state_dict(dict(zip(by_name.encoder.state_dict(), kept, strict=True)))
        torch.testing.assert_close(by_name.eval().maps(images), ours(images))


def test_published_weights_are_tuned_in_two_phases(good, tmp_path, monkeypatch):
    with seeded(0):
        network = get_model("mobilenet_v3_small", weights=None)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    options = SMALL | {"encoder": "mobilenet_v3_small", "weights": tmp_path / "weights.pth"}
    detector = CutPaste(**options | {"n_iter": 8}).fit(good)
    assert [len(losses) for losses in detector.history_.values()] == [1, 4]  # 1 step, and 7
    assert list(detector.history_) == ["head", "fine-tuning"]
    np.testing.assert_allclose(detector.mean_, [0.485, 0.456, 0.406])
    before = dict(network.features.state_dict())
    after = {k.removeprefix("encoder.0."): v for k, v in detector.state_.items()}
    for name, value in before.items():
        if "running" in name:  # batch norm is frozen
            np.testing.assert_array_equal(after[name], value.numpy())
    assert any((after[k] != v.numpy()).any() for k, v in before.items() if "weight" in k)
    again = pickle.loads(pickle.dumps(detector))
    (tmp_path / "weights.pth").unlink()
    assert np.array_equal(again.score_samples(good), detector.score_samples(good))
    # The head's phase leaves the encoder as it was.
    monkeypatch.setattr(_paste_training, "HEAD_SHARE", 1.0)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    head_alone = CutPaste(**options).fit(good)
    for name, value in before.items():
        np.testing.assert_array_equal(head_alone.state_[f"encoder.0.{name}"], value.numpy())


# --- densities --------------------------------------------------------------------------------


def test_log_density_is_that_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 2, 3, 4)).astype(np.float32)
    unseen = rng.normal(size=(5, 2, 3, 4)).astype(np.float32)
    for aligned in (True, False):
        gaussian, densities = fit_gaussian(features, aligned), []
        for row in range(2):
            for column in range(3):
                place = (row, column) if aligned else (0, 0)
                law = multivariate_normal(gaussian.mean_[place], gaussian.covariance(*place))
                densities.append(law.logpdf(unseen[:, row, column]).mean())
        assert mean_log_density(gaussian, unseen, aligned) == pytest.approx(
            np.mean(densities), rel=1e-4
        )


@pytest.mark.parametrize("aligned", [True, False])
def test_the_gaussian_is_chosen_by_held_out_images(aligned):
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(24, side, side, 6)).astype(np.float32) for side in (3, 4)]
    if aligned:  # every place has its own look
        features = [one + 3 * rng.normal(size=one.shape[1:]).astype(np.float32) for one in features]
    held_out = np.arange(24) % 5 == 0
    chosen, gaussians, statistics = choose_gaussians(features, held_out, "auto")
    assert chosen is aligned
    assert [g.shape_[:2] for g in gaussians] == ([(3, 3), (4, 4)] if aligned else [(1, 1)] * 2)
    for one, row in zip(features, statistics, strict=True):
        known = fit_gaussian(one[~held_out], aligned)
        unseen = one[held_out] if aligned else one[held_out].reshape(-1, 1, 1, 6)
        found = known.mahalanobis(unseen)
        np.testing.assert_allclose(row, [found.mean(), found.std()], rtol=1e-5)
    forced = choose_gaussians(features, held_out, not aligned)
    assert forced[0] is not aligned


def test_cam_is_that_of_autograd():
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.normal(size=(3, 4, 8)), 0).astype(np.float32)
    mean = unit(np.abs(rng.normal(size=8)))
    root = rng.normal(size=(8, 8))
    precision = root @ root.T + np.eye(8)
    a = torch.from_numpy(maps).double().requires_grad_()
    pooled = a.mean(dim=(0, 1))
    u = pooled / pooled.norm() - torch.from_numpy(mean)
    squared = u @ torch.from_numpy(precision) @ u
    squared.backward()
    weights = a.grad.sum(dim=(0, 1))  # GradCAM's, but for its factor of the number of cells
    expected = torch.relu((a * weights).sum(dim=2)).detach().numpy()
    found, distance = cam(maps, mean, precision)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
    assert distance == pytest.approx(squared.item() ** 0.5)
    assert image_map(maps, mean, precision).max() == pytest.approx(distance)
    flat = np.ones_like(maps)
    np.testing.assert_allclose(
        image_map(flat, mean, precision), cam(flat, mean, precision)[1], rtol=1e-6
    )


# --- windows and maps -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "grid", [WindowGrid(16, 64, 48, 8), WindowGrid(17, 65, 50, 16), WindowGrid(20, 20, 33, 7)]
)
def test_windows_cover_the_image(grid):
    image = noise(grid.height, grid.width, 2)
    windows, (rows, columns) = grid.cut(image), grid.starts()
    assert windows.shape == (grid.shape[0] * grid.shape[1], grid.side, grid.side, 2)
    seen = np.zeros(image.shape[:2], dtype=bool)
    for i, window in enumerate(windows):
        y, x = rows[i // grid.shape[1]], columns[i % grid.shape[1]]
        assert np.array_equal(window, image[y : y + grid.side, x : x + grid.side])
        seen[y : y + grid.side, x : x + grid.side] = True
    assert seen.all()


def test_scores_lie_at_the_windows_centers():
    grid = WindowGrid(16, 66, 48, 12)  # the last step is shorter
    rows, columns = (starts + 8 for starts in grid.starts())
    plane = grid.interpolate(2.0 * rows[:, None] + columns)  # a plane stays one
    assert plane.shape == (17, 12)
    y, x = (np.arange(17) + 0.5) * 66 / 17, (np.arange(12) + 0.5) * 4
    expected = 2 * np.clip(y, 8, 58)[:, None] + np.clip(x, 8, 40)
    np.testing.assert_allclose(plane, expected, rtol=1e-5)


def test_a_map_is_the_mean_over_sizes_of_standardized_distances(good):
    both = CutPaste(**SMALL, test_size=(16, 24), stride=8).fit(good)
    assert both.window_sizes_ == [16, 24]
    pixels = good[:1].astype(np.float32) / 255
    found = both._score_maps(FeatureMaps({"pixels": pixels}))
    maps = []
    for i, side in enumerate(both.window_sizes_):
        grid = WindowGrid(side, 64, 64, 8)
        columns = grid.shape[1]
        network = CutPasteNet(**both.architecture_).eval()
        network.load_state_dict({k: torch.tensor(v) for k, v in both.state_.items()})
        scores = np.empty(grid.shape)
        for n, window in enumerate(grid.cut((pixels[0] - both.mean_) / both.scale_)):
            one = torch.from_numpy(window.transpose(2, 0, 1)[None].copy())
            with torch.inference_mode():
                feature = network.features(one)[0].numpy()
            feature = feature / np.linalg.norm(feature) / both.feature_scales_[i]
            place = divmod(n, columns) if both.aligned_ else (0, 0)
            u = feature - both.gaussians_[i].mean_[place]
            covariance = both.gaussians_[i].covariance(*place)
            scores.flat[n] = np.sqrt(u @ np.linalg.solve(covariance, u))
        mean, deviation = both.statistics_[i]
        maps.append(grid.interpolate((scores - mean) / deviation))
    np.testing.assert_allclose(found[0], np.mean(maps, axis=0), rtol=1e-3, atol=1e-3)


def test_the_score_of_a_whole_image_is_its_distance(good):
    detector = CutPaste(**SMALL, level="image", image_score="paper").fit(good)
    assert detector.window_sizes_ == [] and detector.gaussians_[0].shape_ == (1, 1, 128)
    scores, maps = detector.score_samples_and_map(good)
    assert maps.shape == (6, 64, 64) and maps.min() >= 0
    network = CutPasteNet(**detector.architecture_).eval()
    network.load_state_dict({k: torch.tensor(v) for k, v in detector.state_.items()})
    for image, score in zip(good, scores, strict=True):
        pixels = (image.astype(np.float32) / 255 - detector.mean_) / detector.scale_
        with torch.inference_mode():
            feature = network.features(torch.from_numpy(pixels.transpose(2, 0, 1)[None]))
        feature = (feature / feature.norm()).numpy() / detector.feature_scales_[0]
        found = detector.gaussians_[0].mahalanobis(feature[None, None])
        assert -score == pytest.approx(found.item(), rel=1e-3)


@pytest.mark.parametrize(
    "parameters",
    [
        {"image_size": (65, 70), "patch_size": 31},
        {"image_size": (33, 41), "patch_size": 33, "test_size": 9, "stride": 5},
        {"image_size": (33, 41), "level": "image"},
    ],
)
def test_sizes_that_no_halving_reaches(good, parameters):
    detector = CutPaste(**SMALL | parameters).fit(good)
    scores, maps = detector.score_samples_and_map(good)
    assert maps.shape == (6, 64, 64) and np.isfinite(maps).all() and np.isfinite(scores).all()


@pytest.mark.parametrize("level", ["patch", "image"])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_images_of_one_gray_value(level, value):
    even = np.full((5, 64, 64), value, np.uint8)
    detector = CutPaste(**SMALL, level=level).fit(even)
    scores, maps = detector.score_samples_and_map(even)
    assert np.isfinite(scores).all() and np.isfinite(maps).all() and np.ptp(scores) == 0


def test_gray_and_color_images(good):
    gray = CutPaste(**SMALL).fit(good[..., 0])
    color = CutPaste(**SMALL).fit(np.repeat(good[..., :1], 3, axis=3))
    assert gray.n_channels_in_ == 3
    np.testing.assert_allclose(gray.score_samples(good[..., 0]), color.score_samples(good[..., :1]))
    four = np.concatenate([good, good[..., :1]], axis=3)
    assert CutPaste(**SMALL).fit(four).n_channels_in_ == 4
    with pytest.raises(ValueError, match="channels"):
        CutPaste(**SMALL | {"encoder": "resnet18"}).fit(np.concatenate([good, good], axis=3))


# --- the estimator ----------------------------------------------------------------------------


def test_fit_forgets_what_it_learned_before(good, fitted):
    again = CutPaste(**SMALL).fit(good[:4]).fit(good)
    assert np.array_equal(again.score_samples(good), fitted.score_samples(good))
    other = CutPaste(**SMALL, random_state=1).fit(good)
    assert not np.array_equal(other.score_samples(good), fitted.score_samples(good))


def test_parameters_set_after_a_fit_change_no_score(good):
    detector = CutPaste(**SMALL).fit(good)
    before = detector.score_samples(good)
    detector.set_params(
        encoder="resnet18", level="image", patch_size=64, test_size=9, stride=3, aligned=False,
        variant="scar", preset="paper",
    )  # fmt: skip
    assert np.array_equal(detector.score_samples(good), before)
    assert np.array_equal(pickle.loads(pickle.dumps(detector)).score_samples(good), before)


def test_threads_may_score_at_a_time(good, fitted):
    fresh = pickle.loads(pickle.dumps(fitted))  # its network is yet to be built
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: fresh.score_samples(good), range(8)):
            assert np.array_equal(found, fitted.score_samples(good))


def test_a_pickle_holds_no_image(good):
    marked = good.copy()
    marked[:, ::2, ::2] = 255 * (np.arange(3) == 0)  # a pattern that weights do not have
    content = pickle.dumps(CutPaste(**SMALL).fit(marked))
    pixels = marked.astype(np.float32) / 255
    for array in (marked, pixels):
        assert array[0, 0, :4].tobytes() not in content
    more = pickle.dumps(CutPaste(**SMALL, aligned=False).fit(np.concatenate([marked] * 3)))
    few = pickle.dumps(CutPaste(**SMALL, aligned=False).fit(np.concatenate([marked] * 2)))
    assert len(more) - len(few) < 4 * 64 * 64 * 3


def test_a_file_of_it_comes_back_as_it_was(good, tmp_path):
    for level in ("patch", "image"):
        detector = CutPaste(**SMALL, level=level).fit(good)
        dump(detector, tmp_path / "part.skanomaly")
        again = load(tmp_path / "part.skanomaly")
        assert np.array_equal(again.score_samples(good), detector.score_samples(good))
        assert again.history_ == detector.history_ and again.accuracy_ == detector.accuracy_


@pytest.mark.parametrize("level", ["patch", "image"])
def test_memory_is_forecast(good, level):
    detector = CutPaste(**SMALL, level=level)
    needs = estimate_memory(detector, good, n_images=50)
    assert needs["total"] > estimate_memory(detector, good, n_images=20)["total"]
    # Windows of 16 and of 12 pixels, 4 apart.
    n_places = 13 * 13 + 14 * 14 if level == "patch" else 1
    assert needs["features"] == 2 * 4 * 50 * n_places * 128
    assert vars(detector) == vars(CutPaste(**SMALL, level=level))


def test_random_numbers_of_others_are_left_alone(good):
    before = torch.get_rng_state()
    pickle.loads(pickle.dumps(CutPaste(**SMALL).fit(good))).predict(good)
    assert torch.equal(torch.get_rng_state(), before)


def test_interrupted_training_goes_on(good, fitted, tmp_path, monkeypatch):
    detector = CutPaste(**SMALL | {"n_iter": 6}, checkpoint=tmp_path / "part")
    once = CutPaste(**SMALL | {"n_iter": 6}).fit(good)
    backward, seen = torch.Tensor.backward, []

    def stop(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 4:  # between two checkpoints
            raise KeyboardInterrupt
        backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", stop)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(good)
    assert [path.name.split(".")[-1] for path in tmp_path.iterdir()] == ["training"]
    detector.fit(good)
    assert len(seen) == 4 + 6 - 2  # 2 steps were saved
    assert np.array_equal(detector.score_samples(good), once.score_samples(good))
    assert detector.history_ == once.history_ and detector.accuracy_ == once.accuracy_


def test_checkpoint_of_another_training_is_left_alone(good, tmp_path):
    options = SMALL | {"checkpoint": tmp_path / "part"}
    CutPaste(**options).fit(good)
    assert len(list(tmp_path.iterdir())) == 1
    CutPaste(**options, aligned=False, sigma=2, test_size=16).fit(good)  # no part of the training
    assert len(list(tmp_path.iterdir())) == 1
    other = CutPaste(**options, jitter=0.2).fit(good)
    assert len(list(tmp_path.iterdir())) == 2
    once = CutPaste(**SMALL, jitter=0.2).fit(good)
    assert np.array_equal(other.score_samples(good), once.score_samples(good))
    CutPaste(**options).fit(good[:-1])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_training_that_diverges_changes_nothing(good, fitted):
    detector = copy.deepcopy(fitted)
    before = detector.score_samples(good)
    with pytest.raises(TrainingError, match="lower learning_rate"):
        detector.set_params(learning_rate=1e30).fit(good)
    assert np.array_equal(detector.score_samples(good), before)
    with pytest.raises(NotFittedError):
        clone(detector).predict(good)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"patch_size": 65}, "at most 64, .* got 65"),
        ({"test_size": (32, 80)}, "at most 64"),
        ({"test_size": (16, 16)}, "several different"),
        ({"test_size": 16.5}, "test_size"),
        ({"area": (0, 0.1)}, "area as a pair"),
        ({"area": (0.1, 1.5)}, "of at most 1"),
        ({"aspect": (3, 0.3)}, "aspect as a pair"),
        ({"scar_width": (2,)}, "scar_width as a pair"),
        ({"scar_length": ("a", "b")}, "scar_length as a pair"),
        ({"encoder": "vit_b_16"}, "encoder of convolutions"),
        ({"encoder": "resnet1"}, "expected a torchvision"),
        ({"weights": "DEFAULT"}, "no published weights"),
        ({"variant": "4way"}, "variant"),
        ({"level": "pixel"}, "level"),
        ({"aligned": "yes"}, "aligned"),
    ],
)
def test_parameters_that_cannot_be(good, parameters, message):
    with pytest.raises(ValueError, match=message):
        CutPaste(**SMALL | parameters).fit(good)


def test_what_is_no_image_and_what_is_too_few(good):
    detector = CutPaste(**SMALL)
    with pytest.raises(ValueError, match=r"at least 3 good images.*n_samples=1"):
        detector.fit(good[:1])
    with pytest.raises(ValueError, match=r"at least 2 good images.*n_samples=1"):
        CutPaste(**SMALL, level="image").fit(good[:1])
    assert CutPaste(**SMALL).fit(good[:3]).predict(good).shape == (6,)
    assert CutPaste(**SMALL, level="image").fit(good[:2]).predict(good).shape == (6,)
    spoilt = good.astype(np.float32) / 255
    spoilt[3, 5, 5] = np.nan
    with pytest.raises(ValueError, match="image 3"):
        detector.fit(spoilt)
    with pytest.raises(ValueError, match="expects images, got features"):
        detector.fit(np.zeros((10, 4)))
    with pytest.raises(NotFittedError):
        detector.predict(good)


def test_a_pasted_piece_is_found():
    good = make_textures(20, kind="weave", size=(64, 64), random_state=0)
    windows = {"test_size": (32, 16), "stride": 8}  # such as see all of the piece
    detector = CutPaste(**SMALL | {"n_iter": 30}, **windows, random_state=0).fit(good[:12])
    bad = good[12:].copy()
    bad[:, 20:44, 20:44] = np.random.default_rng(0).integers(0, 256, (8, 24, 24, 3))
    scores, maps = detector.score_samples_and_map(bad)
    assert scores.max() < detector.score_samples(good[12:]).min()
    assert (maps[:, 26:38, 26:38].mean(axis=(1, 2)) > maps[:, :8, :8].mean(axis=(1, 2))).all()
