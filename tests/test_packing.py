"""Packed networks return what the plain ones do."""

import numpy as np
import pytest
import torch
from torchvision import models
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from skanomaly import FeatureExtractor
from skanomaly.feature_extraction import _inference, _tracing
from skanomaly.feature_extraction._packing import SlicedMaxPool, can_pack, pack
from skanomaly.feature_extraction._tracing import trim
from skanomaly.feature_extraction.backbones import rebuild
from skanomaly.utils.networks import to_arrays

needs_packing = pytest.mark.skipif(
    not can_pack(), reason="this processor or torch has no packed convolutions"
)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("size", [(12, 13), (7, 20), (9, 9)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(3, 2, 1), (3, 2, 0), (2, 2, 0), (3, 1, 1), ((2, 3), (1, 2), 1)],
)
def test_max_pooling_is_torchs(kernel, stride, padding, size, ceil_mode):
    pool = torch.nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil_mode)
    x = torch.randn(2, 5, *size, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(SlicedMaxPool(pool)(x), pool(x))


class Block(torch.nn.Module):
    """Every pattern the packing knows, and some it must leave alone."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = torch.nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.short = torch.nn.Conv2d(8, 8, 1)
        self.used_twice = torch.nn.Conv2d(8, 8, 1)
        self.same = torch.nn.Conv2d(8, 8, 3, padding="same")
        self.reflecting = torch.nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.relu = torch.nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.first(x))
        x = torch.relu(self.second(x) + self.short(x))
        y = self.used_twice(x)
        x = torch.nn.functional.relu(y) + y
        x = self.relu(self.reflecting(x)) - self.same(x)
        return (self.second(x) + 1.0).relu()


@needs_packing
def test_every_pattern_of_convolution_sum_and_relu():
    torch.manual_seed(0)
    block = Block().eval()
    x = torch.randn(1, 3, 21, 18).contiguous(memory_format=torch.channels_last)
    packed = pack(torch.fx.symbolic_trace(block))
    with torch.inference_mode():
        expected = block(x.clone())
        torch.testing.assert_close(packed(x.clone()), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(packed(x.clone()), expected, rtol=1e-5, atol=1e-5)
    assert sum("packed" in name for name, _ in packed.named_children()) == 5


class LinearBlock(torch.nn.Module):
    """ReLU6, sums that nothing follows, and a sum before ReLU6, which is not fused."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.third = torch.nn.Conv2d(8, 8, 1)
        self.relu6 = torch.nn.ReLU6(inplace=True)

    def forward(self, x):
        x = self.relu6(40 * self.first(x))
        x = x + self.third(self.relu6(self.second(x)))
        return self.relu6(x + self.third(x)) + x


@needs_packing
def test_relu6_and_sums_that_nothing_follows():
    torch.manual_seed(0)
    block = LinearBlock().eval()
    x = 3 * torch.randn(2, 3, 21, 18).contiguous(memory_format=torch.channels_last)
    packed = pack(torch.fx.symbolic_trace(block))
    operators = [node.target for node in packed.graph.nodes if node.op == "call_function"]
    assert len(operators) == 3  # the product with 40, and the sums around ReLU6
    with torch.inference_mode():
        expected = block(x.clone())
        assert expected.max() > 6.0
        torch.testing.assert_close(packed(x.clone()), expected, rtol=1e-5, atol=1e-5)


@needs_packing
@pytest.mark.parametrize(
    "backbone",
    [
        "resnet18",
        "squeezenet1_1",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "efficientnet_lite0",
        "densenet121",
        "vgg11_bn",
    ],
)
def test_packed_and_plain_backbones_agree(backbone, monkeypatch):
    """The path of other processors runs here too, and gives the same features."""
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    extractor = FeatureExtractor(backbone, weights=None, image_size=64, random_state=0)
    packed = extractor.fit_transform(images).arrays()
    monkeypatch.setattr(_inference, "can_pack", lambda: False)
    plain = extractor.fit_transform(images).arrays()
    for name, maps in plain.items():
        np.testing.assert_allclose(packed[name], maps, rtol=1e-4, atol=1e-4 * np.abs(maps).max())


def test_automatic_precision_is_the_fast_one(monkeypatch):
    extractor = FeatureExtractor(
        models.squeezenet1_1(weights=None), layers=["features.3"], dtype="auto", image_size=64
    )
    for is_fast, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(_inference, "has_fast_bfloat16", lambda is_fast=is_fast: is_fast)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        network = extractor.fit()._network
        assert (network.device, network.dtype) == (torch.device("cpu"), dtype)


def test_a_network_of_an_earlier_file_is_rebuilt():
    """Of a version that did not look into blocks: its names and its results."""
    torch.manual_seed(0)
    network = models.mobilenet_v2(weights=None).eval()
    earlier = _tracing.trim(network, ["features.3"], opens_blocks=False)
    arrays = to_arrays(earlier)
    assert arrays.keys() != to_arrays(trim(network, ["features.3"])).keys()
    other = models.mobilenet_v2(weights=None).eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = rebuild(other, ["features.3"], arrays)(x)["features.3"]
        assert torch.equal(found, earlier(x)["features.3"])
        arrays = to_arrays(trim(network, ["features.3"]))
        found = rebuild(other, ["features.3"], arrays)(x)["features.3"]
        torch.testing.assert_close(found, earlier(x)["features.3"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["efficientnet_b0", "mobilenet_v2", "mobilenet_v3_small"])
def test_blocks_of_torchvision_are_looked_into(backbone):
    """So that their normalization is folded, and their convolutions can be packed."""
    network = getattr(models, backbone)(weights=None).eval()
    trimmed = trim(network, ["features.3"])
    kinds = {type(module) for module in trimmed.modules()}
    assert torch.nn.Conv2d in kinds
    assert not kinds & {torch.nn.BatchNorm2d, Conv2dNormActivation, SqueezeExcitation}
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network.features[:4](x)
        torch.testing.assert_close(trimmed(x)["features.3"], expected, rtol=1e-4, atol=1e-5)
        if can_pack():
            packed = pack(trimmed)
            torch.testing.assert_close(packed(x)["features.3"], expected, rtol=1e-4, atol=1e-5)
            assert torch.nn.Conv2d not in {type(module) for module in packed.modules()}
