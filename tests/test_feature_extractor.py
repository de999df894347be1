"""FeatureExtractor: the same numbers as the plain network, and clear errors where it cannot be."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torchvision import models

from skanomaly import FeatureExtractor
from skanomaly.exceptions import WeightsError
from skanomaly.feature_extraction import backbones

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
    """Batch normalization with statistics and weights that are not those of a fresh network."""
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
    with pytest.raises(WeightsError) as error:
        FeatureExtractor("resnet18").fit()
    for part in ("resnet18-", str(tmp_path), "weights=", "FilterBank", "no route to host"):
        assert part in str(error.value)
    assert isinstance(error.value, OSError) and isinstance(error.value, ValueError)


def test_weights_that_are_none(tmp_path):
    text = tmp_path / "weights.pth"
    text.write_text("not weights")
    with pytest.raises(WeightsError, match=r"weights\.pth: not a file of torch weights"):
        FeatureExtractor("resnet18", weights=text).fit()
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth holds no weights of resnet18"):
        FeatureExtractor("resnet18", weights=tmp_path / "other.pth").fit()
    with pytest.raises(WeightsError, match="IMAGENET1K_V1"):
        FeatureExtractor("resnet18", weights="IMAGENET_V9").fit()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backbone": "resnet19"}, "expected a torchvision classification backbone"),
        ({"layers": ["layer9"]}, "not all are in the network"),
        ({"layers": ["fc"]}, "expected maps"),
        ({"layers": "features.0"}, "not all are in the network"),
        ({"device": "cuda:99"}, "device='cuda:99'"),
        ({"device": "gpu"}, "expected device as"),
        ({"layout": "NWHC"}, "layout"),
        ({"backbone": "alexnet", "image_size": 16}, "does not take images of 16 x 16 pixels"),
        ({"backbone": "alexnet", "image_size": 16, "layout": "NCHW"}, "images of 16 x 16 pixels"),
        ({"backbone": torch.nn.Conv2d(3, 4, 3)}, "layers must be named"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_bad_parameters_are_refused(parameters, message, monkeypatch, capfd):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    extractor = FeatureExtractor("resnet18", **SMALL).set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        extractor.fit()
    assert capfd.readouterr() == ("", "")  # nothing but the exception


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_of_another_precision(images, dtype):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).to(dtype)
    extractor = FeatureExtractor(module, layers=["1"], image_size=64).fit()
    same = FeatureExtractor(copy.deepcopy(module).float(), layers=["1"], image_size=64).fit()
    expected, got = (e.transform(images).arrays()["1"] for e in (same, extractor))
    assert got.dtype == np.float32 and np.array_equal(got, expected)
    assert module[0].weight.dtype == dtype


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batch_size_changes_nothing(images, batch_size):
    extractor = FeatureExtractor("squeezenet1_1", **SMALL).fit()
    expected = extractor.transform(images).arrays()
    got = extractor.set_params(batch_size=batch_size).transform(images).arrays()
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_jobs", [1, 3, -1])
def test_the_number_of_threads_changes_nothing(images, n_jobs):
    extractor = FeatureExtractor("squeezenet1_1", batch_size=1, **SMALL).fit()
    expected = extractor.transform(images).arrays()
    got = extractor.set_params(n_jobs=n_jobs).transform(images).arrays()
    assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_images_are_normalized_as_the_backbone_was_trained(images, monkeypatch):
    gray = backbones.Backbone("squeezenet", ("features.2",), mean=(0.5,) * 3, std=(0.25,) * 3)
    plain = FeatureExtractor("squeezenet1_1", layers="features.0", **SMALL).fit()._identity()
    network = backbones.load_network("squeezenet1_1", None, np.random.RandomState(0).randint(2**31))
    monkeypatch.setattr(backbones._families, "BACKBONES", (gray,))
    extractor = FeatureExtractor("squeezenet1_1", layers="features.0", **SMALL).fit()
    assert extractor._identity() != plain
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 255
    with torch.inference_mode():
        expected = network.features[0]((x - 0.5) / 0.25).permute(0, 2, 3, 1)
    got = extractor.transform(images).arrays()["features.0"]
    np.testing.assert_allclose(got, expected, atol=1e-5)


# --- threads --------------------------------------------------------------------------------------


def in_threads(function, n_threads=4):
    """The results of function(0), ... of threads that start at once."""
    start = threading.Barrier(n_threads)

    def work(i):
        start.wait()
        return function(i)

    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(work, range(n_threads)))


def test_several_threads_may_use_an_unpickled_extractor_first(images):
    network = models.squeezenet1_1(weights=None)
    extractor = FeatureExtractor(network, layers=["features.4"], image_size=64).fit()
    expected = extractor.transform(images).arrays()["features.4"]
    for _ in range(3):
        cold = pickle.loads(pickle.dumps(extractor))
        found = in_threads(lambda i, cold=cold: cold.transform(images[i % 3][None]).arrays())
        for i, arrays in enumerate(found):
            assert np.array_equal(arrays["features.4"][0], expected[i % 3])
    torch.nn.Linear(2, 2)(torch.zeros(1, 2))  # torch itself is as it was


def test_several_threads_may_fit_at_a_time(images):
    def features(seed):
        extractor = FeatureExtractor(
            "squeezenet1_1", layers="features.4", weights=None, image_size=64, random_state=seed
        )
        return extractor.fit_transform(images).arrays()["features.4"]

    for i, found in enumerate(in_threads(features)):
        assert np.array_equal(found, features(i))


def test_other_threads_may_compute_while_a_network_is_traced():
    """torch.fx changes torch.nn.Module for all threads; ours must not notice."""
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
    x, is_done = torch.ones(1, 3, 8, 8), threading.Event()
    expected = other(x)

    def compute():
        n_passes = 0
        while not is_done.is_set():
            assert torch.equal(other(x), expected)
            n_passes += 1
        return n_passes

    network = models.resnet18(weights=None).eval()
    with ThreadPoolExecutor(1) as pool:
        passes = pool.submit(compute)
        try:
            for _ in range(5):
                backbones.trim(network, ["layer1"])
        finally:
            is_done.set()
        assert passes.result() > 0
