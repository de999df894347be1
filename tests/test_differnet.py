"""DifferNet: views, vectors, densities, training and maps against plain re-computations."""

import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.exceptions import NotFittedError

from skanomaly import DifferNet, FeatureExtractor, FeatureMaps, FilterBank, estimate_memory
from skanomaly.datasets import make_textures
from skanomaly.detectors.differnet._differnet_training import (
    SCHEDULES,
    LikelihoodTraining,
    hidden_sizes,
    make_schedule,
    train_flow,
    training_needs,
    views_of_epoch,
)
from skanomaly.detectors.differnet._pooled_density import (
    EPSILON,
    FlowDensity,
    GaussianDensity,
    build_flow,
    learn_precision,
    share_out,
)
from skanomaly.detectors.differnet._turned_views import (
    drawn_angles,
    even_angles,
    features_of,
    pooled,
    training_views,
    turned_views,
    view_vectors,
)
from skanomaly.estimator_checks import parametrize_with_checks
from skanomaly.exceptions import TrainingError
from skanomaly.images import ImageFit
from skanomaly.training import AUGMENTATIONS, TrainingConfig

pytestmark = pytest.mark.usefixtures("one_thread")

BANK = FilterBank(n_filters=2, image_size=64, random_state=0)
SMALL = {"n_blocks": 2, "n_epochs": 2}
VIEWS = {"n_views": 3, "n_test_views": 2}


def features(n=30, seed=0):
    """FeatureMaps of two layers of unlike grids and scales."""
    rng = np.random.default_rng(seed)
    layers = {
        "fine": 3 + 2 * rng.normal(size=(n, 6, 4, 3)).astype(np.float32),
        "coarse": rng.normal(size=(n, 3, 2, 2)).astype(np.float32),
    }
    return FeatureMaps(layers, np.tile((50, 31), (n, 1)), ImageFit(48, 32))


@pytest.fixture(scope="module")
def good():
    return make_textures(6, kind="weave", size=(70, 66), random_state=0)


@pytest.fixture(scope="module")
def fitted():
    return DifferNet(**SMALL | {"n_epochs": 30}).fit(features())


@pytest.fixture(scope="module")
def of_views(good):
    return DifferNet(BANK, **SMALL, **VIEWS).fit(good)


@pytest.fixture(scope="module")
def flow():
    """A flow of 5 numbers with weights that are not those it begins with."""
    flow = build_flow(5, [8], 3, 3.0, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in flow.parameters():
            weights += 0.2 * torch.randn(weights.shape, generator=generator)
    return flow


# --- views ------------------------------------------------------------------------------------


def test_angles_are_evenly_spaced_or_drawn():
    np.testing.assert_allclose(even_angles(4, 180), [0, 90, -180, -90])
    np.testing.assert_allclose(even_angles(5, 10), [0, 4, 8, -8, -4])
    np.testing.assert_array_equal(even_angles(1, 10), [0])
    drawn = drawn_angles(200, 30, np.random.default_rng(0))
    assert drawn[0] == 0 and len(drawn) == 200
    assert -30 <= drawn.min() < -25 and 25 < drawn.max() <= 30


def test_a_quarter_turn_moves_pixels():
    image = np.random.default_rng(0).random((16, 16, 3), dtype=np.float32)
    views = turned_views(image, np.array([0, 90, 180, -90]))
    np.testing.assert_array_equal(views[0], image)
    for k, view in enumerate(views):
        np.testing.assert_allclose(view, np.rot90(image, k), atol=1e-5)


@pytest.mark.parametrize("angle", [25.0, -70.0])
def test_a_view_is_looked_up_where_it_is_turned_from(angle):
    """In pixels, of an image that is not square, its edges reflected."""
    height, width = 20, 12
    image = np.random.default_rng(0).random((height, width, 1), dtype=np.float32)
    view = turned_views(image, np.array([0, angle]))[1]
    radians = math.radians(angle)
    for row, column in ((3, 4), (10, 6), (0, 0), (19, 11), (17, 2)):
        x, y = column - (width - 1) / 2, row - (height - 1) / 2
        # Counterclockwise as it is seen, rows going down.
        source_x = math.cos(radians) * x - math.sin(radians) * y + (width - 1) / 2
        source_y = math.sin(radians) * x + math.cos(radians) * y + (height - 1) / 2
        expected = 0.0
        for r in (math.floor(source_y), math.floor(source_y) + 1):
            for c in (math.floor(source_x), math.floor(source_x) + 1):
                weight = (1 - abs(source_y - r)) * (1 - abs(source_x - c))
                expected += weight * image[reflected(r, height), reflected(c, width), 0]
        assert view[row, column, 0] == pytest.approx(expected, abs=1e-4)


def reflected(i, n):
    """The place that an index off an edge is reflected to."""
    i %= 2 * n
    return i if i < n else 2 * n - 1 - i


def test_training_views_are_those_of_all_copies_and_follow_the_seed():
    image = np.random.default_rng(0).random((24, 16, 3), dtype=np.float32)
    views = [
        training_views(image, ("flip", "grey"), 4, 20.0, np.random.default_rng(seed))
        for seed in (0, 0, 1)
    ]
    assert views[0].shape == (3 * 4, 24, 16, 3)
    np.testing.assert_array_equal(views[0], views[1])
    assert np.abs(views[0] - views[2]).max() > 0.1
    np.testing.assert_array_equal(views[0][0], image)
    np.testing.assert_allclose(views[0][4], image[:, ::-1], atol=1e-5)
    gray = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    np.testing.assert_allclose(views[0][8], gray, atol=1e-6)


# --- vectors ----------------------------------------------------------------------------------


def test_vectors_are_the_means_of_all_maps():
    layers = features(3).arrays()
    found = pooled(layers)
    for i in range(3):
        expected = []
        for maps in layers.values():
            _, h, w, n_channels = maps.shape
            for c in range(n_channels):
                total = sum(float(maps[i, y, x, c]) for y in range(h) for x in range(w))
                expected.append(total / (h * w))
        np.testing.assert_allclose(found[i], expected, rtol=1e-12)


def test_vectors_are_standardized_and_maps_averaged(fitted):
    X = features().arrays()
    vectors = np.concatenate([maps.mean(axis=(1, 2), dtype=np.float64) for maps in X.values()], 1)
    np.testing.assert_allclose(fitted.mean_, vectors.mean(axis=0))
    np.testing.assert_allclose(fitted.scale_, vectors.std(axis=0))
    for name, maps in X.items():
        np.testing.assert_allclose(fitted.mean_maps_[name], maps.mean(axis=0), atol=1e-5)


def test_a_constant_number_is_measured_by_the_others():
    rows = np.random.default_rng(0).normal(size=(20, 4))
    rows[:, 2] = 7
    found = DifferNet(density="gaussian").fit(rows)
    typical = np.sqrt(rows.astype(np.float32).var(axis=0, dtype=np.float64).mean())
    assert found.scale_[2] == pytest.approx(0.01 * typical)
    odd = rows[:1].copy()
    odd[0, 2] += 1
    assert found.score_samples(odd) < 10 * found.score_samples(rows).min()
    same = DifferNet(density="gaussian").fit(np.ones((4, 3)))
    np.testing.assert_array_equal(same.scale_, 1)
    assert np.isfinite(same.score_samples(np.zeros((2, 3)))).all()


def test_features_of_views_come_from_all_scales(good):
    extractor = FeatureExtractor(
        "squeezenet1_1", layers=["features.3"], weights=None, image_size=128, random_state=3
    )
    detector = DifferNet(extractor, scales=(1, 0.5), density="gaussian", n_views=2, n_test_views=1)
    detector.fit(good)
    assert [one.image_fit.height for one in detector.extractors_] == [128, 64]
    image = np.random.default_rng(0).random((2, 128, 128, 3), dtype=np.float32)
    layers = features_of(detector.extractors_, image)
    expected = {
        f"{i}.{name}": maps
        for i, size in enumerate((128, 64))
        for name, maps in clone(extractor)
        .set_params(image_size=size)
        .fit()
        .transform(image)
        .arrays()
        .items()
    }
    assert list(layers) == list(expected)
    for name, maps in expected.items():
        np.testing.assert_array_equal(layers[name], maps)
    found = view_vectors(detector.extractors_, np.repeat(image, 10, axis=0))  # in two parts
    np.testing.assert_allclose(found, np.repeat(pooled(layers), 10, axis=0), rtol=1e-6)
    assert detector.score_map(good).shape == (6, 70, 66)


def test_the_usual_scales(good):
    extractor = FeatureExtractor(
        "squeezenet1_1", layers=["features.3"], weights=None, image_size=256
    )
    sizes = {"n_views": 1, "n_test_views": 1, "density": "gaussian"}
    found = DifferNet(extractor, **sizes).fit(good[:2]).extractors_
    assert [one.image_fit.height for one in found] == [256, 128, 64]
    assert all(one.weights_ is found[0].weights_ for one in found)  # which one file holds once
    assert len(DifferNet(BANK, **sizes).fit(good[:2]).extractors_) == 1


# --- densities --------------------------------------------------------------------------------


def test_a_new_flow_is_a_permutation():
    vectors = np.random.default_rng(0).normal(size=(7, 5))
    flow = build_flow(5, [8], 3, 3.0, seed=0)
    z, log_det = flow(torch.from_numpy(vectors).float())
    np.testing.assert_allclose(np.sort(z.detach()), np.sort(vectors), atol=1e-6)
    assert log_det.abs().max() == 0
    other = build_flow(5, [8], 3, 3.0, seed=1)
    assert any(not torch.equal(a, b) for a, b in zip(flow.buffers(), other.buffers(), strict=True))


def test_the_paper_s_flow_has_172_million_weights():
    needs = training_needs(768, SCHEDULES["paper"], 8)
    layers = (384 * 2048 + 2048) + 2 * (2048 * 2048 + 2048) + (2048 * 768 + 768)
    assert needs["flow"] == 4 * 16 * layers
    assert round(needs["flow"] / 4e6) == 172


def test_scores_and_gradients_of_a_flow(flow):
    vectors = np.random.default_rng(0).normal(size=(6, 5))
    density = FlowDensity(flow)
    found = density.scores(vectors)
    for score, vector in zip(found, vectors, strict=True):
        z, _ = flow(torch.tensor(vector[None], dtype=torch.float32))
        assert score == pytest.approx(sum(float(one) ** 2 for one in z[0]) / 5, rel=1e-5)
    precise, step = FlowDensity(pickle.loads(pickle.dumps(flow)).double()), 1e-6
    precise._tensor = lambda vectors: torch.from_numpy(vectors)  # not rounded
    for vector in vectors:
        gradient = density.gradient(vector)
        for i in range(5):
            shift = step * np.eye(5)[i]
            ahead, behind = precise.scores(np.stack([vector + shift, vector - shift]))
            assert gradient[i] == pytest.approx((ahead - behind) / (2 * step), rel=1e-3, abs=1e-4)


def test_the_gaussian_is_ledoit_and_wolf_s():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 12)) @ rng.normal(size=(12, 12))
    vectors = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    density = GaussianDensity(learn_precision(vectors))
    expected = LedoitWolf().fit(vectors)
    covariance = expected.covariance_ + EPSILON * np.eye(12)
    for vector, score in zip(vectors, density.scores(vectors), strict=True):
        assert score == pytest.approx(vector @ np.linalg.solve(covariance, vector) / 12)
    # Without what is added to the variances: as scikit-learn has it.
    plain = GaussianDensity(np.linalg.inv(np.linalg.inv(density.precision) - EPSILON * np.eye(12)))
    np.testing.assert_allclose(12 * plain.scores(vectors), expected.mahalanobis(vectors), rtol=1e-6)
    for vector in vectors[:3]:
        tensor = torch.tensor(vector, requires_grad=True)
        (tensor @ torch.from_numpy(density.precision) @ tensor / 12).backward()
        np.testing.assert_allclose(density.gradient(vector), tensor.grad, rtol=1e-10)


def test_vectors_far_off_have_finite_scores(fitted):
    far = np.full((2, 6), 1e16)
    rows = np.random.default_rng(0).normal(size=(20, 6))
    for density in ("flow", "gaussian"):
        scores = DifferNet(density=density, **SMALL).fit(rows).score_samples(far)
        assert np.isfinite(scores).all() and (scores < -1e6).all()


# --- training ---------------------------------------------------------------------------------


def test_the_loss_is_the_negative_log_likelihood(flow):
    vectors = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    found = LikelihoodTraining(flow, 1).loss(vectors, 0)
    total = 0.0
    for vector in vectors:
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], vector)
        z = flow(vector[None])[0][0]
        total += 0.5 * float(z @ z) - float(torch.linalg.slogdet(jacobian)[1])
    assert found.item() == pytest.approx(total / 9 / 5, rel=1e-4)


def test_numbers_that_are_cut_are_counted(flow):
    training = LikelihoodTraining(flow, 3)
    training.loss(torch.zeros(2, 5), 0)
    training.loss(torch.full((2, 5), 1e12), 1)
    assert training.clamped[0] == training.clamped[2] == 0 < training.clamped[1] <= 10


def test_an_epoch_has_four_views_of_each_image():
    rows = views_of_epoch(6, 9, 0, 0)
    assert len(set(rows)) == len(rows) == 24
    assert sorted(rows // 9) == sorted(np.repeat(np.arange(6), 4))
    np.testing.assert_array_equal(views_of_epoch(6, 9, 0, 0), rows)
    assert not np.array_equal(views_of_epoch(6, 9, 0, 1), rows)
    np.testing.assert_array_equal(views_of_epoch(6, 1, 0, 5), np.arange(6))


def test_training_is_adam_on_noisy_vectors():
    """Two epochs of two batches, step by step."""
    vectors = np.random.default_rng(0).normal(size=(4, 1, 3))
    config = TrainingConfig(2, 2, 1e-3, device="cpu", random_state=5)
    trained, by_hand = (build_flow(3, [4], 2, 3.0, seed=2) for _ in range(2))
    history = train_flow(trained, vectors, 0.5, config)
    adam = torch.optim.Adam(
        by_hand.parameters(), 1e-3, betas=(0.8, 0.8), eps=1e-4, weight_decay=1e-5
    )
    for epoch in range(2):
        order = np.random.default_rng([5, epoch]).permutation(4)
        losses, generator = [], torch.Generator().manual_seed(5 * 1_000_003 + epoch)
        for rows in (order[:2], order[2:]):
            some = torch.from_numpy(vectors[rows, 0]).float()
            z, log_det = by_hand(some + 0.5 * torch.randn(some.shape, generator=generator))
            loss = (z.square().sum() / 2 - log_det.sum()) / 2 / 3
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        assert history["loss"][epoch] == pytest.approx(np.mean(losses), rel=1e-6)
    for a, b in zip(trained.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert history["clamped"] == [0, 0]


def test_noise_is_the_default_where_there_are_no_views(good, monkeypatch):
    seen = []

    def note(flow, vectors, noise, config):
        seen.append(noise)
        return {"loss": [], "clamped": []}

    monkeypatch.setattr("skanomaly.detectors.differnet._differnet.train_flow", note)
    DifferNet(**SMALL).fit(features())
    DifferNet(BANK, **SMALL, max_angle=0).fit(good)
    DifferNet(BANK, **SMALL, **VIEWS).fit(good)
    DifferNet(BANK, **SMALL, **VIEWS, noise=0.1).fit(good)
    assert seen == [0.3, 0.3, 0.0, 0.1]


def test_noise_and_weights_follow_the_seed():
    X = features()
    first, again, other, quiet = (
        DifferNet(**SMALL, random_state=seed, noise=noise).fit(X).score_samples(X)
        for seed, noise in ((0, None), (0, None), (1, None), (0, 0.0))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(first, quiet)


def test_a_flow_learns_what_is_likely(fitted):
    """Numbers that go together: far from each other is unlikely, though each alone is not."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(300, 2))
    rows = np.column_stack([base, base + 0.1 * rng.normal(size=(300, 2))])
    detector = DifferNet(n_epochs=60, batch_size=64, learning_rate=5e-3, n_blocks=4).fit(rows[:200])
    assert np.mean(detector.history_["loss"][-5:]) < detector.history_["loss"][0] - 0.3
    odd = rows[200:] * [1, 1, -1, -1]
    is_far = np.abs(odd[:, :2]).max(axis=1) > 1
    threshold = np.median(detector.score_samples(rows[200:]))
    assert (detector.score_samples(odd)[is_far] < threshold).mean() > 0.9


def test_a_single_number_needs_no_training():
    rows = np.random.default_rng(0).normal(size=(20, 1))
    detector = DifferNet(**SMALL).fit(rows)
    assert detector.history_ == {"loss": [], "clamped": []}
    expected = np.square((rows[:, 0] - rows.mean()) / rows.std())
    np.testing.assert_allclose(-detector.score_samples(rows), expected, rtol=1e-4)


def test_presets():
    quick = make_schedule("quick", hidden_layer_sizes=None)
    assert hidden_sizes(quick, 135) == [136] and hidden_sizes(quick, 768) == [256]
    paper = make_schedule("paper", hidden_layer_sizes=None, n_epochs=3)
    assert hidden_sizes(paper, 135) == [2048] * 3 and paper.n_epochs == 3
    upright = make_schedule("paper", hidden_layer_sizes=None, max_angle=0)
    assert upright.n_views == upright.n_test_views == 1


# --- scores and maps --------------------------------------------------------------------------


@pytest.mark.parametrize("density", ["flow", "gaussian"])
def test_maps_are_gradient_times_deviation(density):
    detector = DifferNet(density=density, sigma=0, **SMALL | {"n_epochs": 20}).fit(features())
    X = features(3, seed=1)
    layers = X.arrays()
    found = detector._score_maps(X)
    assert found.shape == (3, 6, 4)
    for i in range(3):
        maps = {name: torch.tensor(one[i], dtype=torch.float64) for name, one in layers.items()}
        v = torch.cat([one.mean(dim=(0, 1)) for one in maps.values()]).requires_grad_()
        standardized = (v - torch.tensor(detector.mean_)) / torch.tensor(detector.scale_)
        if density == "flow":
            flow = detector._ready_density().flow
            score = flow(standardized.float()[None])[0].square().mean()
        else:
            score = standardized @ torch.tensor(detector.state_["precision"]) @ standardized / 5
        score.backward()
        expected = np.zeros((6, 4))
        for y in range(6):
            for x in range(4):
                fine = layers["fine"][i, y, x] - detector.mean_maps_["fine"][y, x]
                expected[y, x] += abs(sum(v.grad[:3].numpy() * fine))
        coarse = np.zeros((3, 2))
        for y in range(3):
            for x in range(2):
                odd = layers["coarse"][i, y, x] - detector.mean_maps_["coarse"][y, x]
                coarse[y, x] = abs(sum(v.grad[3:].numpy() * odd))
        # The coarse layer brought to the finer grid, bilinearly with aligned edges.
        tensor = torch.tensor(coarse)[None, None]
        size = {"size": (6, 4), "mode": "bilinear", "align_corners": False}
        expected += torch.nn.functional.interpolate(tensor, **size)[0, 0].numpy()
        expected *= float(score.detach()) / expected.mean()
        np.testing.assert_allclose(found[i], expected, rtol=1e-3, atol=1e-4)


def test_what_is_far_off_stands_out_in_the_map_too():
    detector = DifferNet(sigma=0, image_score="map_max", **SMALL | {"n_epochs": 20})
    good = features()
    detector.fit(good)
    layers = {name: maps + np.float32(1e4) for name, maps in features(3, seed=1).arrays().items()}
    far = FeatureMaps(layers, good.frames[:3], good.image_fit)
    scores, maps = detector.score_samples_and_map(far)
    assert scores.max() < detector.score_samples(features(20, seed=2)).min()  # low for a defect
    paper = detector.set_params(image_score="paper").score_samples(far)
    np.testing.assert_allclose(detector._score_maps(far).mean(axis=(1, 2)), -paper, rtol=1e-3)
    assert np.isfinite(maps).all()


def test_a_map_without_a_gradient_is_the_score_everywhere():
    amounts = np.array([[[0.0, 0.0]], [[1.0, 3.0]]])
    np.testing.assert_array_equal(
        share_out(np.array([5.0, 2.0]), amounts), [[[5.0, 5.0]], [[1.0, 3.0]]]
    )


def test_the_score_is_the_mean_over_all_views(of_views, good):
    np.testing.assert_allclose(of_views.angles_, [0, -10])
    expected = []
    for batch in of_views._check_X(good, reset=False).batches():
        for image in batch.arrays()["pixels"]:
            scores = []
            for view in turned_views(image, of_views.angles_):
                maps = of_views.extractors_[0].transform(view[None]).arrays()["energies"]
                vector = (maps.mean(axis=(1, 2))[0] - of_views.mean_) / of_views.scale_
                z, _ = of_views._ready_density().flow(torch.tensor(vector[None]).float())
                scores.append(z.square().mean().item())
            expected.append(np.mean(scores))
    np.testing.assert_allclose(-of_views.score_samples(good), expected, rtol=1e-4)


@pytest.mark.parametrize("image_score", ["paper", "map_max"])
def test_an_image_scores_alike_alone_and_in_a_batch(fitted, of_views, good, image_score):
    for detector, X in ((fitted, features(5, 1)), (of_views, good)):
        detector = pickle.loads(pickle.dumps(detector)).set_params(image_score=image_score)
        together, maps = detector.score_samples_and_map(X)
        for i in range(len(X)):
            alone, own_map = detector.score_samples_and_map(X[i : i + 1])
            np.testing.assert_allclose(alone[0], together[i], rtol=1e-6)
            np.testing.assert_allclose(own_map[0], maps[i], rtol=1e-5, atol=1e-6)


def test_a_place_that_is_odd_stands_out():
    for density in ("flow", "gaussian"):
        detector = DifferNet(density=density, **SMALL | {"n_epochs": 30}).fit(features())
        layers = features(4, seed=1).arrays()
        layers["fine"][:2, :2, :2] += 20
        X = FeatureMaps(layers, np.tile((48, 32), (4, 1)), ImageFit(48, 32))
        maps = detector.score_map(X)
        assert maps[:2, 4:12, 4:12].min() > 2 * maps[:2, -8:, -8:].max()
        assert detector.score_samples(X)[:2].max() < detector.score_samples(X)[2:].min()


# --- few images, other kinds of input ---------------------------------------------------------


def test_two_images_and_one_with_views(good):
    rows = np.random.default_rng(0).normal(size=(2, 8))
    for density in ("flow", "gaussian"):
        detector = DifferNet(density=density, **SMALL).fit(rows)
        assert np.isfinite(detector.score_samples(rows)).all()
        assert detector.score_samples(rows + 50).max() < detector.score_samples(rows).min()
        alone = DifferNet(BANK, density=density, **SMALL, **VIEWS).fit(good[:1])
        assert alone.score_samples(good).shape == (6,)


def test_augmented_copies_of_few_images(good):
    one = DifferNet(BANK, density="gaussian", augmentations=AUGMENTATIONS, **VIEWS)
    needs = estimate_memory(one, good, n_images=2)
    one.fit(good[:2])
    assert needs["vectors"] == 3 * 8 * len(one.mean_) * 22 * 3 * 2
    assert one.score_map(good[:1]).shape == (1, 70, 66)


def test_gray_images_and_those_of_four_channels(good):
    gray = DifferNet(BANK, density="gaussian", **VIEWS).fit(good[..., 0])
    assert gray.n_channels_in_ == 3
    four = np.concatenate([good, good[..., :1]], axis=3).astype(np.float32) / 255
    detector = DifferNet(BANK, density="gaussian", **VIEWS).fit(four)
    assert detector.score_samples(four).shape == (6,)
    with pytest.raises(ValueError, match="channels"):
        detector.predict(good)


def test_parameters_set_after_a_fit_change_no_view(of_views, good):
    detector = pickle.loads(pickle.dumps(of_views))
    detector.set_params(extractor=None, n_test_views=9, density="gaussian", n_blocks=5)
    np.testing.assert_array_equal(detector.score_samples(good), of_views.score_samples(good))


def test_no_image_is_in_a_pickle(of_views, good):
    smaller = DifferNet(BANK, **SMALL, **VIEWS).fit(good[:3])
    sizes = [len(pickle.dumps(one)) for one in (of_views, smaller)]
    assert abs(sizes[0] - sizes[1]) < 500


@parametrize_with_checks(
    [DifferNet(BANK, density="gaussian", **VIEWS)],
    expected_failed_checks=lambda estimator: {
        "signs": "eight images are too few for pooled features; test_a_place_that_is_odd_stands_out"
    },
)
def test_the_contract_with_an_extractor(estimator, check):
    check(estimator)


# --- interruptions and bad input --------------------------------------------------------------


def test_interrupted_training_goes_on(fitted, tmp_path, monkeypatch):
    X = features()
    detector = clone(fitted).set_params(n_epochs=3, batch_size=15, checkpoint=tmp_path / "part")
    expected = clone(detector).set_params(checkpoint=None).fit(X)
    backward, seen = torch.Tensor.backward, []

    def stop(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 5:  # in the last of three epochs with two batches each
            raise KeyboardInterrupt
        backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", stop)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(X)
    with pytest.raises(NotFittedError):
        detector.predict(X)
    detector.fit(X)
    assert len(seen) == 5 + 2
    assert detector.history_ == expected.history_
    for name, array in expected.state_.items():
        np.testing.assert_array_equal(detector.state_[name], array)
    np.testing.assert_array_equal(detector.score_samples(X), expected.score_samples(X))


def test_a_checkpoint_of_another_training_is_left_alone(tmp_path):
    options, X = SMALL | {"checkpoint": tmp_path / "part"}, features()
    first = DifferNet(**options).fit(X)
    DifferNet(**options, sigma=2, n_test_views=3).fit(X)
    assert len(list(tmp_path.iterdir())) == 1  # these are no part of the training
    other = DifferNet(**options, clamp=1.5).fit(X)
    once = DifferNet(**SMALL, clamp=1.5).fit(X)
    np.testing.assert_array_equal(other.score_samples(X), once.score_samples(X))
    DifferNet(**options).fit(X[1:])
    assert len(list(tmp_path.iterdir())) == 3
    again = DifferNet(**options).fit(X)
    np.testing.assert_array_equal(again.score_samples(X), first.score_samples(X))


def test_a_training_that_diverges_leaves_the_detector_as_it_was(fitted):
    detector, X = pickle.loads(pickle.dumps(fitted)), features()
    expected = detector.score_samples(X)
    detector.set_params(learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"lower learning_rate, and look at the images\."):
        detector.fit(X)
    np.testing.assert_array_equal(detector.score_samples(X), expected)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"density": "kernel"}, "density"),
        ({"noise": -1}, "noise"),
        ({"hidden_layer_sizes": (8, 0)}, r"integers from 1 on, got \(8, 0\)"),
        ({"hidden_layer_sizes": (8.5,)}, "integers from 1 on"),
        ({"clamp": 0}, "clamp"),
        ({"n_blocks": 0}, "n_blocks"),
        ({"n_epochs": 0}, "n_epochs"),
        ({"max_angle": 200}, "max_angle"),
        ({"n_views": 0}, "n_views"),
        ({"preset": "long"}, "preset"),
        ({"extractor": "resnet18"}, "extractor"),
        ({"augmentations": ("flip",)}, "no augmentations of features"),
        ({"augmentations": ("melt",)}, "expected augmentations among"),
    ],
)
def test_parameters_that_cannot_be(parameters, message):
    with pytest.raises(ValueError, match=message):
        DifferNet(**SMALL | parameters).fit(features())


@pytest.mark.parametrize("scales", [(), (1, 0), (2,), ("half",)])
def test_scales_that_cannot_be(good, scales):
    with pytest.raises(ValueError, match="expected scales as numbers above 0, up to 1"):
        DifferNet(BANK, **SMALL, scales=scales).fit(good)


def test_what_cannot_be_learned_from(good):
    rows = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(ValueError, match=r"at least 2 good images.*n_samples=1"):
        DifferNet(**SMALL).fit(rows, [1, -1, -1, -1])
    with pytest.raises(ValueError, match=r"at least 2 good images.*n_samples=1"):
        DifferNet(BANK, **SMALL, max_angle=0).fit(good[:1])
    with pytest.raises(ValueError, match=r"expects features, got images.*DifferNet\(FilterBank"):
        DifferNet(**SMALL).fit(good)
    for X in (features(), rows):
        with pytest.raises(ValueError, match="with an extractor expects images, got features"):
            DifferNet(BANK, **SMALL).fit(X)
    spoilt = good.astype(np.float32) / 255
    spoilt[3, 5, 5] = np.nan
    with pytest.raises(ValueError, match="image 3"):
        DifferNet(BANK, **SMALL).fit(spoilt)


def test_forecasts_count_the_flow_and_the_vectors(good):
    needs = estimate_memory(DifferNet(n_blocks=2), np.zeros((4, 6)), n_images=50)
    # Two subnets of 3 -> 6 -> 6 numbers in each of two blocks.
    assert needs["flow"] == 4 * 2 * 2 * ((3 * 6 + 6) + (6 * 6 + 6))
    assert needs["vectors"] == 3 * 8 * 6 * 50
    of_images = estimate_memory(DifferNet(BANK, density="gaussian"), good, n_images=50)
    assert of_images["pixels"] == 4 * 64 * 64 * 3 * 50
    assert of_images["views of an image"] == 2 * 4 * 64 * 64 * 3 * 16
    assert of_images["vectors"] == 3 * 8 * math.isqrt(of_images["precision"] // 8) * 16 * 50
