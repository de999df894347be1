"""Tiles: features of large images computed piece by piece, as those of the whole image."""

import pickle

import numpy as np
import pytest
from cli_parts import run
from PIL import Image

import skanomaly
from skanomaly import SPADE, FeatureExtractor, FilterBank, PatchCore, Pipeline, estimate_memory
from skanomaly.base import BaseExtractor
from skanomaly.datasets import make_textures
from skanomaly.feature_maps import BATCH_BYTES, usual_batch
from skanomaly.images import ImageFit, Tiling, read_image

SIZE = 192, 256
LEARNED = (
    "first_filters_", "primary_filters_", "primary_scale_", "secondary_filters_", "mean_", "scale_"
)  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return make_textures(5, kind="weave", size=SIZE, random_state=0)


def tiled(**parameters):
    options = {"n_filters": 4, "tile_size": 128, "tile_overlap": 64, "random_state": 0}
    return FilterBank(**{**options, **parameters})


def energies(maps):
    return maps.arrays()["energies"]


def test_the_seam_is_invisible(images):
    """Filters that see 16 pixels around a patch give the same with tiles and without."""
    whole = FilterBank(n_filters=4, image_size=SIZE, random_state=0).fit(images)
    pieces = tiled().fit(images)
    for name in LEARNED:
        setattr(pieces, name, getattr(whole, name))
    pieces._filters = None
    expected, got = energies(whole.transform(images)), energies(pieces.transform(images))
    assert got.shape == (5, 24, 32, expected.shape[3])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert expected.std() > 0.5


@pytest.mark.parametrize("size", [(64, 64), (203, 160), (100, 331)])
@pytest.mark.parametrize("overlap", [0, 16, 40])
def test_tiles_cover_the_image(size, overlap):
    tiling = Tiling.of(ImageFit(*size), 64, overlap)
    n_times = np.zeros(size, int)
    for top, left, bottom, right in tiling.boxes:
        assert bottom - top == right - left == 64
        n_times[top:bottom, left:right] += 1
    assert n_times.min() == 1 if overlap == 0 else n_times.min() >= 1
    tops = sorted({box[0] for box in tiling.boxes})
    assert tops[-1] + 64 == size[0] and all(np.diff(tops) <= 64 - overlap)


@pytest.mark.parametrize("n", [4, 7, 8])
@pytest.mark.parametrize("overlap", [0, 16, 40])
def test_joined_maps_are_those_of_the_whole(n, overlap):
    """Of a map that is linear in the place: at each cell's center its value, whatever the grids."""
    size = 203, 160
    tiling = Tiling.of(ImageFit(*size), 64, overlap)
    grid = tiling.grid((n, n))
    assert grid == (round(203 * n / 64), round(160 * n / 64))
    whole = np.zeros((*grid, 2), np.float32)
    in_tile = (np.arange(n) + 0.5) * 64 / n
    for number, (top, left, _, _) in enumerate(tiling.boxes):
        rows, columns = top + in_tile, left + in_tile
        maps = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=2).astype(np.float32)
        tiling.add(whole, number, maps)
    rows, columns = ((np.arange(g) + 0.5) * s / g for g, s in zip(grid, size, strict=True))
    expected = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=2)
    half_cell = 32 / n  # a tile knows nothing beyond its outermost centers
    assert np.abs(whole - expected).max() <= half_cell + 1e-3
    if overlap / 4 >= half_cell:  # and those are not used where there is a neighbor
        np.testing.assert_allclose(whole[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-3)


def test_tiles_have_the_images_own_pixels(images):
    image, size = read_image(images[0]), ImageFit(*SIZE)
    tiling = Tiling.of(size, (64, 96), 16)
    boxes = tiling.boxes
    for (top, left, bottom, right), tile in zip(boxes, tiling.cut(image, size), strict=True):
        own = image[top:bottom, left:right].astype(np.float32) / 255
        np.testing.assert_array_equal(tile, own)


def test_images_of_another_size_are_brought_to_that_of_the_first(images):
    extractor = tiled().fit(images)
    other = np.asarray(Image.fromarray(images[1]).resize((300, 150)))
    maps = extractor.transform([images[0], other])
    assert maps.frames.tolist() == [list(SIZE), [150, 300]]
    expected = extractor.transform(
        [np.asarray(Image.fromarray(other).resize((256, 192), Image.Resampling.BILINEAR))],
    )
    np.testing.assert_allclose(energies(maps)[1], energies(expected)[0], atol=1e-5)
    assert extractor.image_fit_ == ImageFit(192, 256)
    smaller = tiled(image_size=(128, 136)).fit(images)
    assert smaller.layer_shapes_["energies"][:2] == (16, 17)


@pytest.mark.parametrize(
    "detector", [PatchCore(random_state=0), SPADE(n_neighbors=3, image_score="map_max")]
)
def test_detectors_see_one_map_of_the_whole_image(images, detector):
    defect = images[0].copy()
    defect[100:103, 60:110] = 255 - defect[100:103, 60:110]
    pipe = Pipeline([("features", tiled()), ("detector", detector)]).fit(images[:4])
    maps = pipe.score_map([images[0], defect])
    assert maps.shape == (2, *SIZE)
    row, column = np.unravel_index((maps[1] - maps[0]).argmax(), SIZE)
    assert 85 <= row <= 118 and 45 <= column <= 125
    scores = pipe.score_samples([images[0], defect])
    assert scores[1] < scores[0]


def test_streamed_cached_and_loaded_features_are_the_same(images, tmp_path):
    extractor = tiled().fit(images)
    expected = energies(extractor.transform(images))
    for other in (
        pickle.loads(pickle.dumps(extractor)),
        tiled(memory_limit="10KB").fit(images),
        tiled(cache=tmp_path / "cache").fit(images),
        tiled(cache=tmp_path / "cache").fit(images),
        tiled(n_jobs=1).fit(images),
    ):
        np.testing.assert_allclose(energies(other.transform(images)), expected, atol=1e-6)
    alone = energies(extractor.transform(images[3:4]))
    np.testing.assert_allclose(alone[0], expected[3], atol=1e-6)
    skanomaly.dump(extractor, tmp_path / "extractor.skanomaly")
    loaded = skanomaly.load(tmp_path / "extractor.skanomaly")
    np.testing.assert_array_equal(energies(loaded.transform(images)), expected)
    assert loaded.tiling_ == extractor.tiling_


@pytest.mark.parametrize("other", [{"tile_overlap": 32}, {"tile_size": 96}, {"tile_size": None}])
def test_the_cache_tells_tiles_apart(images, other, tmp_path):
    other = {"image_size": SIZE, **other}
    expected = energies(tiled(**other).fit_transform(images))
    tiled(image_size=SIZE, cache=tmp_path).fit_transform(images).arrays()
    cached = tiled(**other, cache=tmp_path).fit_transform(images)
    np.testing.assert_allclose(energies(cached), expected, atol=1e-6)


class Means(BaseExtractor):
    """Means of cells of 8 x 8 pixels; it keeps the shapes of all that it is called with."""

    _parameter_constraints = {**BaseExtractor._parameter_constraints, "image_size": "no_validation"}

    def __init__(self, *, image_size=None, tile_size=None, tile_overlap=64, roi=None):
        self.image_size, self.tile_size, self.tile_overlap = image_size, tile_size, tile_overlap
        self.roi = roi

    def _features(self, batch):
        vars(self).setdefault("shapes_", []).append(batch.shape)
        b, h, w, c = batch.shape
        return {"means": batch.reshape(b, h // 8, 8, w // 8, 8, c).mean(axis=(2, 4))}


def test_memory_is_bounded_by_tiles(images):
    extractor = Means(tile_size=64, tile_overlap=16).fit(images)
    maps = extractor.transform(images).arrays()["means"]
    assert max(np.prod(shape) for shape in extractor.shapes_) <= 16 * 64 * 64 * 3
    expected = Means(image_size=SIZE).fit_transform(images).arrays()["means"]
    np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_large_images_are_fewer_at_a_time():
    large = {"a": (750, 500, 135)}
    assert usual_batch({"a": (28, 28, 135)}) == 16 and usual_batch(large) == 1
    half = {"a": (375, 500, 135)}
    assert usual_batch(half) * 4 * 375 * 500 * 135 <= BATCH_BYTES
    pipe = Pipeline([("f", tiled(memory_limit="1GB")), ("d", PatchCore(n_candidates=1000))])
    many = make_textures(2, size=SIZE, random_state=0)
    needs = estimate_memory(pipe, many, n_images=10_000)
    assert needs["features"] == 0 and needs["the coreset's search"] == 220 * 1000


def test_networks_take_tiles(images):
    pytest.importorskip("torchvision")
    options = {"weights": None, "random_state": 0, "tile_size": 64, "tile_overlap": 16}
    extractor = FeatureExtractor("squeezenet1_1", **options).fit(images[:1])
    maps = extractor.transform(images[:2])
    # 7 and 3 cells in a tile of 64 pixels.
    assert {name: shape[:2] for name, shape in maps.layer_shapes.items()} == {
        "features.7": (21, 28),
        "features.12": (9, 12),
    }
    assert all(np.isfinite(one).all() for one in maps.arrays().values())
    again = pickle.loads(pickle.dumps(extractor)).transform(images[:2])
    for name, one in maps.arrays().items():
        np.testing.assert_allclose(again.arrays()[name], one, atol=1e-5)
    with pytest.raises(ValueError, match="expected images in fit, or image_size"):
        FeatureExtractor("squeezenet1_1", **options).fit(None)


def test_candidates_bound_the_search(images):
    maps = tiled().fit_transform(images)
    few = PatchCore(n_candidates=50, coreset_ratio=1.0, random_state=0).fit(maps)
    assert len(few.memory_bank_) == 50 and len(np.unique(few.memory_origin_, axis=0)) == 50
    every = PatchCore(n_candidates=10**6, coreset_ratio=0.01, random_state=0).fit(maps)
    plain = PatchCore(coreset_ratio=0.01, random_state=0).fit(maps)
    np.testing.assert_array_equal(every.memory_bank_, plain.memory_bank_)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tile_size": 512}, "at most the size of the image, 192 x 256 pixels, got 512 x 512"),
        ({"tile_size": (64, 264)}, "got 64 x 264"),
        ({"tile_overlap": 128}, "tile_overlap must be smaller than a tile of 128 x 128"),
        ({"tile_size": 100}, "tile_size must be multiples of 8"),
        ({"tile_size": (64, 64, 64)}, "a pair"),
        ({"tile_size": 4}, "tile_size"),
        ({"tile_overlap": -1}, "tile_overlap"),
        ({"image_size": 64}, "64 x 64 pixels, got 128 x 128"),
    ],
)
def test_bad_tiles(images, parameters, message):
    with pytest.raises(ValueError, match=message):
        tiled(**parameters).fit(images)


def test_detectors_on_images_refuse_tiled_extractors(images):
    from skanomaly import RegAD

    extractor = tiled().fit(images)
    with pytest.raises(ValueError, match="sees images as a whole, got FilterBank with tile_size"):
        RegAD(extractor).fit(images)


def test_command_line(images, tmp_path, capsys):
    folder = tmp_path / "good"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    file = tmp_path / "part.skanomaly"
    options = ["--features", "filter_bank", "--no-trial", "--target-fpr", 0.3, "--tile-size"]
    assert run("fit", folder, "-o", file, *options, 96, "--tile-overlap", 32) == 0
    assert "are reduced to" not in capsys.readouterr().err
    extractor = skanomaly.load(file).estimator_[0]
    assert extractor.tiling_ == Tiling(*SIZE, 96, 96, 32)
    assert run("fit", folder, "-o", file, *options, 512) == 2
    assert "tile_size must be at most the size of the image" in capsys.readouterr().err
    assert run("fit", folder, "-o", file, "--tile-size", 64, "--detector", "fyd") == 2
    assert "--tile-size is not an option of --detector fyd" in capsys.readouterr().err
