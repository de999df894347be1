"""The registry of backbones, and layouts: a name decides nothing that its module would not."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torchvision import models

from skanomaly import FeatureExtractor
from skanomaly.feature_extraction import backbones
from skanomaly.feature_extraction._axis_order import measure_layouts, token_grid

SMALL = {"weights": None, "random_state": 0}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


# --- the registry ---------------------------------------------------------------------------------


def test_every_classification_network_of_torchvision_is_known():
    for name in models.list_models(module=models):
        known = backbones.find_backbone(name)
        assert len(known.layers) == 2 and known.layout in ("NCHW", "NHWC", "tokens")
        assert (known.n_prefix_tokens > 0) == (known.layout == "tokens")
        assert known.stages is None or len(known.stages) == 3


def test_no_backbone_is_shadowed():
    """Every line of the table is the first that matches some name."""
    names = [*models.list_models(module=models), "efficientnet_lite0"]
    found = [backbones.find_backbone(name) for name in names]
    assert {id(one) for one in found} == {id(one) for one in backbones.BACKBONES}


def test_an_unknown_family_must_be_given_layers():
    with pytest.raises(ValueError, match=r"no default layers are known .* layers=\("):
        backbones.find_backbone("future_net")
    assert backbones.describe_backbone("future_net").layers == ()
    assert backbones.describe_backbone(torch.nn.ReLU()).mean == backbones.IMAGENET_MEAN


def test_a_family_cannot_be_changed():
    with pytest.raises(AttributeError):
        backbones.find_backbone("resnet18").layers = ("layer1",)


FAMILIES = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_lite0",
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
    extractor = FeatureExtractor(backbone, image_size=128, **SMALL).fit()
    (fine, coarse) = extractor.layer_shapes_.values()
    assert 14 <= fine[0] <= 16 and 6 <= coarse[0] <= 8
    assert fine[2] > 8 and coarse[2] > 8  # channels, not a side of the map
    assert set(extractor.layouts_.values()) == {backbones.find_backbone(backbone).layout}
    maps = extractor.transform(images[:1]).arrays()
    assert all(m.std() > 0 for m in maps.values())


@pytest.mark.parametrize(
    "name", ["inception_v3", "maxvit_t", "swin_v2_t", "vit_b_16", "vit_b_32", "vit_l_16"]
)
def test_the_layouts_of_large_networks(name):
    known = backbones.find_backbone(name)
    with torch.device("meta"):  # a network without numbers is soon built
        network = models.get_model(name, weights=None, **known.build_arguments).eval()
    trimmed = backbones.trim(network, known.layers)
    assert measure_layouts(trimmed, (224, 224), 3) == dict.fromkeys(known.layers, known.layout)


# --- layouts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        ("resnet18", (64, 96), [(8, 12, 128), (4, 6, 256)]),
        ("squeezenet1_1", (64, 96), [(7, 11, 256), (3, 5, 512)]),
        ("swin_t", (64, 96), [(8, 12, 192), (4, 6, 384)]),
        ("vit_b_16", (64, 64), [(4, 4, 32), (4, 4, 32)]),
    ],
)
def test_the_same_network_by_name_and_as_a_module(name, size, shapes, images, monkeypatch):
    if name == "vit_b_16":
        network = models.VisionTransformer(64, 16, 9, 2, 32, 64).eval()  # a small one
    else:
        network = backbones.load_network(name, None, 0)
    # Networks take a second to draw, so that this one is copied.
    monkeypatch.setattr(models, "get_model", lambda *args, **kwargs: copy.deepcopy(network))
    layers = backbones.find_backbone(name).layers
    by_name = FeatureExtractor(name, image_size=size, **SMALL).fit()
    as_module = FeatureExtractor(network, layers=layers, image_size=size).fit()
    assert list(by_name.layer_shapes_.values()) == shapes
    assert by_name.layouts_ == as_module.layouts_
    assert by_name.layer_shapes_ == as_module.layer_shapes_
    expected, got = (e.transform(images).arrays() for e in (by_name, as_module))
    assert all(np.array_equal(got[layer], expected[layer]) for layer in layers)


@pytest.fixture
def small_vit(monkeypatch):
    """Networks called "vit_b_16" have 9 blocks of 32 channels."""

    def build(name, weights=None, image_size=224):
        assert name == "vit_b_16" and weights is None
        return models.VisionTransformer(image_size, 16, 9, 2, 32, 64)

    monkeypatch.setattr(models, "get_model", build)
    return build


def test_tokens_are_the_plain_networks_patches(small_vit, images):
    """Rows of the grid are rows of the image, and the class token is left out."""
    network = small_vit("vit_b_16", image_size=64).eval()
    layer = "encoder.layers.encoder_layer_1"
    extractor = FeatureExtractor(network, layers=layer, image_size=64).fit()
    assert extractor.layouts_ == {layer: "tokens"}
    found = {}
    block = network.encoder.layers.encoder_layer_1
    block.register_forward_hook(lambda module, inputs, output: found.update(tokens=output))
    mean = torch.tensor(backbones.IMAGENET_MEAN)[:, None, None]
    std = torch.tensor(backbones.IMAGENET_STD)[:, None, None]
    with torch.inference_mode():
        network((torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 255 - mean) / std)
    got = extractor.transform(images).arrays()[layer]
    assert got.shape == (2, 4, 4, 32)
    for row in range(4):
        for column in range(4):
            expected = found["tokens"][:, 1 + 4 * row + column]
            np.testing.assert_allclose(got[:, row, column], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "layout"),
    # A family's layers need not all have the layout, or the prefix tokens, of its default layers.
    [("conv_proj", "NCHW"), ("permute", "tokens"), ("encoder.dropout", "tokens")],
)
def test_each_layer_has_its_own_layout(layer, layout, small_vit):
    extractor = FeatureExtractor("vit_b_16", layers=layer, image_size=64, **SMALL).fit()
    assert extractor.layouts_ == {layer: layout}
    assert extractor.layer_shapes_ == {layer: (4, 4, 32)}


class ThreeLayouts(torch.nn.Module):
    """Maps in three layouts; ``side`` is the only size that it takes, None: any."""

    def __init__(self, n_channels=5, side=None):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, n_channels, 4, stride=4)
        self.first, self.second, self.third = (torch.nn.Identity() for _ in range(3))
        self.position = None if side is None else torch.nn.Parameter(torch.ones(side, 1))

    def forward(self, x):
        if self.position is not None:
            x = x * self.position
        x = self.first(self.convolution(x))
        x = self.second(x.permute(0, 2, 3, 1))
        return self.third(x.flatten(1, 2))


LAYERS = ["first", "second", "third"]
LAYOUTS = {"first": "NCHW", "second": "NHWC", "third": "tokens"}


@pytest.mark.parametrize("side", [None, 64])
@pytest.mark.parametrize("width", [64, 96])
def test_one_network_may_have_all_layouts(side, width, images):
    extractor = FeatureExtractor(
        ThreeLayouts(side=side), layers=LAYERS, image_size=(64, width)
    ).fit()
    assert extractor.layouts_ == LAYOUTS
    assert extractor.layer_shapes_ == dict.fromkeys(LAYERS, (16, width // 4, 5))
    first, second, third = extractor.transform(images).arrays().values()
    assert np.array_equal(first, second) and np.array_equal(second, third)


def test_a_network_of_one_size_may_need_to_be_told_its_layout():
    """16 channels on a grid of 16 x 16: the shape says nothing."""
    network = ThreeLayouts(n_channels=16, side=64)
    for layer in LAYERS[:2]:
        extractor = FeatureExtractor(network, layers=layer, image_size=64)
        with pytest.raises(ValueError, match=rf"layer '{layer}'.*\(1, 16, 16, 16\).*layout="):
            extractor.fit()
        extractor.set_params(layout=LAYOUTS[layer]).fit()
        assert extractor.layer_shapes_ == {layer: (16, 16, 16)}
    # Without positions any size will do, and the shapes say all.
    free = FeatureExtractor(ThreeLayouts(n_channels=16), layers=LAYERS, image_size=64).fit()
    assert free.layouts_ == LAYOUTS


def test_the_table_serves_where_measuring_leaves_a_layout_open():
    trimmed = backbones.trim(ThreeLayouts(16, side=64).eval(), ["second"])
    assert measure_layouts(trimmed, (64, 64), 3, fallback="NHWC") == {"second": "NHWC"}


@pytest.mark.parametrize(("layer", "layout"), [("third", "NCHW"), ("first", "tokens")])
def test_a_layout_that_cannot_be_is_refused(layer, layout):
    extractor = FeatureExtractor(ThreeLayouts(), layers=layer, image_size=64, layout=layout)
    with pytest.raises(ValueError, match=rf"layer '{layer}' returns shape .* layout='{layout}'"):
        extractor.fit()


@pytest.mark.parametrize("axes", [(0, 1, 3, 2), (0, 3, 2, 1), (0, 2, 1, 3)])
def test_another_order_of_axes_is_refused(axes):
    class Transposed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 5, 4, stride=4)

        def forward(self, x):
            return self.convolution(x).permute(*axes)

    extractor = FeatureExtractor(Transposed(), layers="permute", image_size=64)
    with pytest.raises(ValueError, match="cannot be told from its shape"):
        extractor.fit()


def test_networks_that_need_numbers_are_measured_with_numbers():
    class Looking(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.avg_pool2d(x, 8)[:, : int_of(x)]

    trimmed = backbones.trim(Looking().eval(), ["getitem"])
    assert measure_layouts(trimmed, (64, 64), 3) == {"getitem": "NCHW"}


@torch.fx.wrap
def int_of(x):
    return int(x.sum()) + 2  # of a blank image: two channels


def test_the_given_network_is_not_touched_by_measuring():
    trimmed = backbones.trim(ThreeLayouts().eval(), LAYERS)
    before = {name: tensor.clone() for name, tensor in trimmed.state_dict().items()}
    measure_layouts(trimmed, (64, 64), 3)
    assert all(torch.equal(before[n], t) for n, t in trimmed.state_dict().items())


@pytest.mark.parametrize(
    ("n_tokens", "size", "n_prefix", "grid"),
    [
        (196, (224, 224), 0, (14, 14)),
        (197, (224, 224), 0, (14, 14)),
        (197, (224, 224), 1, (14, 14)),
        (196, (224, 224), 1, (14, 14)),  # a layer before the class token is added
        (198, (224, 224), 0, (14, 14)),  # with a distillation token
        (261, (224, 224), 0, (16, 16)),  # patches of 14 pixels, a class token and four registers
        (5, (64, 64), 0, (2, 2)),
        (2, (32, 32), 0, (1, 1)),
        (1 + 8 * 12, (64, 96), 0, (8, 12)),
        (12 * 8, (96, 64), 0, (12, 8)),
        (13 * 13, (100, 100), 0, (13, 13)),  # strides of 8, rounded up
    ],
)
def test_grids_of_tokens(n_tokens, size, n_prefix, grid):
    assert token_grid(n_tokens, size, n_prefix) == grid


def test_tokens_that_are_no_grid():
    with pytest.raises(ValueError, match="150 tokens are no grid over an image of 64 x 64"):
        token_grid(150, (64, 64))


# --- vision transformers --------------------------------------------------------------------------


def test_a_vision_transformer_is_built_for_the_images_size(small_vit, images):
    extractor = FeatureExtractor("vit_b_16", image_size=96, **SMALL).fit()
    assert set(extractor.layer_shapes_.values()) == {(6, 6, 32)}
    expected = extractor.transform(images).arrays()
    again = pickle.loads(pickle.dumps(extractor)).transform(images).arrays()
    assert all(np.array_equal(again[name], maps) for name, maps in expected.items())


@pytest.mark.parametrize(("size", "message"), [((64, 96), "square"), (72, "its patches")])
def test_sizes_that_a_vision_transformer_cannot_have(size, message, small_vit):
    with pytest.raises(ValueError, match=message):
        FeatureExtractor("vit_b_16", image_size=size, **SMALL).fit()


def test_positions_are_interpolated_to_the_images_size(tmp_path, monkeypatch, small_vit):
    network = small_vit("vit_b_16", image_size=96)
    torch.nn.init.normal_(network.encoder.pos_embedding)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    path = str(tmp_path / "net.pth")
    same = backbones.load_network("vit_b_16", path, 0, (96, 96))
    assert torch.equal(same.encoder.pos_embedding, network.encoder.pos_embedding)
    small = backbones.load_network("vit_b_16", path, 0, (64, 64))
    assert small.encoder.pos_embedding.shape == (1, 1 + 4 * 4, 32)
    assert torch.equal(small.encoder.pos_embedding[:, 0], network.encoder.pos_embedding[:, 0])

    def published(name, weights=None, **arguments):
        return small_vit(name, **arguments) if weights is None else network

    monkeypatch.setattr(models, "get_model", published)
    resized = backbones.load_network("vit_b_16", "IMAGENET1K_V1", 0, (64, 64))
    assert torch.equal(resized.encoder.pos_embedding, small.encoder.pos_embedding)
    assert torch.equal(resized.conv_proj.weight, network.conv_proj.weight)
