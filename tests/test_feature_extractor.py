"""FeatureExtractor: the same numbers as the plain network, and clear words where it cannot be."""

import pickle

import numpy as np
import pytest
import torch
from torchvision import models

from skanomaly import FeatureExtractor
from skanomaly.feature_extraction import _backbones as backbones

SMALL = {"weights": None, "image_size": 64, "random_state": 0}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def plain_stage(network, images, stop):
    """Output of the first children of a plain torchvision network."""
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 255
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.inference_mode():
        x = (x - mean) / std
        for name, child in network.named_children():
            x = child(x)
            if name == stop:
                return x.permute(0, 2, 3, 1).numpy()


def disturbed(network):
    """Batch normalisation with statistics and weights that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network


@pytest.mark.parametrize("stop", ["layer1", "layer3"])
def test_folded_and_trimmed_equals_plain(images, stop):
    torch.manual_seed(0)
    network = disturbed(models.resnet18(weights=None)).eval()
    extractor = FeatureExtractor(network, layers=[stop], image_size=64).fit(images)
    got = extractor.transform(images).arrays()[stop]
    expected = plain_stage(network, images, stop)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_nothing_is_kept_after_the_last_layer(images):
    extractor = FeatureExtractor("resnet18", layers=["layer2"], **SMALL).fit(images)
    names = " ".join(extractor.weights_)
    assert "layer2" in names and "layer3" not in names and "fc" not in names
    assert "running_mean" not in names  # folded
    whole = sum(p.numel() for p in models.resnet18(weights=None).parameters()) * 4
    assert len(pickle.dumps(extractor)) < whole / 10


def test_the_networks_own_module_is_left_as_it_was(images):
    network = disturbed(models.resnet18(weights=None))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    FeatureExtractor(network, layers="layer1", image_size=64).fit(images)
    assert network.training
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())


FAMILIES = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mnasnet0_5",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "squeezenet1_1",
    "swin_t",
    "vgg11",
]


@pytest.mark.parametrize("backbone", FAMILIES)
def test_default_layers_lie_at_strides_8_and_16(backbone, images):
    extractor = FeatureExtractor(backbone, **SMALL).set_params(image_size=128).fit()
    (fine, coarse) = extractor.layer_shapes_.values()
    assert 14 <= fine[0] <= 16 and 6 <= coarse[0] <= 8
    assert fine[2] > 8 and coarse[2] > 8  # channels, not a side of the map
    maps = extractor.transform(images[:1]).arrays()
    assert all(m.std() > 0 for m in maps.values())


def test_weights_from_a_local_file(tmp_path, images):
    torch.manual_seed(5)
    network = disturbed(models.resnet18(weights=None)).eval()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    from_file = FeatureExtractor("resnet18", weights=tmp_path / "net.pth", image_size=64)
    from_module = FeatureExtractor(network, layers=["layer2", "layer3"], image_size=64)
    a, b = (e.fit_transform(images).arrays() for e in (from_file, from_module))
    assert all(np.array_equal(a[name], b[name]) for name in ("layer2", "layer3"))
    assert from_file.weights_fingerprint_ == from_module.weights_fingerprint_


def test_fingerprints_tell_weights_apart(images):
    first, same, other = (
        FeatureExtractor("squeezenet1_1", weights=None, image_size=64, random_state=seed)
        .fit()
        .weights_fingerprint_
        for seed in (0, 0, 1)
    )
    assert first == same != other


def test_real_weights_see_real_things(squeezenet_weights):
    """The whole network, loaded as we load it, knows the temple that scikit-learn ships."""
    from sklearn.datasets import load_sample_image

    network = backbones.load_network("squeezenet1_1", str(squeezenet_weights), 0)
    names = models.SqueezeNet1_1_Weights.DEFAULT.meta["categories"]
    extractor = FeatureExtractor(network, layers=["features.12"]).fit()
    maps = extractor.transform([load_sample_image("china.jpg")]).arrays()["features.12"]
    with torch.inference_mode():
        logits = network.classifier(torch.from_numpy(maps.transpose(0, 3, 1, 2).copy()))
    best = [names[i] for i in logits.flatten().topk(5).indices]
    assert {"stupa", "palace"} & set(best)


def test_no_weights_and_no_network_says_the_ways_out(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(backbones.WeightsError) as error:
        FeatureExtractor("resnet18").fit()
    for part in ("resnet18-", str(tmp_path), "weights=", "FilterBank", "no route to host"):
        assert part in str(error.value)
    assert isinstance(error.value, OSError) and isinstance(error.value, ValueError)


def test_weights_that_are_none(tmp_path):
    text = tmp_path / "weights.pth"
    text.write_text("not weights")
    with pytest.raises(backbones.WeightsError, match=r"weights\.pth: not a file of torch weights"):
        FeatureExtractor("resnet18", weights=text).fit()
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "other.pth")
    with pytest.raises(backbones.WeightsError, match=r"other\.pth holds no weights of resnet18"):
        FeatureExtractor("resnet18", weights=tmp_path / "other.pth").fit()
    with pytest.raises(backbones.WeightsError, match="IMAGENET1K_V1"):
        FeatureExtractor("resnet18", weights="IMAGENET_V9").fit()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backbone": "resnet19"}, "expected a torchvision classification backbone"),
        ({"layers": ["layer9"]}, "not all are in the network"),
        ({"layers": ["fc"]}, "expected maps"),
        ({"backbone": "vit_b_16", "image_size": 224}, "no default layers"),
        ({"backbone": torch.nn.Conv2d(3, 4, 3)}, "layers must be named"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    extractor = FeatureExtractor("resnet18", **SMALL).set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        extractor.fit()


def test_bfloat16_is_close_and_comes_back_as_float32(images):
    extractor = FeatureExtractor("resnet18", **SMALL)
    full = extractor.fit_transform(images).arrays()["layer2"]
    half = extractor.set_params(dtype="bfloat16").fit_transform(images).arrays()["layer2"]
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.05 * np.abs(full).max()


def test_a_module_with_another_number_of_channels():
    module = torch.nn.Sequential(torch.nn.Conv2d(5, 6, 3, stride=2), torch.nn.ReLU())
    images = np.random.default_rng(0).random((2, 64, 64, 5), dtype=np.float32)
    maps = FeatureExtractor(module, layers=["1"], image_size=64).fit_transform(images)
    assert maps.layer_shapes == {"1": (31, 31, 6)}
    with torch.inference_mode():
        expected = module(torch.from_numpy(images.transpose(0, 3, 1, 2))).permute(0, 2, 3, 1)
    np.testing.assert_allclose(maps.arrays()["1"], expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batch_size_changes_nothing(images, batch_size):
    extractor = FeatureExtractor("squeezenet1_1", **SMALL).fit()
    expected = extractor.transform(images).arrays()
    got = extractor.set_params(batch_size=batch_size).transform(images).arrays()
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-5)
