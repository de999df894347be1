"""ARNet: its erasures, network and errors against plain re-computations, and bad input."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skanomaly import ARNet, FeatureMaps, estimate_memory
from skanomaly.datasets import make_textures
from skanomaly.detectors.arnet._arnet_training import (
    SCHEDULES,
    mean_errors,
    restoration_errors,
    train_network,
)
from skanomaly.detectors.arnet._erasures import Erasures, choose_erasures
from skanomaly.detectors.arnet._unet import UNet, build_unet
from skanomaly.exceptions import TrainingError
from skanomaly.training import TrainingConfig, shuffled_batches, with_given

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"image_size": 32, "width": 4, "n_epochs": 3, "batch_size": 3}
ALL = ("gray", "rotation", "holes")
IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def good():
    return make_textures(8, size=(40, 36), random_state=0)


@pytest.fixture(scope="module")
def fitted(good):
    return ARNet(**SMALL).fit(good)


@pytest.fixture(scope="module")
def network():
    """A network in evaluation mode, whose batch norms have seen images."""
    network = build_unet(3, 4, seed=1).train()
    for _ in range(3):
        network(IMAGES)
    return network.eval()


# --- erasures ---------------------------------------------------------------------------------


def test_turned_back_an_erased_image_is_the_gray_one_to_the_bit():
    erasures = choose_erasures(("gray", "rotation"), None, (32, 32), has_color=True)
    assert len(erasures) == 4
    gray = IMAGES[0].mean(dim=0).expand(3, -1, -1)
    for k in range(4):
        erased = erasures.erase(IMAGES[:1], [k])[0]
        assert torch.equal(torch.rot90(erased, -k, (1, 2)), gray)
        assert k == 0 or not torch.equal(erased, gray)
        assert erasures.counted(IMAGES[:1], [k]).all()


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (32, 80)])
@pytest.mark.parametrize("hole_size", [None, 4, 7])
def test_holes_cover_an_image_once_and_leave_the_rest_to_the_bit(size, hole_size):
    image = torch.rand(1, 3, *size) + 0.1
    erasures = choose_erasures(["holes"], hole_size, size, has_color=False)
    side = 4 if hole_size is None else hole_size
    times = np.zeros(size, int)
    for k in range(len(erasures)):
        erased = erasures.erase(image, [k])[0].numpy()
        counted = erasures.counted(image, [k])[0, 0].numpy()
        times += counted
        for y in range(size[0]):
            for x in range(size[1]):
                is_hole = (y // side % 2, x // side % 2) == (k // 2, k % 2)
                assert counted[y, x] == is_hole
                assert (erased[:, y, x] == (0 if is_hole else image[0, :, y, x].numpy())).all()
    assert (times == 1).all()


def test_all_erasures_together():
    erasures = choose_erasures(ALL, 8, (32, 32), has_color=True)
    assert len(erasures) == 16
    which = [0, 6, 13]
    erased, counted = erasures.erase(IMAGES, which), erasures.counted(IMAGES, which)
    for image, one, mask, k in zip(IMAGES, erased, counted, which, strict=True):
        expected = image.mean(dim=0).expand(3, -1, -1) * ~mask
        assert torch.equal(torch.rot90(one, -(k // 4), (1, 2)), expected)
        assert mask.sum() == 32 * 32 / 4


@pytest.mark.parametrize(
    ("attributes", "size", "has_color", "turns", "n"),
    [
        (("gray", "rotation"), (32, 32), True, (0, 1, 2, 3), 4),
        # Gray images are restored perfectly where they are not turned.
        (("gray", "rotation"), (32, 32), False, (1, 2, 3), 3),
        (("rotation",), (32, 32), True, (1, 2, 3), 3),
        (("rotation",), (32, 48), True, (2,), 1),
        (("gray", "rotation"), (32, 48), True, (0, 2), 2),
        (("gray",), (32, 32), True, (0,), 1),
        (("holes",), (32, 32), False, (0,), 4),
        (("holes", "gray"), (32, 32), False, (0,), 4),
        (("holes", "rotation"), (32, 32), False, (0, 1, 2, 3), 16),
    ],
)
def test_what_erases_nothing_is_left_out(attributes, size, has_color, turns, n):
    erasures = choose_erasures(attributes, None, size, has_color)
    assert erasures.turns == turns and len(erasures) == n


# --- the network ------------------------------------------------------------------------------


def test_the_paper_s_network_has_13_4_million_weights():
    with torch.device("meta"):
        network = UNet(3, 64)
        narrow = UNet(3, 16)
    # By the table: channels of the two convolutions of each block, 3 x 3.
    blocks = [
        (3, 64), (64, 128), (128, 256), (256, 512), (512, 512),
        (1024, 256), (512, 128), (256, 64), (128, 64),
    ]  # fmt: skip
    expected = sum(9 * (a * b + b * b) + 4 * b for a, b in blocks) + 9 * 64 * 3
    n = sum(weights.numel() for weights in network.parameters())
    assert n == expected and round(n / 1e6, 1) == 13.4
    assert sum(w.numel() for w in narrow.parameters()) == pytest.approx(0.84e6, rel=5e-3)
    assert SCHEDULES["paper"].width == 64 and SCHEDULES["quick"].width == 16


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (32, 112)])
def test_the_network_sees_five_scales(size):
    network, shapes = build_unet(3, 2).eval(), []
    for block in [network.first, *network.down, *network.up]:
        block.register_forward_hook(lambda *parts: shapes.append(tuple(parts[2].shape[1:])))
    with torch.inference_mode():
        assert network(torch.rand(1, 3, *size)).shape == (1, 3, *size)
    factors, halvings = [1, 2, 4, 8, 8, 4, 2, 1, 1], [0, 1, 2, 3, 4, 3, 2, 1, 0]
    expected = [(2 * f, size[0] >> n, size[1] >> n) for f, n in zip(factors, halvings, strict=True)]
    assert shapes == expected


def test_skips_carry_what_is_at_full_size(network):
    """What the network returns depends on all scales: with a skip cut off it is another."""
    with torch.inference_mode():
        before = network(IMAGES)
        weight = network.up[3][0].weight
        kept = weight[:, :4].clone()  # of the maps at full size, which come first
        weight[:, :4] = 0
        after = network(IMAGES)
        weight[:, :4] = kept
    assert not torch.allclose(before, after, atol=1e-4)


# --- training and errors ----------------------------------------------------------------------


def test_an_epoch_minimizes_squares_where_they_count():
    """A training of one epoch, step by step."""
    pixels = list(IMAGES.permute(0, 2, 3, 1).numpy().copy())
    erasures = choose_erasures(["holes"], 8, (32, 32), has_color=True)
    network, other = build_unet(3, 4, seed=2), build_unet(3, 4, seed=2)
    schedule = with_given(SCHEDULES["quick"], n_epochs=1, batch_size=2)
    history = train_network(
        network, pixels, erasures, schedule, TrainingConfig(1, device="cpu", random_state=5)
    )
    optimizer = torch.optim.Adam(other.parameters(), 2e-3)
    other.train()
    rows = shuffled_batches(3, 2, 5, 0)[0]
    which = np.random.default_rng([5, 0, 1]).integers(4, size=2)
    x, y = torch.arange(32), torch.arange(32)[:, None]
    masks = torch.stack([(y // 8 % 2 == int(k) // 2) & (x // 8 % 2 == int(k) % 2) for k in which])[
        :, None
    ]  # (2, 1, 32, 32)
    images = IMAGES[rows]
    squares = (other(images * ~masks) - images) ** 2
    loss = (squares * masks).sum() / (3 * masks.sum())
    loss.backward()
    optimizer.step()
    assert history["loss"] == pytest.approx([loss.item()], rel=1e-4)
    for name, weights in other.named_parameters():
        found = network.get_parameter(name)
        torch.testing.assert_close(found, weights, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("preset", "n_epochs", "expected"),
    [("paper", 20, [0.1 / 2 ** (i // 2) for i in range(20)]), ("paper", 5, [0.1, 0.05, 0.025])],
)
def test_the_paper_s_rate_halves_at_every_tenth(preset, n_epochs, expected, monkeypatch):
    rates = []
    step = torch.optim.SGD.step

    def note(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        assert self.param_groups[0]["momentum"] == 0
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", note)
    schedule = with_given(SCHEDULES[preset], n_epochs=n_epochs, width=1)
    erasures, pixels = Erasures((1,), False, None), [np.zeros((32, 32, 3), np.float32)]
    config = TrainingConfig(n_epochs, device="cpu")
    train_network(build_unet(3, 1), pixels, erasures, schedule, config)
    assert rates[: len(expected)] == pytest.approx(expected)


@pytest.mark.parametrize("attributes", [("gray", "rotation"), ("holes",), ALL])
def test_errors_are_absolute_differences_from_the_upright_image(network, attributes):
    erasures = choose_erasures(attributes, 8, (32, 32), has_color=True)
    pixels = IMAGES.permute(0, 2, 3, 1).numpy().copy()
    errors, counted = restoration_errors(network, pixels[0], erasures)
    assert errors.shape == counted.shape == (len(erasures), 32, 32)
    means = []
    for k in range(len(erasures)):
        with torch.inference_mode():
            restored = network(erasures.erase(IMAGES, [k] * 3))
        absolute = (restored - IMAGES).abs().mean(dim=1).numpy()
        mask = erasures.counted(IMAGES, [k] * 3)[:, 0].numpy()
        np.testing.assert_allclose(errors[k], absolute[0] * mask[0], atol=1e-5)
        assert np.array_equal(counted[k], mask[0])
        means.append(absolute[mask].mean())
    np.testing.assert_allclose(mean_errors(network, pixels, erasures), means, rtol=1e-4)


def held_out_of(detector, images):
    """The images that a fit leaves out of its training, and the others."""
    order = np.random.default_rng(detector.random_state).permutation(len(images))
    n = max(1, round(0.1 * len(images)))
    return images[np.sort(order[:n])], images[np.sort(order[n:])]


@pytest.mark.parametrize("erase", [("holes",), ("gray", "rotation"), ALL])
def test_the_error_of_each_erasure_is_1_on_good_images_held_out(good, erase):
    detector = ARNet(**SMALL | {"n_epochs": 1}, erase=erase).fit(good)
    held_out, _ = held_out_of(detector, good)
    maps = detector._check_X(held_out, reset=False).store()
    pixels = maps.arrays()["pixels"]
    network = detector._trained()
    for image in pixels:
        errors, counted = restoration_errors(network, image, detector.erasures_)
        normalized = errors.sum(axis=(1, 2)) / counted.sum(axis=(1, 2)) / detector.errors_
        np.testing.assert_allclose(normalized, 1, rtol=1e-4)  # one image is held out
    assert len(detector.errors_) == len(detector.erasures_)
    scores = detector.set_params(image_score="paper").score_samples(held_out)
    np.testing.assert_allclose(scores, -1, rtol=1e-4)


def test_the_map_is_the_mean_of_normalized_errors(fitted, good):
    detector = pickle.loads(pickle.dumps(fitted))
    maps = detector._check_X(good[:2], reset=False).store()
    found = detector._score_maps(maps)
    assert found.shape == (2, 8, 8)
    for one, image in zip(found, maps.arrays()["pixels"], strict=True):
        errors, _ = restoration_errors(detector._trained(), image, detector.erasures_)
        pixels = sum(error / e for error, e in zip(errors, detector.errors_, strict=True))
        expected = [
            [pixels[y : y + 4, x : x + 4].mean() for x in range(0, 32, 4)] for y in range(0, 32, 4)
        ]
        np.testing.assert_allclose(one, expected, rtol=1e-4)
    paper = detector.set_params(image_score="paper").score_samples(good[:2])
    np.testing.assert_allclose(paper, -found.mean(axis=(1, 2)), rtol=1e-5)


def test_images_held_out_are_not_trained_on(fitted, good, monkeypatch):
    held_out, used = held_out_of(fitted, good)
    changed = good.copy()
    order = np.random.default_rng(0).permutation(len(good))
    changed[order[0]] = 255 - changed[order[0]]
    other = ARNet(**SMALL).fit(changed)
    for name, array in fitted.state_.items():
        np.testing.assert_array_equal(other.state_[name], array)
    assert len(held_out) == 1 and len(used) == 7
    assert not np.allclose(other.errors_, fitted.errors_)


def test_an_image_scores_alike_alone_and_in_a_batch(fitted, good):
    scores, maps = fitted.score_samples_and_map(good)
    for i in range(len(good)):
        alone, its_map = fitted.score_samples_and_map(good[i : i + 1])
        assert alone[0] == scores[i]
        np.testing.assert_array_equal(its_map[0], maps[i])


def test_a_spot_stands_out_in_the_map_of_a_trained_network():
    rng = np.random.default_rng(0)
    shades = rng.uniform(0.3, 0.7, (24, 1, 1, 1))
    good = (shades + rng.normal(0, 0.02, (24, 32, 32, 3))).clip(0, 1).astype(np.float32)
    detector = ARNet(image_size=32, width=4, n_epochs=40, batch_size=8, learning_rate=5e-3)
    detector.fit(good[:20])
    assert np.mean(detector.history_["loss"][-5:]) < 0.2 * detector.history_["loss"][0]
    bad = good[20:].copy()
    bad[:, 4:8, 4:8] = 1.0  # a cell that is blanked
    maps = detector.score_map(bad)
    there, far = maps[:, 4:8, 4:8], maps[:, 20:, 20:]
    assert (there.mean(axis=(1, 2)) > 1.5 * far.mean(axis=(1, 2))).all()
    assert detector.score_samples(bad).max() < detector.score_samples(good[20:]).min()


@pytest.mark.parametrize("parameters", [{"image_size": (32, 48)}, {"preset": "paper"}])
def test_other_sizes_and_the_paper_s_preset(good, parameters):
    detector = ARNet(**SMALL | {"n_epochs": 1} | parameters).fit(good)
    scores, maps = detector.score_samples_and_map(good)
    assert np.isfinite(scores).all() and maps.shape == (8, 40, 36)
    assert np.isfinite(maps).all()
    assert detector.erasures_.hole_size == (None if "preset" in parameters else 4)


def test_parameters_set_after_a_fit_change_no_network(fitted, good):
    expected = fitted.score_samples(good)
    changed = pickle.loads(pickle.dumps(fitted))
    changed.set_params(width=9, erase=["rotation"], image_size=64, hole_size=3)
    np.testing.assert_array_equal(changed.score_samples(good), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(changed)).score_samples(good), expected)


def test_channels_of_any_number(good):
    four = np.concatenate([good, good[..., :1]], axis=3)
    detector = ARNet(**SMALL | {"n_epochs": 1}).fit(four)
    assert detector.score_map(four).shape == (8, 40, 36)
    with pytest.raises(ValueError, match="4 channels"):
        detector.predict(good)
    gray = ARNet(**SMALL | {"n_epochs": 1}).fit(good[..., 0])
    as_rgb = np.repeat(good[..., :1], 3, axis=3)
    np.testing.assert_array_equal(gray.score_samples(as_rgb), gray.score_samples(good[..., 0]))


def test_images_of_one_gray_value_have_finite_scores():
    flat = np.full((4, 32, 32), 128, np.uint8)
    detector = ARNet(**SMALL).fit(flat)
    scores, maps = detector.score_samples_and_map(flat)
    assert np.isfinite(scores).all() and np.isfinite(maps).all()
    assert np.ptp(scores) == 0


def test_a_forecast_counts_the_network(fitted, good):
    n = sum(weights.numel() for weights in build_unet(3, 4).parameters())
    needs = estimate_memory(clone(fitted), good, n_images=50)
    assert needs["network"] == 4 * n
    assert needs["pixels"] == 4 * 32 * 32 * 3 * 50


# --- interruptions and bad input --------------------------------------------------------------


def test_interrupted_training_goes_on(fitted, good, tmp_path, monkeypatch):
    detector = ARNet(**SMALL, checkpoint=tmp_path / "part")
    backward, seen = torch.Tensor.backward, []

    def stop(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 6:  # in the last of three epochs with two batches each
            raise KeyboardInterrupt
        backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", stop)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(good)
    with pytest.raises(NotFittedError):
        detector.predict(good)
    detector.fit(good)
    assert len(seen) == 6 + 2
    assert detector.history_ == fitted.history_
    for name, array in fitted.state_.items():
        np.testing.assert_array_equal(detector.state_[name], array)
    np.testing.assert_array_equal(detector.score_samples(good), fitted.score_samples(good))


def test_a_checkpoint_of_another_training_is_left_alone(fitted, good, tmp_path):
    options = SMALL | {"checkpoint": tmp_path / "part"}
    ARNet(**options).fit(good)
    ARNet(**options, sigma=2, image_score="paper").fit(good)
    assert len(list(tmp_path.iterdir())) == 1  # these are no part of the training
    other = ARNet(**options, hole_size=8).fit(good)
    once = ARNet(**SMALL, hole_size=8).fit(good)
    np.testing.assert_array_equal(other.score_samples(good), once.score_samples(good))
    ARNet(**options).fit(good[1:])
    assert len(list(tmp_path.iterdir())) == 3
    again = ARNet(**options).fit(good)
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
        ({"image_size": 40}, "multiples of 16, from 32 on, got 40 x 40"),
        ({"image_size": 16}, "from 32 on, got 16 x 16"),
        ({"image_size": (32, 40)}, "got 32 x 40"),
        ({"erase": ()}, "some of"),
        ({"erase": ["color"]}, "some of"),
        ({"hole_size": 17}, "at most half the shorter side.*got 17 for images of 32 x 32"),
        ({"hole_size": 0}, "hole_size"),
        ({"n_epochs": 0}, "n_epochs"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"preset": "long"}, "preset"),
        ({"width": 0}, "width"),
    ],
)
def test_parameters_that_cannot_be(good, parameters, message):
    with pytest.raises(ValueError, match=message):
        ARNet(**SMALL | parameters).fit(good)


def test_gray_images_have_no_color_to_erase(good):
    for gray in (good[..., 0], np.repeat(good[..., :1], 3, axis=3)):
        with pytest.raises(ValueError, match=r'erases nothing.*gray.*add "holes" or "rotation"'):
            ARNet(**SMALL, erase=["gray"]).fit(gray)
    ARNet(**SMALL | {"n_epochs": 1}, erase=["gray"]).fit(good)


def test_what_cannot_be_learned_from(good):
    detector = ARNet(**SMALL)
    with pytest.raises(ValueError, match=r"at least 2 good images.*got 1"):
        detector.fit(good[:1])
    with pytest.raises(ValueError, match=r"at least 2 good images.*got 1"):
        detector.fit(good, [1, *[-1] * 7])
    with pytest.raises(ValueError, match="expects images, got features"):
        detector.fit(FeatureMaps({"layer": np.zeros((4, 8, 8, 3), np.float32)}))
    spoilt = good.astype(np.float32) / 255
    spoilt[3, 5, 5] = np.nan
    with pytest.raises(ValueError, match="image 3"):
        detector.fit(spoilt)
    with pytest.raises(NotFittedError):
        detector.predict(good)
