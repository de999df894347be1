"""Networks of timm and Hugging Face, small and random, against what they return themselves."""

import builtins
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone

import skanomaly
from skanomaly import FeatureExtractor, PatchCore, Pipeline
from skanomaly.datasets import make_textures
from skanomaly.estimator_checks import check_extractor
from skanomaly.exceptions import WeightsError
from skanomaly.feature_extraction import backbones
from skanomaly.feature_extraction._hooks import HookedNetwork
from skanomaly.utils.networks import seeded

HALF = (0.5, 0.5, 0.5)
TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
PIXELS = {"image_size": 64, "patch_size": 16, "intermediate_size": 64}


@pytest.fixture(scope="module")
def images():
    return make_textures(3, size=64, random_state=0)


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm", reason="timm is an extra of its own")


@pytest.fixture(scope="module")
def transformers():
    found = pytest.importorskip("transformers", reason="transformers is an extra of its own")
    found.logging.set_verbosity_error()
    return found


def vision_transformer(timm, name="vit_tiny_patch16_224", **arguments):
    sizes = {"img_size": 64, "embed_dim": 32, "depth": 4, "num_heads": 2}
    with seeded(0):
        return timm.create_model(name, pretrained=False, **{**sizes, **arguments}).eval()


def model(transformers, kind, **arguments):
    config = getattr(transformers, kind.replace("Model", "Config"))(**arguments)
    with seeded(0):
        return getattr(transformers, kind)(config).eval()


def normalized(images, mean, std):
    """(n, H, W, 3) uint8 -> tensor (n, 3, H, W) as the networks are given it."""
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 255
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def folded(tokens, grid):
    """Tokens (n, prefix + h * w, C) as maps (n, h, w, C), by a loop over places."""
    rows, columns = grid
    n_prefix = tokens.shape[1] - rows * columns
    maps = np.empty((len(tokens), rows, columns, tokens.shape[2]), np.float32)
    for i in range(rows):
        for j in range(columns):
            maps[:, i, j] = tokens[:, n_prefix + i * columns + j].numpy()
    return maps


def assert_maps(extractor, images, expected):
    found = extractor.fit(images).transform(images).arrays()
    assert list(found) == list(expected)
    for name, maps in found.items():
        np.testing.assert_allclose(maps, expected[name], atol=2e-5, rtol=1e-4)


# --- timm -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_tokens_of_timm_are_folded(timm, images, name):
    network = vision_transformer(timm, name)
    config = network.pretrained_cfg
    x, expected = normalized(images, config["mean"], config["std"]), {}
    with torch.inference_mode():
        x = network._pos_embed(network.patch_embed(x))
        for i, block in enumerate(network.blocks):
            x = block(network.norm_pre(x) if i == 0 else x)
            if i in (1, 2):  # half, and three quarters of four
                expected[f"blocks.{i}"] = folded(x, (4, 4))
    assert x.shape[1] == 16 + network.num_prefix_tokens
    assert_maps(FeatureExtractor(network, image_size=64), images, expected)


def test_registers_of_timm_are_dropped(timm, images):
    network = vision_transformer(timm, "vit_small_patch14_reg4_dinov2", img_size=56)
    extractor = FeatureExtractor(network, image_size=56).fit(images)
    assert network.num_prefix_tokens == 5
    assert extractor.layer_shapes_ == {"blocks.1": (4, 4, 32), "blocks.2": (4, 4, 32)}
    assert (extractor.mean_, extractor.std_) == (backbones.IMAGENET_MEAN, backbones.IMAGENET_STD)


def test_each_network_of_timm_brings_its_mean_and_deviation(timm):
    extractor = FeatureExtractor(vision_transformer(timm), image_size=64).fit()
    assert (extractor.mean_, extractor.std_) == (HALF, HALF)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet10t", ["layer2", "layer3"]),
        ("convnext_atto", ["stages.1", "stages.2"]),
        ("mobilenetv3_small_050", ["blocks.1", "blocks.3"]),
    ],
)
def test_convolutions_of_timm(timm, images, name, layers):
    with seeded(0):
        network = timm.create_model(name, pretrained=False).eval()
    config, expected = network.pretrained_cfg, {}
    for layer in layers:
        network.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output, layer=layer: expected.__setitem__(layer, output)
        )
    with torch.inference_mode():
        network(normalized(images, config["mean"], config["std"]))
    expected = {name: maps.permute(0, 2, 3, 1).numpy() for name, maps in expected.items()}
    assert [maps.shape[1:3] for maps in expected.values()] == [(8, 8), (4, 4)]
    with seeded(0):
        fresh = timm.create_model(name, pretrained=False)
    assert_maps(FeatureExtractor(fresh, image_size=64), images, expected)


def test_swin_of_timm_has_channels_last(timm, images):
    sizes = {"img_size": 64, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
    with seeded(0):
        network = timm.create_model(
            "swin_tiny_patch4_window7_224", pretrained=False, window_size=2, **sizes
        ).eval()
    extractor = FeatureExtractor(network, image_size=64).fit()
    assert extractor.layer_shapes_ == {"layers.1": (8, 8, 32), "layers.2": (4, 4, 64)}
    x = normalized(images, extractor.mean_, extractor.std_)
    with torch.inference_mode():
        expected = network.layers[1](network.layers[0](network.patch_embed(x)))
    found = extractor.transform(images).arrays()["layers.1"]
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)


def test_other_sizes_where_timm_takes_them(timm, images):
    network = vision_transformer(timm, dynamic_img_size=True)
    extractor = FeatureExtractor(network, image_size=(64, 96)).fit()
    assert set(extractor.layer_shapes_.values()) == {(4, 6, 32)}
    fixed = FeatureExtractor(vision_transformer(timm), image_size=(64, 96))
    with pytest.raises(ValueError, match="does not take images of 64 x 96 pixels"):
        fixed.fit()


def test_networks_of_timm_by_name(timm, images, tmp_path):
    name, size = "test_vit", {"image_size": 96, "random_state": 0}
    extractor = FeatureExtractor(f"timm:{name}", weights=None, **size).fit()
    with seeded(np.random.RandomState(0).randint(2**31)):
        network = timm.create_model(name, pretrained=False, num_classes=0, img_size=(96, 96))
    as_module = FeatureExtractor(network, image_size=96).fit()
    found = extractor.transform(images).arrays()
    for layer, maps in as_module.transform(images).arrays().items():
        np.testing.assert_array_equal(found[layer], maps)
    path = tmp_path / "own.pth"
    torch.save(timm.create_model(name, pretrained=False, num_classes=7).state_dict(), path)
    from_file = FeatureExtractor(f"timm:{name}", weights=path, **size).fit()
    assert from_file.weights_fingerprint_ != extractor.weights_fingerprint_
    again = pickle.loads(pickle.dumps(from_file))
    path.unlink()
    expected = from_file.transform(images).arrays()
    assert all(map(np.array_equal, again.transform(images).arrays().values(), expected.values()))


def test_wrong_names_and_files_of_timm(timm, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="expected the name of a network of timm, got 'future'"):
        FeatureExtractor("timm:future").fit()
    with pytest.raises(WeightsError, match="neither a file nor a folder"):
        FeatureExtractor("timm:resnet18", weights=tmp_path / "none.pth").fit()
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"holds no weights of timm:test_resnet: .* missing"):
        FeatureExtractor("timm:test_resnet", weights=tmp_path / "other.pth").fit()
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(WeightsError, match=r"text.pth holds no weights of timm:test_resnet \("):
        FeatureExtractor("timm:test_resnet", weights=tmp_path / "text.pth").fit()
    with pytest.raises(ValueError, match="choose another image_size"):
        FeatureExtractor("timm:twins_svt_small", weights=None, image_size=(112, 168)).fit()

    def unreachable(*args, **kwargs):
        raise FileNotFoundError("no internet")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(WeightsError, match=r"no internet\). Ways out: name a local file, .*Bank"):
        FeatureExtractor("timm:resnet18").fit()


# --- Hugging Face -----------------------------------------------------------------------------

MODELS = {
    "Dinov2Model": {"image_size": 56, "patch_size": 14, **TINY},
    "Dinov2WithRegistersModel": {"image_size": 56, "patch_size": 14, **TINY},
    "DINOv3ViTModel": {"num_register_tokens": 4, **PIXELS, **TINY},
    "ViTModel": {**PIXELS, **TINY},
    "DeiTModel": {**PIXELS, **TINY},
    "SiglipVisionModel": {**PIXELS, **TINY},
}
N_PREFIX = dict(zip(MODELS, (1, 5, 5, 1, 2, 0), strict=True))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("n_rows", [4, 5])
def test_tokens_of_models_are_folded(transformers, kind, n_rows):
    """At the size of the configuration, and at another one that is not square."""
    network = model(transformers, kind, **MODELS[kind])
    patch = network.config.patch_size
    images = make_textures(2, size=(n_rows * patch, 4 * patch), random_state=0)
    x = normalized(images, backbones.IMAGENET_MEAN, backbones.IMAGENET_STD)
    more = {} if kind.startswith(("Dino", "DINO")) else {"interpolate_pos_encoding": True}
    with torch.inference_mode():
        states = network(pixel_values=x, output_hidden_states=True, **more).hidden_states
    expected = {f"hidden_states.{i}": folded(states[i], (n_rows, 4)) for i in (2, 3)}
    extractor = FeatureExtractor(network, image_size=images.shape[1:3])
    assert_maps(extractor, images, expected)
    assert extractor.n_prefix_tokens_ == N_PREFIX[kind]
    assert set(extractor.layouts_.values()) == {"tokens"}


def test_the_last_hidden_state_of_a_model(transformers, images):
    """It may be named, and is what the model returns."""
    network = model(transformers, "ViTModel", **MODELS["ViTModel"])
    x = normalized(images, backbones.IMAGENET_MEAN, backbones.IMAGENET_STD)
    with torch.inference_mode():
        outputs = network(pixel_values=x, output_hidden_states=True)
    expected = {"hidden_states.4": folded(outputs.hidden_states[4], (4, 4))}
    extractor = FeatureExtractor(network, layers="hidden_states.4", image_size=64)
    assert_maps(extractor, images, expected)


STAGED = {
    "ConvNextModel": {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]},
    "ResNetModel": {
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 32, 64],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
    },
    "SwinModel": {
        "image_size": 64,
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 2, 4, 8],
        "window_size": 2,
    },
}


@pytest.mark.parametrize("kind", STAGED)
def test_models_of_stages(transformers, images, kind):
    network = model(transformers, kind, **STAGED[kind])
    x = normalized(images, backbones.IMAGENET_MEAN, backbones.IMAGENET_STD)
    with torch.inference_mode():
        outputs = network(pixel_values=x, output_hidden_states=True)
    states = getattr(outputs, "reshaped_hidden_states", None) or outputs.hidden_states
    chosen = [max(i for i, state in enumerate(states) if state.shape[2:] == (n, n)) for n in (8, 4)]
    expected = {f"hidden_states.{i}": states[i].permute(0, 2, 3, 1).numpy() for i in chosen}
    assert_maps(FeatureExtractor(network, image_size=64), images, expected)


def test_modules_within_a_model_by_name(transformers, images):
    network = model(transformers, "Dinov2Model", **MODELS["Dinov2Model"])
    layer = "encoder.layer.1"
    by_name = FeatureExtractor(network, layers=layer, image_size=56).fit().transform(images)
    as_state = FeatureExtractor(network, image_size=56).fit().transform(images)
    np.testing.assert_array_equal(by_name.arrays()[layer], as_state.arrays()["hidden_states.2"])
    with pytest.raises(ValueError, match="its method named_modules lists them"):
        FeatureExtractor(network, layers="encoder.nothing", image_size=56).fit()
    with pytest.raises(ValueError, match=r"has hidden_states.0 to hidden_states.4"):
        FeatureExtractor(network, layers="hidden_states.5", image_size=56).fit()


@pytest.fixture
def folder(transformers, tmp_path):
    """A model as its makers publish it."""
    network = model(transformers, "Dinov2Model", **MODELS["Dinov2Model"])
    network.save_pretrained(tmp_path / "dino")
    config = {"image_processor_type": "BitImageProcessor", "image_mean": HALF, "image_std": HALF}
    (tmp_path / "dino" / "preprocessor_config.json").write_text(json.dumps(config))
    return tmp_path / "dino"


def test_a_model_from_a_folder(transformers, images, folder, tmp_path):
    extractor = FeatureExtractor(f"hf:{folder}", image_size=56).fit()
    assert (extractor.mean_, extractor.std_) == (HALF, HALF)
    network = transformers.AutoModel.from_pretrained(folder)
    as_module = FeatureExtractor(network, image_size=56).fit()
    assert as_module.mean_ == HALF
    expected = as_module.transform(images).arrays()
    pipe = Pipeline([("features", extractor), ("detector", PatchCore(random_state=0))]).fit(images)
    scores = pipe.score_samples(images)
    skanomaly.dump(pipe, tmp_path / "pipe.skanomaly")
    rest = [pickle.dumps(one) for one in (extractor, as_module)]
    folder.rename(tmp_path / "gone")
    for one in map(pickle.loads, rest):
        found = one.transform(images).arrays()
        assert all(map(np.array_equal, found.values(), expected.values()))
    again = skanomaly.load(tmp_path / "pipe.skanomaly")
    np.testing.assert_array_equal(again.score_samples(images), scores)
    with pytest.raises(WeightsError, match="neither a folder nor in the cache of Hugging Face"):
        clone(extractor).fit()


def test_a_folder_without_some_weights_is_refused(transformers, folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    with pytest.raises(WeightsError, match=r"tensors of the network are missing .*layer\.4"):
        FeatureExtractor(f"hf:{folder}", image_size=56).fit()


def test_other_folders_and_random_weights(transformers, images, folder, tmp_path):
    with pytest.raises(WeightsError, match="neither a file nor a folder"):
        FeatureExtractor("hf:dino", weights=tmp_path / "none").fit()
    named = FeatureExtractor("hf:dino", weights=folder, image_size=56).fit()
    direct = FeatureExtractor(f"hf:{folder}", image_size=56).fit()
    assert named.weights_fingerprint_ == direct.weights_fingerprint_
    seeds = [
        FeatureExtractor(f"hf:{folder}", weights=None, image_size=56, random_state=seed).fit()
        for seed in (0, 0, 1)
    ]
    first, same, other = (one.weights_fingerprint_ for one in seeds)
    assert first == same != other


def test_what_is_no_vision_model(transformers):
    sizes = {"vocab_size": 50, "intermediate_size": 32, **TINY}
    network = model(transformers, "BertModel", **sizes)
    with pytest.raises(ValueError, match="does not take images of 64 x 64 pixels"):
        FeatureExtractor(network, image_size=64).fit()


def test_layers_without_a_grid(transformers):
    network = model(transformers, "ViTModel", **MODELS["ViTModel"])
    with pytest.raises(ValueError, match="choose a layer before the pooling"):
        FeatureExtractor(network, layers="pooler", image_size=64).fit()


# --- both -------------------------------------------------------------------------------------


def test_the_contract_for_timm(timm):
    with seeded(0):
        network = timm.create_model("test_vit", pretrained=False, dynamic_img_size=True)
    check_extractor(FeatureExtractor(network, image_size=64))


def test_the_contract_for_models(transformers):
    network = model(transformers, "Dinov2WithRegistersModel", **MODELS["Dinov2WithRegistersModel"])
    check_extractor(FeatureExtractor(network, image_size=56))


@pytest.mark.parametrize(
    ("backbone", "extra"), [("timm:resnet18", "timm"), ("hf:a", "transformers")]
)
def test_a_missing_extra_is_named(monkeypatch, backbone, extra):
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == extra:
            raise ImportError(f"No module named {name!r}")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, extra, raising=False)
    with pytest.raises(WeightsError, match=rf'pip install "skanomaly\[{extra}\]"'):
        FeatureExtractor(backbone).fit()


class Branching(torch.nn.Module):
    """A network that cannot be traced: what it does depends on what it sees."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 8, stride=8)
        self.pair = Pair()
        self.last = torch.nn.Conv2d(4, 5, 1)

    def forward(self, x):
        x = self.first(x)
        x, _ = self.pair(-x if bool(x.sum() > 1e9) else x)
        return self.last(x)


class Pair(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x), None


def test_what_cannot_be_traced_is_hooked(images):
    with seeded(0):
        network = Branching()
    extractor = FeatureExtractor(network, layers=["last", "pair"], image_size=64).fit()
    found = extractor.transform(images).arrays()
    assert list(found) == ["pair", "last"]
    x = normalized(images, backbones.IMAGENET_MEAN, backbones.IMAGENET_STD)
    with torch.inference_mode():
        pair = network.pair(network.first(x))[0]
        expected = {"pair": pair, "last": network.last(pair)}
    for layer, maps in expected.items():
        np.testing.assert_allclose(found[layer], maps.permute(0, 2, 3, 1), atol=1e-6)
    again = pickle.loads(pickle.dumps(extractor))
    np.testing.assert_array_equal(again.transform(images).arrays()["pair"], found["pair"])
    assert not network.pair._forward_hooks  # the user's own is left as it is
    assert isinstance(backbones.trim(network, ["pair"]), HookedNetwork)
    with pytest.raises(ValueError, match=r"\['other'\] are missing"):
        FeatureExtractor(network, layers="other", image_size=64).fit()
    with pytest.raises(ValueError, match="layers must be named"):
        FeatureExtractor(network, image_size=64).fit()
