"""RegAD: its transforms, its loss and its training by the definitions; the detector as used."""

import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skanomaly import FilterBank, PaDiM, RegAD, RegistrationNetwork, score_map
from skanomaly.datasets import make_defects, make_textures
from skanomaly.detectors._categories import draw_batches
from skanomaly.detectors._networks import Registration, SpatialTransformer, TrainingError
from skanomaly.detectors._stages import cut, normalise
from skanomaly.detectors._transforms import IDENTITIES, inverse, matrices, variants, warp
from skanomaly.feature_extraction import _backbones as backbones


def network(**parameters):
    settings = {"weights": None, "image_size": 64, "n_epochs": 1, "batch_size": 3}
    return RegistrationNetwork("squeezenet1_1", **{**settings, **parameters})


def pictures(n=9, seed=0, size=72):
    return list(make_textures(n, size=(size, size), random_state=seed))


GROUPS = ["a"] * 5 + ["b"] * 4


@pytest.fixture(scope="module")
def fitted():
    return network().fit(pictures(), GROUPS)


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


def test_variants_are_what_they_are_called():
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    every = variants(image)
    assert every.shape == (22, 3, 32, 32)
    assert torch.equal(every[0], image)
    for kinds, n in (
        ((), 1), (("rotations",), 9), (("translations",), 9), (("flip",), 2), (("grey",), 2),
        (("quarter_turns",), 4),
    ):  # fmt: skip
        assert len(variants(image, kinds)) == n
    torch.testing.assert_close(variants(image, ["flip"])[1], image.flip(2))
    turned = variants(image, ["quarter_turns"])[1:]
    torch.testing.assert_close(turned[0], image.rot90(1, (1, 2)), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned[1], image.rot90(2, (1, 2)), atol=1e-4, rtol=0)
    grey = variants(image, ["grey"])[1]
    torch.testing.assert_close(grey, image.mean(0).expand(3, -1, -1))
    shifted = variants(image, ["translations"])[1]  # a tenth of half a side: 1.6 pixels
    torch.testing.assert_close(
        shifted[:, 5:-5, 5:-5],
        warp(image[None], torch.tensor([[[1.0, 0, -0.1], [0, 1, -0.1]]]))[0][:, 5:-5, 5:-5],
    )


def test_a_rotated_oblong_keeps_its_angles():
    image = torch.zeros(1, 40, 80)
    image[:, 10:30, 30:50] = 1  # a square of 20 x 20 in the middle
    turned = variants(image, ["quarter_turns"])[1]
    middle = slice(20, 60)  # beyond it the picture is reflected
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


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0", "mobilenet_v2"])
def test_known_families_are_cut_at_their_stages(name):
    model = RegistrationNetwork(name, weights=None, image_size=64, n_epochs=0, mode=None)
    model.fit(pictures(4), [0, 0, 1, 1])
    sides = [shape[0] for shape in model.layer_shapes_.values()]
    assert len(sides) == 3 and sides == sorted(sides, reverse=True)


def test_registered_maps_are_moved_back():
    transformer = SpatialTransformer(4, (12, 12), "rotation")
    with torch.no_grad():
        transformer.localisation[-1].bias.fill_(0.3)
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
    trained = network(learning_rate=0.01).set_params(n_epochs=6).fit(pictures(), GROUPS)
    losses = trained.history_["loss"]
    assert len(losses) == 6 and losses[-1] < losses[0] - 0.05
    again = clone(trained).fit(pictures(), GROUPS)
    assert again.history_["loss"] == losses
    other = clone(trained).set_params(random_state=1, n_epochs=1).fit(pictures(), GROUPS)
    assert other.history_["loss"][0] != losses[0]


def test_support_is_other_pictures_of_the_category():
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
    model.fit(pictures(13), groups)
    values = model.history_["validation"]
    assert len(values) == len(model.history_["loss"]) < 30
    assert min(values[:-1]) <= values[-1]


KILLED = """
import os, sys
from skanomaly import RegistrationNetwork
from skanomaly.datasets import make_textures
import skanomaly.detectors._networks as networks
save, n_saved = networks._save, 0
def save_and_die(*args):
    global n_saved
    save(*args)
    n_saved += 1
    if n_saved == 2:
        os.kill(os.getpid(), 9)
networks._save = save_and_die
good = list(make_textures(9, size=(72, 72), random_state=0))
RegistrationNetwork("squeezenet1_1", weights=None, image_size=64, batch_size=3, n_epochs=4,
                    learning_rate=0.01, checkpoint=sys.argv[1]).fit(good, ["a"] * 5 + ["b"] * 4)
"""


def test_a_killed_training_goes_on_from_its_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(path)])
    assert died.returncode == -9 and path.exists()
    settings = {"learning_rate": 0.01, "n_epochs": 4}
    model = network(checkpoint=path, **settings).fit(pictures(), GROUPS)
    straight = network(**settings).fit(pictures(), GROUPS)
    assert len(model.history_["loss"]) == 4
    assert model.history_["loss"] == pytest.approx(straight.history_["loss"], rel=0.02)
    # As far from the start as the straight one, and in the same direction: two fits differ by the
    # rounding of sums in several threads alone.
    start = network(n_epochs=0).fit(pictures(), GROUPS).state_
    for name in ("encoder.0.weight", "predictor.3.weight"):
        ours, theirs = (fit.state_[name] - start[name] for fit in (model, straight))
        assert np.linalg.norm(ours - theirs) < 0.1 * np.linalg.norm(theirs)
    with pytest.raises(ValueError, match="checkpoint of another training"):
        network(checkpoint=path, **settings).fit(pictures(seed=1), GROUPS)
    path.write_bytes(b"no checkpoint")
    failed = network(checkpoint=path, **settings)
    with pytest.raises(ValueError, match="not a checkpoint"):
        failed.fit(pictures(), GROUPS)
    with pytest.raises(ValueError, match="fitted registration"):  # a fit that failed is none
        RegAD(failed).fit(pictures(2))
    assert not list(tmp_path.glob("*.partial"))


def test_a_refused_or_interrupted_training_loses_nothing(monkeypatch):
    model = network(n_epochs=1).fit(pictures(), GROUPS)
    before = model.transform(pictures(2)).arrays()

    def interrupt(self, *args):
        raise KeyboardInterrupt

    with pytest.raises(ValueError, match="groups"):
        model.fit(pictures(), GROUPS[:-1])
    monkeypatch.setattr(Registration, "loss", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(pictures(seed=1), GROUPS)
    for name, maps in model.transform(pictures(2)).arrays().items():
        assert np.array_equal(maps, before[name])


def test_a_loss_that_diverges_stops_with_the_last_good_state():
    model = network(learning_rate=1e30).set_params(n_epochs=5)
    with pytest.raises(TrainingError, match="lower the learning rate"):
        model.fit(pictures(), GROUPS)
    assert model.history_ == {"loss": []}
    before = network(n_epochs=0).fit(pictures(), GROUPS)  # the first epoch already fails
    for name, weights in before.state_.items():
        np.testing.assert_array_equal(model.state_[name], weights)


@pytest.mark.parametrize("n", [2, 3, 7, 11])
def test_no_picture_is_left_without_support(n):
    rng = np.random.default_rng(0)
    for part, support in draw_batches([np.arange(n)], 2, 2, rng):
        assert len(part) >= 2 and support.shape[1] >= 1


# --- files and pickles ------------------------------------------------------------------------


def test_a_network_comes_back_from_a_file_and_a_pickle(fitted, tmp_path):
    X = pictures(2, seed=5)
    expected = fitted.transform(X).arrays()
    fitted.save(tmp_path / "network.npz")
    for again in (
        RegistrationNetwork.load(tmp_path / "network.npz"),
        pickle.loads(pickle.dumps(fitted)),
    ):
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
    fitted.save(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:5_000])
    with pytest.raises(ValueError, match="not a file of RegistrationNetwork"):
        RegistrationNetwork.load(tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="not a file of RegistrationNetwork"):
        RegistrationNetwork.load(tmp_path / "other.npz")
    fitted.save(tmp_path / "network.npz")
    with np.load(tmp_path / "network.npz") as arrays:
        changed = dict(arrays)
    head = str(changed["registration network"]).replace('"format": 1', '"format": 99')
    np.savez(tmp_path / "new.npz", **{**changed, "registration network": np.array(head)})
    with pytest.raises(ValueError, match="format 99, this version reads 1"):
        RegAD(tmp_path / "new.npz").fit(pictures(2))


# --- the detector -----------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("kind", ["none", "network", "file"])
def test_a_few_pictures_are_enough(fitted, tmp_path, kind, k):
    registration = None if kind == "none" else fitted
    if kind == "file":
        registration = tmp_path / "network.npz"
        fitted.save(registration)
    support = pictures(k, seed=3)
    X, _, _ = make_defects(pictures(5, seed=4), kinds=["blur"], size=2, random_state=0)
    detector = RegAD(registration, image_size=64, random_state=0).fit(support)
    assert detector.gaussian_.n_samples_seen_ == 22 * k
    maps = score_map(detector, [*X, np.zeros((90, 50, 3), np.uint8)])
    assert [one.shape for one in maps] == [(72, 72)] * 5 + [(90, 50)]
    good = -detector.score_samples(pictures(5, seed=9))
    if kind == "none":  # a backbone of random weights sees little
        assert (-detector.score_samples(X)).mean() > good.mean()
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(again.score_samples(X), detector.score_samples(X))
    together, alone = detector.score_samples(X), [detector.score_samples([x])[0] for x in X]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_it_is_the_gaussian_of_all_variants():
    support = pictures(3, seed=3, size=64)
    detector = RegAD(image_size=64, random_state=0, sigma=0).fit(support)
    bank = FilterBank(image_size=64, random_state=0).fit(support)
    every = []
    for image in support:
        scaled = torch.from_numpy(np.float32(image).transpose(2, 0, 1) / 255)
        every += list(variants(scaled).permute(0, 2, 3, 1).numpy())
    every = [np.clip(image, 0, 1) for image in every]
    padim = PaDiM(n_components=None, patch_size=3, sigma=0).fit(bank.transform(every))
    X = pictures(2, seed=5, size=64)
    np.testing.assert_allclose(detector.score_map(X), padim.score_map(bank.transform(X)), rtol=2e-3)


def test_a_clone_keeps_its_registration(fitted):
    detector = RegAD(fitted, sigma=2.0)
    again = clone(detector)
    assert again.registration is fitted and again.sigma == 2.0
    assert again.get_params().keys() == detector.get_params().keys()


def test_few_vectors_take_a_fraction_of_the_memory(fitted):
    k = 2
    detector = RegAD(fitted).fit(pictures(k))
    h, w, _ = next(iter(fitted.layer_shapes_.values()))
    d = sum(shape[2] for shape in fitted.layer_shapes_.values())
    assert detector.gaussian_.form_ == "low_rank"
    assert len(pickle.dumps(detector.gaussian_)) < 0.15 * 4 * h * w * d * d


def test_features_are_the_gaussian_alone():
    X = np.random.default_rng(0).normal(size=(30, 4, 3, 5)).astype(np.float32)
    ours = RegAD().fit(X[:20]).score_samples(X[20:])
    padim = PaDiM(n_components=None, patch_size=3).fit(X[:20]).score_samples(X[20:])
    np.testing.assert_allclose(ours, padim, rtol=1e-5)


@pytest.mark.parametrize(
    ("groups", "named"),
    [
        (None, r"got None; in a Pipeline use .* FrozenEstimator"),
        (["a"] * 9, "at least 2 categories"),
        ([1] * 5 + [-1] * 4, r"got the labels \+1 and -1"),
        (["a"] * 4 + ["b"] * 4, "groups for 9 pictures, got 8"),
        (["a"] * 5 + ["b"] * 3 + ["c"], "got 1 of 'c'"),
    ],
)
def test_groups_that_teach_nothing_are_refused(groups, named):
    with pytest.raises(ValueError, match=named):
        network().fit(pictures(), groups)


def test_other_bad_input_is_refused(fitted, tmp_path):
    good = pictures(3)
    with pytest.raises(ValueError, match="fitted registration"):
        RegAD(network()).fit(good)
    with pytest.raises(ValueError, match="variants among"):
        RegAD(variants=["upside_down"]).fit(good)
    with pytest.raises(ValueError, match="no variants, got 1"):
        RegAD(variants=[], image_size=64).fit(good[:1])
    with pytest.raises(ValueError, match="3 channels, got 2"):
        RegAD(fitted).fit([np.zeros((64, 64, 2), np.uint8)] * 2)
    with pytest.raises(FileNotFoundError):
        RegAD(fitted).fit([Path("gone.png")])
    with pytest.raises(FileNotFoundError):
        RegAD(tmp_path / "gone.npz").fit(good)
    with pytest.raises(ValueError, match="marks every image"):
        RegAD(fitted).fit(good, [-1, -1, -1])
    with pytest.raises(ValueError, match="no stages are known"):
        RegistrationNetwork("vgg11", weights=None).fit(pictures(), GROUPS)
    with pytest.raises(ValueError, match="in their order"):
        network(stages=["features.7", "features.4", "features.12"]).fit(pictures(), GROUPS)
    with pytest.raises(ValueError, match="validation_group='z'"):
        network(validation_group="z").fit(pictures(), GROUPS)


def test_labels_leave_defects_out(fitted):
    good = pictures(3)
    marked = RegAD(fitted).fit([*good, pictures(1, seed=7)[0]], [1, 1, 1, -1])
    plain = RegAD(fitted).fit(good)
    np.testing.assert_array_equal(marked.score_samples(good), plain.score_samples(good))


def test_normalised_pictures_have_the_backbones_mean():
    grey = torch.tensor(backbones.IMAGENET_MEAN)[None, :, None, None].expand(1, 3, 4, 4)
    assert normalise(grey).abs().max() < 1e-6
