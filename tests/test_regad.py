"""RegAD: its transforms, its loss and its training by the definitions; the detector as used."""

import pickle
import subprocess
import sys
import textwrap
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone

from skanomaly import FilterBank, PaDiM, RegAD, RegistrationNetwork, score_map
from skanomaly.datasets import make_defects, make_textures
from skanomaly.detectors._backbone_stages import cut, normalize
from skanomaly.detectors._frozen_norms import with_norms_joined
from skanomaly.detectors._registration_model import Registration, SpatialTransformer
from skanomaly.detectors.regad._category_batches import draw_batches
from skanomaly.embedding import embed
from skanomaly.exceptions import TrainingError
from skanomaly.feature_extraction import backbones
from skanomaly.images import _files, _reading
from skanomaly.io import write_arrays
from skanomaly.training import IDENTITIES, augment, inverse, matrices, warp

pytestmark = pytest.mark.usefixtures("one_thread")


def network(**parameters):
    settings = {"weights": None, "image_size": 64, "n_epochs": 1, "batch_size": 3}
    return RegistrationNetwork("squeezenet1_1", **{**settings, **parameters})


def textures(n=9, seed=0, size=72):
    return list(make_textures(n, size=(size, size), random_state=seed))


GROUPS = ["a"] * 5 + ["b"] * 4


@pytest.fixture(scope="module")
def fitted():
    return network().fit(textures(), groups=GROUPS)


# --- batch norms that keep their statistics ----------------------------------------------------


class Chosen(torch.nn.Module):
    """A convolution that cannot be traced: what it does depends on the values."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)

    def forward(self, maps):
        maps = self.norm(self.convolution(maps))
        return -maps if maps.sum() > 0 else maps


def stages_with_norms():
    for backbone, stages in (
        ("resnet18", ("layer1", "layer2", "layer3")),
        ("efficientnet_lite0", ("features.2", "features.3", "features.5")),
    ):
        yield from cut(backbones.load_network(backbone, None, 0), stages)[:2]
    reflected = torch.nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    yield torch.nn.Sequential(reflected, torch.nn.BatchNorm2d(4))
    yield torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4, affine=False))
    batch_alone = torch.nn.BatchNorm2d(4, track_running_stats=False)
    yield torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), batch_alone)
    hooked = torch.nn.Conv2d(3, 4, 3)
    hooked.register_forward_pre_hook(lambda module, arguments: None)
    yield torch.nn.Sequential(hooked, torch.nn.BatchNorm2d(4))
    yield Chosen()


def test_joined_norms_train_as_they_do_alone():
    rng, n_joined = torch.Generator().manual_seed(0), []
    for stage in stages_with_norms():
        for part in stage.modules():
            if isinstance(part, torch.nn.BatchNorm2d) and part.track_running_stats:
                part.running_mean.normal_(generator=rng)
                part.running_var.uniform_(0.5, 2, generator=rng)
        stage.eval()
        parameters = list(stage.parameters())
        n_channels = next(one.shape[1] for one in parameters if one.ndim == 4)
        n_channels *= next(m.groups for m in stage.modules() if isinstance(m, torch.nn.Conv2d))
        images = torch.randn(2, n_channels, 32, 32, generator=rng)
        joined = with_norms_joined(stage)
        n_joined.append(sum(name.startswith("normed_") for name, _ in joined.named_children()))
        outputs, gradients = [], []
        for module in (stage, joined):
            output = module(images)
            outputs.append(output.detach())
            gradients.append(torch.autograd.grad(output.square().mean(), parameters))
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
        for alone, together in zip(*gradients, strict=True):
            torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)
    assert n_joined == [5, 5, 9, 6, 0, 0, 0, 0, 0]


def test_a_network_in_training_can_be_pickled_and_moved():
    parts = cut(backbones.load_network("resnet18", None, 0), ("layer1", "layer2", "layer3"))
    module = Registration(parts, [(64, 16, 16), (128, 8, 8), (256, 4, 4)], None).train()
    images = torch.rand(2, 3, 64, 64)
    expected = module(images)[-1][0].detach()
    again = pickle.loads(pickle.dumps(module))
    torch.testing.assert_close(again(images)[-1][0].detach(), expected)
    wide = module.to(torch.float64)(images.double())[-1][0]
    torch.testing.assert_close(wide.float(), expected, rtol=1e-3, atol=1e-4)


# --- transforms -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", IDENTITIES)
def test_every_mode_begins_with_the_identity(mode):
    theta = matrices(torch.tensor([IDENTITIES[mode]], dtype=torch.float32), mode)
    assert torch.equal(theta, torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]))


def slow_matrix(mode, p):
    p = list(p)
    if mode == "affine":
        return np.array(p).reshape(2, 3)
    angle, tx, ty, hx, hy, sx, sy = 0, 0, 0, 0, 0, 1, 1
    if "rotation" in mode:
        angle = p.pop(0)
    if "translation" in mode:
        tx, ty = p.pop(0), p.pop(0)
    if mode == "shear":
        hx, hy = p
    elif "scale" in mode:
        sx, sy = p
    return np.array(
        [
            [np.cos(angle) * sx, hx - np.sin(angle), tx],
            [hy + np.sin(angle), np.cos(angle) * sy, ty],
        ]
    )


@pytest.mark.parametrize("mode", IDENTITIES)
def test_matrices_and_their_inverses(mode):
    rng = np.random.default_rng(0)
    parameters = np.array(IDENTITIES[mode]) + 0.2 * rng.normal(size=(3, len(IDENTITIES[mode])))
    theta = matrices(torch.from_numpy(parameters), mode)
    expected = np.stack([slow_matrix(mode, p) for p in parameters])
    np.testing.assert_allclose(theta.numpy(), expected, atol=1e-12)
    back = inverse(theta).numpy()
    for there, again in zip(expected, back, strict=True):
        whole = [np.vstack([m, [0, 0, 1]]) for m in (there, again)]
        np.testing.assert_allclose(whole[0] @ whole[1], np.eye(3), atol=1e-10)


@pytest.mark.parametrize("mode", ["rotation_scale", "affine", "rotation_translation_scale"])
def test_a_warp_and_its_inverse_meet_inside(mode):
    rows, columns = np.mgrid[:64, :64] / 64
    image = torch.from_numpy(np.sin(6 * rows) + np.cos(5 * columns)).float()[None, None]
    change = torch.tensor([IDENTITIES[mode]], dtype=torch.float32)
    theta = matrices(change + 0.1 * torch.arange(1, change.shape[1] + 1) / 3, mode)
    back = warp(warp(image, theta), inverse(theta))
    inside = (..., slice(16, -16), slice(16, -16))  # the way there and back leaves no border
    scale = image.max() - image.min()
    assert ((back - image).abs()[inside] / scale).max() < 0.02
    assert ((warp(image, theta) - image).abs()[inside] / scale).max() > 0.02


def test_augmentations_are_what_they_are_called():
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    every = augment(image)
    assert every.shape == (22, 3, 32, 32)
    assert torch.equal(every[0], image)
    for kinds, n in (
        ((), 1), (("rotations",), 9), (("translations",), 9), (("flip",), 2), (("grey",), 2),
        (("quarter_turns",), 4),
    ):  # fmt: skip
        assert len(augment(image, kinds)) == n
    torch.testing.assert_close(augment(image, ["flip"])[1], image.flip(2))
    turned = augment(image, ["quarter_turns"])[1:]
    torch.testing.assert_close(turned[0], image.rot90(1, (1, 2)), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned[1], image.rot90(2, (1, 2)), atol=1e-4, rtol=0)
    grey = augment(image, ["grey"])[1]
    torch.testing.assert_close(grey, image.mean(0).expand(3, -1, -1))
    shifted = augment(image, ["translations"])[1]  # a tenth of half a side: 1.6 pixels
    torch.testing.assert_close(
        shifted[:, 5:-5, 5:-5],
        warp(image[None], torch.tensor([[[1.0, 0, -0.1], [0, 1, -0.1]]]))[0][:, 5:-5, 5:-5],
    )


def test_a_rotated_oblong_keeps_its_angles():
    image = torch.zeros(1, 40, 80)
    image[:, 10:30, 30:50] = 1  # a square of 20 x 20 in the middle
    turned = augment(image, ["quarter_turns"])[1]
    middle = slice(20, 60)  # beyond it the image is reflected
    torch.testing.assert_close(turned[..., middle], image[..., middle], atol=1e-4, rtol=0)


# --- the network ------------------------------------------------------------------------------


def test_identity_at_first_reproduces_the_plain_backbone():
    backbone = backbones.load_network("squeezenet1_1", None, 0)
    parts = cut(backbone, ("features.4", "features.7", "features.12"))
    shapes = [(128, 15, 15), (256, 7, 7), (512, 3, 3)]
    model = Registration(parts, shapes, "rotation_scale").eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        plain = backbone.features[:13](images)
        torch.testing.assert_close(model(images)[-1][0], plain, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.features(images)[-1], plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_0", "mobilenet_v2", "efficientnet_lite0"]
)
def test_known_families_are_cut_at_their_stages(name):
    model = RegistrationNetwork(name, weights=None, image_size=64, n_epochs=0, mode=None)
    model.fit(textures(4), groups=[0, 0, 1, 1])
    sides = [shape[0] for shape in model.layer_shapes_.values()]
    assert len(sides) == 3 and sides == sorted(sides, reverse=True)


def test_statistics_of_the_backbone_are_those_of_its_weights():
    model = RegistrationNetwork(
        "efficientnet_lite0", weights=None, image_size=64, n_epochs=1, batch_size=2
    )
    before, after = (
        clone(model).set_params(n_epochs=n).fit(textures(4), groups=[0, 0, 1, 1]).state_
        for n in (0, 1)
    )
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    statistics = {name for name in before if name.endswith("running_mean")}
    in_stages = {name for name in statistics if name.startswith("stages")}
    assert in_stages and not in_stages & moved
    assert statistics - in_stages <= moved  # of transformers, encoder and predictor
    assert any(name.startswith("stages") for name in moved)  # weights are learned


def test_registered_maps_are_moved_back():
    transformer = SpatialTransformer(4, (12, 12), "rotation")
    with torch.no_grad():
        transformer.localization[-1].bias.fill_(0.3)
    model = Registration([torch.nn.Identity()], [(4, 12, 12)], "rotation").eval()
    model.transformers[0] = transformer.eval()
    rows, columns = np.mgrid[:12, :12] / 12
    maps = torch.from_numpy(np.stack([rows, columns, rows + columns, rows * columns])).float()[None]
    with torch.inference_mode():
        there, theta = model(maps)[0]
        back = model.features(maps)[0]
    torch.testing.assert_close(theta[0, 0, 0], torch.tensor(np.cos(0.3), dtype=torch.float32))
    assert (there - maps).abs()[..., 3:-3, 3:-3].max() > 0.05
    assert (back - maps).abs()[..., 4:-4, 4:-4].max() < 0.01


def test_the_loss_is_the_definition():
    model = Registration([torch.nn.Identity()], [(5, 3, 2)], None).eval()
    one, other = torch.randn(2, 5, 3, 2), torch.randn(2, 5, 3, 2)
    with torch.inference_mode():
        loss = model.loss(one, other).item()
        z1, z2 = model.encoder(one), model.encoder(other)
        p1, p2 = model.predictor(z1), model.predictor(z2)
    total = 0.0
    for p, z in ((p1, z2), (p2, z1)):
        for b in range(2):
            for row in range(3):
                for column in range(2):
                    u, v = p[b, :, row, column].numpy(), z[b, :, row, column].numpy()
                    total -= u @ v / np.linalg.norm(u) / np.linalg.norm(v) / 12
    assert loss == pytest.approx(total / 2, rel=1e-5)


def test_gradients_stop_at_the_encodings_compared_with():
    model = Registration([torch.nn.Identity()], [(5, 3, 2)], None).eval()
    one, other = torch.randn(2, 5, 3, 2), torch.randn(2, 5, 3, 2)
    model.loss(one, other).backward()
    found = [p.grad.clone() for p in model.encoder.parameters()]
    model.zero_grad()
    # The same with encodings that are mere numbers.
    z1, z2 = model.encoder(one).detach(), model.encoder(other).detach()
    p1, p2 = model.predictor(model.encoder(one)), model.predictor(model.encoder(other))
    cosine = torch.nn.functional.cosine_similarity
    (-(cosine(p1, z2, dim=1).mean() + cosine(p2, z1, dim=1).mean()) / 2).backward()
    for there, expected in zip(found, model.encoder.parameters(), strict=True):
        torch.testing.assert_close(there, expected.grad)


# --- training ---------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_can_be_repeated():
    trained = network(learning_rate=0.01).set_params(n_epochs=6).fit(textures(), groups=GROUPS)
    losses = trained.history_["loss"]
    assert len(losses) == 6 and losses[-1] < losses[0] - 0.05
    again = clone(trained).fit(textures(), groups=GROUPS)
    assert again.history_["loss"] == losses
    other = clone(trained).set_params(random_state=1, n_epochs=1).fit(textures(), groups=GROUPS)
    assert other.history_["loss"][0] != losses[0]


def test_support_is_other_images_of_the_category():
    model = network(n_support=2)
    members = [np.arange(5), np.arange(5, 9)]
    seen = []
    for part, support in model._batches(members, 3):
        assert len({GROUPS[i] for i in part}) == 1
        assert support.shape == (len(part), min(2, len(part) - 1))
        for i, others in enumerate(support):
            assert i not in others and len(set(others)) == len(others)
        seen += part.tolist()
    assert sorted(seen) == list(range(9))


def test_a_category_left_out_decides_when_to_stop():
    groups = [*GROUPS, *["c"] * 4]
    model = network(validation_group="c", patience=1).set_params(n_epochs=30, learning_rate=1e-6)
    model.fit(textures(13), groups=groups)
    values = model.history_["validation"]
    assert len(values) == len(model.history_["loss"]) < 30
    assert min(values[:-1]) <= values[-1]


KILLED = """
import os, sys, torch
from skanomaly import RegistrationNetwork
from skanomaly.datasets import make_textures
import skanomaly.training._loop as loop
save, n_saved = loop._save, 0
def save_and_die(*args):
    global n_saved
    save(*args)
    n_saved += 1
    if n_saved == 2:
        os.kill(os.getpid(), 9)
loop._save = save_and_die
torch.set_num_threads(1)
good = list(make_textures(9, size=(72, 72), random_state=0))
RegistrationNetwork("squeezenet1_1", weights=None, image_size=64, batch_size=3, n_epochs=4,
                    learning_rate=0.01, checkpoint=sys.argv[1]).fit(
    good, groups=["a"] * 5 + ["b"] * 4)
"""


def test_a_killed_training_goes_on_from_its_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(path)])
    assert died.returncode == -9 and path.exists()
    settings = {"learning_rate": 0.01, "n_epochs": 4}
    model = network(checkpoint=path, **settings).fit(textures(), groups=GROUPS)
    straight = network(**settings).fit(textures(), groups=GROUPS)
    assert len(model.history_["loss"]) == 4
    assert model.history_["loss"] == straight.history_["loss"]
    for name, weights in straight.state_.items():
        np.testing.assert_array_equal(model.state_[name], weights)
    with pytest.raises(ValueError, match="checkpoint of another training"):
        network(checkpoint=path, **settings).fit(textures(seed=1), groups=GROUPS)
    path.write_bytes(b"no checkpoint")
    failed = network(checkpoint=path, **settings)
    with pytest.raises(ValueError, match="not a checkpoint"):
        failed.fit(textures(), groups=GROUPS)
    with pytest.raises(ValueError, match="fitted registration"):  # a fit that failed is none
        RegAD(failed).fit(textures(2))
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_refused_or_interrupted_training_loses_nothing(monkeypatch):
    model = network(n_epochs=1).fit(textures(), groups=GROUPS)
    before = model.transform(textures(2)).arrays()

    def interrupt(self, *args):
        raise KeyboardInterrupt

    with pytest.raises(ValueError, match="groups"):
        model.fit(textures(), groups=GROUPS[:-1])
    monkeypatch.setattr(Registration, "loss", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(textures(seed=1), groups=GROUPS)
    for name, maps in model.transform(textures(2)).arrays().items():
        assert np.array_equal(maps, before[name])


def test_a_loss_that_diverges_stops_with_the_last_good_state():
    model = network(learning_rate=1e30).set_params(n_epochs=5)
    with pytest.raises(TrainingError, match="lower the learning rate"):
        model.fit(textures(), groups=GROUPS)
    assert model.history_ == {"loss": []}
    before = network(n_epochs=0).fit(textures(), groups=GROUPS)  # the first epoch already fails
    for name, weights in before.state_.items():
        np.testing.assert_array_equal(model.state_[name], weights)


@pytest.mark.parametrize("n", [2, 3, 7, 11])
def test_no_image_is_left_without_support(n):
    rng = np.random.default_rng(0)
    for part, support in draw_batches([np.arange(n)], 2, 2, rng):
        assert len(part) >= 2 and support.shape[1] >= 1


# --- files and pickles ------------------------------------------------------------------------


def test_a_network_comes_back_from_a_file_and_a_pickle(fitted, tmp_path):
    X = textures(2, seed=5)
    expected = fitted.transform(X).arrays()
    fitted.save(tmp_path / "network")
    for again in (
        RegistrationNetwork.load(tmp_path / "network"),
        pickle.loads(pickle.dumps(fitted)),
    ):
        assert again._identity() == fitted._identity()
        for name, maps in again.transform(X).arrays().items():
            np.testing.assert_array_equal(maps, expected[name])
        assert again.history_ == fitted.history_
    size = len(pickle.dumps(fitted))
    assert size < sum(a.nbytes for a in fitted.state_.values()) + 100_000


def test_other_files_are_refused(fitted, tmp_path):
    (tmp_path / "text").write_text("no network")
    with pytest.raises(ValueError, match="not a file of RegistrationNetwork"):
        RegistrationNetwork.load(tmp_path / "text")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match="not a file of RegistrationNetwork"):
        RegistrationNetwork.load(tmp_path / "array.npy")
    fitted.save(tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:5_000])
    with pytest.raises(ValueError, match="not a file of RegistrationNetwork"):
        RegistrationNetwork.load(tmp_path / "cut")
    write_arrays(tmp_path / "other", fitted.state_, {"kind": "another"})
    with pytest.raises(ValueError, match="other: not a file of RegistrationNetwork"):
        RegistrationNetwork.load(tmp_path / "other")
    head = {"kind": "RegistrationNetwork", "history": {}, "parameters": {"weights": None}}
    write_arrays(tmp_path / "misfit", fitted.state_, head)  # those of another backbone
    with pytest.raises(ValueError, match="misfit: damaged, or of another version"):
        RegistrationNetwork.load(tmp_path / "misfit")
    fitted.save(tmp_path / "network")
    content = (tmp_path / "network").read_bytes()
    (tmp_path / "new").write_bytes(content.replace(b"skanomaly 1 ", b"skanomaly 9 ", 1))
    with pytest.raises(ValueError, match="format 9, this version reads 1"):
        RegAD(tmp_path / "new").fit(textures(2))


# --- the detector -----------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("kind", ["none", "network", "file"])
def test_a_few_images_are_enough(fitted, tmp_path, kind, k):
    registration = None if kind == "none" else fitted
    if kind == "file":
        registration = tmp_path / "network"
        fitted.save(registration)
    support = textures(k, seed=3)
    X, _, _ = make_defects(textures(5, seed=4), kinds=["blur"], size=2, random_state=0)
    detector = RegAD(registration, image_size=64, random_state=0).fit(support)
    assert detector.gaussian_.n_samples_seen_ == 22 * k
    maps = score_map(detector, [*X, np.zeros((90, 50, 3), np.uint8)])
    assert [one.shape for one in maps] == [(72, 72)] * 5 + [(90, 50)]
    good = -detector.score_samples(textures(5, seed=9))
    if kind == "none":  # a backbone of random weights sees little
        assert (-detector.score_samples(X)).mean() > good.mean()
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(again.score_samples(X), detector.score_samples(X))
    together, alone = detector.score_samples(X), [detector.score_samples([x])[0] for x in X]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_it_is_the_gaussian_of_all_augmented_images():
    support = textures(3, seed=3, size=64)
    detector = RegAD(image_size=64, shrinkage=None, random_state=0, sigma=0).fit(support)
    bank = FilterBank(image_size=64, random_state=0).fit(support)
    every = []
    for image in support:
        scaled = torch.from_numpy(np.float32(image).transpose(2, 0, 1) / 255)
        every += list(augment(scaled).permute(0, 2, 3, 1).numpy())
    every = [np.clip(image, 0, 1) for image in every]
    padim = PaDiM(n_components=None, patch_size=3, sigma=0).fit(bank.transform(every))
    X = textures(2, seed=5, size=64)
    np.testing.assert_allclose(detector.score_map(X), padim.score_map(bank.transform(X)), rtol=2e-3)


def test_a_clone_keeps_its_registration(fitted):
    detector = RegAD(fitted, sigma=2.0)
    again = clone(detector)
    assert again.registration is fitted and again.sigma == 2.0
    assert again.get_params().keys() == detector.get_params().keys()


def test_few_vectors_take_a_fraction_of_the_memory(fitted):
    k = 2
    detector = RegAD(fitted).fit(textures(k))
    h, w, _ = next(iter(fitted.layer_shapes_.values()))
    d = sum(shape[2] for shape in fitted.layer_shapes_.values())
    assert detector.gaussian_.form_ == "low_rank"
    assert len(pickle.dumps(detector.gaussian_)) < 0.15 * 4 * h * w * d * d


def test_features_are_refused(fitted):
    X = np.random.default_rng(0).random((20, 5), dtype=np.float32)
    for registration in (None, fitted):
        for features in (X, fitted.transform(textures(2))):
            with pytest.raises(ValueError, match="RegAD expects images, got features"):
                RegAD(registration).fit(features)
    detector = RegAD(image_size=64).fit(textures(2))
    with pytest.raises(ValueError, match="RegAD expects images, got features"):
        detector.score_samples(X)


@pytest.mark.parametrize("kind", ["none", "network"])
def test_the_dtype_of_images_does_not_matter(fitted, kind):
    registration = fitted if kind == "network" else None
    # Of the input's size: where an image is resized, bytes are rounded to bytes.
    good, X = (np.stack(textures(4, seed=seed, size=64)) for seed in (3, 4))
    detector = RegAD(registration, image_size=64, random_state=0)
    of_bytes, of_floats = (
        clone(detector).fit(images) for images in (good, good.astype(np.float32) / 255)
    )
    assert of_bytes.gaussian_.n_samples_seen_ == of_floats.gaussian_.n_samples_seen_ == 22 * 4
    for images in (X, X.astype(np.float32) / 255):
        maps = of_floats.score_map(images)
        np.testing.assert_allclose(of_bytes.score_map(images), maps, rtol=1e-5)
    np.testing.assert_allclose(of_bytes.offset_, of_floats.offset_, rtol=1e-5)


def test_the_papers_score_is_the_maximum_of_the_raw_map():
    good, X = textures(2, size=64), textures(3, seed=4, size=64)
    paper = RegAD(image_size=64, image_score="paper", random_state=0).fit(good)
    smoothed = RegAD(image_size=64, random_state=0).fit(good)
    # Of images as large as the input: then the map is not resized on its way back.
    np.testing.assert_allclose(
        -smoothed.score_samples(X), smoothed.score_map(X).max(axis=(1, 2)), rtol=1e-5
    )
    bank = FilterBank(image_size=64, random_state=0).fit(good)
    vectors = embed(bank.transform(X).arrays(), patch_size=3, interpolation="nearest")
    raw = paper.gaussian_.mahalanobis(vectors)
    np.testing.assert_allclose(-paper.score_samples(X), raw.max(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(paper.score_map(X), smoothed.score_map(X))


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
def test_images_are_brought_to_the_input_as_asked(resize):
    good = [image[:, :50] for image in textures(3)]
    detector = RegAD(image_size=(64, 80), resize=resize, random_state=0).fit(good)
    expected = FilterBank(image_size=(64, 80), resize=resize, random_state=0).fit(good)
    assert detector.image_fit_ == expected.image_fit
    np.testing.assert_array_equal(detector.extractor_.mean_, expected.mean_)


def test_a_network_brings_its_own_input(fitted):
    detector = RegAD(fitted, image_size=128, resize="pad").fit(textures(2, size=64))
    assert detector.image_fit_ == fitted.image_fit and detector.extractor_ is fitted
    gray = RegAD(fitted).fit([image[..., 0] for image in textures(2)])
    assert gray.n_channels_in_ == 3


def test_the_forecast_is_near_what_a_fit_holds(fitted):
    for registration, k in ((None, 2), (None, 4), (fitted, 2)):
        detector = RegAD(registration, image_size=128, contamination=None)
        good = textures(k, size=128)
        shape = (*good[0].shape[:2], 3)
        forecast = sum(detector._forecast({"pixels": shape}, k).values())
        detector.fit(good)
        tracemalloc.start()
        detector.fit(good)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert 0.7 * peak < forecast < 1.6 * peak


# --- reading ----------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch, tmp_path):
    """Paths of nine images, and a counter of the times that each is read."""
    paths = []
    for i, image in enumerate(textures()):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    counts, read_file = Counter(), _files._read_path

    def counted(path):
        counts[Path(path)] += 1
        return read_file(path)

    monkeypatch.setattr(_files, "_read_path", counted)
    monkeypatch.setattr(_reading, "image_content", None)  # nothing reads a file's bytes either
    return paths, counts


@pytest.mark.parametrize("kind", ["none", "network", "file"])
def test_a_fit_reads_each_image_once(fitted, reads, tmp_path, kind):
    paths, counts = reads
    registration = fitted if kind == "network" else None
    if kind == "file":
        registration = tmp_path / "network"
        fitted.save(registration)
    detector = RegAD(registration, image_size=64).fit(paths[:4], [1, 1, -1, 1])
    assert counts == dict.fromkeys((*paths[:2], paths[3]), 1)
    detector.score_samples_and_map(paths[4:6])
    assert counts[paths[4]] == counts[paths[5]] == 1


def test_a_training_reads_each_image_once(reads, tmp_path):
    paths, counts = reads
    groups = [*["a"] * 3, *["b"] * 3, *["c"] * 3]
    model = network(checkpoint=tmp_path / "checkpoint", validation_group="c", n_epochs=3)
    model.fit(paths, groups=groups)
    assert counts == dict.fromkeys(paths, 1)


@pytest.mark.parametrize(
    ("groups", "named"),
    [
        (None, r"got None; in a Pipeline use .* FrozenEstimator"),
        (["a"] * 9, "at least 2 categories"),
        ([1] * 5 + [-1] * 4, r"got the labels \+1 and -1"),
        (["a"] * 4 + ["b"] * 4, "groups for 9 images, got 8"),
        (["a"] * 5 + ["b"] * 3 + ["c"], "got 1 of 'c'"),
    ],
)
def test_groups_that_teach_nothing_are_refused(groups, named):
    with pytest.raises(ValueError, match=named):
        network().fit(textures(), groups=groups)


def test_other_bad_input_is_refused(fitted, tmp_path):
    good = textures(3)
    with pytest.raises(ValueError, match="fitted registration"):
        RegAD(network()).fit(good)
    with pytest.raises(ValueError, match="augmentations among"):
        RegAD(augmentations=["upside_down"]).fit(good)
    with pytest.raises(ValueError, match="no augmentations, got 1"):
        RegAD(augmentations=[], image_size=64).fit(good[:1])
    with pytest.raises(ValueError, match="3 channels, got 2"):
        RegAD(fitted).fit([np.zeros((64, 64, 2), np.uint8)] * 2)
    with pytest.raises(FileNotFoundError):
        RegAD(fitted).fit([Path("gone.png")])
    with pytest.raises(FileNotFoundError):
        RegAD(tmp_path / "gone").fit(good)
    with pytest.raises(ValueError, match="marks every image"):
        RegAD(fitted).fit(good, [-1, -1, -1])
    with pytest.raises(ValueError, match="no stages are known"):
        RegistrationNetwork("vgg11", weights=None).fit(textures(), groups=GROUPS)
    with pytest.raises(ValueError, match="names of 3 stages"):
        network(stages=["features.7"]).fit(textures(), groups=GROUPS)
    with pytest.raises(ValueError, match="expected device as"):
        network(device="toaster").fit([Path("never read.png")], groups=["a"])
    with pytest.raises(ValueError, match="in their order"):
        network(stages=["features.7", "features.4", "features.12"]).fit(textures(), groups=GROUPS)
    with pytest.raises(ValueError, match="validation_group='z'"):
        network(validation_group="z").fit(textures(), groups=GROUPS)


def test_labels_leave_defects_out(fitted):
    good, bad = textures(3), textures(1, seed=7)
    marked = RegAD(fitted).fit([*good, *bad], [1, 1, 1, -1])
    plain = RegAD(fitted).fit(good)
    np.testing.assert_array_equal(marked.score_samples(good), plain.score_samples(good))


def test_a_training_leaves_defects_out_with_their_groups(fitted):
    good, bad = textures(), textures(2, seed=7)
    images = [bad[0], *good[:6], bad[1], *good[6:]]
    groups = ["b", *GROUPS[:6], "only here", *GROUPS[6:]]
    labels = np.ones(11, dtype=int)
    labels[[0, 7]] = -1
    masks = [None if label == 1 else np.eye(3, dtype=bool) for label in labels]
    for y in (labels, masks):
        marked = network().fit(images, y, groups=groups)
        assert marked.history_ == fitted.history_
        for name, weights in fitted.state_.items():
            np.testing.assert_array_equal(marked.state_[name], weights)
    with pytest.raises(ValueError, match="expected one entry of y per image"):
        network().fit(images, labels[:-1], groups=groups)
    with pytest.raises(ValueError, match="at least 2 good images of each category"):
        network().fit(images, groups=groups)
    with pytest.raises(ValueError, match=r"y holds \[0, 1\]"):
        network().fit(images, (labels + 1) // 2, groups=groups)
    images[8] = Path("gone.png")
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        network().fit(images, labels, groups=groups)
    images[8] = np.zeros((4, 4), np.uint8)  # named by its place among all images
    with pytest.raises(ValueError, match="image 8: "):
        network().fit(images, labels, groups=groups)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("squeezenet1_1", backbones.IMAGENET_MEAN, backbones.IMAGENET_STD),
        ("efficientnet_lite0", 3 * [127 / 255], 3 * [128 / 255]),
    ],
)
def test_images_are_normalized_as_the_backbone_expects(name, mean, std):
    gray = torch.tensor(mean)[None, :, None, None].expand(1, 3, 4, 4)
    assert normalize(gray, name).abs().max() < 1e-6
    above = gray + torch.tensor(std)[:, None, None]
    torch.testing.assert_close(normalize(above, name), torch.ones(1, 3, 4, 4))


# --- devices ----------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")
def test_a_gpu_gives_the_same_up_to_rounding(tmp_path):
    X = textures(2, seed=5)
    on_gpu, on_cpu = (
        network(device=device, mode="affine", validation_group="b").fit(
            textures(12), groups=np.repeat(["a", "b", "c"], 4)
        )
        for device in ("cuda", "cpu")
    )
    assert on_gpu._network.device.type == "cuda"
    for kind, losses in on_cpu.history_.items():
        np.testing.assert_allclose(on_gpu.history_[kind], losses, rtol=1e-3)
    on_gpu.save(tmp_path / "network")
    again = RegistrationNetwork.load(tmp_path / "network").set_params(device="cpu")
    for name, maps in again.transform(X).arrays().items():
        expected = on_gpu.transform(X).arrays()[name]
        np.testing.assert_allclose(maps, expected, atol=1e-3 * np.abs(expected).max())
    scores = RegAD(on_gpu).fit(X).score_samples(textures(2, seed=6))
    assert np.isfinite(scores).all()
