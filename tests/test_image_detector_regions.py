"""Regions of interest and tiles of the detectors that take images themselves."""

import pickle

import numpy as np
import pytest
from cli_parts import run
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold

import skanomaly
from skanomaly import (
    FYD,
    MKD,
    TDG,
    ARNet,
    CutPaste,
    DifferNet,
    EnsembleDetector,
    FilterBank,
    GANomaly,
    GlobalLocal,
    PatchCore,
    Pipeline,
    RegAD,
    estimate_memory,
)
from skanomaly.base import BaseImageDetector
from skanomaly.base._tiled_images import N_TILES, draw_tiles
from skanomaly.datasets import make_textures
from skanomaly.detectors._inside_places import inside_at
from skanomaly.detectors.cutpaste._feature_density import choose_gaussians
from skanomaly.detectors.tdg._tdg_scoring import score_statistics
from skanomaly.images import ImageFit, Tiling, blank_outside, foreground
from skanomaly.model_selection import HeldOutThreshold, scorers
from skanomaly.utils.unwrapping import regions_of_interest

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 96, 128
SOURCE = FilterBank(n_filters=2, image_size=64, random_state=0).fit(
    make_textures(2, size=64, random_state=0)
)
# Quick ones, and the tiles that their networks take; None: they have none.
DETECTORS = {
    "GANomaly": (GANomaly(image_size=32, width=4, n_epochs=2), 32),
    "ARNet": (ARNet(image_size=32, width=4, n_epochs=2), 32),
    "TDG": (TDG(image_size=64, sizes=[16, 24], n_iter=2, transformations="turns"), 64),
    "CutPaste": (CutPaste("tiny", image_size=64, patch_size=32, n_iter=2), 64),
    "CutPaste, images": (CutPaste("tiny", level="image", image_size=64, n_iter=2), 64),
    "MKD": (MKD(SOURCE, image_size=64, width=4, n_epochs=2), 64),
    "GlobalLocal": (GlobalLocal(image_size=64, n_iter=2), 64),
    "RegAD": (RegAD(image_size=64, augmentations=["flip"], random_state=0), None),
    "FYD": (FYD("squeezenet1_1", weights=None, image_size=64, n_epochs=1), None),
    "DifferNet": (
        DifferNet(FilterBank(n_filters=2, image_size=64), n_epochs=2, n_views=2, n_test_views=2),
        None,
    ),
}
TILED = [name for name, (_, tile) in DETECTORS.items() if tile is not None]


def rectangle(top, left, bottom, right, size=SIZE):
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


ROI = rectangle(20, 30, 70, 90)


@pytest.fixture(scope="module")
def images():
    return make_textures(5, size=SIZE, random_state=0)


def painted_outside(images):
    other = images.copy()
    other[:, ~ROI] = np.random.default_rng(0).integers(0, 256, other[:, ~ROI].shape)
    return other


def tiled(name, **parameters):
    detector, tile = DETECTORS[name]
    given = {"image_size": None, "tile_size": tile, "tile_overlap": tile // 4, **parameters}
    return clone(detector).set_params(**given)


class Brightness(BaseImageDetector):
    """How bright cells of 8 x 8 pixels are; an image's own score is its mean."""

    _image_scores_need_maps = False

    def __init__(
        self, *, image_size=None, tile_size=None, tile_overlap=32, roi=None, image_score="map_max",
        sigma=0.0, random_state=0,
    ):  # fmt: skip
        self.image_size, self.image_score, self.sigma = image_size, image_score, sigma
        self.tile_size, self.tile_overlap, self.roi = tile_size, tile_overlap, roi
        self.random_state = random_state

    def _fit(self, X):
        self.shape_ = X.arrays()["pixels"].shape

    def _score_maps(self, X):
        pixels = X.arrays()["pixels"].mean(axis=3)
        b, h, w = pixels.shape
        return pixels.reshape(b, h // 8, 8, w // 8, 8).mean(axis=(2, 4))

    def _score_images(self, X, score_maps):
        return X.arrays()["pixels"].mean(axis=(1, 2, 3))

    def _forecast(self, layer_shapes, n_images):
        return {"copies": n_images}


# --- regions of interest ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pixels_outside_get_the_mean_color_inside(dtype):
    scale = {"u": 1, "f": 1 / 255}[np.dtype(dtype).kind]
    image = (np.random.default_rng(0).integers(0, 256, (*SIZE, 3)) * scale).astype(dtype)
    blank = blank_outside(image, ROI)
    assert blank.dtype == dtype
    np.testing.assert_array_equal(blank[ROI], image[ROI])
    expected = image[ROI].astype(float).mean(axis=0)
    assert np.abs(blank[~ROI].astype(float) - expected).max() <= 0.5 * scale


def test_regions_of_detectors_and_of_members(images):
    other = rectangle(0, 0, 40, 100)
    bank = PatchCore(random_state=0)
    members = [
        (
            f"{i}",
            Pipeline([("features", FilterBank(image_size=64, roi=roi)), ("bank", clone(bank))]),
        )
        for i, roi in enumerate([ROI, other])
    ]
    anywhere = Brightness()
    for estimator, expected in (
        (Brightness(roi=ROI), ROI),
        (HeldOutThreshold(Brightness(roi=ROI), target_fpr=0.2, cv=2), ROI),
        (anywhere, None),
        (EnsembleDetector(members, cv=2), ROI | other),
        (EnsembleDetector([*members, ("c", anywhere)], cv=2), None),
        (EnsembleDetector([("a", Brightness(roi=ROI)), ("b", Brightness(roi=other))]), ROI | other),
    ):
        found = regions_of_interest(estimator.fit(images), images[:2])
        assert len(found) == 2
        for one in found:
            np.testing.assert_array_equal(one, expected)
    of_each = Brightness(roi=[ROI, other, ROI, other, ROI]).fit(images)
    with pytest.raises(ValueError, match="expected one region of interest per image"):
        regions_of_interest(of_each, images[:2])
    found = of_each.set_params(roi=foreground_above).regions_of_interest(images[:2])
    for one, image in zip(found, images, strict=False):
        np.testing.assert_array_equal(one, foreground_above(image))


def foreground_above(image):
    return image.mean(axis=2) > 100


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("image_score", ["paper", "map_max"])
def test_what_is_outside_changes_nothing(images, name, image_score):
    """To the last bit: it is blank before anything is computed."""
    detector = clone(DETECTORS[name][0]).set_params(roi=ROI, image_score=image_score)
    scores, maps = detector.fit(images).score_samples_and_map(images)
    assert all(np.array_equal(one, ROI) for one in detector.regions_of_interest(images))
    assert np.isfinite(scores).all() and (maps[:, ~ROI] == 0).all() and maps[:, ROI].std() > 0
    other = painted_outside(images)
    again = detector.score_samples_and_map(other)
    np.testing.assert_array_equal(again[0], scores)
    np.testing.assert_array_equal(again[1], maps)
    learned = clone(detector).fit(other)
    np.testing.assert_allclose(learned.score_samples(images), scores, rtol=1e-6)
    assert learned.offset_ == pytest.approx(detector.offset_, rel=1e-6)


def test_a_region_may_be_of_each_image(images):
    masks = [rectangle(10 * i, 10 * i, 10 * i + 40, 10 * i + 50) for i in range(5)]
    detector = GANomaly(image_size=32, width=4, n_epochs=2, roi=masks).fit(images)
    maps = detector.score_map(images)
    assert all((one[~mask] == 0).all() for one, mask in zip(maps, masks, strict=True))
    with pytest.raises(ValueError, match="one region of interest per image, got 5 for 2"):
        detector.score_samples(images[:2])
    y = np.array([1, -1, 1, 1, 1])  # masks go by the place of their image
    detector.fit(images, y)
    for detector in (DETECTORS["RegAD"][0], DETECTORS["FYD"][0]):
        with pytest.raises(ValueError, match="expected one region of interest for all images"):
            clone(detector).set_params(roi=masks).fit(images)


def test_parts_on_an_even_ground():
    parts = np.full((3, 96, 96, 3), 20, dtype=np.uint8)
    for i, image in enumerate(parts):
        image[20 + 5 * i : 60 + 5 * i, 20:80] = 200
    detector = ARNet(image_size=32, width=4, n_epochs=1, roi=foreground).fit(parts)
    for image, one in zip(parts, detector.score_map(parts), strict=True):
        assert (one[~foreground(image)] == 0).all()


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        (np.zeros(SIZE, bool), "at least one pixel, got an empty one"),
        (rectangle(0, 0, 9, 9, (64, 64)), "own size, 96 x 128 pixels, got one of 64 x 64"),
        ([ROI] * 3, "one region of interest per image, got 3 for 5 images"),
        ("no_such_file.png", "no_such_file.png"),
        (7, "roi"),
    ],
)
@pytest.mark.parametrize("name", ["GANomaly", "DifferNet"])
def test_bad_regions(images, name, roi, message):
    with pytest.raises((ValueError, OSError), match=message):
        clone(DETECTORS[name][0]).set_params(roi=roi).fit(images)


def test_least_sure_patches_are_looked_for_inside(images):
    """Where the region is all places that are the middle of a patch: the score without a region."""
    detector = clone(DETECTORS["TDG"][0]).set_params(roi=ROI).fit(images)
    assert set(detector.trained_on_) <= set(range(5))
    pixels = np.random.default_rng(0).random((2, 64, 64, 3)).astype(np.float32)
    middles = []
    for side in (16, 24):
        one = rectangle(5, 5, side - 5, side - 5, (side, side))
        middles.append(np.stack([one, one]))
    scorer = detector._scorer
    plain = scorer.image_scores(pixels, 0.2)
    np.testing.assert_allclose(scorer.image_scores(pixels, 0.2, middles), plain, rtol=1e-6)
    middles[1][:, 8:] = False
    assert not np.allclose(scorer.image_scores(pixels, 0.2, middles), plain, rtol=1e-6)


def test_what_is_usual_is_told_by_places_inside():
    """TDG's statistics of maps: NaN does not count, and leaves the others as they would be."""
    maps = np.random.default_rng(0).random((7, 2, 6, 8)).astype(np.float32)
    expected = score_statistics([maps[:, :, :, :5]])
    maps[:, :, :, 5:] = np.nan
    mean, deviation, overall = score_statistics([maps[:3], maps[3:]])
    np.testing.assert_allclose(mean[:, :, :5], expected[0], rtol=1e-5)
    np.testing.assert_allclose(deviation, expected[1], rtol=1e-6)
    np.testing.assert_allclose(overall, expected[2], rtol=1e-6)
    assert np.isfinite(mean).all()


@pytest.mark.parametrize("aligned", ["auto", True, False])
def test_windows_outside_do_not_count(aligned):
    """CutPaste: neither for the choice, nor for statistics, nor for the Gaussian of all."""
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(8, *grid, 4)).astype(np.float32) for grid in ((3, 4), (2, 2))]
    inside = [np.ones(one.shape[:3], bool) for one in features]
    inside[0][:, 1:, 2:] = inside[1][:, 1] = False
    held_out = np.arange(8) < 3
    before = choose_gaussians(features, held_out, aligned, inside)
    for one, some in zip(features, inside, strict=True):
        one[~some] = 100 * rng.normal(size=one[~some].shape)
    after = choose_gaussians(features, held_out, aligned, inside)
    assert before[0] == after[0]
    np.testing.assert_allclose(before[2], after[2], rtol=1e-6)
    if not before[0]:
        for one, other in zip(before[1], after[1], strict=True):
            np.testing.assert_allclose(one.mean_, other.mean_, rtol=1e-6)


@pytest.mark.parametrize("name", ["CutPaste", "GlobalLocal"])
def test_middles_of_windows_lie_in_the_region(images, name):
    detector = clone(DETECTORS[name][0]).fit(images)
    grids = detector._grids() if name == "CutPaste" else detector.architecture_.grids
    maps = clone(detector).set_params(roi=ROI).fit(images)._check_X(images[:1], reset=False).store()
    region = maps.inside((64, 64))[0]
    for grid in grids:
        rows, columns = grid.centers()
        found = inside_at(maps, rows, columns)[0]
        assert found.shape == grid.shape and 0 < found.sum() < found.size
        assert all(
            found[i, j] == region[y, x] for i, y in enumerate(rows) for j, x in enumerate(columns)
        )


def test_features_of_a_region_are_pooled_inside(images):
    """DifferNet behind an extractor: filters see a few pixels, what is beyond is nothing to it."""
    features = FilterBank(n_filters=2, image_size=SIZE, roi=ROI, random_state=0)
    pipe = Pipeline([("features", features), ("detector", DifferNet(n_epochs=2))]).fit(images)
    far = ~np.pad(ROI, 24)[24:-24, 24:-24]
    far[:, :116] = False
    other = images.copy()
    other[:, far] = 255 - other[:, far]
    np.testing.assert_allclose(pipe.score_samples(other), pipe.score_samples(images), rtol=1e-5)
    maps = pipe.score_map(images)
    assert (maps[:, ~ROI] == 0).all()
    cells = pipe[:-1].transform(images)
    raw = pipe[-1]._score_maps(cells)
    inside = cells.inside(raw.shape[1:])
    means = [one[some].mean() for one, some in zip(raw, inside, strict=True)]
    np.testing.assert_allclose(means, -pipe.score_samples(images), rtol=1e-5)
    with pytest.raises(ValueError, match="give it to the extractor before DifferNet"):
        DifferNet(roi=ROI).fit(cells)
    with pytest.raises(ValueError, match="FilterBank with roi; give DifferNet roi"):
        DifferNet(FilterBank(roi=ROI)).fit(images)
    with pytest.raises(ValueError, match="FilterBank with tile_size"):
        DifferNet(FilterBank(tile_size=64)).fit(images)


# --- tiles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TILED)
@pytest.mark.parametrize("image_score", ["paper", "map_max"])
def test_one_tile_is_the_image(images, name, image_score):
    detector, tile = DETECTORS[name]
    plain = clone(detector).set_params(image_score=image_score).fit(images)
    one = tiled(name, image_size=tile, image_score=image_score).fit(images)
    np.testing.assert_allclose(one.score_samples(images), plain.score_samples(images), rtol=1e-6)
    np.testing.assert_allclose(one.score_map(images), plain.score_map(images), rtol=1e-5, atol=1e-5)
    assert one.offset_ == pytest.approx(plain.offset_, rel=1e-6)


@pytest.mark.parametrize("name", TILED)
def test_tiles_with_a_region(images, name, tmp_path):
    detector = tiled(name, roi=ROI).fit(images)
    assert detector.tiling_.boxes and detector.layer_shapes_ == {"pixels": (*SIZE, 3)}
    scores, maps = detector.score_samples_and_map(images)
    assert np.isfinite(scores).all() and (maps[:, ~ROI] == 0).all()
    again = detector.score_samples_and_map(painted_outside(images))
    np.testing.assert_array_equal(again[0], scores)
    np.testing.assert_array_equal(again[1], maps)
    boxes = np.array(detector.tiling_.boxes)[detector.tiles_[:, 1]]
    assert all(ROI[top:bottom, left:right].any() for top, left, bottom, right in boxes)
    file = tmp_path / "detector.skanomaly"
    skanomaly.dump(detector, file)
    for other in (skanomaly.load(file), pickle.loads(pickle.dumps(detector))):
        found = other.score_samples_and_map(images)
        np.testing.assert_allclose(found[0], scores, rtol=1e-6)
        np.testing.assert_allclose(found[1], maps, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(other.roi_, ROI)


def test_joined_maps_are_those_of_the_whole_image(images):
    """Of a detector whose cells see nothing around them."""
    options = {"tile_size": (64, 48), "tile_overlap": 16}
    pieces = Brightness(**options).fit(images)
    whole = Brightness(image_size=SIZE).fit(images)
    np.testing.assert_allclose(pieces.score_map(images), whole.score_map(images), atol=1e-6)
    np.testing.assert_allclose(pieces.score_samples(images), whole.score_samples(images), atol=1e-6)
    assert pieces.shape_ == (5 * 8, 64, 48, 3) and pieces.tile_fit == ImageFit(64, 48)
    np.testing.assert_array_equal(np.unique(pieces.tiles_[:, 0], return_counts=True)[1], [8] * 5)


def test_scores_that_are_not_of_the_map_are_the_largest_of_the_tiles(images):
    bright = images.copy()
    bright[0, 60:, 100:] = 255
    options = {"tile_size": 32, "tile_overlap": 0, "image_score": "paper"}
    detector = Brightness(**options).fit(images)
    tiles = bright.reshape(5, 3, 32, 4, 32, 3).astype(np.float64).mean(axis=(2, 4, 5)) / 255
    expected = tiles.max(axis=(1, 2))
    np.testing.assert_allclose(-detector.score_samples(bright), expected, rtol=1e-5)
    left = Brightness(**options, roi=rectangle(0, 0, 96, 64)).fit(images)
    expected = tiles[:, :, :2].max(axis=(1, 2))
    np.testing.assert_allclose(-left.score_samples(bright), expected, rtol=1e-5)


def test_images_of_another_size_are_brought_to_that_of_the_first(images):
    detector = Brightness(tile_size=32, tile_overlap=8).fit(images)
    other = np.asarray(Image.fromarray(images[1]).resize((60, 100)))
    maps = detector.score_map([images[0], other])
    assert [one.shape for one in maps] == [SIZE, (100, 60)]
    assert detector.image_fit_ == ImageFit(*SIZE)
    smaller = Brightness(tile_size=32, tile_overlap=8, image_size=(64, 40)).fit(images)
    assert smaller.tiling_ == Tiling(64, 40, 32, 32, 8)


def test_about_a_thousand_tiles_are_learned(images):
    few = make_textures(3, size=64, random_state=0)
    maps = Brightness(image_size=64).fit(few)._check_X(few, reset=False)
    tiling = Tiling.of(ImageFit(64, 64), 8, 7)  # 57 x 57 tiles
    tiles, places = draw_tiles(tiling, maps, 0)
    assert len(tiles) == len(places) == 3 * (N_TILES // 3)
    assert set(np.bincount(places[:, 0])) == {N_TILES // 3}
    boxes = np.array(tiling.boxes)
    for i in (0, 500, 998):
        image, (top, left, bottom, right) = few[places[i, 0]], boxes[places[i, 1]]
        expected = image[top:bottom, left:right].astype(np.float32) / 255
        np.testing.assert_array_equal(tiles[i].arrays()["pixels"][0], expected)
    again = draw_tiles(tiling, maps, 0)[1]
    np.testing.assert_array_equal(again, places)
    assert not np.array_equal(draw_tiles(tiling, maps, 1)[1], places)


def test_the_forecast_knows_of_tiles(images):
    needs = estimate_memory(Brightness(tile_size=32, tile_overlap=0), images, n_images=10)
    assert needs["copies"] == 10 * 12 and needs["pixels"] == 4 * 3 * 32 * 32 * 120
    many = estimate_memory(Brightness(tile_size=32, tile_overlap=0), images, n_images=5000)
    assert many["copies"] == 5000  # one of each
    assert estimate_memory(Brightness(image_size=32), images, n_images=10)["copies"] == 10


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (GANomaly(tile_size=256), "at most the size of the image, 96 x 128 pixels, got 256 x 256"),
        (GANomaly(tile_size=32), "tile_overlap must be smaller than a tile of 32 x 32"),
        (GANomaly(tile_size=48), "tile_size, with a shorter side of 16, 32.*got 48 x 48"),
        (ARNet(tile_size=40), "tile_size, with sides that are multiples of 16.*got 40 x 40"),
        (GlobalLocal(tile_size=60), "tile_size, in multiples of 8"),
        (ARNet(tile_size=(64, 64, 64)), "a pair"),
        (ARNet(tile_size=4), "tile_size"),
        (ARNet(tile_size=64, tile_overlap=-1), "tile_overlap"),
        (ARNet(tile_size=64, image_size=32), "32 x 32 pixels, got 64 x 64"),
        (CutPaste(tile_size=64, aligned=True), "positions in tiles are not those in the image"),
    ],
)
def test_bad_tiles(images, detector, message):
    with pytest.raises(ValueError, match=message):
        detector.fit(images)


# --- with everything else ---------------------------------------------------------------------


def test_searches_and_thresholds_take_them(images):
    grid = {"roi": [None, ROI], "tile_size": [None, 32]}
    detector = Brightness(image_size=64, tile_overlap=8)
    scoring = scorers("image_auroc", synthetic=True)
    search = GridSearchCV(detector, grid, cv=KFold(2), scoring=scoring).fit(images)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    models = []
    for good in (images, painted_outside(images)):
        model = HeldOutThreshold(Brightness(tile_size=32, tile_overlap=8, roi=ROI), cv=2)
        with pytest.warns(UserWarning, match="held-out good images"):
            models.append(model.fit(good))
    assert models[0].offset_ == models[1].offset_


def test_ensembles_take_them(images):
    members = [("a", Brightness(tile_size=32, tile_overlap=8, roi=ROI)), ("b", Brightness(roi=ROI))]
    ensemble = EnsembleDetector(members, cv=2).fit(images)
    scores, maps = ensemble.score_samples_and_map(images)
    again = ensemble.score_samples_and_map(painted_outside(images))
    np.testing.assert_array_equal(again[0], scores)
    np.testing.assert_array_equal(again[1][:, ROI], maps[:, ROI])


def test_leaving_an_image_out_takes_the_region(images):
    for score in ("paper", "map_max"):
        detector = clone(DETECTORS["RegAD"][0]).set_params(roi=ROI, image_score=score)
        scores, maxima = detector.fit(images).leave_one_out(images)
        again = detector.leave_one_out(painted_outside(images))
        np.testing.assert_array_equal(again[0], scores)
        np.testing.assert_array_equal(again[1], maxima)


def test_command_line(images, tmp_path, capsys):
    folder, roi = tmp_path / "good", tmp_path / "roi.png"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    Image.fromarray(255 * ROI.astype(np.uint8)).save(roi)
    file = tmp_path / "part.skanomaly"
    options = ["--no-trial", "--target-fpr", 0.3, "--roi", roi]
    few = ["--few-shot", "--features", "filter_bank", "--image-size", 64]
    assert run("fit", folder, "-o", file, *options, *few) == 0
    maps = skanomaly.load(file).score_samples_and_map(images)[1]
    assert (maps[:, ~ROI] == 0).all() and maps.max() > 0
    capsys.readouterr()
    assert run("fit", folder, "-o", file, "--detector", "regad", "--tile-size", 64) == 2
    assert "not an option of --detector regad, as it learns a Gaussian" in capsys.readouterr().err


def test_features_with_tiles_stay_an_alternative(images):
    """What the refusals name."""
    features = FilterBank(n_filters=2, tile_size=64, tile_overlap=16, roi=ROI, random_state=0)
    pipe = Pipeline([("features", features), ("detector", PatchCore(random_state=0))]).fit(images)
    assert (pipe.score_map(images)[:, ~ROI] == 0).all()
