"""FYD: its losses, transforms and training by the definitions; the detector as used."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skanomaly import FYD, FeatureExtractor, FeatureMaps, PaDiM, estimate_memory
from skanomaly.datasets import make_defects, make_textures
from skanomaly.detectors.fyd._fyd_network import ImageTransformer, build_network, shrink
from skanomaly.detectors.fyd._fyd_training import (
    SCHEDULES,
    Descent,
    FocusTraining,
    deviations,
    image_distance,
    similarity,
    split,
)
from skanomaly.exceptions import TrainingError
from skanomaly.feature_extraction import backbones
from skanomaly.training import inverse, matrices, warp, with_given

BACKBONE = "squeezenet1_1"
STAGES = ("features.4", "features.7", "features.12")
MODES = ("rotation_translation", "rotation_scale")
SMALL = {"backbone": BACKBONE, "weights": None, "image_size": 64, "n_epochs": 2, "batch_size": 3}


@pytest.fixture(scope="module")
def good():
    return make_textures(6, size=(72, 60), random_state=0)


@pytest.fixture(scope="module")
def fitted(good):
    return FYD(**SMALL).fit(good)


def parts(n, seed):
    """Noisy images (n, 64, 64, 3) of one part, turned and moved a little."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 64)] * 2, indexing="ij")
    bar = 0.1 + 0.7 * ((x.abs() < 0.5) & (y.abs() < 0.25))
    hole = 0.2 + 0.5 * ((x - 0.3) ** 2 + y**2 < 0.04)
    part = torch.stack([bar, hole, torch.exp(-8 * ((x + 0.4) ** 2 + y**2))])
    parameters = 0.12 * (2 * torch.rand(n, 3, generator=generator) - 1)
    images = warp(part.expand(n, -1, -1, -1), matrices(parameters, "rotation_translation"))
    images = images + 0.02 * torch.randn(n, 3, 64, 64, generator=generator)
    return images.clamp(0, 1).permute(0, 2, 3, 1).numpy()


# --- the losses -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_image_distance_is_the_mean_over_pairs_and_places(n):
    images = torch.rand(n, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    distances = [
        np.linalg.norm(images[a, :, row, column] - images[b, :, row, column])
        for a in range(n)
        for b in range(n)
        for row in range(4)
        for column in range(5)
        if a != b
    ]
    assert image_distance(images).item() == pytest.approx(np.mean(distances), rel=1e-5)


def test_equal_images_have_no_distance_and_no_gradient():
    images = torch.rand(1, 3, 4, 5).repeat(3, 1, 1, 1).requires_grad_()
    distance = image_distance(images)
    distance.backward()
    assert distance.item() == 0 and torch.equal(images.grad, torch.zeros_like(images))


def test_the_similarity_is_the_mean_cosine_over_pairs_and_places():
    generator = torch.Generator().manual_seed(0)
    p, z = torch.randn(2, 4, 6, 2, 3, generator=generator)  # of 4 images, 6 channels
    cosines = [
        p[a, :, row, column] @ z[b, :, row, column]
        / (p[a, :, row, column].norm() * z[b, :, row, column].norm())
        for a in range(4) for b in range(4) for row in range(2) for column in range(3) if a != b
    ]  # fmt: skip
    assert similarity(p, z).item() == pytest.approx(np.mean(cosines), abs=1e-6)
    assert similarity(z[:1].expand(3, -1, -1, -1), z[:1].expand(3, -1, -1, -1)) == pytest.approx(1)


def test_no_gradient_flows_through_the_encodings():
    p = torch.randn(3, 6, 2, 2, requires_grad=True)
    z = torch.randn(3, 6, 2, 2, requires_grad=True)
    similarity(p, z).backward()
    assert z.grad is None and p.grad.abs().max() > 0


def test_deviations_are_norms():
    theta = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[1.0, 0, 0.3], [0, 1, -0.4]]])
    torch.testing.assert_close(deviations(theta), torch.tensor([0.0, 0.5]))


def network_of(modes):
    """A network whose transformers are no longer the identity."""
    network, _ = build_network(BACKBONE, STAGES, None, (64, 64), modes, 0)
    for one in (*network.registration.transformers, network.image_transformer):
        if one is not None:
            with torch.no_grad():
                # What is found for images is divided by 32.
                one.localization[-1].bias.add_(3.2 if one is network.image_transformer else 0.1)
    return network


def training_of(network, n_epochs=2):
    """Its FocusTraining, with weights of 2 and 0.5."""
    descent = Descent(with_given(SCHEDULES["quick"], n_epochs=n_epochs), 0.9, 2.0, 0.5)
    return FocusTraining(network, descent, STAGES).eval()


def test_the_loss_is_the_sum_of_its_parts():
    network, images = network_of(MODES), torch.from_numpy(parts(3, 0)).permute(0, 3, 1, 2)
    training = training_of(network)
    with torch.inference_mode():
        alone, both = training.loss(images, 0, 1).item(), training.loss(images, 1, 1).item()
        theta = network.image_transformer(images)
        registered = network.registration(
            (warp(images, theta) - torch.tensor(backbones.IMAGENET_MEAN)[:, None, None])
            / torch.tensor(backbones.IMAGENET_STD)[:, None, None]
        )
        z = network.registration.encoder(registered[-1][0])
        agreement = similarity(network.registration.predictor(z), z).item()
        distance = image_distance(warp(shrink(images), theta)).item()
    thetas = [theta, *(one for _, one in registered)]
    costs = [0.5 * ((one - torch.eye(2, 3)) ** 2).sum((1, 2)).mean().item() for one in thetas]
    assert min(costs) > 0
    assert alone == pytest.approx(2 * distance + costs[0], rel=1e-4)
    assert both == pytest.approx(2 * distance - agreement + sum(costs), rel=1e-4)
    history = training.history(2, has_held_out=False)
    assert history["image-distance"] == pytest.approx([distance, distance], rel=1e-4)
    assert history["similarity"] == pytest.approx([agreement], rel=1e-3)
    for name, one in zip(("image", *STAGES), thetas, strict=True):
        expected = deviations(one).mean().item()
        assert history[f"{name}-deviation"][-1] == pytest.approx(expected, rel=1e-4)


def test_images_alone_come_first():
    training, images = training_of(network_of(MODES)), torch.rand(3, 3, 64, 64)
    training.loss(images, 0, 1).backward()
    moved = {name for name, one in training.network.named_parameters() if one.grad is not None}
    assert moved and all(name.startswith("image_transformer") for name in moved)
    training.loss(images, 1, 1).backward()
    assert all(one.grad is not None for one in training.network.parameters())


def test_a_tenth_of_the_epochs_is_for_images():
    network = network_of((*MODES[:1], None))
    for n_epochs, n_alone in ((0, 0), (1, 0), (2, 1), (10, 1), (11, 2), (50, 5)):
        assert training_of(network, n_epochs).n_alone == n_alone
    network.image_transformer = None
    assert training_of(network, 50).n_alone == 0


@pytest.mark.parametrize("n, n_held_out", [(2, 0), (19, 0), (20, 2), (35, 3), (900, 8)])
def test_a_tenth_of_the_images_is_held_out(n, n_held_out):
    used, held_out = split(n, 8, 0)
    assert len(held_out) == n_held_out
    assert sorted([*used, *held_out]) == list(range(n))


# --- the transforms ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["rotation", "translation", "rotation_translation"])
def test_images_begin_where_they_are(mode):
    theta = ImageTransformer(mode).eval()(torch.rand(2, 3, 40, 70))
    assert torch.equal(theta, torch.eye(2, 3).expand(2, 2, 3))


def test_an_oblong_image_is_rotated_without_a_shear():
    transformer = ImageTransformer("rotation").eval()
    with torch.no_grad():
        transformer.localization[-1].bias.fill_(32 * np.pi / 2)  # a quarter turn
    image = torch.zeros(1, 3, 40, 80)
    image[..., 10:30, 30:50] = 1  # a square of 20 x 20 in the middle
    turned = warp(image, transformer(image))
    torch.testing.assert_close(turned[..., 20:60], image[..., 20:60], atol=1e-4, rtol=0)


def test_maps_come_back_to_where_they_were():
    network = network_of(("rotation_translation", None)).eval()
    rows, columns = np.mgrid[:64, :64] / 64
    images = torch.from_numpy(np.stack([rows, columns, rows * columns])).float()[None]
    # A stage that returns what it gets.
    network.registration.stages = torch.nn.ModuleList([torch.nn.Identity()])
    network.backbone = "efficientnet_lite0"  # one mean and one deviation for all colors
    with torch.inference_mode():
        theta = network.find(images)
        there, _ = network(images, theta)[0]
        (back,) = network.features(images)
        expected = warp(there, inverse(theta))
    torch.testing.assert_close(back, expected)
    plain = (images - 0.498) / 0.502
    inside = (..., slice(12, -12), slice(12, -12))
    assert (there - plain).abs()[inside].max() > 0.05
    assert (back - plain).abs()[inside].max() < 0.01


# --- the detector -----------------------------------------------------------------------------


def test_without_a_training_it_is_padim_on_the_same_stages(good):
    detector = FYD(**SMALL | {"n_epochs": 0}).fit(good)
    module = backbones.load_network(BACKBONE, None, 0)
    features = FeatureExtractor(module, layers=list(STAGES), image_size=64, random_state=0)
    maps = features.fit_transform(good)
    padim = PaDiM(random_state=0).fit(maps)
    np.testing.assert_array_equal(detector.channels_, padim.channels_)
    bad, _, _ = make_defects(good, random_state=0)
    maps = features.transform(bad)
    np.testing.assert_allclose(detector.score_samples(bad), padim.score_samples(maps), rtol=1e-5)
    np.testing.assert_allclose(detector.score_map(bad), padim.score_map(maps), rtol=1e-4)


def test_training_aligns_good_images():
    images = parts(24, 0)
    detector = FYD(
        BACKBONE, weights=None, image_size=64, n_epochs=12, batch_size=11,
        image_learning_rate=0.1,
    ).fit(images)  # fmt: skip
    history = detector.history_
    assert len(history["image-distance"]) == len(history["image-deviation"]) == 12
    assert len(history["similarity"]) == 10  # two epochs were of images alone
    assert len(history["similarity-held_out"]) == 11  # one before
    assert history["image-distance"][-1] < 0.9 * history["image-distance"][0]
    assert history["similarity"][-1] > history["similarity"][0] + 0.2
    assert history["similarity-held_out"][-1] > history["similarity-held_out"][0] + 0.05
    last = [history[name][-1] for name in history if name.endswith("-deviation")]
    assert len(last) == 4 and all(0 < one < 0.2 for one in last)
    # What a new image is moved by differs from image to image, and lessens their distance.
    new = torch.from_numpy(parts(8, 1)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        theta = detector._trained().find(new)
        assert image_distance(warp(new, theta)) < image_distance(new)
    assert theta.std(dim=0).max() > 0.005
    # Held-out images were measured last, and yet it scores in evaluation mode.
    loaded = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(loaded.score_samples(images), detector.score_samples(images))


@pytest.mark.parametrize("image_mode, mode", [(None, "rotation_scale"), ("rotation", None)])
def test_a_stage_may_be_left_out(good, image_mode, mode):
    detector = FYD(**SMALL, image_mode=image_mode, mode=mode).fit(good)
    history = detector.history_
    assert ("image-distance" in history) == ("image-deviation" in history) == bool(image_mode)
    assert ("features.4-deviation" in history) == (mode is not None)
    assert len(history["similarity"]) == (1 if image_mode else 2)
    names = {name.partition(".")[0] for name in detector.state_}
    assert ("image_transformer" in names) == (image_mode is not None)
    changed = pickle.loads(pickle.dumps(detector)).set_params(image_mode="rotation", mode="affine")
    np.testing.assert_array_equal(changed.score_samples(good), detector.score_samples(good))


def test_a_score_does_not_depend_on_the_batch(fitted, good):
    together, maps = fitted.score_samples_and_map(good)
    alone = [fitted.score_samples_and_map(good[i : i + 1]) for i in range(len(good))]
    np.testing.assert_allclose(np.concatenate([one for one, _ in alone]), together, rtol=1e-6)
    assert maps.shape == (6, 72, 60) and np.isfinite(maps).all()
    for (_, one), expected in zip(alone, maps, strict=True):
        np.testing.assert_allclose(one[0], expected, rtol=1e-6)


def test_a_fit_repeats_itself_and_its_pickle_has_no_images(fitted, good):
    again = clone(fitted).fit(good[::-1].copy()).fit(good)
    assert again.history_ == fitted.history_
    for name, array in fitted.state_.items():
        np.testing.assert_array_equal(again.state_[name], array)
    content, pixels = pickle.dumps(fitted), fitted._check_X(good, reset=False).arrays()["pixels"]
    assert not any(one[30].tobytes() in content for one in (good[0], pixels[0]))
    loaded = pickle.loads(content)
    assert loaded._network is None
    np.testing.assert_array_equal(loaded.score_samples(good), fitted.score_samples(good))


def test_oblong_inputs_and_gray_images(good):
    detector = FYD(**SMALL | {"image_size": (64, 96), "n_epochs": 1}).fit(good[..., 0])
    assert detector.score_map(good[..., 0]).shape == (6, 72, 60)
    as_rgb = np.repeat(good[..., :1], 3, axis=3)
    np.testing.assert_array_equal(
        detector.score_samples(as_rgb), detector.score_samples(good[..., 0])
    )


def test_presets_are_as_they_are_documented():
    quick, paper = SCHEDULES["quick"], with_given(SCHEDULES["paper"], n_epochs=None, batch_size=8)
    assert (quick.backbone, quick.n_epochs, quick.batch_size) == ("efficientnet_lite0", 20, 32)
    assert (paper.backbone, paper.n_epochs, paper.batch_size) == ("resnet18", 50, 8)


def test_a_forecast_counts_the_network(fitted, good):
    n = sum(one.numel() for one in fitted._trained().parameters())
    needs = estimate_memory(clone(fitted), good, n_images=50)
    assert needs["network"] == 4 * n
    assert needs["pixels"] == 4 * 64 * 64 * 3 * 50
    assert needs["factors"] == 4 * 15 * 15 * 100**2


# --- interruptions and bad input --------------------------------------------------------------


def test_interrupted_training_goes_on(fitted, good, tmp_path, monkeypatch):
    detector = FYD(**SMALL, checkpoint=tmp_path / "part")
    backward, seen = torch.Tensor.backward, []

    def stop(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 4:  # the last of two epochs with two batches
            raise KeyboardInterrupt
        backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", stop)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(good)
    with pytest.raises(NotFittedError):
        detector.predict(good)
    detector.fit(good)
    assert len(seen) == 4 + 2
    assert detector.history_ == fitted.history_
    for name, array in fitted.state_.items():
        np.testing.assert_array_equal(detector.state_[name], array)
    # These are no part of the training, whose checkpoint serves them; other weights are.
    other = clone(detector).set_params(sigma=2, n_components=20, epsilon=0.1).fit(good)
    assert other.history_ == fitted.history_
    assert len(list(tmp_path.iterdir())) == 1 and len(seen) == 6
    clone(detector).set_params(identity_weight=1).fit(good)
    assert len(list(tmp_path.iterdir())) == 2 and len(seen) == 10


def test_a_training_that_diverges_leaves_the_detector_as_it_was(fitted, good):
    detector = pickle.loads(pickle.dumps(fitted))
    expected = detector.score_samples(good)
    detector.set_params(learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"lower the learning rates, and look at the images\."):
        detector.fit(good)
    np.testing.assert_array_equal(detector.score_samples(good), expected)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"backbone": "densenet121"}, "no stages are known"),
        ({"stages": ["features.4"]}, "3 stages"),
        ({"stages": ["features.7", "features.4", "features.12"]}, "in their order"),
        ({"image_mode": "affine"}, "image_mode"),
        ({"mode": "zoom"}, "mode"),
        ({"image_weight": -1}, "image_weight"),
        ({"identity_weight": -1}, "identity_weight"),
        ({"batch_size": 1}, "batch_size"),
        ({"n_epochs": -1}, "n_epochs"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"preset": "long"}, "preset"),
        ({"momentum": 1}, "momentum"),
        ({"n_components": 0}, "n_components"),
    ],
)
def test_parameters_that_cannot_be(good, parameters, message):
    with pytest.raises(ValueError, match=message):
        FYD(**SMALL | parameters).fit(good)


def test_what_cannot_be_learned_from(fitted, good):
    detector = FYD(**SMALL)
    with pytest.raises(ValueError, match=r"at least 2 good images.*got 1"):
        detector.fit(good[:1])
    with pytest.raises(ValueError, match="expected 3 channels, got 4"):
        detector.fit(np.concatenate([good, good[..., :1]], axis=3))
    with pytest.raises(ValueError, match="FYD expects images, got features"):
        detector.fit(FeatureMaps({"a": np.zeros((3, 2, 2, 4), np.float32)}))
    few = FYD(**SMALL | {"batch_size": 32, "n_epochs": 1}).fit(good[:2])  # fewer than a batch
    assert np.isfinite(few.score_samples(good)).all()
