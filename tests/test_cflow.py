"""CFlow: its inputs, flows, losses and scores against plain re-computations, and its errors."""

import math
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skanomaly import CFlow, FeatureMaps, FilterBank, Pipeline, estimate_memory
from skanomaly.datasets import make_textures
from skanomaly.detectors.cflow._cflow_network import ConditionalFlows, position_codes
from skanomaly.detectors.cflow._cflow_scoring import combined, image_moments
from skanomaly.detectors.cflow._cflow_training import (
    SCHEDULES,
    FlowTraining,
    epoch_batches,
    rate,
    split,
    train_flows,
)
from skanomaly.detectors.cflow._flow_inputs import place_statistics, standardized
from skanomaly.exceptions import TrainingError
from skanomaly.images import ImageFit
from skanomaly.metrics import image_roc_auc_score
from skanomaly.training import TrainingConfig, with_given

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"n_blocks": 2, "condition_size": 4, "n_epochs": 3, "batch_size": 64}
SHAPES = {"fine": (4, 3, 6), "coarse": (2, 2, 5)}


def features(n=20, seed=0, shapes=SHAPES):
    """FeatureMaps whose places differ in mean and spread."""
    rng, own = np.random.default_rng(seed), np.random.default_rng(99)
    layers = {
        name: (own.normal(size=shape) + own.uniform(0.2, 2, shape) * rng.normal(size=(n, *shape)))
        for name, shape in shapes.items()
    }
    layers = {name: maps.astype(np.float32) for name, maps in layers.items()}
    return FeatureMaps(layers, np.tile((20, 15), (n, 1)), ImageFit(16, 12))


def streamed(X):
    def extract(rows, batch_size):
        for first in range(0, len(rows), batch_size):
            yield X[np.array(rows[first : first + batch_size])]

    return FeatureMaps.streamed(list(range(len(X))), extract, X.layer_shapes, X.image_fit)


@pytest.fixture(scope="module")
def good():
    return features()


@pytest.fixture(scope="module")
def fitted(good):
    return CFlow(**SMALL).fit(good)


# --- oracles ----------------------------------------------------------------------------------


def code_of(row, column, size):
    """A place's code, number by number."""
    code = []
    for cell in (column, row):
        for i in range(size // 4):
            angle = cell * 10000 ** (-2 * i / (size / 2))
            code += [math.sin(angle), math.cos(angle)]
    return np.array(code)


def l_of(state, layer, x, code, n_blocks, clamp=1.9):
    """l and the latent measure of one vector, block by block, from the arrays of a flow."""
    d, log_det = len(x), 0.0
    n_kept = d - d // 2
    for i in range(n_blocks):
        w = {
            name.split(".blocks.")[1].partition(".")[2]: value.astype(float)
            for name, value in state.items()
            if name.startswith(f"flows.{layer}.blocks.{i}.")
        }
        hidden = w["of_x.weight"] @ x[:n_kept] + w["of_x.bias"] + w["of_condition.weight"] @ code
        out = 0.1 * (w["last.weight"] @ np.maximum(hidden, 0) + w["last.bias"])
        factors = clamp * np.tanh(out[: d // 2])
        x = np.concatenate([x[:n_kept], x[n_kept:] * np.exp(factors) + out[d // 2 :]])
        scale = 0.1 * np.log1p(np.exp(0.5 * w["gamma"])) / 0.5
        x = (scale * x + w["offset"])[w["mixing.order"].astype(int)]
        log_det += factors.sum() + np.log(scale).sum()
    latent = -(x @ x) / 2 / d
    return latent - math.log(2 * math.pi) / 2 + log_det / d, latent


def all_l(detector, X):
    """{layer: (2, n, h, w)} by loops over images and places."""
    found = {}
    for layer, (name, maps) in enumerate(X.arrays().items()):
        maps = maps[..., detector.channels_[name]].astype(float)
        if detector.place_mean_ is not None:
            maps = (maps - detector.place_mean_[name]) / detector.place_scale_[name]
        settings = detector.settings_
        found[name] = np.zeros((2, *maps.shape[:3]))
        for place in np.ndindex(maps.shape[:3]):
            code = code_of(*place[1:], settings["condition_size"])
            found[name][:, *place] = l_of(
                detector.state_, layer, maps[place], code, settings["n_blocks"]
            )
    return found


def enlarged(maps, grid):
    """Maps (n, h, w) at the finest grid, bilinearly, cell by cell."""
    n, h, w = maps.shape
    out = np.zeros((n, *grid))
    for row, column in np.ndindex(*grid):
        y = np.clip((row + 0.5) * h / grid[0] - 0.5, 0, h - 1)
        x = np.clip((column + 0.5) * w / grid[1] - 0.5, 0, w - 1)
        for i in range(h):
            for j in range(w):
                weight = max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
                out[:, row, column] += weight * maps[:, i, j]
    return out


# --- what the flows get -----------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "size"), [(3, 5, 8), (4, 2, 4), (1, 1, 12)])
def test_codes_are_sines_and_cosines_of_columns_and_rows(height, width, size):
    expected = [code_of(r, c, size) for r in range(height) for c in range(width)]
    np.testing.assert_allclose(position_codes(height, width, size), expected, atol=1e-6)
    assert position_codes(height, width, 0).shape == (height * width, 0)


def test_statistics_of_places_are_those_of_the_definition():
    maps = features(11).arrays()
    pieces = [{name: one[part] for name, one in maps.items()} for part in (np.s_[:4], np.s_[4:])]
    means, scales = place_statistics([(piece, [None, None]) for piece in pieces])
    for name, one in maps.items():
        one = one.astype(float)
        variance = one.var(axis=0)
        of_all = one.reshape(-1, one.shape[3]).var(axis=0)
        np.testing.assert_allclose(means[name], one.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(scales[name], np.sqrt(variance + 0.1 * of_all), rtol=1e-5)
        expected = (one - one.mean(axis=0)) / np.sqrt(variance + 0.1 * of_all)
        found = standardized(maps[name], means[name], scales[name])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_statistics_are_of_places_inside():
    maps = features(9).arrays()["fine"]
    inside = np.random.default_rng(1).random(maps.shape[:3]) < 0.6
    inside[:, 0, 1] = False  # counts in no image
    inside[:, 1, 0] = True
    pieces = [({"fine": maps[part]}, [inside[part]]) for part in (np.s_[:5], np.s_[5:])]
    means, scales = place_statistics(pieces)
    known = np.where(inside[..., None], maps.astype(float), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the place without images
        mean, variance = np.nanmean(known, axis=0), np.nanvar(known, axis=0)
    seen = inside.any(axis=0)
    of_all = variance[seen].mean(axis=0) + mean[seen].var(axis=0)
    np.testing.assert_allclose(means["fine"][seen], mean[seen], rtol=1e-5)
    expected = np.sqrt(variance[seen] + 0.1 * of_all)
    np.testing.assert_allclose(scales["fine"][seen], expected, rtol=1e-5)
    assert not seen[0, 1]
    np.testing.assert_allclose(means["fine"][0, 1], mean[seen].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scales["fine"][0, 1], np.sqrt(1.1 * of_all), rtol=1e-5)


def test_losses_and_constants_are_of_places_inside(good):
    detector = CFlow(**SMALL).fit(good)
    inside = [np.random.default_rng(i).random((3, h, w)) < 0.5 for i, (h, w, _) in
              enumerate(SHAPES.values())]  # fmt: skip
    inside[1][:] = False
    maps = detector._inputs(good[[4, 2, 9]])
    training = FlowTraining(
        detector._flows, list(SHAPES), lambda _: (maps, inside), [], torch.device("cpu")
    )
    group = np.array([4, 2, 9])
    chosen = np.arange(inside[0].size)
    found = training.loss((group, 0, chosen))
    kept = training.loss((group, 0, chosen[inside[0].ravel()]))
    assert found.item() == kept.item() and 0 < inside[0].sum() < inside[0].size
    none = training.loss((group, 1, np.arange(inside[1].size)))
    none.backward()
    assert none.item() == 0
    assert all(weights.grad is None for weights in detector._flows.flows[1].parameters())
    scores = [np.random.default_rng(i).normal(size=(2, *one.shape)) for i, one in enumerate(inside)]
    inside[1][:] = True
    moments = image_moments(scores, inside)
    for layer, (values, counted) in enumerate(zip(scores, inside, strict=True)):
        for kind in range(2):
            for i in range(3):
                some = values[kind, i][counted[i]]
                expected = some.max(), some.mean(), np.square(some).mean()
                np.testing.assert_allclose(moments[i, kind, layer], expected, rtol=1e-12)


def test_a_checkpoint_is_of_one_region(tmp_path):
    images = make_textures(6, size=64, random_state=0)
    masks = np.ones((2, 64, 64), dtype=bool)
    masks[0, :, :32] = masks[1, :, 32:] = False
    found = []
    for mask in (None, *masks):
        maps = FilterBank(image_size=64, n_filters=2, random_state=0).fit(images).transform(images)
        rois = None if mask is None else [mask] * len(images)
        X = FeatureMaps(maps.arrays(), maps.frames, maps.image_fit, rois)
        detector = CFlow(**SMALL, checkpoint=tmp_path / "flow").fit(X)
        expected = CFlow(**SMALL).fit(X)
        assert detector.history_ == expected.history_
        found.append(detector.history_["loss"])
    assert len(list(tmp_path.iterdir())) == 3
    assert found[0] != found[1] != found[2]


@pytest.mark.parametrize("level", [0.0, 0.3, -1e5])
def test_a_channel_that_never_changes_keeps_its_scale(level):
    maps = features(5).arrays()["fine"].copy()
    maps[..., 2] = level
    means, scales = place_statistics([({"fine": maps}, [None])])
    assert (scales["fine"][..., 2] == 1).all() and (
        means["fine"][..., 2] == np.float32(level)
    ).all()
    assert (scales["fine"][..., [0, 1, 3, 4, 5]] != 1).all()


def test_units_of_features_do_not_matter_with_places(good):
    layers = {name: 1000 * maps - 7 for name, maps in good.arrays().items()}
    other = FeatureMaps(layers, good.frames, good.image_fit)
    scores = CFlow(**SMALL).fit(good).score_samples(good)
    np.testing.assert_allclose(CFlow(**SMALL).fit(other).score_samples(other), scores, rtol=1e-3)


@pytest.mark.parametrize("n_components", [3, 100, None])
def test_channels_in_use(good, n_components):
    detector = CFlow(**SMALL, n_components=n_components).fit(good)
    for name, (_, _, n_channels) in SHAPES.items():
        channels = detector.channels_[name]
        n_expected = min(n_components or n_channels, n_channels)
        assert len(set(channels)) == n_expected and (np.diff(channels) > 0).all()
        assert set(channels) <= set(range(n_channels))
    if n_components != 3:
        return
    changed = {name: maps.copy() for name, maps in good.arrays().items()}
    for name, maps in changed.items():
        maps[..., np.setdiff1d(np.arange(maps.shape[3]), detector.channels_[name])] = 77
    changed = FeatureMaps(changed, good.frames, good.image_fit)
    np.testing.assert_array_equal(detector.score_samples(changed), detector.score_samples(good))


def test_neighborhoods_are_averaged_first():
    X = features(12, shapes={"fine": (5, 4, 3)})
    maps = X.arrays()["fine"]
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    means = sum(padded[:, i : i + 5, j : j + 4] for i in range(3) for j in range(3)) / 9
    expected = CFlow(**SMALL).fit(FeatureMaps({"fine": means}, X.frames, X.image_fit))
    found = CFlow(**SMALL, patch_size=3).fit(X)
    np.testing.assert_allclose(found.place_mean_["fine"], expected.place_mean_["fine"], atol=1e-5)
    np.testing.assert_allclose(found.history_["loss"], expected.history_["loss"], rtol=1e-4)


# --- training ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "n_cells", "batch_size"), [(75, [12, 4], 64), (5, [12, 1], 1024), (40, [1], 16)]
)
def test_an_epoch_holds_each_vector_once(n, n_cells, batch_size):
    rows = 3 + np.arange(n)
    batches = epoch_batches(rows, n_cells, batch_size, 0, 1)
    seen = [[] for _ in n_cells]
    for group, layer, chosen in batches:
        places = zip(group[chosen // n_cells[layer]], chosen % n_cells[layer], strict=True)
        seen[layer] += list(places)
        assert len(chosen) <= 1.5 * batch_size
    for layer, cells in enumerate(n_cells):
        expected = [(row, cell) for row in rows for cell in range(cells)]
        assert sorted(seen[layer]) == expected and seen[layer] != expected
    again = epoch_batches(rows, n_cells, batch_size, 0, 1)
    assert all(np.array_equal(a[2], b[2]) for a, b in zip(again, batches, strict=True))
    other = epoch_batches(rows, n_cells, batch_size, 0, 2)
    assert any(not np.array_equal(a[2], b[2]) for a, b in zip(other, batches, strict=True))
    sizes = [len(chosen) for _, layer, chosen in batches if layer == 0]
    assert max(sizes) - min(sizes) <= max(n_cells) + 1


def test_a_tenth_is_held_out():
    rows, held_out = split(57, 3)
    assert len(held_out) == 5 and sorted([*rows, *held_out]) == list(range(57))
    assert len(split(9, 3)[1]) == 0
    assert not np.array_equal(split(57, 4)[1], held_out)


def test_rates_rise_and_fall_along_a_cosine():
    rates = [rate(epoch, 50) for epoch in range(50)]
    np.testing.assert_allclose(rates[0], 0.1 + 0.9 * 0.5 / 4, rtol=1e-3)
    for epoch in range(4, 50):
        expected = 1e-3 + 0.999 * (1 + math.cos(math.pi * epoch / 50)) / 2
        assert rates[epoch] == pytest.approx(expected)
    assert np.argmax(rates) == 4 and rates[-1] < 0.01
    assert rate(0, 1) == rate(0, 2) == 1


def test_the_loss_is_the_mean_of_minus_log_sigmoid(good):
    detector = CFlow(**SMALL).fit(good)
    flows = detector._flows
    training = FlowTraining(
        flows,
        list(SHAPES),
        lambda rows: (detector._inputs(good[rows]), [None, None]),
        [],
        torch.device("cpu"),
    )
    expected = all_l(detector, good)
    group = np.array([4, 2, 9])
    for layer, (name, (height, width, _)) in enumerate(SHAPES.items()):
        chosen = np.random.default_rng(0).permutation(3 * height * width)[:10]
        total = 0.0
        for one in chosen:
            image, place = divmod(one, height * width)
            value = expected[name][0, group[image], *divmod(place, width)]
            total += math.log(1 + math.exp(-value))
        loss = training.loss((group, layer, chosen))
        assert loss.item() == pytest.approx(total / 10, rel=1e-4)
        loss.backward()
        grads = [w.grad for w in flows.flows[1 - layer].parameters()]
        assert all(g is None for g in grads) == (layer == 0)


def test_layers_train_as_if_each_had_an_adam_of_its_own():
    """Two epochs, step by step, with one optimizer for each flow."""
    shapes = list(SHAPES.values())
    kind = {"n_blocks": 2, "condition_size": 4, "hidden_ratio": 1.0, "clamp": 1.9}
    flows, other = (
        ConditionalFlows(shapes, mixing="permutation", seed=4, **kind) for _ in range(2)
    )
    maps = [features().arrays()[name] for name in SHAPES]
    rows, n_cells = np.arange(20), [12, 4]
    schedule = with_given(SCHEDULES["quick"], n_epochs=2, batch_size=30, learning_rate=1e-2)
    config = TrainingConfig(2, device="cpu", random_state=5)
    history = train_flows(
        flows,
        list(SHAPES),
        lambda some: ([one[some] for one in maps], [None, None]),
        rows,
        [],
        schedule,
        config,
    )
    optimizers = [torch.optim.Adam(flow.parameters()) for flow in other.flows]
    means = []
    for epoch in range(2):
        found = [[], []]
        for group, layer, chosen in epoch_batches(rows, n_cells, 30, 5, epoch):
            d = maps[layer].shape[3]
            x = torch.from_numpy(maps[layer][group].reshape(-1, d)[chosen])
            codes = other.codes(layer)[chosen % n_cells[layer]]
            z, log_det = other.flows[layer](x, codes)
            log_p = log_det - z.square().sum(1) / 2 - d / 2 * math.log(2 * math.pi)
            loss = -torch.log(torch.sigmoid(log_p / d)).mean()
            optimizers[layer].param_groups[0]["lr"] = 1e-2 * rate(epoch, 2)
            optimizers[layer].zero_grad()
            loss.backward()
            optimizers[layer].step()
            found[layer] += (log_p / d).tolist()
        means.append([np.mean(values) for values in found])
    for name, weights in other.named_parameters():
        found = flows.get_parameter(name)
        torch.testing.assert_close(found, weights, rtol=1e-3, atol=1e-4, msg=name)
    for layer, name in enumerate(SHAPES):
        expected = [one[layer] for one in means]
        np.testing.assert_allclose(history[f"{name}-training"], expected, rtol=1e-4)


def test_history_names_layers_and_what_was_held_out(fitted, good):
    assert set(fitted.history_) == {
        "loss", "fine-training", "fine-held_out", "coarse-training", "coarse-held_out",
    }  # fmt: skip
    assert {len(values) for values in fitted.history_.values()} == {3}
    held_out = split(len(good), 0)[1]
    expected = all_l(fitted, good[held_out])
    for name, values in expected.items():
        assert fitted.history_[f"{name}-held_out"][-1] == pytest.approx(values[0].mean(), rel=1e-4)
    few = CFlow(**SMALL).fit(good[:9])
    assert set(few.history_) == {"loss", "fine-training", "coarse-training"}


def test_held_out_images_are_read_a_few_at_a_time(fitted):
    X, sizes = features(70, seed=6), []

    def read(rows):
        sizes.append(len(rows))
        return fitted._inputs(X[rows]), [None, None]

    names, rows = list(SHAPES), np.arange(3, 70)
    training = FlowTraining(fitted._flows, names, read, rows, torch.device("cpu"))
    training.step()
    assert sum(sizes) == 67 and max(sizes) <= 32
    for name, values in all_l(fitted, X[rows]).items():
        assert training.history[f"{name}-held_out"] == pytest.approx([values[0].mean()], rel=1e-4)


def test_a_flow_learns_what_single_channels_do_not_show():
    """Channels that go together; a defect has usual values that do not."""
    rng = np.random.default_rng(0)

    def maps(n, sign):
        first = rng.normal(size=(n, 3, 3, 4))
        second = sign * first + 0.1 * rng.normal(size=first.shape)
        return np.concatenate([first, second], axis=3).astype(np.float32)

    detector = CFlow(n_epochs=40, batch_size=100, learning_rate=1e-2, n_blocks=3, hidden_ratio=2)
    detector.fit(maps(60, 1))
    X = np.concatenate([maps(15, 1), maps(15, -1)])
    labels = np.repeat([1, -1], 15)
    for measure in ("likelihood", "latent"):
        scores = detector.set_params(measure=measure).score_samples(X)
        assert image_roc_auc_score(labels, -scores) > 0.95, measure
    for kind in ("training", "held_out"):
        values = detector.history_[f"features-{kind}"]
        assert values[-1] > values[0] + 0.1


# --- scores -----------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", ["position", "none"])
@pytest.mark.parametrize("measure", ["likelihood", "latent"])
@pytest.mark.parametrize("combine", ["probability", "standard"])
def test_scores_are_those_of_the_definition(good, standardize, measure, combine):
    detector = CFlow(
        **SMALL | {"n_epochs": 1}, standardize=standardize, measure=measure, combine=combine
    )
    detector.fit(good)
    assert (detector.place_mean_ is None) == (standardize == "none")
    rows, held_out = split(len(good), 0)
    of_good, X = all_l(detector, good), features(3, seed=1)
    kind = ["likelihood", "latent"].index(measure)
    expected = np.zeros((3, 4, 3))
    for layer, (name, values) in enumerate(all_l(detector, X).items()):
        largest = of_good[name][kind, rows].max()
        typical = -of_good[name][kind, held_out]
        constants = [largest, typical.mean(), typical.std()]
        np.testing.assert_allclose(detector.constants_[kind, layer], constants, rtol=1e-3)
        if combine == "probability":
            part = np.exp(np.minimum(0, values[kind] - largest))
            expected += 1 - enlarged(part, (4, 3))
        else:
            expected += enlarged((-values[kind] - constants[1]) / constants[2], (4, 3)) / 2
    found = detector._score_maps(X)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    paper = detector.set_params(image_score="paper")
    np.testing.assert_allclose(-paper.score_samples(X), found.max(axis=(1, 2)), rtol=1e-6)


def test_layers_combine_by_their_formulas():
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 2, 2))]
    constants = np.array([[0.5, 0.1, 2.0], [-0.2, -1.0, 0.5]])
    fine, coarse = scores
    probability = 2 - np.exp(np.minimum(fine - 0.5, 0))
    probability = probability - enlarged(np.exp(np.minimum(coarse + 0.2, 0)), (4, 3))
    found = combined(scores, constants, "probability")
    np.testing.assert_allclose(found, probability, rtol=1e-5, atol=1e-6)
    standard = ((-fine - 0.1) / 2 + enlarged((-coarse + 1) / 0.5, (4, 3))) / 2
    np.testing.assert_allclose(combined(scores, constants, "standard"), standard, rtol=1e-5)


def test_constants_without_held_out_images_are_of_all(good):
    detector = CFlow(**SMALL).fit(good[:8])
    for layer, values in enumerate(all_l(detector, good[:8]).values()):
        own = -values[0]
        expected = [-own.min(), own.mean(), own.std()]
        np.testing.assert_allclose(detector.constants_[0, layer], expected, rtol=1e-3)


@pytest.mark.parametrize("parameters", [{}, {"combine": "probability"}, {"measure": "latent"}])
def test_an_image_scores_alike_alone_and_in_a_batch(fitted, parameters):
    detector = pickle.loads(pickle.dumps(fitted)).set_params(**parameters)
    X = features(20, seed=3)
    together = detector.score_samples(X)
    alone = [detector.score_samples(X[i])[0] for i in range(len(X))]
    np.testing.assert_array_equal(alone, together)
    assert len(set(together)) == len(X)


def test_places_are_told_apart_by_their_codes_alone(good):
    """Without codes and statistics of places, a flow does not know where it is."""
    X = features(4, seed=1)
    turned = {name: maps[:, ::-1, ::-1].copy() for name, maps in X.arrays().items()}
    turned = FeatureMaps(turned, X.frames, X.image_fit)
    blind = CFlow(**SMALL | {"condition_size": 0}, standardize="none").fit(good)
    np.testing.assert_allclose(
        blind._score_maps(turned)[:, ::-1, ::-1], blind._score_maps(X), rtol=1e-4, atol=1e-5
    )
    seeing = CFlow(**SMALL, standardize="none").fit(good)
    difference = seeing._score_maps(turned)[:, ::-1, ::-1] - seeing._score_maps(X)
    assert np.abs(difference).max() > 1e-2


def test_rows_and_maps_of_one_channel():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 1))
    detector = CFlow(**SMALL).fit(rows)
    scores = detector.score_samples([[0.0], [1.0], [6.0], [-6.0]])
    assert scores[0] > scores[1] > scores[2] and scores[1] > scores[3]
    maps = rng.normal(size=(12, 3, 2, 1))
    assert CFlow(**SMALL).fit(maps).score_map(maps).shape == (12, 3, 2)
    odd = rng.normal(size=(30, 5))
    assert np.isfinite(CFlow(**SMALL).fit(odd).score_samples(odd)).all()


@pytest.mark.parametrize("standardize", ["position", "none"])
def test_constant_and_huge_features_have_finite_scores(standardize):
    flat = np.full((12, 3, 2, 5), 0.7, np.float32)
    detector = CFlow(**SMALL, standardize=standardize).fit(flat)
    scores = detector.score_samples(flat)
    assert np.isfinite(scores).all() and np.ptp(scores) == 0
    huge = flat.copy()
    huge[:, 1, 1] = 1e16
    scores, maps = detector.score_samples_and_map(huge)
    assert np.isfinite(scores).all() and np.isfinite(maps).all()
    assert (scores < detector.score_samples(flat)).all()


def test_streamed_features_teach_the_same(fitted, good):
    other = CFlow(**SMALL).fit(streamed(good))
    np.testing.assert_array_equal(other.score_samples(good), fitted.score_samples(good))
    assert other.history_ == fitted.history_


def test_two_threads_may_score_at_a_time(fitted):
    X = features(12, seed=2)
    expected = fitted.score_samples(X)
    fresh = pickle.loads(pickle.dumps(fitted))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(fresh.score_samples, [X] * 6))
    for scores in found:
        np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("mixing", ["permutation", "rotation"])
def test_a_pickle_scores_alike_whatever_parameters_became(good, mixing):
    detector = CFlow(**SMALL, mixing=mixing).fit(good)
    expected = detector.score_samples(good)
    detector.set_params(
        n_blocks=5, condition_size=8, hidden_ratio=3, mixing="permutation", clamp=1.0
    )
    np.testing.assert_array_equal(detector.score_samples(good), expected)
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(again.score_samples(good), expected)


def test_presets_and_what_replaces_them():
    paper = CFlow(preset="paper", n_epochs=7)._schedule()
    assert (paper.n_blocks, paper.condition_size, paper.hidden_ratio) == (8, 128, 2)
    assert (paper.standardize, paper.combine) == ("none", "probability")
    assert (paper.n_epochs, paper.batch_size, paper.learning_rate) == (7, 256, 2e-4)
    quick = CFlow(standardize="none", condition_size=0)._schedule()
    assert (quick.n_blocks, quick.condition_size, quick.hidden_ratio) == (4, 0, 1)
    assert (quick.standardize, quick.combine) == ("none", "standard")
    assert (quick.n_epochs, quick.batch_size, quick.learning_rate) == (30, 1024, 2e-3)


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_noise_in_a_fabric_stands_out(preset):
    images = make_textures(30, kind="weave", size=(64, 64), random_state=0)
    bank = FilterBank(n_filters=4, image_size=64, random_state=0)
    detector = CFlow(preset=preset, n_epochs=10, batch_size=256, learning_rate=2e-3)
    pipe = Pipeline([("features", bank), ("detector", detector)]).fit(images[:24])
    bad = images[24:].copy()
    bad[:, 8:24, 8:24] = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3))
    maps = pipe.score_map(bad)
    there, far_away = maps[:, 8:24, 8:24].mean(axis=(1, 2)), maps[:, 40:, 40:].mean(axis=(1, 2))
    assert (there > far_away).all()
    assert pipe.score_samples(bad).max() < pipe.score_samples(images[24:]).min()


@pytest.mark.parametrize("mixing", ["permutation", "rotation"])
def test_a_forecast_counts_the_flows(good, mixing):
    detector = CFlow(**SMALL, mixing=mixing)
    needs = estimate_memory(detector, good, n_images=500)
    state = detector.fit(good).state_
    assert needs["flows"] == sum(4 * array.size for array in state.values())
    n_values = sum(np.prod(shape) for shape in SHAPES.values())
    assert needs["place statistics"] == 2 * 4 * n_values
    assert estimate_memory(CFlow(standardize="none"), good)["place statistics"] == 0
    assert needs["vectors that are shuffled"] == 2 * 4 * n_values * 32
    some = estimate_memory(CFlow(**SMALL, n_components=2), good, n_images=500)
    n_chosen = 2 * (4 * 3 + 2 * 2)  # all channels are read
    assert some["vectors that are shuffled"] == 4 * (n_values + n_chosen) * 32


# --- interruptions and bad input --------------------------------------------------------------


def test_interrupted_training_goes_on(fitted, good, tmp_path, monkeypatch):
    detector = CFlow(**SMALL, checkpoint=tmp_path / "part")
    backward, seen = torch.Tensor.backward, []
    n_batches = len(epoch_batches(split(20, 0)[0], [12, 4], 64, 0, 0))

    def stop(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 2 * n_batches + 2:  # in the last of three epochs
            raise KeyboardInterrupt
        backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", stop)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(good)
    with pytest.raises(NotFittedError):
        detector.predict(good)
    detector.fit(good)
    assert len(seen) == 3 * n_batches + 2
    assert detector.history_ == fitted.history_
    for name, array in fitted.state_.items():
        np.testing.assert_array_equal(detector.state_[name], array)
    np.testing.assert_array_equal(detector.score_samples(good), fitted.score_samples(good))


def test_a_checkpoint_of_another_training_is_left_alone(fitted, good, tmp_path):
    options = SMALL | {"checkpoint": tmp_path / "part"}
    CFlow(**options).fit(good)
    CFlow(**options, sigma=2, combine="probability", measure="latent").fit(good)
    assert len(list(tmp_path.iterdir())) == 1  # these are no part of the training
    other = CFlow(**options, clamp=1.0).fit(good)
    once = CFlow(**SMALL, clamp=1.0).fit(good)
    np.testing.assert_array_equal(other.score_samples(good), once.score_samples(good))
    CFlow(**options).fit(good[1:])
    assert len(list(tmp_path.iterdir())) == 3
    again = CFlow(**options).fit(streamed(good))
    np.testing.assert_array_equal(again.score_samples(good), fitted.score_samples(good))


def test_a_training_that_diverges_leaves_the_detector_as_it_was(fitted, good):
    detector = pickle.loads(pickle.dumps(fitted))
    expected = detector.score_samples(good)
    detector.set_params(learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"lower learning_rate, and look at the features\."):
        detector.fit(good)
    np.testing.assert_array_equal(detector.score_samples(good), expected)


def test_a_second_fit_forgets_the_first(fitted, good):
    again = CFlow(**SMALL).fit(features(12, seed=5)).fit(good)
    np.testing.assert_array_equal(again.score_samples(good), fitted.score_samples(good))
    other = CFlow(**SMALL, random_state=1).fit(good)
    assert not np.array_equal(other.score_samples(good), fitted.score_samples(good))
    assert clone(fitted).get_params() == fitted.get_params()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"condition_size": 6}, "a multiple of 4.*got 6"),
        ({"patch_size": 2}, "patch_size must be odd"),
        ({"n_components": 0}, "n_components"),
        ({"n_blocks": 0}, "n_blocks"),
        ({"hidden_ratio": 0}, "hidden_ratio"),
        ({"clamp": 0}, "clamp"),
        ({"mixing": "soft"}, "mixing"),
        ({"standardize": True}, "standardize"),
        ({"measure": "distance"}, "measure"),
        ({"combine": "sum"}, "combine"),
        ({"preset": "long"}, "preset"),
        ({"n_epochs": 0}, "n_epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0}, "learning_rate"),
    ],
)
def test_parameters_that_cannot_be(good, parameters, message):
    with pytest.raises(ValueError, match=message):
        CFlow(**SMALL | parameters).fit(good)


def test_one_image_has_no_spread(good):
    with pytest.raises(ValueError, match=r"at least 2 good images.*got n_samples=1"):
        CFlow(**SMALL).fit(good[:1])
    with pytest.raises(ValueError, match=r"at least 2 good images.*got n_samples=1"):
        CFlow(**SMALL).fit(good, [1, *[-1] * 19])
    alone = CFlow(**SMALL, standardize="none").fit(good[:1])
    assert np.isfinite(alone.score_samples(good)).all()
