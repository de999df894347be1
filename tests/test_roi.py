"""Regions of interest: what lies outside is neither learned nor scored."""

import pickle

import numpy as np
import pytest
from cli_parts import run
from part_fits import fit_in_parts
from PIL import Image
from sklearn.base import clone
from sklearn.pipeline import FeatureUnion

import skanomaly
from skanomaly import (
    SPADE,
    CFlow,
    EnsembleDetector,
    FeatureExtractor,
    FeatureMaps,
    FilterBank,
    PaDiM,
    PatchCore,
    Pipeline,
    score_map,
    score_regions,
)
from skanomaly.datasets import make_textures
from skanomaly.images import ImageFit, cells_inside, foreground, pack_mask, unpack_mask
from skanomaly.model_selection import HeldOutThreshold
from skanomaly.neighbors import PatchIndex

SIZE = 128, 160  # of images
DETECTORS = {
    "patchcore": PatchCore(random_state=0),
    "patchcore, paper": PatchCore(image_score="paper", random_state=0),
    "padim": PaDiM(random_state=0),
    "padim, paper": PaDiM(image_score="paper", random_state=0),
    "cflow": CFlow(n_epochs=8, batch_size=64, n_blocks=2, device="cpu"),
    "spade": SPADE(n_neighbors=3),
    "spade, maps": SPADE(n_neighbors=3, image_score="map_max"),
}


def rectangle(top, left, bottom, right, size=SIZE):
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


ROI = rectangle(30, 20, 101, 90)


@pytest.fixture(scope="module")
def images():
    return make_textures(6, kind="weave", size=SIZE, random_state=0)


def bank(**parameters):
    options = {"n_filters": 4, "image_size": SIZE, "roi": ROI, "random_state": 0}
    return FilterBank(**{**options, **parameters})


def pipeline(detector, **parameters):
    return Pipeline([("features", bank(**parameters)), ("detector", detector)])


def changed_outside(images):
    """Other pixels wherever no filter sees what is inside."""
    other = 255 - images
    other[:, :, :130] = images[:, :, :130]  # the region ends at column 90, the filters see 24 more
    return other


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("grid", [(8, 8), (5, 9)])
def test_cells_inside_against_loops(resize, grid):
    rng, size = np.random.default_rng(0), ImageFit(64, 64, resize)
    mask = np.kron(rng.random((10, 9)) < 0.4, np.ones((11, 13), bool))
    frame = mask.shape
    got = cells_inside(pack_mask(mask), frame, size, grid)
    np.testing.assert_array_equal(unpack_mask(pack_mask(mask), frame), mask)
    rows, columns = size.cell_edges(grid, frame)
    for i in range(grid[0]):
        for j in range(grid[1]):
            cell = mask[rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
            assert got[i, j] == (cell.size > 0 and cell.mean() >= 0.5)


def test_a_thin_region_has_the_cells_that_it_touches():
    mask = np.zeros((64, 64), bool)
    mask[10, 20:40] = True
    got = cells_inside(pack_mask(mask), mask.shape, ImageFit(64, 64), (8, 8))
    assert np.argwhere(got).tolist() == [[1, 2], [1, 3], [1, 4]]


@pytest.mark.parametrize("sigma", [0, 3.0])
def test_smoothing_leaves_out_what_does_not_count(sigma):
    """Against the definition: a mean with the weights of those that count."""
    rng, size = np.random.default_rng(0), ImageFit(32, 24)
    scores = rng.random((4, 3)).astype(np.float32)
    outside = np.zeros((4, 3), bool)
    outside[0, 1:] = outside[3, 0] = True
    marked = np.where(outside, -np.inf, scores).astype(np.float32)
    rows, columns = size.way_back((4, 3), (32, 24), sigma)
    expected = np.zeros((32, 24))
    for y in range(32):
        for x in range(24):
            weights = np.outer(rows[y], columns[x]) * ~outside
            if weights.sum() > 1e-6:
                expected[y, x] = (weights * scores).sum() / weights.sum()
    inside = rng.random((32, 24)) < 0.5
    got = size.to_frame(marked, (32, 24), sigma, inside)
    np.testing.assert_allclose(got, np.where(inside, expected, 0), atol=1e-5)
    smooth = size.smooth(marked[None], sigma)[0]
    cells = np.kron(outside, np.ones((8, 8), bool))
    assert np.isneginf(smooth[cells]).all()
    np.testing.assert_allclose(smooth[~cells], expected[~cells], atol=1e-5)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("tile_size", [None, 64])
def test_what_is_outside_changes_nothing(images, name, tile_size):
    """Neither in fit nor in the scores; maps are 0 there, and what is inside is scored."""
    pipe = pipeline(DETECTORS[name], tile_size=tile_size, tile_overlap=32)
    pipe.fit(images)
    maps, scores = pipe.score_map(images), pipe.score_samples(images)
    assert (maps[:, ~ROI] == 0).all()
    other = changed_outside(images)
    np.testing.assert_allclose(pipe.score_samples(other), scores, atol=2e-4)
    np.testing.assert_allclose(pipe.score_map(other), maps, atol=2e-4)
    if tile_size is None:  # tiles are drawn among those that meet the region
        again = pipeline(DETECTORS[name]).fit(other)
        np.testing.assert_allclose(again.score_samples(images), scores, rtol=1e-4, atol=1e-4)
    defects = images.copy()
    defects[:, 60:70, 50:64] = 255 - defects[:, 60:70, 50:64]
    assert (pipe.score_samples(defects) < scores).all()
    assert (pipe.score_map(defects)[:, 55:75, 45:70].max(axis=(1, 2)) > maps.max(axis=(1, 2))).all()


def test_thresholds_ignore_what_is_outside(images):
    for name in ("patchcore", "spade, maps", "padim"):
        with pytest.warns(UserWarning, match="held-out good images"):
            one = HeldOutThreshold(pipeline(DETECTORS[name])).fit(images)
        with pytest.warns(UserWarning, match="held-out good images"):
            other = HeldOutThreshold(pipeline(DETECTORS[name])).fit(changed_outside(images))
        assert one.method_ == "leave_one_out"
        np.testing.assert_allclose(one.oof_scores_, other.oof_scores_, rtol=1e-4)
        np.testing.assert_allclose(one.oof_map_maxima_, other.oof_map_maxima_, rtol=1e-4)
        np.testing.assert_allclose(-one.oof_scores_, one.oof_map_maxima_, rtol=0.2)
        defects = images.copy()
        defects[:, 60:70, 50:150] = 255 - defects[:, 60:70, 50:150]  # on both sides of the border
        regions = score_regions(one, defects, threshold=np.median(one.oof_map_maxima_) / 2)
        assert regions and all(r["left"] >= 20 and r["right"] <= 90 for r in regions)


@pytest.mark.parametrize("score", ["map_max", "paper"])
def test_leaving_out_an_image_is_a_fit_without_it(images, score):
    """Of a bank of all patches, exactly."""
    detector = PatchCore(coreset_ratio=1.0, image_score=score, random_state=0)
    maps = bank().fit(images).transform(images)
    scores, maxima = detector.fit(maps).leave_one_out(maps)
    for i in (0, 5):
        others = np.delete(np.arange(6), i)
        alone = PatchCore(coreset_ratio=1.0, image_score=score, random_state=0).fit(maps[others])
        np.testing.assert_allclose(alone.score_samples(maps[i]), scores[i], rtol=1e-4)
        np.testing.assert_allclose(alone.score_map(maps[i]).max(), maxima[i], rtol=1e-4)


def test_the_bank_has_patches_inside_alone(images):
    maps = bank().fit(images).transform(images)
    inside = maps.inside((16, 20))
    detector = PatchCore(coreset_ratio=1.0, random_state=0).fit(maps)
    places, cells = detector.memory_origin_.T
    assert len(cells) == inside.sum() and inside.reshape(6, -1)[places, cells].all()
    few = PatchCore(n_candidates=200, coreset_ratio=1.0, random_state=0).fit(maps)
    places, cells = few.memory_origin_.T
    assert len(cells) == 200 and inside.reshape(6, -1)[places, cells].all()
    assert set(np.bincount(places)) == {33, 34}  # of each image alike


@pytest.fixture(scope="module")
def maps(images):
    """Features with one region of interest, of images of two kinds, the last two being strange."""
    others = make_textures(2, kind="brushed", size=SIZE, random_state=1)
    return bank().fit(images).transform(np.concatenate([images, others]))


def patches_inside(detector, maps):
    """(n, D), and which of all they are, (n_images, h * w)."""
    inside = maps.inside((16, 20)).reshape(len(maps), -1)
    return detector._patches(maps)[inside.ravel()], inside


def radius_of(detector, patches):
    """Largest distance of a patch to its nearest row of the bank, in all dimensions."""
    return PatchIndex().fit(detector.memory_bank_).kneighbors(patches)[0].max()


@pytest.mark.parametrize("n_candidates", [None, 150])
@pytest.mark.parametrize("edges", [[0, 8], [0, 1, 4, 8]])
def test_parts_learn_patches_inside_alone(maps, edges, n_candidates):
    options = {"bank_size": 60, "n_projections": None, "n_candidates": n_candidates}
    detector = PatchCore(random_state=0, **options)
    fitted = fit_in_parts(detector, maps, edges)
    patches, inside = patches_inside(fitted, maps)
    assert len(fitted.memory_bank_) == 60
    assert inside[tuple(fitted.memory_origin_.T)].all()
    whole = clone(detector).fit(maps)
    if len(edges) == 2:
        np.testing.assert_array_equal(fitted.memory_bank_, whole.memory_bank_)
        assert fitted.covering_radius_ == whole.covering_radius_
    if n_candidates is None:  # the radius is that of the patches that count
        radius = radius_of(fitted, patches)
        assert radius <= fitted.covering_radius_ * (1 + 1e-5)
        np.testing.assert_allclose(radius_of(whole, patches), whole.covering_radius_, rtol=1e-4)
        assert radius_of(whole, whole._patches(maps)) > whole.covering_radius_


@pytest.mark.parametrize("n_candidates", [None, 60])
def test_a_bank_learns_on_from_patches_inside_alone(maps, n_candidates):
    options = {"bank_size": 40, "n_candidates": n_candidates, "max_bank_size": 10_000}
    detector = PatchCore(n_projections=None, random_state=0, **options).fit(maps[:6])
    radius = detector.covering_radius_
    patches, inside = patches_inside(detector, maps[6:])
    assert radius_of(detector, patches) > radius
    detector.partial_fit(maps[6:])
    assert detector.covering_radius_ == radius
    assert radius_of(detector, patches) <= radius * (1 + 1e-5)
    places, cells = detector.memory_origin_[40:].T
    assert len(places) > 0 and inside[places - 6, cells].all()


@pytest.mark.parametrize("score", ["map_max", "paper"])
def test_spade_learns_on_from_patches_inside_alone(maps, score):
    """As a fit on all, the threshold included; and forgets so."""
    detector = SPADE(n_neighbors=3, balance_layers=False, image_score=score, contamination=0.2)
    learned, fitted = clone(detector).fit(maps[:5]).partial_fit(maps[5:]), clone(detector).fit(maps)
    assert learned.offset_ == fitted.offset_
    np.testing.assert_array_equal(learned.memory_inside_, maps.inside((16, 20)))
    np.testing.assert_array_equal(learned.score_map(maps), fitted.score_map(maps))
    learned.forget([6, 7])
    assert learned.offset_ == clone(detector).fit(maps[:6]).offset_
    assert len(learned.memory_inside_) == 6


def test_the_threshold_of_spade_is_of_patches_inside(maps):
    detector = SPADE(n_neighbors=3, image_score="map_max", contamination=0.5).fit(maps)
    scores, _ = detector.leave_one_out(maps)
    np.testing.assert_allclose(detector.offset_, np.median(scores), rtol=1e-5)


def test_padim_has_one_region_in_all_parts_and_updates(maps, images):
    detector = PaDiM(n_components=8, random_state=0)
    whole = clone(detector).fit(maps)
    np.testing.assert_array_equal(whole.inside_, maps.inside((16, 20))[0])
    fitted = fit_in_parts(detector, maps, [0, 3, 8])
    np.testing.assert_array_equal(fitted.inside_, whole.inside_)
    np.testing.assert_allclose(fitted.score_map(maps), whole.score_map(maps), rtol=1e-4, atol=1e-6)
    learned = clone(detector).fit(maps[:5]).partial_fit(maps[5:])
    np.testing.assert_allclose(
        learned.score_samples(maps), whole.score_samples(maps), rtol=1e-4, atol=1e-6
    )
    for roi in (rectangle(0, 0, 64, 160), None):
        other = bank(roi=roi).fit(images).transform(images)
        before = pickle.dumps(learned)
        with pytest.raises(ValueError, match="one region of interest for all, got some that"):
            learned.partial_fit(other)
        assert pickle.dumps(learned) == before
        states = [detector._learn_part(one, 0) for one in planned(detector, maps, other)]
        with pytest.raises(ValueError, match="one region of interest for all, got some that"):
            detector._join_parts(states)


def planned(detector, *some):
    """Features, of which the first ones are those that the detector's plan is made from."""
    detector._plan_parts(some[0][:2], len(some[0]))
    return some


def test_no_patch_to_choose_from(maps):
    detector = PatchCore(n_candidates=3, random_state=0)
    detector._plan_parts(maps[:2], 8)
    assert len(detector._learn_part(maps[2:6], 2)["rows"]) == 2  # of those of images 2 and 5
    with pytest.raises(ValueError, match="at least one patch of these 2 images to choose from"):
        detector._learn_part(maps[:2], 0)


def test_a_choice_of_all_patches_inside_is_cached(images, tmp_path, monkeypatch):
    """Though it has fewer rows than were asked for."""
    options = {"coreset_ratio": 1.0, "random_state": 0}
    one = pipeline(PatchCore(**options), cache=tmp_path).fit(images)
    assert len(one[1].memory_bank_) < 6 * 16 * 20

    def is_not_called(*args, **kwargs):
        raise AssertionError("the bank is chosen again")

    monkeypatch.setattr("skanomaly.detectors._bank_parts.choose_bank", is_not_called)
    for ratio in (1.0, 0.05):
        other = pipeline(PatchCore(**options), cache=tmp_path)
        other.set_params(detector__coreset_ratio=ratio).fit(images)
        n_rows = len(other[1].memory_bank_)
        np.testing.assert_array_equal(other[1].memory_bank_, one[1].memory_bank_[:n_rows])


def test_the_nearest_good_patch_lies_inside(maps):
    """Those outside are not among them, though the memory has copies in their places."""
    inside = maps.inside((16, 20))
    for detector in (SPADE(n_neighbors=3), PatchCore(random_state=0)):
        found = detector.fit(maps[:6]).nearest_good(maps[6:], n_peaks=5)
        cells = [
            (one["good_image"], one["good_cell_row"], one["good_cell_column"]) for one in found
        ]
        assert len(cells) > 2 and inside[tuple(np.array(cells).T)].all()


def save(mask, path):
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path


def same_for_all(image):
    return ROI


def test_all_kinds_of_regions_are_one(images, tmp_path):
    expected = pipeline(PatchCore(random_state=0)).fit(images)
    expected = expected.score_map(images), expected.score_samples(images)
    file = save(ROI, tmp_path / "roi.png")
    kinds = file, str(file), [ROI] * 6, np.stack([ROI] * 6), [file] * 6, same_for_all, ROI * 7
    for roi in kinds:
        pipe = pipeline(PatchCore(random_state=0), roi=roi).fit(images)
        np.testing.assert_allclose(pipe.score_map(images), expected[0], atol=1e-5)
        np.testing.assert_allclose(pipe.score_samples(images), expected[1], atol=1e-5)


def test_a_mask_for_each_image(images):
    masks = [rectangle(10 * i, 10, 60 + 10 * i, 90) for i in range(6)]
    y = np.array([1, 1, -1, 1, 1, 1])
    features = bank(roi=masks)
    maps = features.fit(images, y).transform(images)
    for detector in (PatchCore(coreset_ratio=1.0, random_state=0), SPADE(n_neighbors=3)):
        found = detector.fit(maps, y).score_map(maps)
        for one, mask in zip(found, masks, strict=True):
            assert (one[~mask] == 0).all() and one.max() >= 0
    some = detector.score_map(maps[[3, 1]])
    np.testing.assert_allclose(some, found[[3, 1]], atol=1e-5)
    with pytest.raises(ValueError, match="PaDiM learns each position from all images"):
        PaDiM().fit(maps)
    with pytest.raises(ValueError, match="one region of interest per image, got 6 for 2 images"):
        features.transform(images[:2])
    assert features.set_params(roi=masks[:2]).transform(images[:2]).shape[0] == 2


def test_streamed_cached_and_loaded_regions_are_the_same(images, tmp_path):
    for number, roi in enumerate((ROI, save(ROI, tmp_path / "roi.png"), same_for_all)):
        pipe = pipeline(PatchCore(random_state=0), roi=roi).fit(images)
        expected = pipe.score_map(images)
        folder = tmp_path / f"cache {number}"
        others = [pipeline(PatchCore(random_state=0), roi=roi, memory_limit="10KB").fit(images)]
        for _ in range(2):
            others.append(pipeline(PatchCore(random_state=0), roi=roi, cache=folder).fit(images))
        others.append(pickle.loads(pickle.dumps(pipe)))
        for other in others:
            np.testing.assert_allclose(other.score_map(images), expected, atol=1e-5)
        if number < 2:
            skanomaly.dump(pipe, tmp_path / "pipe.skanomaly")
            (tmp_path / "roi.png").unlink(missing_ok=True)  # the file holds what was in it
            loaded = skanomaly.load(tmp_path / "pipe.skanomaly")
            np.testing.assert_array_equal(loaded.score_map(images), expected)
            save(ROI, tmp_path / "roi.png")


@pytest.mark.parametrize("roi", [None, rectangle(0, 0, 64, 160), lambda image: ROI])
def test_the_cache_tells_regions_apart(images, roi, tmp_path):
    pipeline(PatchCore(random_state=0), cache=tmp_path).fit(images).score_map(images)
    expected = pipeline(PatchCore(random_state=0), roi=roi).fit(images).score_map(images)
    cached = pipeline(PatchCore(random_state=0), roi=roi, cache=tmp_path).fit(images)
    np.testing.assert_allclose(cached.score_map(images), expected, atol=1e-5)


def test_unions_and_ensembles(images):
    small = rectangle(0, 0, 64, 160)
    union = FeatureUnion([("a", bank()), ("b", bank(roi=small)), ("c", bank(roi=None))])
    pipe = Pipeline([("features", union), ("detector", PatchCore(random_state=0))]).fit(images)
    maps = score_map(pipe, images)
    assert (maps[:, ~(ROI & small)] == 0).all() and maps[:, 35:60, 30:80].max() > 0
    members = [("a", pipeline(PatchCore(random_state=0))), ("b", pipeline(PaDiM(random_state=0)))]
    ensemble = EnsembleDetector(members, cv=2).fit(images)
    outside = ensemble.score_map(images)[:, ~ROI]
    assert (outside == outside.flat[0]).all()


def test_networks(images):
    pytest.importorskip("torchvision")
    options = {"weights": None, "random_state": 0, "image_size": 64}
    extractor = FeatureExtractor("squeezenet1_1", roi=ROI, **options)
    pipe = Pipeline([("features", extractor), ("detector", PatchCore(random_state=0))]).fit(images)
    maps = pipe.score_map(images)
    assert (maps[:, ~ROI] == 0).all() and maps.max() > 0


def part(color, ground, size=(96, 128)):
    """A part with a hole on an even ground, and its mask."""
    image = np.full((*size, 3), ground, dtype=np.uint8)
    mask = np.zeros(size, bool)
    mask[20:70, 30:100] = True
    image[mask] = color
    image[40:46, 60:66] = ground  # a hole
    image[5, 5] = color  # dirt
    noise = np.random.default_rng(0).integers(-4, 5, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), mask


@pytest.mark.parametrize(
    ("color", "ground"),
    [
        ((200, 200, 200), (20, 20, 20)),
        ((30, 30, 30), (230, 230, 230)),
        ((200, 40, 40), (93, 93, 93)),
    ],
)
def test_foreground(color, ground):
    image, mask = part(color, ground)
    np.testing.assert_array_equal(foreground(image), mask)
    large = image.repeat(9, axis=0).repeat(9, axis=1)
    wrong = foreground(large) != mask.repeat(9, axis=0).repeat(9, axis=1)
    assert wrong.mean() < 0.01


def test_foreground_is_asked_for(images, tmp_path):
    parts = np.stack([part((200, 200, 200), (20, 20, 20))[0] for _ in range(4)])
    mask = part((200, 200, 200), (20, 20, 20))[1]
    pipe = pipeline(PatchCore(random_state=0), image_size=(96, 128), roi=foreground).fit(parts)
    maps = pipe.score_map(parts)
    assert (maps[:, ~mask] == 0).all()
    skanomaly.dump(pipe, tmp_path / "pipe.skanomaly")
    loaded = skanomaly.load(tmp_path / "pipe.skanomaly")
    assert loaded[0].roi is foreground
    np.testing.assert_array_equal(loaded.score_map(parts), maps)
    with pytest.raises(TypeError, match="roi"):
        skanomaly.dump(pipeline(PatchCore(), roi=same_for_all).fit(images), tmp_path / "other")
    with pytest.raises(ValueError, match="neither brightness nor saturation"):
        foreground(np.full((64, 64), 100, np.uint8))


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        (np.zeros(SIZE, bool), "at least one pixel, got an empty one"),
        (rectangle(0, 0, 9, 9, (64, 64)), "own size, 128 x 160 pixels, got one of 64 x 64"),
        (np.ones((2, 3, 4, 5), bool), "roi must be None, a mask"),
        ([ROI] * 3, "one region of interest per image, got 3 for 6 images"),
        (lambda image: np.zeros(image.shape[:2]), "image 0: the function roi: expected a region"),
        (lambda image: np.ones(3), "expected a mask of shape"),
        ("no_such_file.png", "no_such_file.png"),
        (7, "roi"),
    ],
)
def test_bad_regions(images, roi, message):
    with pytest.raises((ValueError, OSError), match=message):
        bank(roi=roi).fit_transform(images)


def test_a_region_that_is_cropped_away(images):
    roi = rectangle(0, 0, 128, 10)  # the square in the middle begins at column 16
    with pytest.raises(ValueError, match=r'image 0: .*resize="crop" leaves out'):
        bank(roi=roi, image_size=64, resize="crop").fit(images)
    assert bank(roi=roi, image_size=64, resize="pad").fit_transform(images).inside((8, 8)).any()


def test_feature_maps_check_their_regions():
    layers = {"a": np.zeros((2, 4, 4, 3), np.float32)}
    maps = FeatureMaps(layers, [(8, 8)] * 2, rois=[rectangle(0, 0, 4, 8, (8, 8))] * 2)
    assert maps.inside((4, 4)).sum() == 16 and maps[[1]].inside((2, 2)).tolist() == [
        [[True, True], [False, False]]
    ]
    with pytest.raises(ValueError, match="got 1 for 2 images"):
        FeatureMaps(layers, [(8, 8)] * 2, rois=[ROI])
    with pytest.raises(ValueError, match="own"):
        FeatureMaps(layers, [(8, 8)] * 2, rois=[ROI] * 2)


def test_command_line(images, tmp_path, capsys):
    folder = tmp_path / "good"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    file, mask = tmp_path / "part.skanomaly", save(ROI, tmp_path / "roi.png")
    options = ["--features", "filter_bank", "--no-trial", "--image-size", 64, "--target-fpr", 0.3]
    assert run("fit", folder, "-o", file, *options, "--roi", mask) == 0
    mask.unlink()
    maps = skanomaly.load(file).score_samples_and_map(images)[1]
    assert (maps[:, ~ROI] == 0).all() and maps.max() > 0
    page = tmp_path / "report.html"
    assert run("inspect", file, folder, "-o", tmp_path / "out", "--report", page) in (0, 1)
    assert '"outlines": ["M20 30H90V101H20Z"]' in page.read_text()
    assert run("fit", folder, "-o", file, *options, "--roi", tmp_path / "none.png") == 2
    assert "no such file" in capsys.readouterr().err
    assert run("fit", folder, "-o", file, *options, "--roi", save(~ROI & ROI, mask)) == 2
    assert "got an empty one" in capsys.readouterr().err
