"""A handful of images: RegAD without a trained network, its left-out images, fit --few-shot."""

import pickle

import numpy as np
import pytest
import torch
from cli_parts import run
from PIL import Image
from sklearn.base import clone

import skanomaly
from skanomaly import FeatureExtractor, FilterBank, RegAD, RegistrationNetwork
from skanomaly.datasets import make_textures
from skanomaly.feature_extraction import backbones
from skanomaly.model_selection import HeldOutThreshold

STAGES = ["features.4", "features.7", "features.12"]


def textures(n, seed=0):
    return list(make_textures(n, size=(64, 64), random_state=seed))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights."""
    path = tmp_path_factory.mktemp("weights") / "squeezenet1_1.pth"
    torch.save(backbones.load_network("squeezenet1_1", None, 0).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def extractor(weights):
    """Three layers of a network."""
    return FeatureExtractor("squeezenet1_1", layers=STAGES, weights=weights, image_size=64).fit(
        None
    )


def few_shot(extractor, **parameters):
    return RegAD(extractor, **{"augmentations": ("flip", "translations"), **parameters})


def test_an_extractor_is_a_network_without_registration(extractor, weights):
    groups = ["a", "a", "b", "b"]
    network = RegistrationNetwork(
        "squeezenet1_1", weights=weights, mode=None, n_epochs=0, image_size=64
    ).fit(textures(4), groups=groups)
    good, X = textures(3), textures(2, seed=5)
    expected = few_shot(network).fit(good).score_samples(X)
    detector = few_shot(extractor).fit(good)
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=2e-3)
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(again.score_samples(X), detector.score_samples(X))
    assert clone(detector).registration is extractor


@pytest.mark.parametrize(("kind", "cells"), [("network", 1), ("filter bank", 3)])
def test_features_of_a_small_field_are_averaged(extractor, kind, cells):
    registration = extractor if kind == "network" else None
    good, X = textures(2), textures(2, seed=5)
    settings = {"image_size": 64, "random_state": 0}
    found = few_shot(registration, **settings).fit(good).score_samples(X)
    for patch_size in (1, 3):
        other = few_shot(registration, patch_size=patch_size, **settings).fit(good)
        is_same = np.array_equal(other.score_samples(X), found)
        assert is_same == (patch_size == cells)


@pytest.mark.parametrize("shrinkage", [None, "ledoit_wolf"])
@pytest.mark.parametrize("image_score", ["paper", "map_max"])
def test_a_left_out_image_is_judged_by_a_fit_on_the_others(extractor, shrinkage, image_score):
    good = textures(4)
    detector = few_shot(extractor, shrinkage=shrinkage, image_score=image_score)
    scores, maxima = detector.fit(good).leave_one_out(good)
    grouped, _ = detector.leave_one_out(good, [0, 1, 1, 2])
    for i in range(4):
        others = clone(detector).fit(good[:i] + good[i + 1 :])
        expected, score_map = others.score_samples_and_map([good[i]])
        assert scores[i] == pytest.approx(expected[0], rel=1e-5)
        assert maxima[i] == pytest.approx(score_map.max(), rel=1e-5)
    pair = clone(detector).fit([good[0], good[3]]).score_samples(good[1:3])
    np.testing.assert_allclose(grouped, [scores[0], *pair, scores[3]], rtol=1e-5)


def test_many_images_are_held_out_in_folds(extractor):
    for n, method in ((4, "leave_one_out"), (17, "folds")):
        model = HeldOutThreshold(few_shot(extractor, augmentations=("flip",)), target_fpr=0.3)
        assert model.fit(textures(n)).method_ == method
    with pytest.raises(NotImplementedError, match="at most 16, got 17"):
        model.estimator_.leave_one_out(textures(17))


def test_shrinkage_does_not_depend_on_the_scale_of_features(extractor, weights):
    """A fixed epsilon is little beside the variances of one network and much beside another's."""

    class Scaled(FeatureExtractor):
        def _features(self, batch):
            return {name: 8 * maps for name, maps in super()._features(batch).items()}

    scaled = Scaled("squeezenet1_1", layers=STAGES, weights=weights, image_size=64).fit(None)
    good, X = textures(2), textures(3, seed=5)
    for shrinkage, is_same in (("ledoit_wolf", True), (None, False)):
        settings = {"shrinkage": shrinkage, "epsilon": 0 if is_same else 0.01}
        plain, other = (
            few_shot(one, **settings).fit(good).score_samples(X) for one in (extractor, scaled)
        )
        assert np.allclose(plain, other, rtol=1e-3) == is_same


# --- the command line -------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "good").mkdir()
    for i, image in enumerate(textures(3)):
        Image.fromarray(image).save(tmp_path / "good" / f"{i}.png")
    return tmp_path / "good"


def test_three_images_are_enough_for_a_detector(folder, tmp_path, capsys):
    file = tmp_path / "part.skanomaly"
    options = ["--few-shot", "--image-size", "64", "--no-trial", "--target-fpr", "0.3"]
    assert run("fit", folder, "-o", file, *options, "--features", "filter_bank") == 0
    model = skanomaly.load(file)
    low, high = model.false_alarms_per_1000_
    assert low < 20 and high > 600  # of three images little is known
    said = capsys.readouterr().out
    assert f"by leaving each image out: of 1,000 new good parts expect {low} to {high}" in said
    detector = model.estimator_[-1]
    assert isinstance(detector, RegAD) and isinstance(detector.extractor_, FilterBank)
    paths = sorted(folder.iterdir())
    expected = RegAD(image_size=64, random_state=0).fit(paths).score_samples(paths)
    np.testing.assert_allclose(model.score_samples(paths), expected, rtol=1e-5)


def test_features_of_a_network_are_its_last_two_stages(folder, tmp_path, weights):
    file = tmp_path / "part.skanomaly"
    options = ["--few-shot", "--image-size", "64", "--no-trial", "--target-fpr", "0.3"]
    network = ["--features", "squeezenet1_1", "--weights", weights]
    assert run("fit", folder, "-o", file, *options, *network) == 0
    detector = skanomaly.load(file).estimator_[-1]
    assert list(detector.extractor_.layers_) == STAGES[1:]
    assert detector.image_fit_.height == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--detector", "padim"], "--few-shot fits regad, got --detector padim"),
        (["--coreset-ratio", "0.1"], "--coreset-ratio is not an option of --detector regad"),
    ],
)
def test_options_of_other_detectors_are_refused(folder, tmp_path, capsys, options, message):
    file = tmp_path / "part.skanomaly"
    assert run("fit", folder, "-o", file, "--few-shot", *options) == 2
    assert message in capsys.readouterr().err
    assert not file.exists()
