"""Which good patch a hot spot is nearest to, and which image and place that comes from."""

import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from oracles_features import locally_aware_patches
from oracles_regions import peaks
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

from skanomaly import (
    SPADE,
    FeatureMaps,
    FilterBank,
    PaDiM,
    PatchCore,
    Pipeline,
    estimate_memory,
    nearest_good,
    score_map,
)
from skanomaly.datasets import make_textures
from skanomaly.detectors import _bank_parts
from skanomaly.embedding import embed
from skanomaly.images import ImageFit
from skanomaly.model_selection import GoodOnlyKFold, HeldOutThreshold, scorers

FakePandas = SimpleNamespace(DataFrame=dict, Series=dict, Index=dict)  # frames: dicts of columns
GRID, N_GOOD = (6, 5), 19
FIT = ImageFit(48, 40)  # cells of 8 x 8 input pixels


def features(n=N_GOOD, seed=0, frames=None):
    rng = np.random.default_rng(seed)
    layers = {
        "fine": rng.normal(size=(n, *GRID, 7)).astype(np.float32),
        "coarse": rng.normal(size=(n, 3, 3, 4)).astype(np.float32),
    }
    frames = [(96 + 12 * i, 80) for i in range(n)] if frames is None else frames
    return FeatureMaps(layers, frames, FIT)


def streamed(X):
    """Features that are made batch by batch, whenever they are asked for."""

    def extract(rows, batch_size):
        for first in range(0, len(rows), batch_size):
            yield X[np.array(rows[first : first + batch_size])]

    return FeatureMaps.streamed(list(range(len(X))), extract, X.layer_shapes, X.image_fit)


def all_patches(X, size=3):
    """(n, h * w, D) by the slow way."""
    arrays = X.arrays()
    images = [{name: maps[i] for name, maps in arrays.items()} for i in range(len(X))]
    return np.stack([locally_aware_patches(image, size).reshape(-1, 11) for image in images])


def patches_of(X, size=3):
    """(n * h * w, D), as PatchCore has them where there is one layer."""
    vectors = embed(X.arrays(), patch_size=size)
    return vectors.reshape(-1, vectors.shape[3])


def assert_rows_come_from(detector, X):
    """Each row of the bank is the patch that its origin names."""
    images, cells = detector.memory_origin_.T
    patches = all_patches(X)[images, cells]
    np.testing.assert_allclose(detector.memory_bank_, patches, atol=1e-5)
    assert len(np.unique(detector.memory_origin_, axis=0)) == len(images)


# The bank's origin ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [lambda X: X, streamed], ids=["stored", "streamed"])
@pytest.mark.parametrize("ratio", [0.07, 0.5, 1.0])
def test_each_row_of_the_bank_says_where_it_comes_from(kind, ratio):
    X = features()
    detector = PatchCore(coreset_ratio=ratio, balance_layers=False, random_state=0).fit(kind(X))
    assert_rows_come_from(detector, X)
    assert_rows_come_from(pickle.loads(pickle.dumps(detector)), X)
    np.testing.assert_array_equal(detector.memory_frames_, X.frames)


def test_an_origin_takes_at_most_12_bytes_a_row_and_a_frame_8_an_image():
    X = features()
    detector = PatchCore(coreset_ratio=0.5, balance_layers=False, random_state=0).fit(X)
    assert detector.memory_origin_.nbytes <= 12 * len(detector.memory_bank_)
    assert detector.memory_frames_.nbytes == 8 * len(X)
    assert len(pickle.dumps(detector.memory_origin_)) < 12 * len(detector.memory_bank_) + 300
    bare = pickle.loads(pickle.dumps(detector))
    bare.memory_origin_, bare.memory_frames_ = bare.memory_origin_[:0], bare.memory_frames_[:0]
    added = len(pickle.dumps(detector)) - len(pickle.dumps(bare))
    assert 0 < added <= 12 * len(detector.memory_bank_) + 8 * len(X) + 50


def test_the_forecast_counts_the_origins():
    images = make_textures(4, size=64, random_state=0)
    pipe = Pipeline([("f", FilterBank(image_size=64)), ("d", PatchCore(coreset_ratio=0.5))])
    needs = estimate_memory(pipe, images)["memory bank and its index"]
    assert needs == (2 * 4 * 135 + 8) * 128


def test_images_left_out_are_counted():
    X, y = features(), np.ones(N_GOOD, int)
    y[[0, 4, 18]] = -1
    for detector in (
        PatchCore(coreset_ratio=0.6, balance_layers=False, random_state=0),
        SPADE(n_neighbors=3, balance_layers=False),
    ):
        detector.fit(X, y)
        expected = np.where(y[:, None] == 1, X.frames, 0)
        np.testing.assert_array_equal(detector.memory_frames_, expected)
        spots = detector.nearest_good(X[y == 1])
        if isinstance(detector, PatchCore):
            assert_rows_come_from(detector, X)
            assert set(detector.memory_origin_[:, 0]) == set(np.flatnonzero(y == 1))
        else:
            found = [spot["good_image"] for spot in spots]
            assert found == np.flatnonzero(y == 1).tolist()


@pytest.mark.parametrize("seen", [True, False], ids=["recalled", "made"])
def test_the_cache_keeps_origins_for_whoever_asks(tmp_path, seen, monkeypatch):
    """Of the same good images in another X, and of a smaller ratio, in another frame each."""
    images = [make_textures(1, size=(64 + 8 * i, 72), random_state=i)[0] for i in range(9)]
    bank = FilterBank(image_size=64, random_state=0, cache=tmp_path).fit(images)
    if seen:
        PatchCore(coreset_ratio=0.3, random_state=0).fit(bank.transform(images))
    detector, calls = PatchCore(coreset_ratio=0.2, random_state=0), []
    choose = _bank_parts.choose_bank

    def counted(*args, **options):
        calls.append(args)
        return choose(*args, **options)

    monkeypatch.setattr(_bank_parts, "choose_bank", counted)
    with_others = [images[3] // 2, *images[:5], images[4] // 2, *images[5:]]
    y = np.array([-1, 1, 1, 1, 1, 1, -1, 1, 1, 1, 1])
    detector.fit(bank.transform(with_others), y)
    assert len(calls) == (not seen)
    patches = patches_of(bank.transform(with_others)).reshape(11, 64, -1)
    rows, cells = detector.memory_origin_.T
    assert set(y[rows]) == {1}
    np.testing.assert_array_equal(detector.memory_bank_, patches[rows, cells])
    frames = [
        image.shape[:2] if label == 1 else (0, 0)
        for image, label in zip(with_others, y, strict=True)
    ]
    np.testing.assert_array_equal(detector.memory_frames_, frames)
    again = PatchCore(coreset_ratio=0.2, random_state=0).fit(bank.transform(images))
    np.testing.assert_array_equal(again.memory_bank_, detector.memory_bank_)
    np.testing.assert_array_equal(np.flatnonzero(y == 1)[again.memory_origin_[:, 0]], rows)
    for array in (again.memory_bank_, again.memory_origin_, again.memory_frames_):
        assert array.base is None  # not a view of the whole file


# Planted patches ------------------------------------------------------------------------------

PLANTED = {(0, (2, 3)): (5, (4, 1)), (2, (5, 4)): (11, (0, 0)), (3, (0, 2)): (17, (3, 4))}


def planted(size=1):
    """Good features with odd patches of their own, and images that hold these a little changed.

    Image i of the second is image i of the first, but at one cell: there lies, 0.5 away, the odd
    patch of another image and place.
    """
    good = {"only": np.random.default_rng(0).normal(size=(N_GOOD, *GRID, 8)).astype(np.float32)}
    good["only"][:, :, :, 7] = 0
    for k, (image, cell) in enumerate(PLANTED.values()):
        good["only"][image, *cell, :7] = 0
        good["only"][image, *cell, k] = 60  # far from all others: every coreset has it
    X = good["only"][:4].copy()
    for (i, cell), (image, place) in PLANTED.items():
        X[i, *cell] = good["only"][image, *place]
        X[i, *cell, 7] = 0.5
    frames = np.array([(96, 80), (30, 200), (48, 40), (60, 44)] * 5)[:N_GOOD]
    # Over the input of 48 x 40 pixels "crop" and "pad" move the cells of these frames.
    return good, X, frames


def expected_box(fit, frame, cell):
    return dict(
        zip(("top", "left", "bottom", "right"), fit.cell_box(GRID, frame, cell), strict=True)
    )


@pytest.mark.parametrize("resize", ["stretch", "pad"])
@pytest.mark.parametrize("kind", [lambda X: X, streamed], ids=["stored", "streamed"])
@pytest.mark.parametrize(
    "detector",
    [
        PatchCore(coreset_ratio=1.0, balance_layers=False, patch_size=1, sigma=0, random_state=0),
        SPADE(n_neighbors=N_GOOD, balance_layers=False, sigma=0),
    ],
    ids=["PatchCore", "SPADE"],
)
def test_a_planted_patch_is_traced_to_its_image_and_place(detector, kind, resize):
    good, X, frames = planted()
    fit = ImageFit(48, 40, resize)
    detector.fit(kind(FeatureMaps(good, frames, fit)))
    detector = pickle.loads(pickle.dumps(detector))
    # The query's own frames are others than those of the images that it resembles.
    own = np.array([(480, 300), (48, 40), (100, 90), (60, 48)])
    spots = detector.nearest_good(kind(FeatureMaps({"only": X}, own, fit)))
    assert [spot["image"] for spot in spots] == [0, 1, 2, 3]
    for (i, cell), (image, place) in PLANTED.items():
        spot = spots[i]
        assert (spot["cell_row"], spot["cell_column"]) == cell
        assert (spot["good_image"], spot["good_cell_row"], spot["good_cell_column"]) == (
            image,
            *place,
        )
        assert spot["distance"] == pytest.approx(0.5, rel=1e-5)
        assert spot["peak"] == pytest.approx(0.5, rel=0.2)  # of bilinear interpolation
        for prefix, frame, at in (("", own[i], cell), ("good_", frames[image], place)):
            for side, expected in expected_box(fit, frame, at).items():
                assert spot[prefix + side] == expected
        assert spot["top"] <= spot["peak_row"] < spot["bottom"]
        assert spot["left"] <= spot["peak_column"] < spot["right"]
    assert spots[1]["distance"] == spots[1]["peak"] == 0  # nothing planted: it finds itself
    assert spots[1]["good_image"] == 1


def test_boxes_of_good_patches_are_of_the_way_that_good_images_came_in():
    good, X, frames = planted()
    fits = ImageFit(48, 40, "pad"), ImageFit(48, 40, "stretch")
    detector = PatchCore(coreset_ratio=1.0, balance_layers=False, patch_size=1, random_state=0)
    detector.fit(FeatureMaps(good, frames, fits[0]))
    spot = detector.nearest_good(FeatureMaps({"only": X}, frames[:4], fits[1]))[0]
    boxes = [
        tuple(spot[prefix + side] for side in ("top", "left", "bottom", "right"))
        for prefix in ("", "good_")
    ]
    assert boxes[0] == fits[1].cell_box(GRID, (96, 80), (2, 3))
    assert boxes[1] == fits[0].cell_box(GRID, (30, 200), (4, 1)) != boxes[0]
    assert boxes[1] != fits[1].cell_box(GRID, (30, 200), (4, 1))


def test_a_small_coreset_keeps_the_odd_patches_and_their_places():
    good, X, frames = planted()
    detector = PatchCore(
        coreset_ratio=0.03, balance_layers=False, patch_size=1, sigma=0, random_state=0
    )
    detector.fit(FeatureMaps(good, frames, FIT))
    assert len(detector.memory_bank_) == 17
    origins = {tuple(origin) for origin in detector.memory_origin_.tolist()}
    for image, (row, column) in PLANTED.values():
        assert (image, row * GRID[1] + column) in origins
    # An image of nothing but the bank's first patch, but at one cell.
    for (_, cell), (image, place) in PLANTED.items():
        X = np.tile(detector.memory_bank_[0], (1, *GRID, 1))
        X[0, *cell] = good["only"][image, *place] + [0, 0, 0, 0, 0, 0, 0, 0.5]
        (spot,) = detector.nearest_good(FeatureMaps({"only": X.astype(np.float32)}))
        found = [spot[name] for name in ("good_image", "good_cell_row", "good_cell_column")]
        assert found == [image, *place]


@pytest.mark.parametrize("ratio", [0.1, 1.0])
def test_an_odd_place_in_an_image_is_traced_to_the_image_that_has_one_like_it(ratio):
    """Noise in one good image; other noise elsewhere in a new one of twice the size."""
    rng = np.random.default_rng(0)
    good = list(make_textures(12, size=(128, 160), random_state=0))
    bad = make_textures(1, size=(128, 160), random_state=99)[0]
    good[7][64:112, 80:128] = rng.integers(0, 256, (48, 48, 3))
    bad[16:72, 8:56] = rng.integers(0, 256, (56, 48, 3))
    bad = bad.repeat(2, axis=0).repeat(2, axis=1)
    detector = PatchCore(coreset_ratio=ratio, balance_layers=False, random_state=0)
    pipe = Pipeline([("f", FilterBank(image_size=128, random_state=0)), ("d", detector)]).fit(good)
    (spot,) = nearest_good(pipe, [bad])
    assert spot["good_image"] == 7
    assert 32 <= spot["peak_row"] < 144 and 16 <= spot["peak_column"] < 112
    assert 64 <= spot["good_top"] < spot["good_bottom"] <= 112
    assert 80 <= spot["good_left"] < spot["good_right"] <= 130  # cells of 10 pixels
    assert spot["peak"] == score_map(pipe, [bad]).max()


# Against the slow way -------------------------------------------------------------------------


@pytest.mark.parametrize("n_peaks", [1, 4])
@pytest.mark.parametrize("ratio", [0.1, 1.0])
def test_hot_spots_and_their_nearest_patches(ratio, n_peaks):
    detector = PatchCore(coreset_ratio=ratio, balance_layers=False, random_state=0).fit(features())
    frames = [(60, 50), (48, 40), (24, 90)] * 6
    X = features(18, 1, frames)
    spots, maps, patches = (
        detector.nearest_good(X, n_peaks=n_peaks),
        detector.score_map(X),
        all_patches(X),
    )
    expected = []
    for i, (height, width) in enumerate(frames):
        reach = [round(2 * height / GRID[0]), round(2 * width / GRID[1])]
        for row, column in peaks(maps[i], n_peaks, reach):
            cell = int((row + 0.5) * GRID[0] / height), int((column + 0.5) * GRID[1] / width)
            gaps = np.linalg.norm(
                detector.memory_bank_ - patches[i][cell[0] * GRID[1] + cell[1]], axis=1
            )
            image, place = detector.memory_origin_[gaps.argmin()]
            expected.append((i, row, column, *cell, image, *divmod(place, GRID[1])))
            assert spots[len(expected) - 1]["distance"] == pytest.approx(gaps.min(), rel=1e-4)
            assert spots[len(expected) - 1]["peak"] == maps[i][row, column]
    names = (
        "image peak_row peak_column cell_row cell_column good_image good_cell_row good_cell_column"
    )
    assert [tuple(spot[name] for name in names.split()) for spot in spots] == expected
    if n_peaks == 4:
        assert len(spots) > 18
    patch_scores = detector._score_maps(X)
    for spot in spots:
        assert (
            spot["distance"] == patch_scores[spot["image"], spot["cell_row"], spot["cell_column"]]
        )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("size", [1, 3])
def test_spade_looks_among_the_patches_of_the_images_most_alike(dtype, size):
    good, X = features(), features(5, 1, [(48, 40)] * 5)
    detector = SPADE(n_neighbors=4, patch_size=size, memory_dtype=dtype, image_layer="fine").fit(
        good
    )
    means = good.arrays()["fine"].mean((1, 2), dtype=np.float64)
    memory = patches_of(FeatureMaps({"fine": good.arrays()["fine"]}), size)
    memory = memory.reshape(N_GOOD, 30, 7).astype(dtype).astype(np.float64)
    queries = patches_of(FeatureMaps({"fine": X.arrays()["fine"]}), size)
    for i, spot in enumerate(detector.nearest_good(X)):
        own = X.arrays()["fine"][i].mean((0, 1), dtype=np.float64)
        alike = np.argsort(np.linalg.norm(means - own, axis=1))[:4]
        cell = spot["cell_row"] * 5 + spot["cell_column"]
        gaps = np.linalg.norm(memory[alike] - queries.reshape(5, 30, 7)[i, cell], axis=2)
        image, place = np.unravel_index(gaps.argmin(), gaps.shape)
        found = (spot["good_image"], spot["good_cell_row"], spot["good_cell_column"])
        assert found == (alike[image], *divmod(place, 5))
        assert spot["distance"] == pytest.approx(gaps.min(), rel=1e-5)


def test_spade_compares_the_finest_of_its_layers():
    good = features()
    coarse = SPADE(n_neighbors=3, layers="coarse", image_layer="fine").fit(good)
    both = SPADE(n_neighbors=3, balance_layers=False).fit(good)
    X = features(2, 1, [(48, 40)] * 2)
    for detector, grid in ((coarse, (3, 3)), (both, GRID)):
        for spot in detector.nearest_good(X):
            box = FIT.cell_box(grid, (48, 40), (spot["cell_row"], spot["cell_column"]))
            assert (spot["top"], spot["left"], spot["bottom"], spot["right"]) == box
            assert spot["top"] <= spot["peak_row"] < spot["bottom"]


def test_what_a_crop_leaves_out_has_no_hot_spot_of_its_own():
    fit = ImageFit(48, 40, "crop")
    good = {"only": np.zeros((2, *GRID, 3), np.float32)}
    X = good["only"][:1].copy()
    X[0, :, 0] = 9  # the left border of what is seen: its scores go on to the image's border
    detector = PatchCore(coreset_ratio=1.0, balance_layers=False, patch_size=1, random_state=0)
    detector.fit(FeatureMaps(good, [(48, 100)] * 2, fit))
    maps = FeatureMaps({"only": X}, [(48, 100)], fit)
    assert detector.score_map(maps)[0, :, 0].max() == detector.score_map(maps).max()
    spots = detector.nearest_good(maps, n_peaks=9)
    assert {spot["peak_column"] for spot in spots} == {30}
    assert {spot["cell_column"] for spot in spots} == {0}


def test_rows_are_images_of_one_patch():
    rows = np.random.default_rng(0).normal(size=(30, 5))
    y = np.where(np.arange(30) == 3, -1, 1)
    for detector in (
        PatchCore(coreset_ratio=1.0, balance_layers=False, random_state=0),
        SPADE(n_neighbors=2),
    ):
        spots = detector.fit(rows, y).nearest_good(rows[[4, 29]])
        assert [spot["good_image"] for spot in spots] == [4, 29]
        assert {spot["distance"] for spot in spots} == {0}
        assert (spots[0]["bottom"], spots[0]["good_right"]) == (1, 1)


# From whatever is around the detector ---------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return list(make_textures(14, size=64, random_state=0))


def pipeline(detector=None, **parameters):
    bank = FilterBank(image_size=64, random_state=0, **parameters)
    return Pipeline(
        [
            ("f", bank),
            ("d", detector or PatchCore(coreset_ratio=1.0, balance_layers=False, random_state=0)),
        ]
    )


@pytest.mark.parametrize("detector", [None, SPADE(n_neighbors=2)], ids=["PatchCore", "SPADE"])
def test_images_left_out_are_counted_behind_anything(images, detector):
    """Each good image is its own nearest, so that its place is known."""
    y = np.where(np.isin(np.arange(14), (0, 5, 6)), -1, 1)
    good = np.flatnonzero(y == 1)
    X = [images[i] for i in good]

    def places(estimator):
        return [spot["good_image"] for spot in nearest_good(estimator, X)]

    pipe = pipeline(detector).fit(images, y)
    assert places(pipe) == places(FrozenEstimator(pipe)) == good.tolist()
    held_out = HeldOutThreshold(pipeline(detector), target_fpr=0.2, cv=2, random_state=0)
    held_out.fit(images, y)
    assert held_out.good_images_.tolist() == good.tolist()
    assert places(held_out) == places(FrozenEstimator(held_out)) == good.tolist()
    # Inside a frozen estimator places are those of its own fit, whatever came later.
    outer = HeldOutThreshold(FrozenEstimator(pipe), target_fpr=0.2, cv=2).fit(images[2:], y[2:])
    assert places(outer) == good.tolist()
    search = GridSearchCV(
        pipeline(detector),
        {"d__sigma": [4.0]},
        cv=GoodOnlyKFold(2),
        scoring=scorers("image_auroc"),
        refit="image_auroc",
    ).fit(images, y)
    assert places(search) == good.tolist()
    inside = Pipeline([pipe.steps[0], ("d", HeldOutThreshold(pipe[-1], target_fpr=0.2, cv=2))])
    assert places(inside.fit(images, y)) == good.tolist()


def test_streamed_and_cached_features_give_the_same_table(images, tmp_path):
    good, X = images[:10], images[10:]
    detector = PatchCore(coreset_ratio=0.05, random_state=0)
    expected = nearest_good(pipeline(detector).fit(good), X, n_peaks=3)
    for parameters in ({"memory_limit": "1KB"}, {"cache": tmp_path}, {"cache": tmp_path}):
        pipe = pipeline(detector, **parameters).fit(good)
        found = nearest_good(pipe, X, n_peaks=3)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, rel=1e-5)
        assert nearest_good(pickle.loads(pickle.dumps(pipe)), X, n_peaks=3) == found


def test_a_frame_of_hot_spots(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", FakePandas)
    y = [-1] + [1] * 13
    model = HeldOutThreshold(pipeline(), target_fpr=0.2, cv=2, random_state=0).fit(images, y)
    records = nearest_good(model, images[1:4])
    frame = nearest_good(model, images[1:4], as_frame=True)
    assert frame["good_image"].tolist() == [1, 2, 3]
    for name, column in frame.items():
        assert column.tolist() == [record[name] for record in records]
    assert list(frame) == list(records[0])


@pytest.mark.parametrize("n_peaks", [0, -1, 1.5, True, "3", None])
def test_numbers_of_peaks_that_cannot_be(n_peaks):
    with pytest.raises(ValueError, match="n_peaks must be an integer of at least 1, got"):
        PatchCore(random_state=0).fit(features()).nearest_good(features(2), n_peaks=n_peaks)


def test_what_has_no_answer_says_so(images):
    with pytest.raises(NotFittedError):
        PatchCore().nearest_good(features())
    with pytest.raises(NotFittedError):
        nearest_good(pipeline(), images)
    with pytest.raises(NotFittedError):
        nearest_good(HeldOutThreshold(pipeline()), images)
    with pytest.raises(TypeError, match=r"PatchCore or SPADE, got PaDiM; .*score_regions"):
        nearest_good(pipeline(PaDiM(random_state=0)).fit(images), images)
    with pytest.raises(ValueError, match="expects features, got images"):
        PatchCore().fit(features()).nearest_good(images)
    with pytest.raises(ValueError, match="at least one image"):
        PatchCore().fit(features()).nearest_good(features()[:0])
