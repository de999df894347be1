"""MKD: its cloner, losses and maps against plain re-computations, its source, and its errors."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skanomaly import MKD, FeatureExtractor, FilterBank, estimate_memory
from skanomaly.datasets import make_textures
from skanomaly.detectors.mkd import _mkd_source
from skanomaly.detectors.mkd._mkd_network import build_cloner
from skanomaly.detectors.mkd._mkd_scores import (
    cell_discrepancies,
    compare,
    gradient_maps,
    layer_losses,
    sum_of_maps,
)
from skanomaly.detectors.mkd._mkd_source import (
    DEFAULT_LAYERS,
    DifferentiableSource,
    channel_statistics,
    source_layers,
    source_maps,
)
from skanomaly.detectors.mkd._mkd_training import SCHEDULES, Distillation, train_cloner
from skanomaly.exceptions import TrainingError, WeightsError
from skanomaly.training import TrainingConfig, shuffled_batches, with_given

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"image_size": 64, "width": 4, "n_epochs": 3, "batch_size": 3}
VGG = {"pool2": (32, 32, 128), "pool3": (16, 16, 256), "pool4": (8, 8, 512), "pool5": (4, 4, 512)}
TWO = {"fine": (8, 8, 5), "coarse": (4, 4, 6)}


@pytest.fixture(scope="module")
def good():
    return make_textures(7, size=(70, 64), random_state=0)


@pytest.fixture(scope="module")
def network():
    """A network of convolutions with three layers, none of whose values is negative."""
    layers = ["features.2", "features.4", "features.7"]
    options = {"weights": None, "image_size": 64, "random_state": 0}
    return FeatureExtractor("squeezenet1_1", layers=layers, **options).fit()


@pytest.fixture(scope="module")
def filters(good):
    return FilterBank(n_filters=4, image_size=64, random_state=0).fit(good)


@pytest.fixture(scope="module")
def fitted(good, network):
    return MKD(network, **SMALL).fit(good)


def copy_of(detector, **parameters):
    return pickle.loads(pickle.dumps(detector)).set_params(**parameters)


def maps_like(layers, n=3, seed=0):
    """Random maps of layers, a list of (n, h, w, C) float32."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, *shape)).astype(np.float32) for shape in layers.values()]


def channels_first(maps):
    return [torch.from_numpy(one).permute(0, 3, 1, 2) for one in maps]


# --- the cloner -------------------------------------------------------------------------------


def plan(cloner):
    """Words of a cloner: channels of convolutions, with "+" if a batch norm follows, and "|"."""
    words = []
    for module in cloner.modules():
        if isinstance(module, torch.nn.Conv2d):
            words.append(str(module.out_channels))
        elif isinstance(module, torch.nn.BatchNorm2d):
            words[-1] += "+"
        elif isinstance(module, (torch.nn.MaxPool2d, torch.nn.AdaptiveMaxPool2d)):
            words.append("|")
    return " ".join(words)


def test_the_cloner_of_vgg_is_the_paper_s():
    with torch.device("meta"):
        cloner = build_cloner((128, 128), 3, VGG, [True] * 4, 16)
        found = cloner(torch.rand(2, 3, 128, 128))
    convolutions = [m for m in cloner.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(m.weight.numel() for m in convolutions) == 343_728
    assert all(m.bias is None for m in convolutions)
    stages = ["16+ 16", "16+ 128", "16+ 16+ 256", "16+ 16+ 512", "16+ 16+ 512"]
    assert plan(cloner) == " | ".join(stages) + " |"
    assert [tuple(one.shape[1:]) for one in found] == [(c, h, w) for h, w, c in VGG.values()]


def test_layers_with_negative_values_are_not_cut_off(network):
    rng = torch.Generator().manual_seed(0)
    for is_nonnegative in (True, False):
        cloner = build_cloner((32, 32), 3, TWO, [is_nonnegative] * 2, 4, seed=1).eval()
        with torch.inference_mode():
            found = cloner(torch.rand(2, 3, 32, 32, generator=rng))
        assert all((one.min() >= 0) == is_nonnegative for one in found)
    assert plan(cloner) == "4+ 4 | 4+ | 5 4+ 4+ | 6"  # pooled before the last convolution


@pytest.mark.parametrize(
    ("size", "shapes"),
    [
        ((64, 64), [(8, 8, 3)]),
        ((64, 96), [(32, 48, 3), (8, 12, 4), (4, 6, 4)]),
        ((70, 65), [(17, 16, 3), (9, 8, 5)]),  # rounded down, and up
        ((56, 56), [(4, 4, 6), (4, 4, 7)]),  # one grid, as of a vision transformer
        ((16, 16), [(16, 16, 2), (1, 1, 2)]),
    ],
)
@pytest.mark.parametrize("is_nonnegative", [True, False])
def test_grids_follow_the_source(size, shapes, is_nonnegative):
    layers = dict(enumerate(shapes))
    with torch.device("meta"):
        cloner = build_cloner(size, 1, layers, [is_nonnegative] * len(shapes), 2)
        found = cloner(torch.rand(2, 1, *size))
    assert [tuple(one.shape) for one in found] == [(2, c, h, w) for h, w, c in shapes]


def test_weights_are_drawn_by_xavier_from_a_seed():
    cloner = build_cloner((64, 64), 3, TWO, [True] * 2, 16, seed=3)
    for module in cloner.modules():
        if isinstance(module, torch.nn.Conv2d):
            n_in, n_out = 9 * module.in_channels, 9 * module.out_channels
            bound = (6 / (n_in + n_out)) ** 0.5
            assert 0.9 * bound < module.weight.abs().max() <= bound
    again = build_cloner((64, 64), 3, TWO, [True] * 2, 16, seed=3).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in cloner.state_dict().items())


# --- losses and training ----------------------------------------------------------------------


def losses_in_loops(a, b):
    """Direction and value of maps (h, w, C) of one image."""
    dot = squares_a = squares_b = difference = 0.0
    for x, y in zip(a.astype(float).ravel(), b.astype(float).ravel(), strict=True):
        dot += x * y
        squares_a += x * x
        squares_b += y * y
        difference += (x - y) ** 2
    return 1 - dot / np.sqrt(squares_a * squares_b), difference / a.size


def test_losses_are_those_of_whole_maps():
    a, b = maps_like(TWO, seed=1), maps_like(TWO, seed=2)
    direction, value = layer_losses(channels_first(a), channels_first(b))
    for i in range(3):
        for j in range(2):
            expected = losses_in_loops(a[j][i], b[j][i])
            found = direction[i, j].item(), value[i, j].item()
            assert found == pytest.approx(expected, rel=1e-5)


def test_discrepancies_are_those_of_cells():
    a, b = maps_like(TWO, seed=1), maps_like(TWO, seed=2)
    found = cell_discrepancies(channels_first(a), channels_first(b), 0.3)
    for j, (height, width, _) in enumerate(TWO.values()):
        assert found[j].shape == (3, height, width)
        for i, y, x in [(0, 0, 0), (1, 2, 3), (2, height - 1, width - 1)]:
            direction, value = losses_in_loops(a[j][i, y, x], b[j][i, y, x])
            assert found[j][i, y, x].item() == pytest.approx(direction + 0.3 * value, rel=1e-5)


def test_maps_that_are_alike_have_no_loss():
    maps = channels_first(maps_like(TWO))
    for one in (*layer_losses(maps, maps), *cell_discrepancies(maps, maps, 0.5)):
        torch.testing.assert_close(one, torch.zeros_like(one), rtol=0, atol=1e-6)


def test_a_map_of_zeros_has_a_loss_and_a_gradient():
    found = [one.requires_grad_() for one in channels_first(maps_like(TWO))]
    zeros = [torch.zeros_like(one) for one in found]
    direction, value = layer_losses(found, zeros)
    (direction.sum() + value.sum()).backward()
    assert direction.tolist() == [[1.0, 1.0]] * 3
    assert all(torch.isfinite(one.grad).all() for one in found)


def test_an_epoch_is_the_steps_of_its_batches():
    """A training of two epochs, step by step, with the rates of a cosine by hand."""
    pixels = np.random.default_rng(0).random((6, 32, 32, 3), dtype=np.float32)
    maps = maps_like(TWO, n=6)
    cloner, other = (build_cloner((32, 32), 3, TWO, [False] * 2, 4, seed=2) for _ in range(2))
    schedule = with_given(SCHEDULES["quick"], n_epochs=2, batch_size=3)
    config = TrainingConfig(2, device="cpu", random_state=5)
    history = train_cloner(cloner, pixels, maps, TWO, 0.3, schedule, config)
    optimizer = torch.optim.Adam(other.parameters())
    other.train()
    means = []
    for epoch, rate in enumerate([2e-3, 1e-3]):  # 2e-3 (1 + cos(pi epoch / 2)) / 2
        optimizer.param_groups[0]["lr"] = rate
        parts = []
        for rows in shuffled_batches(6, 3, 5, epoch):
            found = other(torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2))
            loss = 0
            for a, b in zip(found, channels_first(one[rows] for one in maps), strict=True):
                cosine = torch.cosine_similarity(a.flatten(1), b.flatten(1))
                parts.append([(1 - cosine).mean(), ((a - b) ** 2).mean()])
                loss = loss + parts[-1][0] + 0.3 * parts[-1][1]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        means.append(np.mean([[x.item() for x in one] for one in parts[1::2]], axis=0))
    for name, weights in other.named_parameters():
        torch.testing.assert_close(cloner.get_parameter(name), weights, rtol=1e-3, atol=1e-5)
    found = np.transpose([history["coarse-direction"], history["coarse-value"]])
    np.testing.assert_allclose(found, means, rtol=1e-4)
    assert list(history) == [f"{a}-{b}" for a in TWO for b in ("direction", "value")]


def test_a_quick_training_has_as_many_steps_of_few_images_as_of_many():
    quick, paper = SCHEDULES["quick"], SCHEDULES["paper"]
    for n_images in (5, 20, 200, 1000):
        steps = quick.count_epochs(n_images) * len(shuffled_batches(n_images, 16, 0, 0))
        assert 2400 <= steps < 2400 + max(1, n_images // 16)
    assert with_given(SCHEDULES["quick"], n_epochs=7).count_epochs(200) == 7
    assert (paper.count_epochs(200), paper.batch_size, paper.learning_rate) == (601, 64, 1e-3)
    assert (paper.is_annealed, paper.standardize) == (False, False)


def test_losses_fall_and_are_told_by_name(good, network):
    history = MKD(network, **SMALL | {"n_epochs": 15}, learning_rate=1e-2).fit(good).history_
    names = [f"{a}-{b}" for a in network.layers_ for b in ("direction", "value")]
    assert list(history) == names and {len(losses) for losses in history.values()} == {15}
    for losses in history.values():
        assert np.mean(losses[-3:]) < 0.95 * losses[0]


# --- the source -------------------------------------------------------------------------------


def test_statistics_are_those_of_channels():
    maps = np.random.default_rng(0).normal(3, 2, (5, 4, 3, 6)).astype(np.float32)
    maps[..., 1] = 7  # constant: a floor
    mean, scale = channel_statistics(maps)
    rows = maps.reshape(-1, 6).astype(float)
    floor = 0.1 * np.sqrt(rows.var(axis=0).mean())
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scale, np.maximum(rows.std(axis=0), floor), rtol=1e-5)
    assert scale[1] == pytest.approx(floor)
    assert channel_statistics(np.full((2, 3, 3, 2), 5.0))[1].tolist() == [1, 1]


@pytest.mark.parametrize("standardize", [True, False])
def test_maps_are_standardized_or_left_as_they_are(good, network, standardize):
    detector = MKD(network, **SMALL | {"n_epochs": 1}, standardize=standardize).fit(good)
    pixels = detector._check_X(good, reset=False).arrays()["pixels"]
    maps = source_maps(network, detector.layers_, pixels)
    raw = [one.copy() for one in maps]
    detector._standardize(maps)
    assert detector.is_nonnegative_ == [not standardize] * 3
    for one, before in zip(maps, raw, strict=True):
        if standardize:
            np.testing.assert_allclose(one.mean(axis=(0, 1, 2)), 0, atol=1e-4)
            assert (one.std(axis=(0, 1, 2)) < 1 + 1e-4).all()
        else:
            np.testing.assert_array_equal(one, before)
            assert detector.loss_means_.tolist() == detector.cell_means_.tolist() == [1, 1, 1]


def test_presets_decide_what_is_not_given(good, network):
    options = {"width": 2, "n_epochs": 1, "image_size": 64}
    assert MKD(network, **options, preset="paper").fit(good).is_nonnegative_ == [True] * 3
    detector = MKD(network, **options, preset="paper", standardize=True).fit(good)
    assert detector.is_nonnegative_ == [False] * 3


def test_layers_go_from_the_finest_grid_to_the_coarsest(network, good):
    other = FeatureExtractor(
        "squeezenet1_1", layers=["features.7", "features.2"], weights=None, image_size=64
    ).fit()
    assert list(source_layers(other, 64, 64)) == ["features.2", "features.7"]
    assert source_layers(network, 64, 64) == network.layer_shapes_


@pytest.mark.parametrize("size", [(64, 64), (70, 45)])
def test_default_layers_are_those_of_the_networks(size, monkeypatch):
    name = "efficientnet_lite0"
    monkeypatch.setattr(_mkd_source, "has_weights", lambda name: True)
    options = {"weights": None, "image_size": size, "random_state": 0}
    lite = FeatureExtractor(name, layers=list(DEFAULT_LAYERS[name]), **options).fit()
    assert source_layers(None, *size) == lite.layer_shapes_
    monkeypatch.setattr(_mkd_source, "has_weights", lambda name: False)
    from torchvision.models import vgg16

    shapes = {}
    with torch.device("meta"):
        maps, network = torch.rand(1, 3, *size), vgg16(init_weights=False).features
    for number, module in enumerate(network):
        maps = module(maps)
        shapes[f"features.{number}"] = (*maps.shape[2:], maps.shape[1])
    expected = {layer: shapes[layer] for layer in DEFAULT_LAYERS["vgg16"]}
    assert source_layers(None, *size) == expected
    pools = [n for n, module in enumerate(network) if isinstance(module, torch.nn.MaxPool2d)]
    assert list(expected) == [f"features.{n}" for n in pools[1:]]


@pytest.mark.parametrize(
    ("has", "name"), [(True, "efficientnet_lite0"), (False, "vgg16")], ids=["lite", "vgg"]
)
def test_without_a_source_the_weights_decide(good, monkeypatch, has, name):
    asked = []

    class Unavailable(FeatureExtractor):
        def fit(self, X=None, y=None):
            asked.append(self)
            raise WeightsError("the file is not there")

    monkeypatch.setattr(_mkd_source, "has_weights", lambda name: has)
    monkeypatch.setattr(_mkd_source, "FeatureExtractor", Unavailable)
    detector = MKD(**SMALL)
    with pytest.raises(WeightsError, match=r"expected a source, or weights.*the file is not there"):
        detector.fit(good)
    assert asked[0].backbone == name and asked[0].layers == list(DEFAULT_LAYERS[name])
    assert asked[0].weights == "DEFAULT" and asked[0].image_size == (64, 64)
    with pytest.raises(NotFittedError):
        detector.predict(good)


def test_the_default_source_is_kept(good, network, monkeypatch):
    monkeypatch.setattr("skanomaly.detectors.mkd._mkd.default_source", lambda *_: network)
    detector = MKD(**SMALL).fit(good)
    assert detector.source is None and detector.source_ is network
    given = MKD(network, **SMALL).fit(good)
    np.testing.assert_array_equal(detector.score_samples(good), given.score_samples(good))


def test_the_differentiable_source_returns_the_extractor_s_maps(network, good):
    pixels = np.random.default_rng(0).random((2, 64, 64, 3), dtype=np.float32)
    layers = source_layers(network, 64, 64)
    module = DifferentiableSource(network, layers)
    found = module(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    for one, maps in zip(found, source_maps(network, layers, pixels), strict=True):
        np.testing.assert_allclose(one.permute(0, 2, 3, 1), maps, rtol=1e-4, atol=1e-5)
    assert not any(weights.requires_grad for weights in module.parameters())


def test_a_source_of_one_layer_is_enough(good, filters):
    detector = MKD(filters, **SMALL).fit(good)
    assert list(detector.layers_) == ["energies"] and detector.is_nonnegative_ == [False]
    scores, maps = detector.score_samples_and_map(good)
    assert np.isfinite(scores).all() and maps.shape == (7, 70, 64)


def test_clones_keep_the_source_fitted(fitted, network):
    assert clone(fitted).source is network
    assert clone(fitted).get_params()["source__backbone"] == "squeezenet1_1"


# --- scores -----------------------------------------------------------------------------------


def compared(detector, images):
    """Losses (n, layers) and discrepancies of cells, re-computed."""
    pixels = detector._check_X(images, reset=False).arrays()["pixels"]
    maps = detector.source_.transform(pixels).arrays()
    expected = [
        (maps[name] - mean) / scale
        for name, (mean, scale) in zip(detector.layers_, detector.statistics_, strict=True)
    ]
    with torch.inference_mode():
        found = detector._trained()(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    found = [one.permute(0, 2, 3, 1).numpy().astype(float) for one in found]
    losses, cells = [], []
    for a, b in zip(found, expected, strict=True):
        x, y = a.reshape(len(a), -1), b.reshape(len(b), -1).astype(float)
        cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        losses.append(1 - cosine + detector.value_weight * ((x - y) ** 2).mean(1))
        lengths = np.linalg.norm(a, axis=3) * np.linalg.norm(b, axis=3)
        cosine = (a * b).sum(3) / lengths
        cells.append(1 - cosine + detector.value_weight * ((a - b) ** 2).mean(3))
    return np.transpose(losses), cells


def test_the_score_of_an_image_is_its_loss(fitted, good):
    losses, _ = compared(fitted, good)
    np.testing.assert_allclose(fitted.loss_means_, losses.mean(axis=0), rtol=1e-4)
    expected = (losses / losses.mean(axis=0))[:, 1:].sum(axis=1)  # without the finest grid's
    np.testing.assert_allclose(-fitted.score_samples(good), expected, rtol=1e-4)
    some = copy_of(fitted, scored_layers=["features.2"])
    expected = losses[:, 0] / losses[:, 0].mean()
    np.testing.assert_allclose(-some.score_samples(good), expected, rtol=1e-4)


def test_the_map_is_the_sum_of_discrepancies(fitted, good):
    _, cells = compared(fitted, good)
    means = [one.mean() for one in cells]
    np.testing.assert_allclose(fitted.cell_means_, means, rtol=1e-4)
    read = fitted._check_X(good, reset=False).store()
    found = copy_of(fitted, scored_layers=["features.7"])._score_maps(read)
    np.testing.assert_allclose(found, cells[2] / means[2], rtol=1e-3, atol=1e-4)
    found = fitted._score_maps(read)
    fine = (cells[1] / means[1]).astype(np.float32)
    coarse = (cells[2] / means[2]).astype(np.float32)
    np.testing.assert_allclose(found, fine + enlarged(coarse, fine.shape[1:]), rtol=1e-3, atol=1e-4)


def enlarged(maps, grid):
    """Bilinear between the centers of cells, in loops."""
    _, height, width = maps.shape
    found = np.empty((len(maps), *grid))
    for y in range(grid[0]):
        for x in range(grid[1]):
            v = np.clip((y + 0.5) * height / grid[0] - 0.5, 0, height - 1)
            u = np.clip((x + 0.5) * width / grid[1] - 0.5, 0, width - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = v - top, u - left
            found[:, y, x] = (1 - a) * (
                (1 - b) * maps[:, top, left] + b * maps[:, top, right]
            ) + a * ((1 - b) * maps[:, bottom, left] + b * maps[:, bottom, right])
    return found


def test_maps_are_summed_on_the_finest_grid():
    rng = np.random.default_rng(0)
    maps = [rng.random((2, *grid), dtype=np.float32) for grid in [(6, 5), (3, 5), (2, 1)]]
    expected = sum(enlarged(one, (6, 5)) for one in maps)
    np.testing.assert_allclose(sum_of_maps(maps), expected, rtol=1e-5)


def test_the_gradient_map_is_that_of_finite_differences():
    layers = {"fine": (4, 4, 3), "coarse": (2, 2, 4)}
    cloner = build_cloner((8, 8), 2, layers, [False, True], 3, seed=0).double().eval()
    source = build_cloner((8, 8), 2, layers, [True, False], 5, seed=1).double().eval()
    rng = np.random.default_rng(0)
    statistics = [
        np.stack([rng.normal(size=c), rng.uniform(0.5, 2, c)]) for *_, c in layers.values()
    ]
    weights, pixels = np.array([0.0, 2.0]), rng.random((2, 8, 8, 2))
    found = gradient_maps(source, cloner, pixels, statistics, weights, 0.3)

    def loss(image):
        with torch.inference_mode():
            x = torch.from_numpy(image[None]).permute(0, 3, 1, 2)
            maps = [one.permute(0, 2, 3, 1).numpy() for one in source(x)]
            expected = [(one - m) / s for one, (m, s) in zip(maps, statistics, strict=True)]
            losses, _ = compare(cloner, image[None], expected, 0.3)
        return (losses[0] * weights).sum()

    for i, y, x in [(0, 0, 0), (0, 3, 5), (1, 7, 7), (1, 4, 2)]:
        total = 0.0
        for c in range(2):
            step = np.zeros((8, 8, 2))
            step[y, x, c] = 1e-6
            total += abs(loss(pixels[i] + step) - loss(pixels[i] - step)) / 2e-6
        assert found[i, y, x] == pytest.approx(total, rel=1e-4, abs=1e-8)
    assert found.max() > 0


@pytest.mark.parametrize("kind", ["discrepancy", "gradient"])
@pytest.mark.parametrize("image_score", ["paper", "map_max"])
def test_an_image_scores_alike_alone_and_in_a_batch(fitted, good, kind, image_score):
    detector = copy_of(fitted, map=kind, image_score=image_score)
    together, maps = detector.score_samples_and_map(good)
    assert maps.shape == (7, 70, 64)
    for i in range(len(good)):
        alone, one = detector.score_samples_and_map(good[i : i + 1])
        np.testing.assert_array_equal(alone, together[i : i + 1])
        np.testing.assert_array_equal(one, maps[i : i + 1])
    assert len(set(together)) == len(good)


def test_a_paper_s_score_is_the_same_with_and_without_maps(fitted, good):
    scores, _ = fitted.score_samples_and_map(good)
    np.testing.assert_array_equal(fitted.score_samples(good), scores)
    gradient = copy_of(fitted, map="gradient")
    np.testing.assert_array_equal(gradient.score_samples(good), scores)


def test_a_patch_stands_out_of_what_a_trained_cloner_reproduces(network):
    rng = np.random.default_rng(0)
    shades = rng.uniform(0.3, 0.7, (20, 1, 1, 1))
    good = (shades + rng.normal(0, 0.02, (20, 64, 64, 3))).clip(0, 1).astype(np.float32)
    options = {"image_size": 64, "width": 4, "batch_size": 8, "n_epochs": 15}
    detector = MKD(network, **options, learning_rate=5e-3).fit(good[:16])
    bad = good[16:].copy()
    bad[:, 8:24, 8:24] = rng.random((16, 16, 3))
    for kind in ("discrepancy", "gradient"):
        maps = copy_of(detector, map=kind).score_map(bad)
        there, far = maps[:, 8:24, 8:24], maps[:, 40:, 40:]
        assert (there.mean(axis=(1, 2)) > 1.5 * far.mean(axis=(1, 2))).all(), kind
    assert detector.score_samples(bad).max() < detector.score_samples(good[16:]).min()


# --- the estimator ----------------------------------------------------------------------------


def test_a_pickle_has_no_images_and_no_torch_module(fitted, good):
    content, pixels = pickle.dumps(fitted), fitted._check_X(good, reset=False).arrays()["pixels"]
    assert b"torch" not in content
    assert not any(one[30].tobytes() in content for one in (good[0], pixels[0]))
    again = pickle.loads(content)
    np.testing.assert_array_equal(again.score_samples(good), fitted.score_samples(good))


def test_fit_twice_is_fit_once(fitted, good, network):
    twice = MKD(network, **SMALL).fit(good[:4]).fit(good)
    assert twice.history_ == fitted.history_
    for name, array in fitted.state_.items():
        np.testing.assert_array_equal(twice.state_[name], array)
    np.testing.assert_array_equal(twice.score_samples(good), fitted.score_samples(good))


def test_parameters_set_after_a_fit_change_no_network(fitted, good):
    expected = fitted.score_samples(good)
    changed = copy_of(fitted, width=9, image_size=96, preset="paper", standardize=False)
    np.testing.assert_array_equal(changed.score_samples(good), expected)
    np.testing.assert_array_equal(copy_of(changed).score_samples(good), expected)


def test_gray_images_count_as_rgb(good, network):
    gray = MKD(network, **SMALL | {"n_epochs": 1}).fit(good[..., 0])
    as_rgb = np.repeat(good[..., :1], 3, axis=3)
    np.testing.assert_array_equal(gray.score_samples(as_rgb), gray.score_samples(good[..., 0]))


def test_channels_are_those_of_the_source(good, network):
    four = np.concatenate([good, good[..., :1] // 2, good[..., :1]], axis=3)
    filters = FilterBank(n_filters=4, image_size=64, random_state=0).fit(four)
    detector = MKD(filters, **SMALL | {"n_epochs": 1}).fit(four)
    assert detector.score_map(four).shape == (7, 70, 64)
    with pytest.raises(ValueError, match="channels"):
        MKD(network, **SMALL).fit(four)


@pytest.mark.parametrize("size", [(96, 64), (75, 50)])
def test_a_source_may_have_a_size_of_its_own(good, network, size):
    detector = MKD(network, **SMALL | {"image_size": size, "n_epochs": 1}).fit(good)
    scores, maps = detector.score_samples_and_map(good)
    assert np.isfinite(scores).all() and np.isfinite(maps).all() and maps.shape == (7, 70, 64)


def test_images_of_one_gray_value_have_finite_scores(network):
    flat = np.full((4, 64, 64), 128, np.uint8)
    scores, maps = MKD(network, **SMALL).fit(flat).score_samples_and_map(flat)
    assert np.isfinite(scores).all() and np.isfinite(maps).all()
    assert np.ptp(scores) == 0


def test_a_forecast_counts_the_source_s_maps(network, good):
    n_values = sum(h * w * c for h, w, c in network.layer_shapes_.values())
    needs = estimate_memory(MKD(network, **SMALL), good, n_images=50)
    assert needs["source's maps"] == 4 * n_values * 50
    assert needs["pixels"] == 4 * 64 * 64 * 3 * 50
    assert estimate_memory(MKD(), good, n_images=50)["source's maps"] > 0  # nothing is loaded


# --- interruptions and bad input --------------------------------------------------------------


def test_interrupted_training_goes_on(fitted, network, good, tmp_path, monkeypatch):
    detector = MKD(network, **SMALL, checkpoint=tmp_path / "part")
    loss, seen = Distillation.loss, []

    def stop(self, *args):
        seen.append(1)
        if len(seen) == 5:  # in the last of three epochs with two batches each
            raise KeyboardInterrupt
        return loss(self, *args)

    monkeypatch.setattr(Distillation, "loss", stop)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(good)
    with pytest.raises(NotFittedError):
        detector.predict(good)
    detector.fit(good)
    assert len(seen) == 5 + 2
    assert detector.history_ == fitted.history_
    for name, array in fitted.state_.items():
        np.testing.assert_array_equal(detector.state_[name], array)
    np.testing.assert_array_equal(detector.score_samples(good), fitted.score_samples(good))


def test_a_checkpoint_of_another_training_is_left_alone(fitted, network, filters, good, tmp_path):
    options = SMALL | {"checkpoint": tmp_path / "part"}
    MKD(network, **options).fit(good)
    MKD(network, **options, sigma=2, map="gradient", scored_layers=["features.4"]).fit(good)
    assert len(list(tmp_path.iterdir())) == 1  # these are no part of the training
    MKD(network, **options, value_weight=0.1).fit(good)
    MKD(network, **options).fit(good[1:])
    MKD(filters, **options).fit(good)
    assert len(list(tmp_path.iterdir())) == 4
    again = MKD(network, **options).fit(good)
    np.testing.assert_array_equal(again.score_samples(good), fitted.score_samples(good))


def test_a_training_that_diverges_leaves_the_detector_as_it_was(fitted, good):
    detector = copy_of(fitted)
    expected = detector.score_samples(good)
    detector.set_params(learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"lower learning_rate, and look at the images\."):
        detector.fit(good)
    np.testing.assert_array_equal(detector.score_samples(good), expected)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"source": FilterBank(image_size=64)}, r"expected a fitted source.*fit it first"),
        ({"scored_layers": ["features.9"]}, r"among the layers of the source, \['features.2'"),
        ({"scored_layers": []}, r"got \[\]"),
        (
            {"image_size": 96, "map": "gradient"},
            r"image_size of the detector.*96 x 96, got 64 x 64",
        ),
        ({"map": "gbp"}, "map"),
        ({"batch_size": 1}, "batch_size"),
        ({"n_epochs": 0}, "n_epochs"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"value_weight": -1}, "value_weight"),
        ({"preset": "long"}, "preset"),
        ({"width": 0}, "width"),
    ],
)
def test_parameters_that_cannot_be(network, good, parameters, message):
    with pytest.raises(ValueError, match=message):
        MKD(**{"source": network} | SMALL | parameters).fit(good)


def test_gradients_need_a_network_of_convolutions(filters, fitted, good):
    with pytest.raises(ValueError, match="expected a FeatureExtractor as source"):
        MKD(filters, **SMALL, map="gradient").fit(good)
    detector = MKD(filters, **SMALL | {"n_epochs": 1}).fit(good).set_params(map="gradient")
    with pytest.raises(ValueError, match='take map="discrepancy"'):
        detector.score_map(good)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, stride=8))
    source = FeatureExtractor(module, layers=["0"], layout="NHWC", image_size=64).fit()
    with pytest.raises(ValueError, match=r'layers of layout "NCHW".*NHWC'):
        MKD(source, **SMALL, map="gradient").fit(good)


def test_a_source_that_does_not_see_all_of_the_input(good):
    source = FilterBank(n_filters=4, image_size=64, resize="crop", random_state=0).fit(good)
    assert MKD(source, **SMALL | {"n_epochs": 1}).fit(good).score_map(good).shape == (7, 70, 64)
    with pytest.raises(ValueError, match=r'resize="stretch".*got 64 x 64 by .crop. for an input'):
        MKD(source, **SMALL | {"image_size": (96, 64)}).fit(good)


def test_what_cannot_be_learned_from(network, good):
    with pytest.raises(ValueError, match=r"at least 2 good images.*got 1"):
        MKD(network, **SMALL).fit(good[:1])
