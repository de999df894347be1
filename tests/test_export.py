"""export_onnx: the model scores like the estimator, in onnxruntime and in OpenVINO."""

import numpy as np
import pytest
import torch
from cli_parts import run, save
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline as SklearnPipeline

import skanomaly
from skanomaly import (
    SPADE,
    EnsembleDetector,
    FeatureExtractor,
    FilterBank,
    PaDiM,
    PatchCore,
    Pipeline,
    export_onnx,
)
from skanomaly.datasets import make_defects, make_textures
from skanomaly.images import ImageFit, resampling_weights
from skanomaly.model_selection import HeldOutThreshold

REASON = "the extra 'export' is not installed"
onnx = pytest.importorskip("onnx", reason=REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
pytest.importorskip("onnxscript", reason=REASON)

FRAME = (90, 110)
GOOD = make_textures(24, size=FRAME, random_state=0)
BAD = make_defects(GOOD[:2], kinds=["blur"], size=2, random_state=0)[0]
IMAGES = np.concatenate([GOOD[:3], BAD])  # five
EXTRACTORS = {
    "filters": FilterBank(n_filters=4, image_size=64, random_state=0),
    "padded": FilterBank(n_filters=4, image_size=(64, 72), resize="pad", random_state=0),
    "cropped": FilterBank(n_filters=4, image_size=64, resize="crop", random_state=0),
    "network": FeatureExtractor(
        "squeezenet1_1", weights=None, image_size=64, device="cpu", random_state=0
    ),
}
DETECTORS = {
    "map_max": PatchCore(random_state=0),
    "paper": PatchCore(image_score="paper", n_neighbors=3, patch_size=5, random_state=0),
    "unweighted": PatchCore(image_score="paper", n_reweight=0, sigma=0, random_state=0),
    "dense": PaDiM(n_components=10, image_score="paper", random_state=0),
    "low_rank": PaDiM(n_components=None, patch_size=3, random_state=0),
}
PAIRS = [
    ("filters", "map_max"),
    ("padded", "paper"),
    ("cropped", "dense"),
    ("network", "paper"),
    ("network", "low_rank"),
]


@pytest.fixture(scope="module")
def fitted():
    """Pipelines by the names of extractor and detector; kept."""
    found = {}

    def get(features, detector):
        if (features, detector) not in found:
            steps = [("features", EXTRACTORS[features]), ("detector", DETECTORS[detector])]
            found[features, detector] = Pipeline(steps).fit(GOOD)
        return found[features, detector]

    return get


@pytest.fixture(scope="module")
def exported(fitted, tmp_path_factory):
    """(path, pipeline, differences) by the names of extractor and detector; kept."""
    folder, found = tmp_path_factory.mktemp("export"), {}

    def get(pair):
        if pair not in found:
            path, pipe = folder / f"{'-'.join(pair)}.onnx", fitted(*pair)
            found[pair] = path, pipe, export_onnx(pipe, path, IMAGES)
        return found[pair]

    return get


def by_onnxruntime(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["score_samples", "score_map"], {"images": images})


def by_openvino(path, images):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    model = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = model(images)
    return found["score_samples"], found["score_map"]


def assert_alike(found, pipe, images, rtol=1e-4):
    scores, maps = found
    expected = pipe.score_map(images)
    assert scores.dtype == maps.dtype == np.float32
    assert maps.shape == expected.shape
    np.testing.assert_allclose(scores, pipe.score_samples(images), rtol=rtol)
    np.testing.assert_allclose(maps, expected, atol=rtol * expected.max())


@pytest.mark.parametrize("engine", [by_onnxruntime, by_openvino])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_model_scores_like_its_pipeline(pair, engine, exported):
    path, pipe, differences = exported(pair)
    assert differences.keys() == {"score_samples", "score_map"}
    assert 0 <= max(differences.values()) < 1e-4
    new = make_textures(5, size=FRAME, random_state=1)  # which the check has not seen
    for n in (1, 5):  # the export has seen a batch of two
        assert_alike(engine(str(path), new[:n]), pipe, new[:n])


def test_metadata_and_shapes(exported):
    path, pipe, _ = exported(PAIRS[0])
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert {one.key: one.value for one in model.metadata_props} == {
        "detector": "PatchCore",
        "offset": repr(float(pipe[-1].offset_)),
    }
    (entry,) = model.graph.input
    dims = entry.type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [0, *FRAME, 3] and dims[0].dim_param
    assert [one.version for one in model.opset_import if not one.domain] == [18]
    assert str(skanomaly.__path__[0]).encode() not in path.read_bytes()  # nor any other place
    assert b".py" not in path.read_bytes()


def test_verdicts_by_the_offset_in_the_metadata(exported):
    path, pipe, _ = exported(PAIRS[0])
    session = onnxruntime.InferenceSession(path)
    offset = float(session.get_modelmeta().custom_metadata_map["offset"])
    (scores,) = session.run(["score_samples"], {"images": IMAGES})
    # The pipeline's verdicts; equal where no score lies on the threshold itself.
    clear = np.abs(pipe.decision_function(IMAGES)) > 1e-5
    assert clear.sum() >= 3
    verdicts = np.where(scores < offset, -1, 1)
    np.testing.assert_array_equal(verdicts[clear], pipe.predict(IMAGES)[clear])
    assert set(verdicts) == {-1, 1}


def test_thresholds_are_those_of_the_outermost(fitted, tmp_path):
    model = HeldOutThreshold(
        SklearnPipeline(
            [("features", EXTRACTORS["filters"]), ("detector", DETECTORS["unweighted"])]
        ),
        target_fpr=0.1,
    ).fit(GOOD)
    export_onnx(model, tmp_path / "part.onnx", list(IMAGES), opset=20)
    found = onnx.load(tmp_path / "part.onnx")
    properties = {one.key: one.value for one in found.metadata_props}
    assert (
        float(properties["offset"]) == model.offset_ != model.estimator_[-1].__dict__.get("offset_")
    )
    assert float(properties["map_offset"]) == model.map_offset_
    assert [one.version for one in found.opset_import if not one.domain] == [20]
    assert_alike(by_onnxruntime(tmp_path / "part.onnx", IMAGES), model, IMAGES)


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("n_channels", [1, 3, 4])
@pytest.mark.parametrize("frame", [(64, 72), (37, 91), (300, 90), (90, 300), (384, 192), (64, 200)])
def test_images_are_resized_as_pillow_does_it(frame, n_channels, resize):
    """Also with ties, as in shrinking by 6, and in whichever order this Pillow has the axes."""
    from skanomaly.export._input_module import InputModule

    images = np.random.default_rng(0).integers(0, 256, (2, *frame, n_channels), dtype=np.uint8)
    image_fit = ImageFit(64, 72, resize)
    expected = np.stack([image_fit.apply(image) for image in images])
    found = InputModule(image_fit, frame, n_channels)(torch.from_numpy(images))
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sizes", [(10, 4, 0.0, 10.0), (10, 4, 1.25, 8.75), (5, 13, 0.0, 5.0)])
def test_weights_are_those_of_a_triangle(sizes):
    n_from, n_to, start, end = sizes
    step = (end - start) / n_to
    expected = np.zeros((n_to, n_from))
    for i in range(n_to):
        center = start + (i + 0.5) * step
        for j in range(n_from):
            expected[i, j] = max(0.0, 1 - abs(j + 0.5 - center) / max(step, 1))
        expected[i] /= expected[i].sum()
    np.testing.assert_allclose(resampling_weights(*sizes), expected, atol=1e-12)


def test_nothing_is_written_where_scores_differ(exported, fitted, tmp_path, monkeypatch):
    """The model of one pipeline in the place of another's."""
    model, path = onnx.load(exported(PAIRS[0])[0]), tmp_path / "part.onnx"
    path.write_bytes(b"before")
    monkeypatch.setattr("skanomaly.export._onnx._convert", lambda *_: model)
    with pytest.raises(ValueError, match=r"got a relative difference of 0\.\d+ in score_"):
        export_onnx(fitted("filters", "unweighted"), path, IMAGES)
    assert path.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_estimators_without_an_export(fitted, tmp_path):
    path = tmp_path / "part.onnx"
    features = EXTRACTORS["filters"]
    for detector, reason in [
        (SPADE(n_neighbors=5), "SPADE, which cannot be exported: it chooses among all good images"),
        (EnsembleDetector([("one", PatchCore())], cv=2), "its members can be exported one by one"),
    ]:
        pipe = Pipeline([("features", features), ("detector", detector)]).fit(GOOD[:8])
        with pytest.raises(ValueError, match=reason):
            export_onnx(pipe, path, IMAGES)
    vectors = np.random.default_rng(0).normal(size=(20, 5))
    with pytest.raises(ValueError, match="got nothing before PatchCore"):
        export_onnx(PatchCore().fit(vectors), path, IMAGES)
    approximate = Pipeline(fitted("filters", "map_max").steps)
    approximate.set_params(detector=skanomaly.utils.state.snapshot(approximate[-1]))
    approximate.set_params(detector__neighbors="pynndescent")
    with pytest.raises(ValueError, match="expected neighbors='exact', got 'pynndescent'"):
        export_onnx(approximate, path, IMAGES)
    with pytest.raises(NotFittedError):
        export_onnx(Pipeline([("features", features), ("detector", PatchCore())]), path, IMAGES)
    assert list(tmp_path.iterdir()) == []


def test_tiles_have_no_export(tmp_path):
    features = FilterBank(n_filters=4, tile_size=64, tile_overlap=16, random_state=0)
    pipe = Pipeline([("features", features), ("detector", PatchCore())]).fit(GOOD[:4])
    with pytest.raises(ValueError, match="expected an extractor with tile_size=None"):
        export_onnx(pipe, tmp_path / "part.onnx", IMAGES)


class Odd(torch.nn.Module):
    """A network that looks at numbers to choose its way."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Conv2d(3, 4, 3, stride=8)

    def forward(self, x):
        maps = self.inner(x)
        return maps if bool((maps.sum(dim=(1, 2, 3)) > -1e9).any()) else maps + 1


def test_a_network_that_torch_cannot_export(tmp_path):
    features = FeatureExtractor(
        Odd().eval(), layers=["inner"], image_size=64, device="cpu", random_state=0
    )
    pipe = Pipeline([("features", features), ("detector", PatchCore())]).fit(GOOD[:4])
    if isinstance(features_module(pipe), torch.fx.GraphModule):
        pytest.skip("the layer was cut out before its choice")
    with pytest.raises(ValueError, match="that it cannot"):
        export_onnx(pipe, tmp_path / "part.onnx", IMAGES)


def features_module(pipe):
    from skanomaly.feature_extraction import as_module

    return as_module(pipe[0]).network


def test_bad_input(fitted, tmp_path):
    pipe, path = fitted("filters", "map_max"), tmp_path / "part.onnx"
    with pytest.raises(ValueError, match=r"images of one size.* got 64 x 64 after 90 x 110"):
        export_onnx(pipe, path, [GOOD[0], GOOD[1][:64, :64]])
    with pytest.raises(ValueError, match=r"expected an image of 8 bits.* got uint16"):
        export_onnx(pipe, path, GOOD[:2].astype(np.uint16))
    with pytest.raises(ValueError, match="expected opset from 18 to"):
        export_onnx(pipe, path, IMAGES, opset=12)
    with pytest.raises(OSError, match="absent"):
        export_onnx(pipe, tmp_path / "absent" / "part.onnx", IMAGES)
    assert list(tmp_path.iterdir()) == []


def test_the_command_with_gray_images(tmp_path, capsys):
    gray = IMAGES.mean(axis=3).astype(np.uint8)
    pipe = Pipeline([("features", EXTRACTORS["filters"]), ("detector", DETECTORS["map_max"])])
    model = HeldOutThreshold(pipe, target_fpr=0.2).fit(GOOD.mean(axis=3).astype(np.uint8))
    skanomaly.dump(model, tmp_path / "part.skanomaly")
    for i, image in enumerate(gray):
        save(tmp_path / "images" / f"{i}.png", image)
    path = tmp_path / "part.onnx"
    command = "export", tmp_path / "part.skanomaly", "-o", path, "--images"
    assert run(*command, tmp_path / "images") == 0
    shown = capsys.readouterr().out
    assert "for images of 90 x 110 pixels. Of 5 images" in shown and f"{model.offset_:.6g}" in shown
    rgb = np.repeat(gray[:, :, :, None], 3, axis=3)
    found = by_onnxruntime(path, rgb)
    np.testing.assert_allclose(found[0], model.score_samples(gray), rtol=1e-4)
    np.testing.assert_allclose(found[1], model.score_map(gray), atol=1e-4 * found[1].max())

    path.unlink()
    save(tmp_path / "images" / "other.png", gray[0][:80])
    assert run(*command, tmp_path / "images") == 2
    assert "expected images of one size" in capsys.readouterr().err and not path.exists()
