"""The metrics against numbers worked out by hand, against loops and against scikit-learn."""

import itertools
import math

import numpy as np
import oracles_metrics as oracles
import pytest
from sklearn import metrics as sk

from skanomaly import metrics
from skanomaly.metrics import _inputs, _pro, _ranks

MASK = np.array([[0, 0], [1, 1]])
MAP = np.array([[0.1, 0.4], [0.3, 0.8]])
PIXEL_METRICS = [
    metrics.pixel_roc_auc_score,
    metrics.pixel_average_precision_score,
    metrics.f1_max_score,
    metrics.aupro_score,
    metrics.pro_curve,
]
IMAGE_METRICS = [
    metrics.image_roc_auc_score,
    metrics.image_average_precision_score,
    metrics.image_f1_max_score,
]


def make_set(seed, *, levels=None, dtype=np.float32, n_images=5):
    """Masks with several regions and maps of mixed sizes; `levels` distinct scores bring ties."""
    rng = np.random.default_rng(seed)
    masks, maps = [], []
    for i in range(n_images):
        shape = tuple(rng.integers(5, 14, size=2))
        mask = rng.random(shape) < 0.15
        scores = rng.random(shape) + 0.4 * mask
        maps.append((scores if levels is None else np.floor(scores * levels)).astype(dtype))
        masks.append(None if i % 2 else mask)
    return masks, maps


# worked by hand


def test_four_pixels():
    assert metrics.pixel_roc_auc_score([MASK], [MAP]) == 0.75  # 3 of 4 pairs in order
    assert metrics.pixel_average_precision_score([MASK], [MAP]) == pytest.approx((1 + 2 / 3) / 2)
    f1, threshold = metrics.f1_max_score([MASK], [MAP], return_threshold=True)
    assert f1 == pytest.approx(0.8)  # precision 2/3, recall 1
    assert threshold == 0.3
    # One region of two pixels: half of it up to fpr 1/2, then all.
    assert metrics.aupro_score([MASK], [MAP], max_fpr=1.0) == 0.75
    assert metrics.aupro_score([MASK], [MAP]) == pytest.approx(0.5)


def test_a_threshold_admits_all_equal_pixels_at_once():
    scores = np.array([[0, 1], [1, 1]])  # a good pixel ties with both defect pixels
    assert metrics.pixel_roc_auc_score([MASK], [scores]) == 0.75
    assert metrics.pixel_average_precision_score([MASK], [scores]) == pytest.approx(2 / 3)
    assert metrics.f1_max_score([MASK], [scores]) == pytest.approx(0.8)
    fpr, pro, thresholds = metrics.pro_curve([MASK], [scores])
    assert fpr.tolist() == [0, 0.5, 1]
    assert pro.tolist() == [0, 1, 1]
    assert thresholds.tolist() == [np.inf, 1, 0]
    # The line from (0, 0) to (1/2, 1) has slope 2: the area up to 0.3 is 0.09.
    assert metrics.aupro_score([MASK], [scores]) == pytest.approx(0.3)


def test_of_equal_f1_the_highest_threshold_is_returned():
    mask, scores = np.array([[1, 1, 0, 0]]), np.array([[3, 1, 2, 2]])  # 2/3 at 3 and at 1
    assert metrics.f1_max_score([mask], [scores], return_threshold=True) == (2 / 3, 3)


def test_every_region_counts_alike():
    mask = np.zeros((4, 9), bool)
    mask[0, 0] = mask[2:, 3:] = True  # 1 pixel and 12 pixels
    finds_small, finds_large = np.zeros(mask.shape), np.zeros(mask.shape)
    finds_small[0, 0] = finds_large[2:, 3:] = 1
    for scores in (finds_small, finds_large):
        # From overlap 1/2 at fpr 0 in a straight line to 1 at fpr 1.
        assert metrics.aupro_score([mask], [scores], max_fpr=1.0) == pytest.approx(0.75)


def test_pixels_that_touch_by_a_corner_are_one_region():
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]])  # {2 pixels, diagonal}, {1 pixel}
    scores = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    _, pro, _ = metrics.pro_curve([mask], [scores])
    assert pro.tolist() == [0, 0.25, 1]  # 4-connected, three regions, would be 1/3


def test_regions_do_not_reach_into_the_next_image():
    mask = np.ones((1, 2), bool)
    good = np.zeros((1, 2))
    _, pro, _ = metrics.pro_curve([mask, mask, None], [good + 2, good + 1, good])
    assert pro.tolist() == [0, 0.5, 1, 1]


@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1.0])
def test_perfect_constant_and_reversed_maps(max_fpr):
    masks, _ = make_set(0)
    perfect = [np.zeros((7, 5)) if m is None else m.astype(float) for m in masks]
    constant = [np.full(m.shape, 0.1) for m in perfect]
    share = oracles.flat(masks, perfect)[0].mean()
    assert metrics.pixel_roc_auc_score(masks, perfect) == 1.0
    assert metrics.pixel_average_precision_score(masks, perfect) == 1.0
    assert metrics.f1_max_score(masks, perfect, return_threshold=True) == (1.0, 1.0)
    assert metrics.aupro_score(masks, perfect, max_fpr=max_fpr) == 1.0
    assert metrics.pixel_roc_auc_score(masks, constant) == 0.5
    assert metrics.pixel_average_precision_score(masks, constant) == pytest.approx(share)
    assert metrics.aupro_score(masks, constant, max_fpr=max_fpr) == pytest.approx(max_fpr / 2)
    reverse = [-m for m in perfect]
    assert metrics.pixel_roc_auc_score(masks, reverse) == 0.0
    assert metrics.aupro_score(masks, reverse, max_fpr=max_fpr) == 0.0


# against loops and scikit-learn


@pytest.mark.parametrize("levels", [None, 1, 2, 3, 17])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixel_metrics_equal_scikit_learn_and_the_loops(levels, dtype):
    masks, maps = make_set(1, levels=levels, dtype=dtype)
    truth, scores = oracles.flat(masks, maps)
    auroc = metrics.pixel_roc_auc_score(masks, maps)
    precision = metrics.pixel_average_precision_score(masks, maps)
    assert auroc == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-12)
    assert auroc == pytest.approx(oracles.roc_auc(truth, scores), abs=1e-12)
    assert precision == pytest.approx(sk.average_precision_score(truth, scores), abs=1e-12)
    assert precision == pytest.approx(oracles.average_precision(truth, scores), abs=1e-12)
    assert metrics.f1_max_score(masks, maps, return_threshold=True) == pytest.approx(
        oracles.f1_max(truth, scores)
    )


@pytest.mark.parametrize("levels", [None, 1, 2, 3, 17])
@pytest.mark.parametrize("max_fpr", [0.001, 0.05, 0.3, 1])
def test_aupro_equals_the_loop_over_all_thresholds(levels, max_fpr):
    masks, maps = make_set(2, levels=levels)
    found = metrics.aupro_score(masks, maps, max_fpr=max_fpr)
    assert found == pytest.approx(oracles.aupro(masks, maps, max_fpr), abs=1e-12)


@pytest.mark.parametrize("levels", [None, 2, 17])
@pytest.mark.parametrize("seed", [3, 4])
def test_pro_curve_is_the_curve_of_the_loop(levels, seed):
    masks, maps = make_set(seed, levels=levels)
    points = {threshold: (x, y) for x, y, threshold in oracles.pro_points(masks, maps)}
    fpr, pro, thresholds = metrics.pro_curve(masks, maps)
    for x, y, threshold in zip(fpr, pro, thresholds, strict=True):
        assert (x, y) == pytest.approx(points[threshold], abs=1e-12)
    # The points left out lie on the lines between those that stayed.
    corners = list(itertools.pairwise(zip(fpr, pro, strict=True)))
    for x, y in points.values():
        # On a line between two corners the way over the point is no detour.
        detours = [
            math.dist(a, (x, y)) + math.dist((x, y), b) - math.dist(a, b) for a, b in corners
        ]
        assert min(detours) < 1e-12
    assert (np.diff(thresholds) < 0).all()
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(pro) >= 0).all()
    assert (fpr[-1], pro[-1]) == (1, 1)


@pytest.mark.parametrize("levels", [None, 1, 2, 3, 17])
@pytest.mark.parametrize("max_fpr", [0.0001, 0.05, 0.3, 0.5, 0.99])
def test_a_cut_pro_curve_is_the_beginning_of_the_whole(levels, max_fpr):
    masks, maps = make_set(5, levels=levels)
    fpr, pro, thresholds = metrics.pro_curve(masks, maps)
    n = np.searchsorted(fpr, max_fpr, side="right")
    cut = metrics.pro_curve(masks, maps, max_fpr=max_fpr)
    np.testing.assert_array_equal(cut[0][:n], fpr[:n])
    np.testing.assert_array_equal(cut[1][:n], pro[:n])
    np.testing.assert_array_equal(cut[2][:n], thresholds[:n])
    assert cut[0][-1] == max_fpr
    assert cut[1][-1] == pytest.approx(np.interp(max_fpr, fpr[n - 1 :], pro[n - 1 :]), abs=1e-12)


@pytest.mark.parametrize("margin", [1.1, 0.2])  # the second gathers too few, and then all
@pytest.mark.parametrize("levels", [3, 1000, None])
def test_what_a_sample_leaves_out_does_not_count(levels, margin, monkeypatch):
    masks, maps = make_set(5, levels=levels)
    roi = [np.random.default_rng(5).random(one.shape) < 0.7 for one in maps]
    expected = [
        metrics.aupro_score(masks, maps, max_fpr=0.1),
        metrics.aupro_score(masks, maps, max_fpr=0.3, roi=roi),
    ]
    bounds, n_sorted = [], []
    good_pixels, sweep = _pro.good_pixels, _pro.sweep

    def bounded(pairs, lowest):
        bounds.append(lowest)
        return good_pixels(pairs, lowest)

    def counted(*arguments):
        found = sweep(*arguments)
        n_sorted.append(found.n_good)
        return found

    monkeypatch.setattr(_pro, "good_pixels", bounded)
    monkeypatch.setattr(_pro, "sweep", counted)
    monkeypatch.setattr(_pro, "_SAMPLE", 60)
    monkeypatch.setattr(_pro, "_MARGIN", margin)
    assert metrics.aupro_score(masks, maps, max_fpr=0.1) == expected[0]
    assert metrics.aupro_score(masks, maps, max_fpr=0.3, roi=roi) == expected[1]
    assert bounds[0] > -np.inf
    n_defect = sum(np.count_nonzero(one) for one in masks if one is not None)
    n_good = sum(one.size for one in maps) - n_defect
    if margin < 1 and levels is None:
        assert n_sorted[0] < 0.1 * n_good and n_sorted[1] == n_good
        assert bounds[1] == -np.inf


_SCORES = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "few values": lambda rng, n: rng.integers(-3, 4, n),
    "all the same": lambda rng, n: np.full(n, -2.5),
    "of all sizes": lambda rng, n: rng.standard_normal(n) * 10.0 ** rng.integers(-45, 38, n),
    "close together": lambda rng, n: 1e30 * (1 + 1e-6 * rng.random(n)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", _SCORES)
@pytest.mark.parametrize("n", [1, 2_000, _ranks._FEW, 30_001])
def test_scores_are_sorted_as_numpy_sorts_them(n, kind, dtype):
    scores = _SCORES[kind](np.random.default_rng(3), n).astype(dtype)
    scores[: n // 2 : 7] *= -1  # and with it zeros
    scores[1:2] = 0
    order = np.argsort(scores, kind="stable")
    np.testing.assert_array_equal(_ranks.sorting_order(scores), order)
    np.testing.assert_array_equal(_ranks.sorted_scores(scores.copy()), scores[order])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", _SCORES)
@pytest.mark.parametrize("n", [1, 2_000, _ranks._FEW, 30_001])
@pytest.mark.parametrize("is_dense", [True, False])  # scores with keys close together
def test_ranks_are_those_among_sorted_scores(n, kind, dtype, is_dense):
    rng = np.random.default_rng(4)
    scores = _SCORES[kind](rng, n).astype(dtype)
    if is_dense:
        scores = rng.choice(np.linspace(2, 2.001, 500).astype(dtype), n)
    thresholds = np.unique(np.append(rng.choice(scores, 300), scores[:1] + dtype([-1, 1, 1e30])))
    scores[1:2], thresholds[thresholds == 0] = 0, -0.0
    found = _ranks.ranks(scores.copy(), thresholds[::-1])
    scores.sort()
    n_up_to = np.searchsorted(scores, thresholds[::-1], side="right")
    np.testing.assert_array_equal(found.n_below, np.searchsorted(scores, thresholds[::-1]))
    np.testing.assert_array_equal(found.n_up_to, n_up_to)
    np.testing.assert_array_equal(found.above, scores[np.minimum(n_up_to, n - 1)])
    assert found[3:] == (n, scores[0], scores[-1])


def test_pro_curve_cut_at_max_fpr():
    fpr, pro, thresholds = metrics.pro_curve([MASK], [[[0, 1], [1, 1]]], max_fpr=0.2)
    assert fpr.tolist() == [0, 0.2]
    assert pro.tolist() == pytest.approx([0, 0.4])
    assert thresholds.tolist() == [np.inf, np.inf]  # no threshold has so few false positives
    fpr, pro, thresholds = metrics.pro_curve([MASK], [MAP], max_fpr=0.5)
    assert fpr.tolist() == [0, 0, 0.5, 0.5]  # a point on the limit itself stays
    assert pro.tolist() == [0, 0.5, 0.5, 1]
    assert thresholds.tolist() == [np.inf, 0.8, 0.4, 0.3]


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8", ">f8", "g", "i1", "u2", "i8"])
def test_scores_of_all_types(dtype):
    scores = np.array([1, 4, 3, 8], dtype=dtype)
    assert metrics.image_roc_auc_score([1, 1, -1, -1], scores) == 0.75
    assert metrics.pixel_roc_auc_score([[[0, 0], [1, 1]]], scores.reshape(1, 2, 2)) == 0.75
    assert metrics.aupro_score([[[0, 0], [1, 1]]], scores.reshape(1, 2, 2), max_fpr=1.0) == 0.75


def test_maps_of_two_types_are_compared_as_the_wider_one(monkeypatch):
    monkeypatch.setattr(_inputs, "_PIECE_SIZE", 1)
    wide, narrow = np.array([[0.123456789012345, 2.0]]), np.array([[3.0, 4.0]], np.float32)
    _, _, thresholds = metrics.pro_curve([[[0, 1]], [[1, 1]]], [wide, narrow])
    assert thresholds.dtype == np.float64 and thresholds[-1] == wide[0, 0]


def test_float64_scores_are_not_merged():
    scores = np.array([[1.0, 1.0], [1.0 + 1e-12, 1.0 + 1e-12]])  # one number in float32
    assert metrics.pixel_roc_auc_score([MASK], [scores]) == 1.0
    assert metrics.pixel_roc_auc_score([MASK], [scores.astype(np.float32)]) == 0.5


@pytest.mark.parametrize("metric", PIXEL_METRICS)
def test_masks_and_maps_in_every_form(metric):
    rng = np.random.default_rng(5)
    masks, maps = rng.random((3, 7, 6)) < 0.3, rng.random((3, 7, 6)).astype(np.float32)
    masks[1] = False
    kept = maps.copy()
    expected = metric(masks, maps)
    assert np.array_equal(maps, kept)  # sorting happens on a copy
    for form in (masks * np.uint8(255), masks.astype(int), masks.astype(float), iter(masks)):
        assert np.array_equal(metric(form, maps), expected)
    assert np.array_equal(metric([masks[0], None, masks[2].tolist()], list(maps)), expected)
    assert np.array_equal(metric(masks[:, ::-1, ::-1], maps[:, ::-1, ::-1]), expected)
    flipped = metric(masks.transpose(0, 2, 1), maps.transpose(0, 2, 1))
    assert np.array_equal(flipped, expected)


# images


def test_four_images():
    y, scores = [1, 1, -1, -1], [0.1, 0.4, 0.3, 0.8]
    assert metrics.image_roc_auc_score(y, scores) == 0.75
    assert metrics.image_average_precision_score(y, scores) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.image_f1_max_score(y, scores) == pytest.approx(0.8)
    assert metrics.image_f1_max_score(y, scores, return_threshold=True)[1] == 0.3


@pytest.mark.parametrize("levels", [3, 1000])
def test_image_metrics_equal_scikit_learn_and_the_loop(levels):
    rng = np.random.default_rng(6)
    y = np.where(rng.random(101) < 0.3, -1, 1)
    decision = rng.integers(levels, size=101) + 0.2 * levels * y
    truth, scores = y == -1, -decision
    assert metrics.image_roc_auc_score(y, scores) == pytest.approx(sk.roc_auc_score(y, decision))
    assert metrics.image_average_precision_score(y, scores) == pytest.approx(
        sk.average_precision_score(truth, scores)
    )
    assert metrics.image_f1_max_score(y, scores, return_threshold=True) == pytest.approx(
        oracles.f1_max(truth, scores)
    )


@pytest.mark.parametrize("metric", IMAGE_METRICS)
def test_masks_stand_for_labels(metric):
    scores = [0.3, 0.2, 0.9, 0.1]
    masks = np.zeros((4, 3, 2))
    masks[1, 2, 1] = masks[2] = 255
    expected = metric([1, -1, -1, 1], scores)
    assert metric(masks, scores) == expected
    assert metric([None, masks[1], np.ones((5, 9)), None], scores) == expected


@pytest.mark.parametrize("metric", IMAGE_METRICS)
@pytest.mark.parametrize(
    ("y", "scores", "message"),
    [
        ([0, 0, 1], [1, 2, 3], r"y holds \[0, 1\].*np.where\(y == 1, -1, 1\)"),
        ([True, False, True], [1, 2, 3], r"y holds \[True, False\].*np.where"),
        (["good", "bad"], [1, 2], r"y holds \['good', 'bad'\]; expected the labels \+1"),
        ([1, -1, 2], [1, 2, 3], r"y holds \[1, -1, 2\]"),
        ([1, 1, 1], [1, 2, 3], "holds no defect image"),
        ([-1, -1], [1, 2], "holds no good image"),
        ([None, None], [1, 2], "holds no defect image"),
        ([1, -1], [1, 2, 3], "y holds 2 images and scores 3"),
        ([1, -1], [1, np.nan], r"scores\[1\] is nan"),
        ([1, -1], [[1, 2], [3, 4]], r"scores has shape \(2, 2\)"),
        ([1, -1], ["a", "b"], "scores has shape .* dtype <U1"),
        ([None, np.ones(3)], [1, 2], r"masks\[1\] has shape \(3,\)"),
        (None, [1, 2], "expected y to hold one entry per image"),
    ],
)
def test_images_refused(metric, y, scores, message):
    with pytest.raises(ValueError, match=message):
        metric(y, scores)


# refusals


@pytest.mark.parametrize("metric", PIXEL_METRICS)
@pytest.mark.parametrize(
    ("masks", "maps", "message"),
    [
        ([MASK, None], [MAP], "got 2 masks and 1 maps"),
        ([], [], "at least one mask and its map, got none"),
        (None, [MAP], "Expected masks to hold one entry per image"),
        ([MASK], 3.0, "Expected maps to hold one entry per image"),
        ([None, MASK], [MAP, MAP[:1]], r"masks\[1\] has shape \(2, 2\), but maps\[1\] .* \(1, 2\)"),
        (MASK, MAP, r"maps\[0\] has shape \(2,\); expected \(H, W\)"),
        ([MASK[..., None]], [MAP], r"masks\[0\] has shape \(2, 2, 1\)"),
        ([MASK[:0]], [MAP[:0]], "at least one pixel"),
        ([None, MASK], [MAP, MAP * [1, np.nan]], r"maps\[1\] holds NaN or infinity"),
        ([MASK], [MAP * [1, np.inf]], r"maps\[0\] holds NaN or infinity"),
        ([MASK], [MAP > 0.2], r"maps\[0\] has dtype bool.*Truth comes first"),
        ([MAP], [MASK], r"masks\[0\] holds fractions.*Truth comes first"),
        ([MASK * [1, np.nan]], [MAP], r"masks\[0\] holds fractions or NaN"),
        ([MASK.astype(str)], [MAP], r"masks\[0\] has dtype <U"),
        ([None, MASK * 0], [MAP, MAP], "no pixel is marked as defect"),
        ([MASK + 1], [MAP], "every pixel is marked as defect, none as good"),
    ],
)
def test_pixels_refused(metric, masks, maps, message):
    with pytest.raises(ValueError, match=message):
        metric(masks, maps)


@pytest.mark.parametrize("max_fpr", [0, -0.1, 1.01, np.nan, "0.3", None])
def test_max_fpr_refused(max_fpr):
    stream = metrics.StreamingPixelMetrics(0, 1).update([MASK], [MAP])
    for call in (
        lambda: metrics.aupro_score([MASK], [MAP], max_fpr=max_fpr),
        lambda: metrics.pro_curve([MASK], [MAP], max_fpr=max_fpr),
        lambda: stream.aupro(max_fpr=max_fpr),
    ):
        with pytest.raises(ValueError, match=r"max_fpr is .*above 0 and up to 1"):
            call()


# streaming


def exact_and_streamed(masks, maps, stream):
    """[(exact value, streamed value with its error), ...] of every streamed metric."""
    pairs = [
        (metrics.pixel_roc_auc_score(masks, maps), stream.roc_auc()),
        (metrics.pixel_average_precision_score(masks, maps), stream.average_precision()),
    ]
    for max_fpr in (0.01, 0.3, 1.0):
        exact = metrics.aupro_score(masks, maps, max_fpr=max_fpr)
        pairs.append((exact, stream.aupro(max_fpr=max_fpr)))
    return pairs


@pytest.mark.parametrize("levels", [None, 1, 3, 17])
@pytest.mark.parametrize("n_bins", [1, 2, 7, 100, 4099])
@pytest.mark.parametrize(("low", "high"), [(0, 1.4), (0.4, 0.7), (-50, 1), (3, 9), (-2, -1)])
def test_the_exact_value_lies_within_the_error(levels, n_bins, low, high):
    masks, maps = make_set(7, levels=levels)
    stream = metrics.StreamingPixelMetrics(low, high, n_bins=n_bins)
    for i in range(0, len(maps), 2):
        assert stream.update(masks[i : i + 2], maps[i : i + 2]) is stream
    for exact, (value, error) in exact_and_streamed(masks, maps, stream):
        assert abs(value - exact) <= error


def test_the_error_shrinks_with_the_bins_and_nearly_ends():
    masks, maps = make_set(8, n_images=21)
    errors = []
    for n_bins in (10, 100, 1000, 1_000_000):
        stream = metrics.StreamingPixelMetrics(0, 1.4, n_bins=n_bins).update(masks, maps)
        errors.append([found.error for _, found in exact_and_streamed(masks, maps, stream)])
    assert (np.diff(errors, axis=0) < 0).all()
    assert np.max(errors[2]) < 0.1
    assert np.max(errors[3]) < 1e-3


def test_the_error_is_no_larger_than_the_orders_within_a_bin_require():
    mask = np.array([[1, 1, 0, 0, 0]])
    stream = metrics.StreamingPixelMetrics(0, 1, n_bins=1).update([mask], [mask * 0.5])
    # Every way to rank five pixels, ties included.
    ranks = [np.array([order]) for order in itertools.product(range(5), repeat=5)]
    for metric, (value, error), slack in (
        (metrics.pixel_roc_auc_score, stream.roc_auc(), 1e-12),
        (metrics.aupro_score, stream.aupro(), 1e-12),
        # Its lower bound has a logarithm in place of a sum.
        (metrics.pixel_average_precision_score, stream.average_precision(), 4e-3),
    ):
        values = [metric([mask], [rank]) for rank in ranks]
        assert value - error == pytest.approx(min(values), abs=slack)
        assert value + error == pytest.approx(max(values), abs=slack)


def test_scores_outside_the_range_cost_certainty_not_truth():
    masks, maps = [MASK], [MAP * 100]  # 10, 40, 30, 80
    value, error = metrics.StreamingPixelMetrics(0, 20, n_bins=20).update(masks, maps).roc_auc()
    assert (value, error) == pytest.approx((0.75, 0.25))  # three pixels share the last bin
    huge = [MAP * 1e308]
    assert metrics.StreamingPixelMetrics(-1, 1).update(masks, huge).roc_auc().value == 0.5


def test_float32_and_float64_maps_share_the_bins():
    masks, maps = make_set(9, levels=10)
    maps = [m / 10 for m in maps]  # on the edges of the bins: 0.7 is 0.69999999 in float32
    mixed = [m.astype(np.float64) if i % 2 else m for i, m in enumerate(maps)]
    first, second = (metrics.StreamingPixelMetrics(0, 1, n_bins=10) for _ in range(2))
    assert first.update(masks, maps).roc_auc() == second.update(masks, mixed).roc_auc()


def test_streaming_refuses():
    for low, high in ((1, 1), (2, 1), (0, np.inf), (np.nan, 1)):
        with pytest.raises(ValueError, match="expected finite numbers, low below high"):
            metrics.StreamingPixelMetrics(low, high)
    for n_bins in (0, 2.5, None):
        with pytest.raises(ValueError, match="expected a positive integer"):
            metrics.StreamingPixelMetrics(0, 1, n_bins=n_bins)
    stream = metrics.StreamingPixelMetrics(0, 1).update([None], [MAP])
    for metric in (stream.roc_auc, stream.average_precision, stream.aupro):
        with pytest.raises(ValueError, match="no pixel is marked as defect"):
            metric()
    with pytest.raises(ValueError, match=r"maps\[1\] holds NaN"):
        stream.update([MASK, None], [MAP, MAP * np.nan])
    with pytest.raises(ValueError, match="no pixel is marked as defect"):
        stream.roc_auc()  # of a refused update, nothing is counted


# --- regions of interest ----------------------------------------------------------------------


PIXEL_SCORES = {
    "auroc": metrics.pixel_roc_auc_score,
    "ap": metrics.pixel_average_precision_score,
    "f1": metrics.f1_max_score,
    "aupro": metrics.aupro_score,
}


def images_with_a_region(n=4, size=(20, 30)):
    """Masks, maps, and a region that cuts through defects, and leaves one out."""
    rng = np.random.default_rng(0)
    masks, maps = [], []
    for i in range(n):
        mask = np.zeros(size, bool)
        mask[2 + i : 8 + i, 5:16] = mask[14:18, 20:24] = i > 0
        masks.append(mask)
        maps.append((rng.random(size) + 0.5 * mask).round(1))
    region = np.zeros(size, bool)
    region[:12, 3:12] = True
    return masks, maps, region


@pytest.mark.parametrize("name", PIXEL_SCORES)
@pytest.mark.parametrize("kind", ["one", "list", "uint8"])
def test_a_region_of_interest_is_all_that_counts(name, kind):
    """The region is a rectangle: the metric is that of images cut out."""
    masks, maps, region = images_with_a_region()
    roi = {"one": region, "list": [region] * 4, "uint8": 255 * region.astype(np.uint8)}[kind]
    cut = [one[:12, 3:12] for one in masks], [one[:12, 3:12] for one in maps]
    metric = PIXEL_SCORES[name]
    assert metric(masks, maps, roi=roi) == pytest.approx(metric(*cut), abs=1e-12)
    assert metric(masks, maps, roi=np.ones_like(region)) == metric(masks, maps)
    assert metric(masks, maps, roi=[None] * 4) == metric(masks, maps)
    other = [np.where(region, one, 99.0) for one in maps]
    assert metric(masks, other, roi=roi) == metric(masks, maps, roi=roi)


def test_streamed_metrics_take_a_region():
    masks, maps, region = images_with_a_region()
    streamed = metrics.StreamingPixelMetrics(low=0.0, high=2.0)
    for mask, one in zip(masks, maps, strict=True):
        streamed.update([mask], [one], roi=region)
    for found, metric in (
        (streamed.roc_auc(), metrics.pixel_roc_auc_score),
        (streamed.average_precision(), metrics.pixel_average_precision_score),
        (streamed.aupro(), metrics.aupro_score),
    ):
        assert abs(found.value - metric(masks, maps, roi=region)) <= found.error


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        (np.ones((4, 4)), r"roi of image 0 has shape \(4, 4\), but maps\[0\] has shape \(20, 30\)"),
        ([np.ones((20, 30))] * 3, "got 3 for 4 images"),
        (np.zeros((20, 30)), "at least one pixel, got an empty one"),
        ([None, None, None, np.zeros((20, 30))], r"roi\[3\].*empty"),
        (np.eye(20, 30, 29), "no pixel is marked as defect"),
    ],
)
def test_bad_regions_of_interest(roi, message):
    masks, maps, _ = images_with_a_region()
    with pytest.raises(ValueError, match=message):
        metrics.aupro_score(masks, maps, roi=roi)
