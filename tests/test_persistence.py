"""dump and load: the same scores and bytes, no code, no damage unnoticed."""

import json
import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from hostile_files import an_object, estimator, hostile_files
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import FunctionTransformer

import skanomaly
from skanomaly import (
    FYD,
    MKD,
    SPADE,
    TDG,
    ARNet,
    CFlow,
    CutPaste,
    DifferNet,
    FeatureExtractor,
    FilterBank,
    GANomaly,
    GlobalLocal,
    PaDiM,
    PatchCore,
    Pipeline,
    RegAD,
    registry,
)
from skanomaly.datasets import make_textures
from skanomaly.exceptions import DamagedFileError, NotTrustedError
from skanomaly.io import read_arrays, write_arrays
from skanomaly.model_selection import GoodOnlyKFold, HeldOutThreshold
from skanomaly.persistence import register_class

SIZE = 64


@pytest.fixture(scope="module")
def good():
    return make_textures(6, size=SIZE, random_state=0)


def on_features(detector, features=None):
    features = (
        FilterBank(n_filters=4, image_size=SIZE, random_state=0) if not features else features
    )
    return Pipeline([("features", features), ("detector", detector)])


class Block(torch.nn.Module):
    """A network of torch's own parts, with a tied and a half-precision tensor."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.register_buffer("steps", torch.arange(3, dtype=torch.bfloat16))


MODELS = {
    "PatchCore": lambda: on_features(PatchCore(random_state=0)),
    "PaDiM": lambda: on_features(PaDiM(n_components=8, random_state=0)),
    "SPADE": lambda: on_features(SPADE(n_neighbors=2)),
    "CFlow": lambda: on_features(CFlow(n_blocks=2, n_epochs=1)),
    "DifferNet": lambda: on_features(DifferNet(n_blocks=2, n_epochs=1)),
    "DifferNet of views": lambda: DifferNet(
        FilterBank(n_filters=4, image_size=SIZE), n_views=2, n_test_views=2, density="gaussian"
    ),
    "RegAD": lambda: RegAD(image_size=SIZE),
    "GlobalLocal": lambda: GlobalLocal(n_iter=(1, 1, 1), patch_size=17, image_size=SIZE),
    "CutPaste": lambda: CutPaste("tiny", image_size=SIZE, patch_size=32, n_iter=1),
    "FYD": lambda: FYD("squeezenet1_1", weights=None, n_epochs=1, image_size=SIZE),
    "GANomaly": lambda: GANomaly(n_epochs=1, width=2, image_size=32),
    "ARNet": lambda: ARNet(n_epochs=1, width=2, image_size=32),
    "MKD": lambda: MKD(
        FilterBank(n_filters=4, image_size=SIZE, random_state=0).fit(make_textures(2, size=SIZE)),
        n_epochs=1,
        width=2,
        image_size=SIZE,
    ),
    "TDG": lambda: TDG(n_iter=1, sizes=[16, 24], image_size=SIZE),
    "held-out threshold": lambda: HeldOutThreshold(
        on_features(PatchCore(random_state=0)), target_fpr=0.3, cv=GoodOnlyKFold(2)
    ),
    "features of a network by name": lambda: on_features(
        PatchCore(random_state=0),
        FeatureExtractor("squeezenet1_1", weights=None, image_size=SIZE, random_state=0),
    ),
    "features of a module": lambda: on_features(
        PatchCore(random_state=0),
        FeatureExtractor(
            torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.ReLU()),
            layers="1",
            image_size=SIZE,
        ),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_estimator_comes_back_as_it_was(name, good, tmp_path):
    model = MODELS[name]().fit(good)
    file, again = tmp_path / "model.skanomaly", tmp_path / "again.skanomaly"
    digest = skanomaly.dump(model, file)
    loaded = skanomaly.load(file)
    np.testing.assert_array_equal(loaded.score_samples(good), model.score_samples(good))
    np.testing.assert_array_equal(loaded.predict(good), model.predict(good))
    assert skanomaly.dump(loaded, again) == digest  # using it has changed nothing in it
    assert again.read_bytes() == file.read_bytes()
    assert str(clone(loaded)) == str(clone(model))
    mapped = skanomaly.load(file, mmap_mode="r")
    np.testing.assert_array_equal(mapped.score_samples(good), model.score_samples(good))


@pytest.mark.parametrize("entry", [*registry.DETECTORS, *registry.EXTRACTORS], ids=lambda e: e.name)
def test_an_estimator_that_is_not_fitted_yet(entry, tmp_path):
    kind = entry.load()
    skanomaly.dump(kind(), tmp_path / "new")
    loaded = skanomaly.load(tmp_path / "new")
    assert type(loaded) is kind and loaded.get_params() == kind().get_params()


def test_the_registry_names_where_each_stored_class_is():
    import importlib

    for name, module in registry.STORED.items():
        kind = getattr(importlib.import_module(f"skanomaly.{module}"), name)
        assert kind.__module__ == f"skanomaly.{module}"


def test_estimators_of_scikit_learn_and_their_values(good, tmp_path):
    rows = good.reshape(6, -1)[:, :50].astype(float)
    inner = Pipeline([("pca", PCA(3, random_state=0)), ("detector", PatchCore(coreset_ratio=1.0))])
    model = FrozenEstimator(inner.fit(rows))
    skanomaly.dump(model, tmp_path / "model")
    loaded = skanomaly.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(rows), model.predict(rows))


def test_values_of_all_kinds(tmp_path):
    shared = np.arange(6.0).reshape(2, 3)
    values = {
        "numbers": [
            1,
            -(10**30),
            0.1,
            float("inf"),
            True,
            None,
            2 + 1j,
            np.float32(0.1),
            np.int8(3),
        ],
        "texts": ["é\udcfc", b"\x00\xff", np.str_("x")],
        ("a", 1): {"tuple": (1, (2,)), "sets": [{3, 1, 2}, frozenset("ab")]},
        "ranges": [slice(1, None, 2), range(3), np.dtype("f4")],
        "arrays": [shared, shared, np.asfortranarray(shared), np.zeros((0, 3)), np.array(2)],
        "strings": np.array(["a", "bcd"]),
        "objects": np.array([None, (1, 2)], dtype=object),
        "generators": [np.random.RandomState(3), np.random.default_rng(4)],
        "memory": joblib.Memory(tmp_path / "memory", verbose=0),
        "tensors": Block(),
    }
    register_class(Block, name="tests.Block")
    skanomaly.dump(values, tmp_path / "values")
    loaded = skanomaly.load(tmp_path / "values")
    assert loaded["numbers"] == values["numbers"]
    assert [type(one) for one in loaded["numbers"]] == [type(one) for one in values["numbers"]]
    for name in ("texts", ("a", 1), "ranges"):
        assert loaded[name] == values[name]
    for one, other in zip(loaded["arrays"], values["arrays"], strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.flags.f_contiguous == other.flags.f_contiguous
    assert loaded["arrays"][0] is loaded["arrays"][1] is not loaded["arrays"][2]
    assert loaded["strings"].tolist() == ["a", "bcd"]
    assert loaded["objects"].tolist() == [None, (1, 2)]
    for one, other in zip(loaded["generators"], values["generators"], strict=True):
        assert one.random() == other.random()
    assert loaded["memory"].location is None  # a folder of another machine
    for name, tensor in values["tensors"].state_dict().items():
        assert torch.equal(loaded["tensors"].state_dict()[name], tensor)
    assert loaded["tensors"].steps.dtype == torch.bfloat16


def test_what_cannot_be_written_is_named_with_its_place(tmp_path):
    file = tmp_path / "model"
    file.write_bytes(b"as before")
    model = Pipeline([("a", FunctionTransformer(lambda x: x)), ("detector", PatchCore())])
    with pytest.raises(TypeError, match=r"Pipeline\.steps\[0\]\[1\]\.func is of .*function"):
        skanomaly.dump(model, file)
    assert file.read_bytes() == b"as before" and os.listdir(tmp_path) == ["model"]


def test_the_bytes_depend_on_the_model_alone(good, tmp_path):
    np.save(tmp_path / "good.npy", good)
    code = (
        "import sys, numpy as np, skanomaly as s\n"
        "pipe = s.Pipeline([('f', s.FilterBank(n_filters=4, image_size=64, random_state=0)),"
        " ('d', s.PatchCore(random_state=0))])\n"
        "print(s.dump(pipe.fit(np.load('good.npy')), sys.argv[1]))"
    )
    digests = set()
    for seed in "1", "2":
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed}
        arguments = [sys.executable, "-c", code, f"{seed}.skanomaly"]
        done = subprocess.run(
            arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1
    assert (tmp_path / "1.skanomaly").read_bytes() == (tmp_path / "2.skanomaly").read_bytes()


def test_the_description_can_be_read_without_us(good, tmp_path):
    skanomaly.dump(MODELS["PatchCore"]().fit(good), tmp_path / "model")
    content = (tmp_path / "model").read_bytes()
    line, _, rest = content.partition(b"\n")
    description = json.loads(rest[: int(line.split()[2])])
    assert description["head"]["versions"]["skanomaly"] == skanomaly.__version__
    assert description["head"]["estimator"]["object"] == "Pipeline"


# --- damage ---------------------------------------------------------------------------------------


def test_no_damage_goes_unnoticed(good, tmp_path):
    model = on_features(PatchCore(coreset_ratio=0.05, random_state=0)).fit(good)
    file, damaged = tmp_path / "model", tmp_path / "damaged"
    skanomaly.dump(model, file)
    content = file.read_bytes()
    for place in range(0, len(content), 13):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        damaged.write_bytes(changed)
        with pytest.raises(DamagedFileError, match="damaged"):
            skanomaly.load(damaged)
    for length in range(0, len(content), 97):
        damaged.write_bytes(content[:length])
        with pytest.raises(DamagedFileError):
            skanomaly.load(damaged)
    damaged.write_bytes(content + b"\0")
    with pytest.raises(DamagedFileError, match=r"expected .* bytes"):
        skanomaly.load(damaged)


def test_another_format_is_named(tmp_path):
    file = tmp_path / "arrays"
    write_arrays(file, {"a": np.arange(3)})
    file.write_bytes(file.read_bytes().replace(b"skanomaly 1 ", b"skanomaly 9 ", 1))
    with pytest.raises(DamagedFileError, match="has format 9, this version reads 1"):
        read_arrays(file)


def test_a_file_of_something_else(tmp_path):
    for content in (b"", b"\n", b"PK\x03\x04", b"{}", b"skanomaly", b"skanomaly 1 x y\n"):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(
            DamagedFileError, match=r"file: damaged, or not a file of skanomaly.dump"
        ):
            skanomaly.load(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="gone: no such file"):
        skanomaly.load(tmp_path / "gone")
    write_arrays(tmp_path / "arrays", {"a": np.arange(3)})
    with pytest.raises(DamagedFileError, match=r"not a file of skanomaly.dump"):
        skanomaly.load(tmp_path / "arrays")


# --- strangers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", hostile_files("x"))
def test_a_hostile_file_is_refused_and_runs_nothing(name, tmp_path):
    file, victim = tmp_path / "model.skanomaly", tmp_path / "victim"
    file.write_bytes(hostile_files(victim)[name])
    with pytest.raises((DamagedFileError, NotTrustedError), match=r"model\.skanomaly"):
        skanomaly.load(file)
    assert os.listdir(tmp_path) == ["model.skanomaly"]


def test_a_pickle_is_loaded_for_those_who_trust_it(good, tmp_path):
    model = MODELS["PatchCore"]().fit(good)
    for protocol in (0, 2, 5):
        (tmp_path / "model").write_bytes(pickle.dumps(model, protocol=protocol))
        with pytest.raises((NotTrustedError, DamagedFileError)):
            skanomaly.load(tmp_path / "model")
        loaded = skanomaly.load(tmp_path / "model", trust_pickle=True)
        np.testing.assert_array_equal(loaded.score_samples(good), model.score_samples(good))
    for compress in (0, 1, ("gzip", 1), ("bz2", 1), ("lzma", 1), ("xz", 1)):
        joblib.dump(model, tmp_path / "model", compress=compress)
        with pytest.raises(NotTrustedError, match=r"is a pickle, .* pass trust_pickle=True"):
            skanomaly.load(tmp_path / "model")


class Shifted(TransformerMixin, BaseEstimator):
    """An estimator of another package."""

    def fit(self, X, y=None):
        self.mean_ = X.mean(axis=0)
        return self

    def transform(self, X):
        return X - self.mean_


def test_a_class_of_another_package_is_told_once(good, tmp_path):
    rows = good.reshape(6, -1)[:, :9].astype(float)
    model = Pipeline([("shift", Shifted()), ("detector", PatchCore(coreset_ratio=1.0))]).fit(rows)
    with pytest.raises(TypeError, match=r"steps\[0\]\[1\] is of .*Shifted.*register_class"):
        skanomaly.dump(model, tmp_path / "model")
    assert register_class(Shifted, name="elsewhere.Shifted") is Shifted
    register_class(Shifted, name="elsewhere.Shifted")  # a notebook's cell is run again
    skanomaly.dump(model, tmp_path / "model")
    loaded = skanomaly.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(rows), model.score_samples(rows))
    for name in ("elsewhere.Shifted", "PatchCore", "sklearn.decomposition.PCA"):
        with pytest.raises(ValueError, match="which is taken"):
            register_class(Block, name=name)


def test_a_class_that_is_not_known_is_named(tmp_path):
    (tmp_path / "model").write_bytes(estimator(an_object("somebody.Detector")))
    with pytest.raises(NotTrustedError, match=r"class 'somebody.Detector'.*register_class"):
        skanomaly.load(tmp_path / "model")
