"""GANomaly: its networks, losses and scores against plain re-computations, and its errors."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skanomaly import FeatureMaps, GANomaly, estimate_memory
from skanomaly.datasets import make_textures
from skanomaly.detectors.ganomaly import _ganomaly_training
from skanomaly.detectors.ganomaly._ganomaly_networks import build_networks
from skanomaly.detectors.ganomaly._ganomaly_scores import difference_maps, distances, to_networks
from skanomaly.detectors.ganomaly._ganomaly_training import (
    SCHEDULES,
    AdversarialTraining,
    train_networks,
)
from skanomaly.exceptions import TrainingError
from skanomaly.training import TrainingConfig, shuffled_batches, with_given

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"image_size": 32, "width": 4, "n_epochs": 3, "batch_size": 3, "latent_size": 8}
PIXELS = np.random.default_rng(0).random((6, 32, 32, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def good():
    return make_textures(7, size=(40, 36), random_state=0)


@pytest.fixture(scope="module")
def fitted(good):
    return GANomaly(**SMALL).fit(good)


@pytest.fixture(scope="module")
def networks():
    """Networks in evaluation mode, whose batch norms have seen images."""
    networks = build_networks((32, 32), 3, 4, 8, seed=1).train()
    for _ in range(3):
        _, restored, _ = networks["generator"](to_networks(PIXELS))
        networks["discriminator"](restored)
    return networks.eval()


# --- networks ---------------------------------------------------------------------------------


def expected_shapes(size, n_channels, width, n_outputs):
    """Shapes of an encoder's convolutions, by its table: kernels of 4 x 4, the last of the rest."""
    shapes, (height, width_left), channels = [], size, n_channels
    after = width
    while min(height, width_left) > 4:
        shapes.append((after, channels, 4, 4))
        channels, after, height, width_left = after, 2 * after, height // 2, width_left // 2
    return [*shapes, (n_outputs, channels, height, width_left)]


def weights_of(module, kind):
    return [tuple(m.weight.shape) for m in module.modules() if isinstance(m, kind)]


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (64, 64), (128, 128), (32, 48), (80, 64)])
def test_shapes_are_those_of_the_table(size):
    with torch.device("meta"):
        networks = build_networks(size, 3, 8, 100)
        generator, discriminator = networks["generator"], networks["discriminator"]
        code, restored, code_restored = generator(torch.rand(2, 3, *size))
        assert discriminator(torch.rand(2, 3, *size)).shape == (2, 1)
    assert code.shape == code_restored.shape == (2, 100)
    assert restored.shape == (2, 3, *size)
    expected = expected_shapes(size, 3, 8, 100)
    for encoder in (generator.encoder, generator.second_encoder):
        assert weights_of(encoder, torch.nn.Conv2d) == expected
    # Those of a transposed convolution have the channels of its input first.
    assert weights_of(generator.decoder, torch.nn.ConvTranspose2d) == expected[::-1]
    assert weights_of(discriminator, torch.nn.Conv2d) == expected_shapes(size, 3, 8, 1)
    assert all(m.bias is None for m in networks.modules() if isinstance(m, torch.nn.Conv2d))
    # Batch norms everywhere but after the first and the last convolution.
    n_halvings = len(expected) - 1
    for encoder in (generator.encoder, discriminator):
        norms = weights_of(encoder, torch.nn.BatchNorm2d)
        assert norms == [(8 << i,) for i in range(1, n_halvings)]
    norms = weights_of(generator.decoder, torch.nn.BatchNorm2d)
    assert norms == [(8 << i,) for i in reversed(range(n_halvings))]


@pytest.mark.parametrize(
    ("side", "generator", "discriminator"),
    [(32, 3.2, 0.66), (64, 10.7, 2.77), (128, 38.4, 11.2), (256, 144.0, 44.7)],
)
def test_the_paper_s_networks_have_so_many_million_weights(side, generator, discriminator):
    with torch.device("meta"):
        networks = build_networks((side, side), 3, 64, 100)
    for name, millions in (("generator", generator), ("discriminator", discriminator)):
        n = sum(weights.numel() for weights in networks[name].parameters())
        assert n == pytest.approx(1e6 * millions, rel=5e-3)


def test_weights_are_drawn_as_in_dcgan():
    networks = build_networks((64, 64), 3, 16, 50, seed=3)
    for module in networks.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert abs(module.weight.mean().item()) < 3 * 0.02 / module.weight.numel() ** 0.5
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert not module.bias.any()
            assert module.weight.mean().item() == pytest.approx(1, abs=0.02)
    again = build_networks((64, 64), 3, 16, 50, seed=3).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in networks.state_dict().items())


# --- losses and training ----------------------------------------------------------------------


def test_losses_are_the_paper_s():
    networks = build_networks((32, 32), 3, 4, 8, seed=1).train()
    generator, discriminator = networks["generator"], networks["discriminator"]
    training = AdversarialTraining(networks, (2.0, 30.0, 5.0), 1)
    x = to_networks(PIXELS)
    losses = training.steps(x, 0, 1.0)
    of_generator = next(losses).item()
    with torch.no_grad():  # batch norms in training mode: the batch alone counts
        z = generator.encoder(x)
        restored = generator.decoder(z)
        z_restored = generator.second_encoder(restored)
        real = discriminator.stages[0](x), discriminator.stages[0](restored)
        for stage in discriminator.stages[1:]:
            real = tuple(stage(one) for one in real)
        adversarial = ((real[0] - real[1]) ** 2).mean()
        contextual = (x - restored).abs().mean()
        latent = ((z - z_restored) ** 2).mean()
        logits = [discriminator.last(one).flatten() for one in real]
        probabilities = [1 / (1 + torch.exp(-one)) for one in logits]
    expected = 2 * adversarial + 30 * contextual + 5 * latent
    assert of_generator == pytest.approx(expected.item(), rel=1e-5)
    of_discriminator = next(losses).item()
    expected = -(probabilities[0].log().mean() + (1 - probabilities[1]).log().mean()) / 2
    assert of_discriminator == pytest.approx(expected.item(), rel=1e-5)
    parts = torch.stack([adversarial, contextual, latent, torch.tensor(of_discriminator)])
    torch.testing.assert_close(training.losses[0], parts, rtol=1e-5, atol=1e-7)


def test_each_loss_moves_its_own_network():
    networks = build_networks((32, 32), 3, 4, 8, seed=1).train()
    training = AdversarialTraining(networks, (1.0, 50.0, 1.0), 1)
    losses = training.steps(to_networks(PIXELS), 0, 1.0)
    next(losses).backward()
    assert all(w.grad is not None for w in networks["generator"].parameters())
    networks.zero_grad()
    next(losses).backward()
    assert all(w.grad is None for w in networks["generator"].parameters())
    assert all(w.grad is not None for w in networks["discriminator"].parameters())


@pytest.mark.parametrize(("limit", "is_new"), [(1e9, True), (-1.0, False)])
def test_a_discriminator_that_is_too_sure_begins_anew(monkeypatch, limit, is_new):
    monkeypatch.setattr(_ganomaly_training, "TOO_SURE", limit)
    networks = build_networks((32, 32), 3, 4, 8, seed=1).train()
    before = networks["discriminator"].last.weight.clone()
    training = AdversarialTraining(networks, (1.0, 50.0, 1.0), 1)
    assert len(list(training.steps(to_networks(PIXELS), 0, 1.0))) == 2
    assert torch.equal(before, networks["discriminator"].last.weight) == (not is_new)


def test_an_epoch_is_the_two_steps_of_each_batch():
    """A training of one epoch, step by step with two Adams."""
    networks, other = (build_networks((32, 32), 3, 4, 8, seed=2) for _ in range(2))
    schedule = with_given(SCHEDULES["quick"], n_epochs=1, batch_size=3)
    config = TrainingConfig(1, device="cpu", random_state=5)
    history = train_networks(networks, PIXELS, (1, 50, 1), schedule, config)
    optimizers = [
        torch.optim.Adam(other[name].parameters(), 2e-4, betas=(0.5, 0.999))
        for name in ("generator", "discriminator")
    ]
    generator, discriminator, contextual = other["generator"], other["discriminator"], []
    other.train()
    for rows in shuffled_batches(6, 3, 5, 0):
        x = to_networks(PIXELS[rows])
        z, restored, z_restored = generator(x)
        features = [discriminator.maps(one)[-1] for one in (x, restored)]
        contextual.append((x - restored).abs().mean())
        loss = F.mse_loss(*features) + 50 * contextual[-1] + F.mse_loss(z, z_restored)
        real, fake = discriminator(x), discriminator(restored.detach())
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        loss = (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
    for name, weights in other.named_parameters():
        found = networks.get_parameter(name)
        torch.testing.assert_close(found, weights, rtol=1e-3, atol=1e-5, msg=name)
    assert history["contextual"] == pytest.approx([np.mean([c.item() for c in contextual])])


def test_batches_are_whole_and_hold_each_image_once():
    batches = shuffled_batches(20, 6, 0, 1)
    assert [len(rows) for rows in batches] == [6, 6, 6]
    assert len(set(np.concatenate(batches))) == 18
    again, other = shuffled_batches(20, 6, 0, 1), shuffled_batches(20, 6, 0, 2)
    assert np.array_equal(np.concatenate(again), np.concatenate(batches))
    assert not np.array_equal(np.concatenate(other), np.concatenate(batches))
    assert [sorted(rows) for rows in shuffled_batches(4, 6, 0, 0)] == [[0, 1, 2, 3]]


def test_losses_fall_and_are_told_by_name(good):
    history = GANomaly(**SMALL | {"n_epochs": 15}, learning_rate=2e-3).fit(good).history_
    assert list(history) == ["adversarial", "contextual", "latent", "discriminator"]
    assert {len(losses) for losses in history.values()} == {15}
    assert np.mean(history["contextual"][-3:]) < 0.9 * history["contextual"][0]


# --- scores -----------------------------------------------------------------------------------


def test_scores_are_the_distances_of_codes_and_of_images(networks):
    generator = networks["generator"]
    with torch.inference_mode():
        x = to_networks(PIXELS)
        z, restored, z_restored = generator(x)
        latent = ((z - z_restored) ** 2).mean(dim=1)
        contextual = (x - restored).abs().mean(dim=(1, 2, 3))
    for kind, expected in (("latent", latent), ("contextual", contextual)):
        np.testing.assert_allclose(distances(generator, PIXELS, kind), expected, rtol=1e-4)


def test_maps_are_differences_of_pixels_and_of_features(networks):
    found = difference_maps(networks, PIXELS[:2])
    assert found.shape == (2, 2, 8, 8)
    discriminator = networks["discriminator"]
    with torch.inference_mode():
        x = to_networks(PIXELS[:2])
        _, restored, _ = networks["generator"](x)
        pixels = (x - restored).abs().mean(dim=1).numpy()  # (2, 32, 32)
        cells = pixels.reshape(2, 8, 4, 8, 4).mean(axis=(2, 4))
        layers = 0
        for a, b in zip(discriminator.maps(x), discriminator.maps(restored), strict=True):
            if a.shape[2] < 8:
                continue
            squares = ((a - b) ** 2).mean(dim=1).numpy()  # (2, 16, 16), (2, 8, 8)
            cell = squares.shape[1] // 8
            layers = layers + squares.reshape(2, 8, cell, 8, cell).mean(axis=(2, 4))
    np.testing.assert_allclose(found[:, 0], cells, rtol=1e-4)
    np.testing.assert_allclose(found[:, 1], layers, rtol=1e-4)


def test_both_maps_count_alike_on_good_images(fitted, good):
    maps = {}
    for kind in ("both", "reconstruction", "features"):
        detector = pickle.loads(pickle.dumps(fitted)).set_params(map=kind)
        assert detector.score_map(good).shape == (7, 40, 36)
        read = detector._check_X(good, reset=False).store()
        maps[kind] = detector._score_maps(read)
    reconstruction, features = fitted.map_means_
    assert maps["reconstruction"].mean() == pytest.approx(reconstruction, rel=1e-5)
    assert maps["features"].mean() == pytest.approx(features, rel=1e-5)
    expected = (maps["reconstruction"] / reconstruction + maps["features"] / features) / 2
    np.testing.assert_allclose(maps["both"], expected, rtol=1e-5)


@pytest.mark.parametrize("distance", ["latent", "contextual"])
def test_an_image_scores_alike_alone_and_in_a_batch(fitted, good, distance):
    detector = pickle.loads(pickle.dumps(fitted)).set_params(distance=distance)
    together = detector.score_samples(good)
    alone = [detector.score_samples(good[i : i + 1])[0] for i in range(len(good))]
    np.testing.assert_array_equal(alone, together)
    assert len(set(together)) == len(good)


def test_a_spot_stands_out_in_the_map_of_a_trained_network():
    rng = np.random.default_rng(0)
    shades = rng.uniform(0.3, 0.7, (24, 1, 1, 1))
    good = (shades + rng.normal(0, 0.02, (24, 32, 32, 3))).clip(0, 1).astype(np.float32)
    detector = GANomaly(image_size=32, width=8, n_epochs=25, batch_size=8, learning_rate=2e-3)
    detector.fit(good[:20])
    bad = good[20:].copy()
    bad[:, 4:12, 4:12] = 1.0
    for kind in ("both", "reconstruction", "features"):
        maps = detector.set_params(map=kind).score_map(bad)
        there, far = maps[:, 4:12, 4:12], maps[:, 16:, 16:]
        assert (there.mean(axis=(1, 2)) > 1.5 * far.mean(axis=(1, 2))).all(), kind
    contextual = detector.set_params(distance="contextual")
    assert (contextual.score_samples(bad) < contextual.score_samples(good[20:])).all()


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (16, 16)])
def test_inputs_of_other_shapes(good, size):
    detector = GANomaly(**SMALL | {"image_size": size, "n_epochs": 1}).fit(good)
    scores, maps = detector.score_samples_and_map(good)
    assert np.isfinite(scores).all() and maps.shape == (7, 40, 36)
    assert np.isfinite(maps).all()


def test_parameters_set_after_a_fit_change_no_network(fitted, good):
    expected = fitted.score_samples(good)
    changed = pickle.loads(pickle.dumps(fitted))
    changed.set_params(width=9, latent_size=3, image_size=64, preset="paper")
    np.testing.assert_array_equal(changed.score_samples(good), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(changed)).score_samples(good), expected)


def test_channels_of_any_number(good):
    four = np.concatenate([good, good[..., :1]], axis=3)
    detector = GANomaly(**SMALL | {"n_epochs": 1}).fit(four)
    assert detector.score_map(four).shape == (7, 40, 36)
    with pytest.raises(ValueError, match="4 channels"):
        detector.predict(good)
    gray = GANomaly(**SMALL | {"n_epochs": 1}).fit(good[..., 0])
    as_rgb = np.repeat(good[..., :1], 3, axis=3)
    np.testing.assert_array_equal(gray.score_samples(as_rgb), gray.score_samples(good[..., 0]))


def test_images_of_one_gray_value_have_finite_scores():
    flat = np.full((4, 32, 32), 128, np.uint8)
    detector = GANomaly(**SMALL).fit(flat)
    scores, maps = detector.score_samples_and_map(flat)
    assert np.isfinite(scores).all() and np.isfinite(maps).all()
    assert np.ptp(scores) == 0


def test_a_forecast_counts_the_networks(fitted, good):
    with torch.device("meta"):
        networks = build_networks((32, 32), 3, 4, 8)
    n = sum(weights.numel() for weights in networks.parameters())
    needs = estimate_memory(clone(fitted), good, n_images=50)
    assert needs["networks"] == 4 * n
    assert needs["pixels"] == 4 * 32 * 32 * 3 * 50


# --- interruptions and bad input --------------------------------------------------------------


def test_interrupted_training_goes_on(fitted, good, tmp_path, monkeypatch):
    detector = GANomaly(**SMALL, checkpoint=tmp_path / "part")
    backward, seen = torch.Tensor.backward, []

    def stop(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 10:  # in the last of three epochs with two batches of two losses each
            raise KeyboardInterrupt
        backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", stop)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(good)
    with pytest.raises(NotFittedError):
        detector.predict(good)
    detector.fit(good)
    assert len(seen) == 10 + 4
    assert detector.history_ == fitted.history_
    for name, array in fitted.state_.items():
        np.testing.assert_array_equal(detector.state_[name], array)
    np.testing.assert_array_equal(detector.score_samples(good), fitted.score_samples(good))


def test_a_checkpoint_of_another_training_is_left_alone(fitted, good, tmp_path):
    options = SMALL | {"checkpoint": tmp_path / "part"}
    GANomaly(**options).fit(good)
    GANomaly(**options, sigma=2, map="features", distance="contextual").fit(good)
    assert len(list(tmp_path.iterdir())) == 1  # these are no part of the training
    other = GANomaly(**options, loss_weights=(1, 10, 1)).fit(good)
    once = GANomaly(**SMALL, loss_weights=(1, 10, 1)).fit(good)
    np.testing.assert_array_equal(other.score_samples(good), once.score_samples(good))
    GANomaly(**options).fit(good[1:])
    assert len(list(tmp_path.iterdir())) == 3
    again = GANomaly(**options).fit(good)
    np.testing.assert_array_equal(again.score_samples(good), fitted.score_samples(good))


def test_a_training_that_diverges_leaves_the_detector_as_it_was(fitted, good):
    detector = pickle.loads(pickle.dumps(fitted))
    expected = detector.score_samples(good)
    detector.set_params(learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"lower learning_rate, and look at the images\."):
        detector.fit(good)
    np.testing.assert_array_equal(detector.score_samples(good), expected)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"image_size": 48}, r"a shorter side of 16, 32.*got 48 x 48"),
        ({"image_size": 8}, r"got 8 x 8"),
        ({"image_size": (32, 36)}, r"a multiple of a quarter of it, got 32 x 36"),
        ({"loss_weights": (1, 50)}, "three numbers"),
        ({"loss_weights": (1, -50, 1)}, "three numbers"),
        ({"loss_weights": (1, np.nan, 1)}, "three numbers"),
        ({"loss_weights": ("a", "b", "c")}, "three numbers"),
        ({"map": "codes"}, "map"),
        ({"distance": "l1"}, "distance"),
        ({"batch_size": 1}, "batch_size"),
        ({"n_epochs": 0}, "n_epochs"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"preset": "long"}, "preset"),
        ({"width": 0}, "width"),
    ],
)
def test_parameters_that_cannot_be(good, parameters, message):
    with pytest.raises(ValueError, match=message):
        GANomaly(**SMALL | parameters).fit(good)


def test_what_cannot_be_learned_from(good):
    detector = GANomaly(**SMALL)
    with pytest.raises(ValueError, match=r"at least 2 good images.*got 1"):
        detector.fit(good[:1])
    with pytest.raises(ValueError, match=r"at least 2 good images.*got 1"):
        detector.fit(good, [1, *[-1] * 6])
    with pytest.raises(ValueError, match="expects images, got features"):
        detector.fit(FeatureMaps({"layer": np.zeros((4, 8, 8, 3), np.float32)}))
    spoilt = good.astype(np.float32) / 255
    spoilt[3, 5, 5] = np.nan
    with pytest.raises(ValueError, match="image 3"):
        detector.fit(spoilt)
    with pytest.raises(NotFittedError):
        detector.predict(good)
