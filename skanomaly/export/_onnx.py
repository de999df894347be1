"""export_onnx: a fitted pipeline as one ONNX file, checked before it is written."""

import warnings
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skanomaly.detectors import PatchCore
from skanomaly.export._detector_modules import PaDiMModule, PatchCoreModule
from skanomaly.export._input_module import InputModule
from skanomaly.export._supported import find_parts
from skanomaly.feature_extraction import as_module
from skanomaly.images import check_images, name_in, read_image, to_channels
from skanomaly.io import atomic_file
from skanomaly.utils.state import snapshot
from skanomaly.utils.unwrapping import outermost, scores_and_maps

LARGEST_DIFFERENCE = 1e-3
OLDEST_OPSET = 18
LARGEST_FILE = 2**31 - 2**20  # bytes: what a protobuf message may have, less some for the graph
BATCH_SIZE = 16  # images at a time in the check
INPUT, SCORES, MAPS = "images", "score_samples", "score_map"


def export_onnx(
    estimator: Any, path: str | Path, images: Any, *, opset: int = OLDEST_OPSET
) -> dict[str, float]:
    """Write a fitted pipeline as an ONNX model, for programs without skanomaly.

    The model holds all of it: resizing, features, the search of the memory bank or the Gaussians,
    smoothing and the image's score. Its input ``images`` is (n, H, W, C) uint8, any number of
    images of the size of those given here. Its outputs are ``score_samples`` (n,) float32, the
    lower, the more abnormal, and ``score_map`` (n, H, W) float32, the higher, the more abnormal.
    The threshold is no part of it: it stands in the model's metadata as ``offset``, and an image is
    a defect where its score is below. ``map_offset`` is the threshold on score maps, where the
    estimator has one.

    Parameters
    ----------
    estimator : fitted estimator
        A Pipeline of FilterBank or FeatureExtractor, and PatchCore or PaDiM; or a
        HeldOutThreshold, a search or a FrozenEstimator around one.
    path : str or Path
        It is replaced at the end, if the model has been found right.
    images : images, as ``predict`` takes them
        8-bit images of one size, whose scores and score maps by the model are compared with those
        of the estimator. All of them are.
    opset : int, default=18
        Version of the ONNX operators, from 18 to the newest that the installed onnx knows.

    Returns
    -------
    dict of str to float
        Largest relative difference in ``score_samples`` and in ``score_map``: of an image's score
        to its score, and of any pixel to the map's maximum; or to the median over the images, where
        that is larger.

    Raises
    ------
    ValueError
        The estimator has no export, the message says why; the images differ in size, or are not
        of 8 bits; the model would be larger than an ONNX file may be; or its scores or maps
        differ by more than 0.001. Then nothing is written.
    ImportError
        onnx, onnxscript or onnxruntime is not installed.

    Notes
    -----
    OpenVINO computes in bfloat16 on processors that have it, unless it is told
    ``{"INFERENCE_PRECISION_HINT": "f32"}``; scores are then wrong, with PaDiM by half and more.

    Examples
    --------
    >>> import skanomaly
    >>> from skanomaly import FilterBank, PatchCore, Pipeline
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(6, size=(64, 64), random_state=0)
    >>> pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", PatchCore())])
    >>> pipe = pipe.fit(good)
    >>> differences = skanomaly.export_onnx(pipe, "part.onnx", good)  # doctest: +SKIP
    """
    _check_installed(opset)
    estimator = snapshot(estimator)
    extractor, detector = find_parts(estimator)
    pixels = _pixels(images, extractor.n_channels_in_)
    with atomic_file(path) as temporary:  # refused now if it cannot be written
        model = _convert(_WholeModule(extractor, detector, pixels.shape[1:3]), pixels, opset)
        _describe(model, estimator, detector)
        content = model.SerializeToString()
        differences = _differences(content, estimator, pixels)
        worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
        if not differences[worst] <= LARGEST_DIFFERENCE:
            raise ValueError(
                f"expected a model that scores like the estimator, got a relative difference of "
                f"{differences[worst]:.2g} in {worst}, above {LARGEST_DIFFERENCE:g}; nothing was "
                "written. The model computes in float32: so must the extractor (dtype, device)"
            )
        temporary.write_bytes(content)
    return differences


class _WholeModule(torch.nn.Module):
    """Images (n, H, W, C) uint8 -> scores (n,), low for a defect, and maps (n, H, W)."""

    def __init__(self, extractor, detector, frame):
        super().__init__()
        image_fit = extractor.image_fit
        self.prepare = InputModule(image_fit, frame, extractor.n_channels_in_)
        self.features = as_module(extractor)
        kind = PatchCoreModule if isinstance(detector, PatchCore) else PaDiMModule
        self.detector = kind(detector)
        size = image_fit.height, image_fit.width
        grid = self.detector.embedding.grid
        for name, shape in (("frame", frame), ("input", size)):  # the map's, and the score's
            rows, columns = image_fit.way_back(grid, tuple(shape), detector.sigma)
            self.register_buffer(f"{name}_rows", torch.tensor(rows))  # (H, h)
            self.register_buffer(f"{name}_columns", torch.tensor(columns.T.copy()))  # (w, W)

    def forward(self, images):
        patch_scores, scores = self.detector(self.features(self.prepare(images)))
        if scores is None:
            scores = (self.input_rows @ patch_scores @ self.input_columns).amax((1, 2))
        return -scores, self.frame_rows @ patch_scores @ self.frame_columns


def _check_installed(opset):
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"an export to ONNX needs onnx, onnxscript and onnxruntime ({error}); install them "
            'with: pip install "skanomaly[export]"'
        ) from error
    newest = onnx.defs.onnx_opset_version()
    if not isinstance(opset, Integral) or not OLDEST_OPSET <= opset <= newest:
        raise ValueError(
            f"expected opset from {OLDEST_OPSET} to {newest}, the newest that the installed onnx "
            f"knows, got {opset!r}"
        )


def _pixels(images, n_channels):
    """(n, H, W, C) uint8 of images of one size."""
    images = check_images(images)
    found = []
    for i in range(len(images)):
        name = name_in(images, i)
        image = to_channels(read_image(images[i], name), n_channels, name)
        if image.dtype != np.uint8:
            raise ValueError(
                f"{name}: expected an image of 8 bits, which the exported model takes, got "
                f"{image.dtype}"
            )
        if found and image.shape != found[0].shape:
            raise ValueError(
                f"{name}: expected images of one size, which the exported model is for, got "
                f"{image.shape[0]} x {image.shape[1]} after {found[0].shape[0]} x "
                f"{found[0].shape[1]}; export a model for each size"
            )
        found.append(image)
    return np.stack(found)


def _convert(module, pixels, opset):
    """The module as an ONNX ModelProto for any number of images."""
    tensors = [*module.parameters(), *module.buffers()]
    n_bytes = sum(tensor.nbytes for tensor in tensors)
    if n_bytes > LARGEST_FILE:
        raise ValueError(
            f"expected a model below 2 GB, which is the largest an ONNX file may be, got "
            f"{n_bytes / 1e9:.1f} GB of learned arrays; take a smaller image_size, coreset_ratio "
            "or n_components, or a smaller network"
        )
    some = torch.from_numpy(pixels[np.arange(2) % len(pixels)])  # two: one would stand for itself
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            # torch speaks of its own outdated calls; what counts is the comparison of scores.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                (some,),
                dynamo=True,
                verbose=False,
                opset_version=int(opset),
                input_names=[INPUT],
                output_names=[SCORES, MAPS],
                dynamic_shapes={"images": {0: torch.export.Dim("n")}},
            )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ValueError(
            f"expected a network that torch.onnx can export, got one that it cannot: {cause}"
        ) from error
    model = program.model_proto
    versions = {one.version for one in model.opset_import if one.domain in ("", "ai.onnx")}
    if versions != {opset}:
        raise ValueError(
            f"expected operators of opset {opset}, got {versions}: torch could not convert them; "
            f"take opset={OLDEST_OPSET}"
        )
    return model


def _describe(model, estimator, detector):
    """Write thresholds as metadata, in the place of what torch notes of this machine's files."""
    from onnx.helper import set_model_props

    graph = model.graph
    for parts in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for part in parts:
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
    graph.ClearField("metadata_props")
    properties = {"detector": type(detector).__name__}
    for name in ("offset", "map_offset"):
        if (threshold := outermost(estimator, f"{name}_")) is not None:
            properties[name] = repr(float(threshold))
    set_model_props(model, properties)
    model.producer_name = "skanomaly"


def _differences(content, estimator, pixels):
    """Largest relative difference between the model's outputs and the estimator's."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    scores, maps = [], []
    for first in range(0, len(pixels), BATCH_SIZE):
        batch = pixels[first : first + BATCH_SIZE]
        expected_scores, expected_maps = scores_and_maps(estimator, batch)
        found_scores, found_maps = session.run([SCORES, MAPS], {INPUT: batch})
        scores += zip(np.abs(found_scores - expected_scores), np.abs(expected_scores), strict=True)
        apart = np.abs(found_maps - expected_maps).max(axis=(1, 2))
        maps += zip(apart, np.abs(expected_maps).max(axis=(1, 2)), strict=True)
    return {SCORES: _relative(scores), MAPS: _relative(maps)}


def _relative(pairs):
    """The largest of (difference, size) relative to the size, or the median size if larger."""
    differences, sizes = np.array(pairs, dtype=np.float64).T
    sizes = np.maximum(sizes, np.median(sizes))
    return float((differences / np.maximum(sizes, np.finfo(np.float32).tiny)).max())
