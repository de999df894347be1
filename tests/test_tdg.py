"""TDG: its transformations and networks, its training, its scores against plain loops, errors."""

import copy
import math
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

import skanomaly
from skanomaly import TDG, FeatureMaps
from skanomaly.datasets import make_textures
from skanomaly.detectors.tdg import _tdg_training
from skanomaly.detectors.tdg._named_transformations import (
    Transformation,
    cross_entropies,
    is_colored,
    named_transformations,
)
from skanomaly.detectors.tdg._tdg_networks import (
    Generator,
    PatchDiscriminator,
    build_discriminators,
    scale_width,
)
from skanomaly.detectors.tdg._tdg_scoring import TransformationScorer, score_statistics
from skanomaly.detectors.tdg._tdg_training import (
    SCHEDULES,
    Fakes,
    ScaleTraining,
    make_schedule,
    resized,
)
from skanomaly.exceptions import TrainingError
from skanomaly.metrics import pixel_roc_auc_score
from skanomaly.training import AUGMENTATIONS, TrainingConfig, turned, turned_back

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"image_size": 32, "sizes": [16, 20], "n_iter": 3}
UNSHIFTED = named_transformations("dihedral", is_colored=True)
PAPER = named_transformations("paper", is_colored=True)


@pytest.fixture
def short_epochs(monkeypatch):
    """A checkpoint after each two iterations."""
    monkeypatch.setattr(_tdg_training, "EPOCH", 2)


def parts(n, seed=0):
    """Gray images of a part with an orientation: a bright L, displaced a little, and noise."""
    rng, images = np.random.default_rng(seed), []
    for _ in range(n):
        image = rng.integers(40, 56, (32, 32))
        y, x = rng.integers(3, 7, 2)
        image[y : y + 20, x : x + 4] += 120
        image[y + 16 : y + 20, x : x + 16] += 60
        images.append(image)
    return np.array(images, dtype=np.uint8)


@pytest.fixture(scope="module")
def good():
    return make_textures(5, kind="weave", size=(32, 32), random_state=0)


@pytest.fixture(scope="module")
def fitted(good):
    return TDG(**SMALL).fit(good)


def pixels_of(images):
    """uint8 images of the input's size as hooks get them."""
    return FeatureMaps({"pixels": np.asarray(images).astype(np.float32) / 255})


def random_images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# --- transformations --------------------------------------------------------------------------


def slow_transformed(image, one):
    """An image (C, s, s), changed by NumPy alone."""
    if one.is_gray:
        image = np.repeat(image.mean(axis=0, keepdims=True), len(image), axis=0)
    if one.is_flipped:
        image = image[:, :, ::-1]
    side, (x, y) = image.shape[1], one.shift
    n = round(0.15 * side)
    padded = np.pad(image, ((0, 0), (n, n), (n, n)), mode="reflect")
    image = padded[:, n - y * n :, n - x * n :][:, :side, :side]
    return np.rot90(image, one.n_turns, axes=(1, 2))


def test_the_papers_transformations_are_54_of_which_16_differ_without_shifts():
    assert len(PAPER) == len(set(PAPER)) == 54
    assert len({one._replace(shift=(0, 0)) for one in PAPER}) == 16
    gray = named_transformations("paper", is_colored=False)
    assert len(gray) == len(set(gray)) == 42 and set(gray) < set(PAPER)
    assert len({one._replace(shift=(0, 0)) for one in gray}) == 8
    for in_color, n in ((False, 8), (True, 16)):
        assert len(set(named_transformations("dihedral", in_color))) == n
    assert len(set(named_transformations("turns", is_colored=True))) == 4
    for kind in ("turns", "dihedral", "paper"):
        assert named_transformations(kind, is_colored=True)[0] == Transformation()
    with_shift = [one for one in PAPER if one.shift == (1, 1)]
    assert len(with_shift) == 8  # of the 32 with turns, not more
    assert len([one for one in PAPER if one.shift[1] == -1]) == 7  # six, and one gray


@pytest.mark.parametrize("side", [16, 21])
def test_a_transformation_is_what_numpy_makes_of_it(side):
    images = random_images(2, 3, side, side)
    for one in PAPER:
        found = one.apply(images).numpy()
        expected = np.stack([slow_transformed(image, one) for image in images.numpy()])
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=str(one))
        assert one.is_gray or np.array_equal(found, expected), one


def test_all_transformations_of_a_colored_image_differ():
    views = torch.stack([one.apply(random_images(1, 3, 20, 20)) for one in PAPER])
    assert len({view.numpy().tobytes() for view in views}) == 54


def test_what_moves_pixels_alone_is_undone_to_the_bit():
    maps = random_images(2, 3, 17, 17)
    for one in UNSHIFTED:
        moved = one._replace(is_gray=False).apply(maps)
        assert torch.equal(one.undo(moved), maps), one
        assert torch.equal(one.undo(moved[0]), maps[0]), one


def test_a_shift_is_undone_but_for_the_strip_that_left():
    maps = random_images(1, 3, 20, 20)
    for one in PAPER:
        back = one.undo(one._replace(is_gray=False).apply(maps)).numpy()
        x, y = one.shift
        x = -x if one.is_flipped else x
        kept = np.zeros((20, 20), dtype=bool)
        kept[max(-3 * y, 0) : 20 - max(3 * y, 0), max(-3 * x, 0) : 20 - max(3 * x, 0)] = True
        assert np.array_equal(back[..., kept], maps.numpy()[..., kept]), one
        assert np.array_equal(back, maps.numpy()) == (not any(one.shift)), one


@pytest.mark.parametrize("is_flipped", [False, True])
@pytest.mark.parametrize("n_turns", range(4))
def test_turns_of_what_is_not_square(n_turns, is_flipped):
    maps = random_images(2, 5, 8)
    moved = turned(maps, n_turns, is_flipped)
    flipped = maps.numpy()[..., ::-1] if is_flipped else maps.numpy()
    assert np.array_equal(moved.numpy(), np.rot90(flipped, n_turns, axes=(1, 2)))
    assert torch.equal(turned_back(moved, n_turns, is_flipped), maps)


def test_color():
    gray = np.repeat(random_images(2, 8, 8, 1).numpy(), 3, axis=3)
    assert not is_colored(gray) and not is_colored(gray[..., :1])
    gray[0, 0, 0] = 0, 0, 1  # an odd pixel is no color
    assert not is_colored(gray)
    assert is_colored(random_images(2, 8, 8, 3).numpy())


def test_the_least_cross_entropy_there_can_be():
    """A patch of a discriminator that knows all but the shift: by counting."""
    for transformations in (UNSHIFTED, PAPER, named_transformations("paper", False)):
        seen = [one._replace(shift=(0, 0)) for one in transformations]
        expected = np.mean([math.log(seen.count(one)) for one in seen])
        least, chance = cross_entropies(transformations)
        assert least == pytest.approx(expected)
        assert chance == pytest.approx(math.log(len(transformations)))


# --- networks ---------------------------------------------------------------------------------


def test_the_papers_scales():
    """As the authors' code computes them: 25 to 64 pixels of 128, by a factor of about 0.75."""
    n = math.ceil(math.log(25 / 128, 0.75)) + 1
    last = n - math.ceil(math.log(64 / 128, 0.75))
    factor = (25 / 64) ** (1 / last)
    sides = [math.ceil(64 * factor ** (last - i)) for i in range(last + 1)]
    assert list(SCHEDULES["paper"].sizes) == sides == [26, 32, 41, 51, 64]
    assert [scale_width(scale) for scale in range(9)] == [32] * 4 + [64] * 4 + [128]


def test_a_logit_is_about_a_patch_of_11_pixels():
    discriminator = PatchDiscriminator(3, 8, 4).eval()
    images = random_images(1, 3, 26, 30).requires_grad_()
    logits = discriminator(images)
    assert logits.shape == (1, 5, 16, 20)
    logits[0, :, 4, 7].sum().backward()
    rows, columns = np.nonzero(images.grad[0].abs().sum(dim=0).numpy())
    assert (rows.min(), rows.max()) == (4, 14)  # 4 + 5 is its middle
    assert (columns.min(), columns.max()) == (7, 17)


def test_a_generator_adds_to_the_image_below():
    generator = Generator(3, 8).eval()
    below, noise = random_images(2, 3, 14, 14), random_images(2, 3, 14, 14, seed=1)
    places = torch.tensor([0.0, 1.0])
    with torch.no_grad():
        made = generator(noise, below, places)
        plane = torch.zeros(2, 1, 14, 14)
        plane[1] = 1
        inputs = torch.zeros(2, 4, 24, 24)
        inputs[..., 5:-5, 5:-5] = torch.cat([below + noise, plane], dim=1)
        expected = torch.tanh(generator.layers(inputs)) + below
    assert made.shape == below.shape
    assert torch.equal(made, expected)


def test_parameters_are_as_many_as_published():
    def count(network):
        return sum(one.numel() for one in network.parameters())

    assert 30_000 < count(PatchDiscriminator(3, 32, 54)) < 45_500
    assert 115_000 < count(PatchDiscriminator(3, 64, 54)) < 146_000
    assert 30_000 < count(Generator(3, 32)) < 45_000


def test_images_of_a_scale_go_through_bytes():
    images = random_images(2, 3, 40, 36)
    small = resized(images, 16)
    assert small.shape == (2, 3, 16, 16)
    assert small.min() >= -1 and small.max() <= 1
    steps = (small.double() + 1) * 127.5
    np.testing.assert_allclose(steps, steps.round(), atol=1e-4)
    np.testing.assert_allclose(resized(torch.full((1, 1, 40, 40), 0.4), 16), -0.2, atol=1e-6)


# --- training ---------------------------------------------------------------------------------


def chain(images, n_scales=2, seed=0):
    """Fakes of untrained generators, of which the first has half the side."""
    fakes = Fakes(torch.linspace(0, 1, len(images)), images.shape[1], seed)
    torch.manual_seed(0)
    for scale in range(n_scales):
        side = images.shape[-1] // 2 ** (n_scales - 1 - scale)
        fakes.add(Generator(images.shape[1], 8).eval(), resized((images + 1) / 2, side))
    return fakes


def test_the_noise_is_a_tenth_of_what_the_scale_below_leaves():
    images = resized(random_images(3, 3, 32, 32), 32)
    fakes = chain(images)
    assert torch.equal(fakes.amplitudes[0], torch.ones(3))
    with torch.no_grad():
        first = fakes.generators[0](fakes.fixed[0], torch.zeros(3, 3, 16, 16), fakes.places)
        below = torch.nn.functional.interpolate(first, (32, 32), mode="bicubic")
    for i in range(3):
        expected = 0.1 * np.abs(images[i].numpy() - below[i].numpy()).mean()
        assert fakes.amplitudes[1][i].item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(fakes.fixed[0][:, 0], fakes.fixed[0][:, 2])  # the same in all channels
    assert not torch.equal(fakes.fixed[1][:, 0], fakes.fixed[1][:, 2])
    with torch.no_grad():
        noise = fakes.amplitudes[1][:, None, None, None] * fakes.fixed[1]
        expected = fakes.generators[1](noise, below, fakes.places)
        assert torch.equal(fakes.reconstruct(torch.arange(3)), expected)


def test_generated_images_depend_on_the_noise():
    fakes = chain(resized(random_images(3, 1, 32, 32), 32))
    which = torch.tensor([2, 0])

    def draw(seed):
        with torch.no_grad():
            return fakes.draw(which, torch.Generator().manual_seed(seed))

    assert draw(1).shape == (2, 1, 32, 32)
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("has_generator", [True, False])
def test_losses_are_those_of_the_paper(has_generator):
    """Each logit by itself, in a loop over transformations."""
    images = resized(random_images(3, 3, 24, 24), 24)
    fakes = chain(images) if has_generator else None
    torch.manual_seed(1)
    discriminator = PatchDiscriminator(3, 8, 4).eval()
    turns = named_transformations("turns", is_colored=True)
    training = ScaleTraining(discriminator, images, turns, fakes)
    which = torch.tensor([2, 1])
    losses = [loss.item() for loss in training.losses(which, seed=7, n_steps=2)]
    assert len(losses) == (4 if has_generator else 2)

    def cross_entropy(made, name_of):
        total = []
        for j, one in enumerate(turns):
            with torch.no_grad():
                logits = discriminator(one.apply(made)).double().numpy()
            p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            total.append(-np.log(p[:, name_of(j)]).mean())
        return np.mean(total)

    real, random = cross_entropy(images[which], lambda j: j), torch.Generator().manual_seed(7)
    for i, loss in enumerate(losses):
        if not has_generator:
            assert loss == pytest.approx(real, rel=1e-5)
            continue
        with torch.no_grad():
            made, again = fakes.draw(which, random), fakes.reconstruct(which)
        if i < 2:
            assert loss == pytest.approx(real + cross_entropy(made, lambda j: 4), rel=1e-5)
        else:
            error = np.square((again - images[which]).double().numpy()).mean()
            assert loss == pytest.approx(cross_entropy(made, lambda j: j) + 100 * error, rel=1e-5)


def test_each_network_follows_its_own_loss():
    images = resized(random_images(3, 3, 24, 24), 24)
    training = ScaleTraining(
        PatchDiscriminator(3, 8, 4), images, named_transformations("turns", True), chain(images)
    )
    discriminator, generator = training.discriminator, training.fakes.generators[-1]
    below = training.fakes.generators[0]
    first, second = training.losses(torch.tensor([0, 1]), seed=0, n_steps=1), []
    for loss in first:
        for network in (discriminator, generator, below):
            network.zero_grad()
        loss.backward()
        second.append([one.grad is not None for one in (
            discriminator[0].weight, generator.layers[0].weight, below.layers[0].weight
        )])  # fmt: skip
    assert second == [[True, False, False], [False, True, False]]


def test_statistics_are_those_of_the_good_images_alone():
    images = resized(random_images(3, 3, 24, 24), 24)
    discriminator = PatchDiscriminator(3, 8, 8)
    momentum = discriminator[1].momentum
    training = ScaleTraining(discriminator, images, named_transformations("dihedral", False))
    discriminator(10 * images)  # others, which are to be forgotten
    training.settle()
    assert not discriminator.training and discriminator[1].momentum == momentum
    with torch.no_grad():
        views = [discriminator[0](one.apply(images)) for one in training.transformations]
    values = torch.stack(views).double().transpose(0, 2).flatten(1).numpy()  # (8, all)
    np.testing.assert_allclose(discriminator[1].running_mean, values.mean(axis=1), atol=1e-5)
    # The mean over images of each one's variance.
    each = np.stack([view.double().numpy() for view in views])  # (M, 3, 8, h, w)
    variances = each.transpose(1, 2, 0, 3, 4).reshape(3, 8, -1).var(axis=2, ddof=1).mean(axis=0)
    np.testing.assert_allclose(discriminator[1].running_var, variances, rtol=1e-4)


def test_a_scale_begins_where_the_one_below_ended():
    sizes = (16, 18, 20, 22, 24)  # of the last one the networks are wider
    schedule = make_schedule("quick", 0, sizes, 2, 32)
    config = TrainingConfig(0, device="cpu")
    images, places = random_images(2, 3, 32, 32), torch.tensor([0.0, 1.0])
    discriminators, history = _tdg_training.train_discriminators(
        images, places, UNSHIFTED, schedule, False, config
    )
    weights = [one[0].weight for one in discriminators]
    assert all(torch.equal(weights[0], one) for one in weights[1:4])
    assert weights[4].shape[0] == 64
    assert history == {str(side): [] for side in sizes}


def test_the_discriminators_rate_falls_halfway(good, monkeypatch):
    monkeypatch.setattr(_tdg_training, "EPOCH", 1)
    seen, step = [], torch.optim.Adam.step

    def watch(self, *args, **kwargs):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", watch)
    TDG(**SMALL | {"sizes": [16], "n_iter": 4}).fit(good)
    assert seen[1::2] == [5e-4] * 4  # the generator's
    assert seen[::2] == pytest.approx([5e-4, 5e-4, 5e-5, 5e-5])


def test_the_papers_steps_and_batches(good, monkeypatch):
    calls, losses = [], ScaleTraining.losses

    def watch(self, which, seed, n_steps):
        found = list(which.tolist()), n_steps, 0
        for loss in losses(self, which, seed, n_steps):
            found = (*found[:2], found[2] + 1)
            yield loss
        calls.append(found)

    monkeypatch.setattr(ScaleTraining, "losses", watch)
    TDG(image_size=32, sizes=[16], n_iter=1, preset="paper", n_images=4).fit(good)
    TDG(image_size=32, sizes=[16], n_iter=1, n_images=4).fit(good)
    assert sorted(calls[0][0]) == [0, 1, 2, 3] and calls[0][1:] == (3, 6)
    assert len(set(calls[1][0])) == 2 and calls[1][1:] == (1, 2)


def test_it_learns_an_orientation_and_finds_what_has_none():
    """Chance before; after seconds of training a blot on the part stands out."""
    good, bad = parts(6), parts(6, seed=1)
    masks = np.zeros((6, 32, 32), dtype=bool)
    rng = np.random.default_rng(2)
    for image, mask in zip(bad, masks, strict=True):
        y, x = rng.integers(6, 20, 2)
        mask[y : y + 6, x : x + 6] = True
        image[mask] = rng.integers(0, 255, 36)
    options = {"image_size": 32, "sizes": [24], "generator": False, "sigma": 1.0,
               "transformations": "turns"}  # fmt: skip
    detector = TDG(**options, n_iter=200, image_score="map_max")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.fit(good)
    assert detector.cross_entropy_[0] < 0.5 * math.log(4)
    found = pixel_roc_auc_score(masks, detector.score_map(bad))
    assert found > 0.75
    untrained = TDG(**options, n_iter=0).fit(good)
    assert found > pixel_roc_auc_score(masks, untrained.score_map(bad)) + 0.08
    new = parts(6, seed=3)
    assert detector.score_samples(bad).mean() < detector.score_samples(new).mean()
    paper = clone(detector).set_params(image_score="paper").fit(good)
    assert paper.score_samples(bad).mean() < paper.score_samples(new).mean()


@pytest.mark.parametrize(
    "images",
    [np.full((3, 32, 32), 90, np.uint8), np.full((1, 32, 32, 3), (200, 90, 90), np.uint8)],
    ids=["gray", "one color"],
)
def test_images_that_look_alike_whichever_way_they_are_turned(images):
    options = SMALL | {"sizes": [16], "n_iter": 20, "transformations": "turns"}
    with pytest.warns(ConvergenceWarning, match=r"guessing has 1\.39: the 4 transformations"):
        detector = TDG(**options).fit(images)
    assert np.isfinite(detector.score_samples(images)).all()
    assert np.isfinite(detector.score_map(images)).all()


# --- checkpoints ------------------------------------------------------------------------------


def test_interrupted_training_goes_on(good, tmp_path, monkeypatch, short_epochs):
    once = TDG(**SMALL | {"n_iter": 6}).fit(good)
    detector = TDG(**SMALL | {"n_iter": 6}, checkpoint=tmp_path / "part")
    backward, seen = torch.Tensor.backward, []

    def stop(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 18:  # in the second scale, between two checkpoints
            raise KeyboardInterrupt
        backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", stop)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(good)
    assert {path.name.split(".")[-1] for path in tmp_path.iterdir()} == {"side-16", "side-20"}
    detector.fit(good)
    assert len(seen) == 18 + 24 - 16  # 16 steps were saved
    assert np.array_equal(detector.score_samples(good), once.score_samples(good))
    assert detector.history_ == once.history_
    for name, array in once.state_.items():
        np.testing.assert_array_equal(detector.state_[name], array)


def test_checkpoint_of_another_training_is_left_alone(good, tmp_path):
    small = SMALL | {"n_images": 2, "n_iter": 1, "transformations": "turns"}
    options = small | {"checkpoint": tmp_path / "part"}

    def n_files():
        return len(list(tmp_path.iterdir()))

    TDG(**options).fit(good)
    assert n_files() == 2
    TDG(**options, fraction=0.5, standardize=False, sigma=1, image_score="map_max").fit(good)
    assert n_files() == 2  # no part of the training
    for i, other in enumerate(
        [{"n_iter": 2}, {"generator": False}, {"transformations": "dihedral"},
         {"augmentations": ["flip"]}, {"random_state": 1}, {"preset": "paper"}], start=2,
    ):  # fmt: skip
        changed = TDG(**options | other).fit(good)
        assert n_files() == 2 * i
        expected = TDG(**small | other).fit(good).score_samples(good)
        assert np.array_equal(changed.score_samples(good), expected)
    TDG(**options).fit(good[::-1])
    assert n_files() == 16


def test_a_damaged_checkpoint_is_refused(good, tmp_path):
    detector = TDG(**SMALL, checkpoint=tmp_path / "part").fit(good)
    path = min(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="damaged"):
        detector.fit(good)


def test_a_diverging_training_leaves_the_detector_as_it_was(good, fitted, monkeypatch):
    detector = copy.deepcopy(fitted)
    before = detector.score_samples(good)
    cross_entropy = ScaleTraining.cross_entropy
    monkeypatch.setattr(
        ScaleTraining, "cross_entropy", lambda *args: cross_entropy(*args) * float("nan")
    )
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1"):
        detector.fit(good)
    assert np.array_equal(detector.score_samples(good), before)
    with pytest.raises(TrainingError):
        (new := TDG(**SMALL)).fit(good)
    with pytest.raises(NotFittedError):
        new.predict(good)


# --- scores -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scorer():
    torch.manual_seed(3)
    discriminators = build_discriminators(3, 2, 54)
    for layer in discriminators.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.normal_(layer.weight, 0, 0.1)  # probabilities that differ
    return TransformationScorer(discriminators, (16, 20), PAPER)


def slow_probabilities(scorer, image):
    """p_s(j | T_j x), scale by scale: list of (M, h, w), each view by itself."""
    by_scale = []
    for discriminator, side in zip(scorer.discriminators, scorer.sizes, strict=True):
        small = resized(torch.from_numpy(image.transpose(2, 0, 1).copy())[None], side)[0]
        found = []
        for j, one in enumerate(scorer.transformations):
            view = torch.from_numpy(slow_transformed(small.numpy(), one).copy())[None]
            with torch.no_grad():
                logits = discriminator(view)[0, :54].double().numpy()
            found.append((np.exp(logits) / np.exp(logits).sum(axis=0))[j])
        by_scale.append(np.stack(found))
    return by_scale


def test_maps_are_means_of_what_is_brought_back(scorer):
    pixels = random_images(2, 32, 32, 3).numpy()
    maps = scorer.scale_maps(pixels)
    assert maps.shape == (2, 2, 20, 20)
    for image, found in zip(pixels, maps, strict=True):
        for scale, probabilities in enumerate(slow_probabilities(scorer, image)):
            side, total = scorer.sizes[scale], 0.0
            for p, one in zip(probabilities, PAPER, strict=True):
                surprise = np.pad(-np.log(p), 5, mode="edge")
                surprise = np.rot90(surprise, -one.n_turns)
                x, y = one.shift
                n = round(0.15 * side)
                padded = np.pad(surprise, n, mode="reflect")
                surprise = padded[n + y * n :, n + x * n :][:side, :side]
                total = total + (surprise[:, ::-1] if one.is_flipped else surprise)
            expected = torch.from_numpy(total[None, None] / 54)
            if side != 20:
                expected = torch.nn.functional.interpolate(expected, (20, 20), mode="bilinear")
            np.testing.assert_allclose(found[scale], expected[0, 0], rtol=1e-4)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 1.0])
def test_image_scores_are_the_papers(scorer, fraction):
    pixels = random_images(2, 32, 32, 3, seed=1).numpy()
    expected = []
    for image in pixels:
        sums = []
        for probabilities in slow_probabilities(scorer, image):
            cells = np.sort(probabilities.reshape(54, -1), axis=1)
            n_lowest = math.ceil(fraction * cells.shape[1])
            sums.append(cells[:, :n_lowest].mean(axis=1).sum())
        expected.append(-np.mean(sums))
    np.testing.assert_allclose(scorer.image_scores(pixels, fraction), expected, rtol=1e-5)


def test_an_image_scores_alike_alone_and_among_others(scorer):
    pixels = random_images(5, 32, 32, 3, seed=2).numpy()
    maps, scores = scorer.scale_maps(pixels), scorer.image_scores(pixels, 0.1)
    for i in range(5):
        assert np.array_equal(scorer.scale_maps(pixels[i : i + 1])[0], maps[i])
        assert scorer.image_scores(pixels[i : i + 1], 0.1)[0] == scores[i]


def test_the_usual_score_of_a_place_counts_as_far_as_images_agree_on_it():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(8, 2, 40, 40))
    pattern = np.stack([np.zeros((40, 40)), 5 * rng.normal(size=(40, 40))])
    maps = 2 + pattern + noise
    mean, deviation, cross_entropy = score_statistics([maps[:3], maps[3:]])
    np.testing.assert_allclose(cross_entropy, maps.mean(axis=(0, 2, 3)))
    # Nothing in common: the mean of all places. In the second scale each place has its own.
    np.testing.assert_allclose(mean[0], maps[:, 0].mean(), atol=0.1)
    np.testing.assert_allclose(mean[1], maps[:, 1].mean(axis=0), atol=0.2)
    np.testing.assert_allclose(deviation, 1, rtol=0.1)
    for scale in range(2):
        means, n = maps[:, scale].mean(axis=0), 8
        by_chance = maps[:, scale].var(axis=0, ddof=1).mean() / n
        weight = max(0, 1 - by_chance / means.var())
        expected = means.mean() + weight * (means - means.mean())
        np.testing.assert_allclose(mean[scale], expected, rtol=1e-5)
        spread = np.sqrt(np.square(maps[:, scale] - expected).mean())
        assert deviation[scale] == pytest.approx(spread)


def test_of_one_image_no_place_has_a_usual_score():
    maps = np.random.default_rng(0).normal(size=(1, 2, 9, 9))
    mean, deviation, _ = score_statistics([maps])
    assert np.ptp(mean, axis=(1, 2)).max() == 0
    np.testing.assert_allclose(deviation, maps[0].std(axis=(1, 2)))


def test_score_maps_are_in_standard_deviations(good, fitted):
    X = pixels_of(good)
    maps = fitted._scorer.scale_maps(X.arrays()["pixels"])
    expected = (maps - fitted.mean_) / fitted.scale_[:, None, None]
    np.testing.assert_allclose(fitted._score_maps(X), expected.mean(axis=1), atol=1e-5)
    raw = copy.deepcopy(fitted).set_params(standardize=False)
    np.testing.assert_allclose(raw._score_maps(X), maps.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(fitted.cross_entropy_, maps.mean(axis=(0, 2, 3)), rtol=1e-6)


# --- the estimator ----------------------------------------------------------------------------


# TDG takes images, which no array of shape (n, d) is; its tag two_d_array=False says so, and of
# scikit-learn's checks only that of cloning is left. The others are in the tests below.
@parametrize_with_checks([TDG()])
def test_passes_the_checks_that_need_no_arrays_of_two_axes(estimator, check):
    check(estimator)


def test_fit_returns_the_detector_and_changes_no_parameter(good):
    detector = TDG(**SMALL)
    before = detector.get_params()
    assert detector.fit(good) is detector
    assert all(detector.get_params()[name] is value for name, value in before.items())
    learned = {name for name in vars(detector) if name.endswith("_")}
    assert learned == {
        "cross_entropy_", "fit_digest_", "history_", "image_fit_", "layer_shapes_",
        "learned_from_", "mean_", "n_channels_in_", "n_features_in_", "offset_", "scale_",
        "sizes_", "state_", "tiling_", "trained_on_", "transformations_",
    }  # fmt: skip
    assert {side: len(losses) for side, losses in detector.history_.items()} == {"16": 1, "20": 1}
    assert not any("generator" in name for name in detector.state_)


@pytest.mark.parametrize(
    "options",
    [
        {"transformations": "paper"},
        {"transformations": "turns", "generator": False},
        {"preset": "paper", "n_images": 2, "n_iter": 1},
        {"augmentations": AUGMENTATIONS, "n_images": 1},
        {"image_size": (40, 32), "resize": "pad"},
        {"n_iter": 0},
    ],
    ids=str,
)
def test_options(good, options):
    detector = TDG(**SMALL | options).fit(good)
    images = [good[0], np.pad(good[1], ((0, 9), (0, 0), (0, 0)))]
    maps = detector.score_map(images)
    assert [one.shape for one in maps] == [(32, 32), (41, 32)]
    loaded = pickle.loads(pickle.dumps(detector))
    assert np.array_equal(loaded.score_samples(images), detector.score_samples(images))


def test_refit_forgets_and_another_seed_is_another_training(good, fitted):
    again = clone(fitted).fit(good[:2]).fit(good)
    assert np.array_equal(again.score_samples(good), fitted.score_samples(good))
    other = TDG(**SMALL, random_state=1).fit(good)
    assert not np.array_equal(other.score_samples(good), fitted.score_samples(good))


def test_a_file_holds_no_image_and_the_same_scores(good, fitted, tmp_path):
    skanomaly.dump(fitted, tmp_path / "model")
    loaded = skanomaly.load(tmp_path / "model")
    assert np.array_equal(loaded.score_samples(good), fitted.score_samples(good))
    assert np.array_equal(loaded.score_map(good), fitted.score_map(good))
    sizes = {array.size for array in fitted.state_.values()}
    assert good[0].size not in sizes
    few, many = (len(pickle.dumps(TDG(**SMALL).fit(good[:n]))) for n in (1, 5))
    assert many - few < 100


def test_further_images_set_the_threshold_alone(good):
    few = TDG(**SMALL, n_images=2).fit(good)
    assert len(few.trained_on_) == 2 and len(few.learned_from_) == 5
    alone = TDG(**SMALL).fit(good[few.trained_on_])
    for name, array in alone.state_.items():
        np.testing.assert_array_equal(few.state_[name], array)
    assert few.offset_ != alone.offset_
    defects = np.concatenate([255 - good[:2], good])
    labelled = TDG(**SMALL, n_images=2).fit(defects, np.repeat([-1, 1], [2, 5]))
    assert np.array_equal(labelled.trained_on_, few.trained_on_ + 2)
    assert np.array_equal(labelled.score_samples(good), few.score_samples(good))


def test_one_image_is_enough(good):
    detector = TDG(**SMALL).fit(good[:1])
    assert detector.score_map(good).shape == (5, 32, 32)


def test_copies_have_the_place_of_their_image(good):
    detector = TDG(**SMALL, augmentations=["flip", "quarter_turns"])
    pixels = good[:3].astype(np.float32) / 255
    copies, places = detector._copies(pixels)
    assert copies.shape == (15, 3, 32, 32)
    assert places.tolist() == [0] * 5 + [0.5] * 5 + [1] * 5
    assert np.array_equal(copies[5].permute(1, 2, 0).numpy(), pixels[1])


def test_images_of_one_or_five_channels():
    rng = np.random.default_rng(0)
    for n_channels in (1, 5):
        images = rng.integers(0, 256, (3, 32, 32, n_channels), dtype=np.uint8)
        detector = TDG(**SMALL).fit(images)
        assert len(detector.transformations_) == (8 if n_channels == 1 else 16)
        assert detector.score_map(images).shape == (3, 32, 32)
        with pytest.raises(ValueError, match="channels"):
            detector.predict(rng.integers(0, 256, (1, 32, 32, 2), dtype=np.uint8))


def test_two_threads_may_score_at_a_time(good, fitted):
    detector = pickle.loads(pickle.dumps(fitted))  # without its networks
    expected = fitted.score_samples(good)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: detector.score_samples(good), range(8)))
    assert all(np.array_equal(one, expected) for one in found)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sizes": [11, 20]}, r"from 12 or more to at most image_size=32, got \[11, 20\]"),
        ({"sizes": [16, 40]}, r"got \[16, 40\]"),
        ({"sizes": [20, 16]}, r"got \[20, 16\]"),
        ({"sizes": [16, 16]}, r"got \[16, 16\]"),
        ({"sizes": []}, r"got \[\]"),
        ({"sizes": [16.5]}, r"got \[16\.5\]"),
        ({"sizes": None}, r"image_size=32, got \[32, 64\]; give sizes, or a larger image_size"),
        ({"sizes": 16}, "sizes"),
        ({"image_size": 8}, r"image_size=8"),
        ({"augmentations": ["blur"]}, r"expected augmentations among .* got \['blur'\]"),
        ({"transformations": "shear"}, "transformations"),
        ({"fraction": 0.0}, "fraction"),
        ({"n_images": 0}, "n_images"),
        ({"n_iter": -1}, "n_iter"),
        ({"preset": "slow"}, "preset"),
    ],
    ids=str,
)
def test_bad_parameters_are_refused(good, parameters, message):
    with pytest.raises(ValueError, match=message):
        TDG(**SMALL | parameters).fit(good)


def test_a_refused_fit_loses_nothing(good, fitted):
    detector = copy.deepcopy(fitted)
    before = detector.decision_function(good)
    spoilt = good.astype(np.float32) / 255
    spoilt[:, 5, 5] = np.nan
    for X, y in (([], None), ("folder", None), (spoilt, None), (good, -np.ones(5)),
                 (FeatureMaps({"layer": np.zeros((4, 8, 8, 3), np.float32)}), None)):  # fmt: skip
        with pytest.raises(ValueError):
            detector.fit(X, y)
        assert np.array_equal(detector.decision_function(good), before)
    with pytest.raises(ValueError, match="NaN"):
        detector.predict(spoilt)


def test_a_training_shows_one_bar_for_each_scale(good, capsys):
    TDG(**SMALL, verbose=1).fit(good)
    shown = capsys.readouterr().err
    assert "side-16" in shown and "side-20" in shown


def test_the_forecast_grows_with_what_is_trained_on():
    shape = {"pixels": (128, 128, 3)}

    def needs(n_images=8, **parameters):
        return SimpleNamespace(**{
            name.replace(" ", "_"): size
            for name, size in TDG(**parameters)._forecast(shape, n_images).items()
        })  # fmt: skip

    usual = needs()
    assert needs(100) == usual  # no more are trained on
    assert needs(4).augmented_images == usual.augmented_images / 2
    assert needs(augmentations=AUGMENTATIONS).augmented_images == 22 * usual.augmented_images
    assert needs(transformations="turns").a_training_step == usual.a_training_step / 4
    # 8 images of 54 views of 64 channels of 64 x 64, beside 2 of 16 of 32.
    paper = needs(preset="paper", transformations="paper")
    assert paper.a_training_step == usual.a_training_step * (8 * 54 * 64) / (2 * 16 * 32)
