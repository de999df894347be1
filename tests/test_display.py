"""Displays, and image files written without matplotlib."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from skanomaly import FilterBank, PatchCore, nearest_good
from skanomaly.datasets import make_defects, make_textures
from skanomaly.datasets._masks import MaskFiles
from skanomaly.display import (
    NearestGoodDisplay,
    ProCurveDisplay,
    ScoreHistogramDisplay,
    ScoreMapDisplay,
    save_score_map,
)
from skanomaly.images import (
    HEAT_COLORS,
    OUTLINE_COLOR,
    color_limits,
    heat_levels,
    outline,
    overlay,
    read_image,
    to_rgb,
)
from skanomaly.metrics import aupro_score
from skanomaly.pipeline import Pipeline


@pytest.fixture
def plt():
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


class Brightness(BaseEstimator):
    """A detector of bright pixels in images held in memory or in files."""

    offset_ = -100

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def score_map(self, X):
        return [read_image(image).mean(axis=2) for image in X]

    def score_samples(self, X):
        return np.array([-scores.max() for scores in self.score_map(X)])

    def decision_function(self, X):
        return self.score_samples(X) - self.offset_


def spotted(n_good=3, n_bad=2, shape=(19, 31), seed=0):
    """Dim images, the last ones with a bright spot; and their masks."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 80, (n_good + n_bad, *shape, 3)).astype(np.uint8)
    masks = np.zeros((n_good + n_bad, *shape), dtype=bool)
    masks[n_good:, 5:9, 7:12] = True
    images[masks] = 200
    return images, masks


def titles(display):
    return [panels[0].get_title(loc="left") for panels in display.axes_]


# Colors ------------------------------------------------------------------------------------


def test_colors_get_brighter_from_level_to_level():
    brightness = HEAT_COLORS @ [0.299, 0.587, 0.114]
    assert HEAT_COLORS.shape == (256, 3)
    assert HEAT_COLORS.dtype == np.uint8
    assert np.diff(brightness).min() > -0.5  # rounding
    assert brightness[0] < 2
    assert brightness[-1] > 230


def test_levels_are_cut_at_both_limits():
    levels = heat_levels([[-5.0, 2.0, 3.0, 4.0, 9.0]], 2.0, 4.0)
    assert_array_equal(levels, [[0, 0, 128, 255, 255]])


def test_overlay_dims_low_scores_evenly_and_hides_none_of_the_image():
    rgb = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3)
    dark = overlay(rgb, np.zeros((8, 9)), 1, 2)
    assert_allclose(dark, 0.65 * rgb, atol=2.5)
    assert len(np.unique(dark[..., 0])) > 30


def test_overlay_shows_the_last_color_at_vmax():
    rgb = np.full((8, 9, 3), 128, dtype=np.uint8)
    assert_allclose(overlay(rgb, np.full((8, 9), 7.0), 1, 2)[0, 0], HEAT_COLORS[-1], atol=25)


def test_a_color_means_the_same_score_in_every_image():
    rgb = np.full((8, 9, 3), 90, dtype=np.uint8)
    low, high = np.full((8, 9), 1.5), np.full((8, 9), 1.5)
    high[:4] = 100
    assert_array_equal(overlay(rgb, low, 1, 2)[6], overlay(rgb, high, 1, 2)[6])


# Limits of the color scale -------------------------------------------------------------------


def test_limits_follow_typical_peaks():
    maps = [np.linspace(0, peak, 35).reshape(5, 7) for peak in (4, 5, 90, 20, 30, 40)]
    vmin, vmax = color_limits(maps, [1, 1, 1, -1, -1, -1])
    assert (vmin, vmax) == (5, 30)  # medians: neither one odd good image nor one huge defect


def test_good_images_alone_do_not_light_up():
    rng = np.random.default_rng(0)
    maps = rng.gamma(4, 1, (20, 13, 17))
    vmin, vmax = color_limits(maps, np.ones(20))
    assert (maps.max(axis=(1, 2)) <= vmin).mean() == 0.5
    assert maps.max() < vmax + 0.5 * (vmax - vmin)
    assert (heat_levels(maps, vmin, vmax) > 128).mean() < 0.001


@pytest.mark.parametrize("verdicts", [None, [-1, -1, -1]])
def test_limits_without_good_images_keep_most_pixels_dark(verdicts):
    maps = np.random.default_rng(0).normal(0, 1, (3, 20, 20))
    maps[:, 3:5, 3:5] = 30
    vmin, vmax = color_limits(maps, verdicts)
    assert vmax == 30
    assert (maps > vmin).mean() == pytest.approx(0.05, abs=0.01)


def test_limits_of_constant_maps_are_apart():
    assert color_limits(np.full((2, 8, 8), 3.0), [1, 1]) == (3, 4)


def test_limits_refuse_nan_and_name_the_map():
    maps = np.zeros((3, 8, 8))
    maps[2, 1, 1] = np.nan
    with pytest.raises(ValueError, match="score map 2 holds NaN"):
        color_limits(maps)


# Images to look at ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.full((8, 9, 1), 77, np.uint8), (77, 77, 77)),
        (np.full((8, 9, 3), 77, np.uint8), (77, 77, 77)),
        (np.full((8, 9, 1), 0.5, np.float32), (128, 128, 128)),
        (np.full((8, 9, 1), 4095, np.uint16), (255, 255, 255)),  # a 12-bit camera
        (np.full((8, 9, 1), 200, np.uint16), (200, 200, 200)),
        (np.full((8, 9, 5), [1, 2, 3, 4, 5], np.uint8), (1, 2, 3)),
        (np.full((8, 9, 2), [10, 20], np.uint8), (15, 15, 15)),
    ],
)
def test_images_of_any_kind_become_rgb(image, expected):
    rgb = to_rgb(image)
    assert rgb.dtype == np.uint8
    assert_array_equal(rgb, np.broadcast_to(expected, (8, 9, 3)))


def test_outline_lies_around_the_regions_and_not_on_them():
    mask = np.zeros((11, 13), dtype=bool)
    mask[4:7, 5] = True
    mask[0, 12] = True
    line = outline(mask)
    assert not (line & mask).any()
    assert line.sum() == (5 * 3 - 3) + 3
    assert not outline(np.zeros((11, 13), dtype=bool)).any()


# Image files ----------------------------------------------------------------------------------


def test_image_file_holds_the_image_and_its_overlay(tmp_path):
    images, masks = spotted()
    scores = images[4].mean(axis=2)
    path = tmp_path / "4.png"
    save_score_map(path, images[4], scores, vmin=100, vmax=200, mask=masks[4])
    written = np.asarray(Image.open(path))
    assert written.shape == (19, 31 + 4 + 31, 3)
    assert_array_equal(written[:, :31], images[4])
    heat = written[:, 35:]
    off_line = ~outline(masks[4])
    assert_array_equal(heat[off_line], overlay(images[4], scores, 100, 200)[off_line])
    assert (heat[~off_line] == OUTLINE_COLOR).all()
    assert (~off_line).any()


def test_image_file_of_an_image_from_a_file_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    Image.fromarray(np.full((10, 12), 3000, np.uint16)).save(tmp_path / "in.png")
    save_score_map(tmp_path / "out", tmp_path / "in.png", np.zeros((10, 12)), vmin=1, vmax=2)
    with Image.open(tmp_path / "out") as written:
        assert (written.format, written.size) == ("PNG", (28, 10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score_map": np.zeros((31, 19))}, r"score_map: expected shape \(19, 31\).*\(31, 19\)"),
        ({"mask": np.zeros((4, 4), bool)}, r"mask: expected shape \(19, 31\)"),
        ({"score_map": np.full((19, 31), np.nan)}, "score_map: holds NaN"),
        ({"vmin": 2.0, "vmax": 2.0}, "expected vmin < vmax"),
        ({"vmin": np.nan}, "expected vmin < vmax"),
    ],
)
def test_image_file_refuses_what_does_not_fit(tmp_path, changes, message):
    images, _ = spotted()
    good = {"image": images[0], "score_map": np.zeros((19, 31)), "vmin": 0.0, "vmax": 1.0}
    with pytest.raises(ValueError, match=message):
        save_score_map(tmp_path / "x.png", **(good | changes))
    assert not (tmp_path / "x.png").exists()


# ScoreMapDisplay ------------------------------------------------------------------------------


def test_score_maps_of_an_estimator_with_masks(plt):
    images, masks = spotted()
    display = ScoreMapDisplay.from_estimator(Brightness(), images, masks)
    assert display.axes_.shape == (5, 2)
    assert_array_equal(display.labels, [1, 1, 1, -1, -1])
    assert titles(display)[4] == "image 4\ndefect (-100.00)"
    for i, shown in enumerate(display.im_):
        assert_array_equal(shown.get_array(), images[i].mean(axis=2))
        assert_array_equal(display.axes_[i, 0].images[0].get_array(), images[i])
    outlines = [len(panels[1].collections) for panels in display.axes_]
    assert outlines == [0, 0, 0, 1, 1]
    assert display.figure_.legends[0].get_texts()[0].get_text() == "true defect"
    display.figure_.canvas.draw()


class CountingFilterBank(FilterBank):
    """A FilterBank that counts the images whose features it computes."""

    n_images = 0

    def _features(self, batch):
        CountingFilterBank.n_images += len(batch)
        return super()._features(batch)


def test_score_maps_and_verdicts_take_one_pass_over_the_images(plt):
    good = make_textures(8, size=64, random_state=0)
    images, masks, _ = make_defects(make_textures(3, size=64, random_state=1), random_state=0)
    features = CountingFilterBank(image_size=64, random_state=0)
    pipe = Pipeline([("features", features), ("detector", PatchCore(random_state=0))]).fit(good)
    CountingFilterBank.n_images = 0
    display = ScoreMapDisplay.from_estimator(pipe, images, masks)
    assert CountingFilterBank.n_images == 3
    assert_allclose(display.decisions, pipe.decision_function(images))
    assert_array_equal(display.score_maps, pipe.score_map(images))


def test_score_maps_of_a_detector_without_a_threshold_are_refused(plt):
    good = make_textures(4, size=64, random_state=0)
    detector = PatchCore(contamination=None, random_state=0)
    pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", detector)]).fit(good)
    with pytest.raises(NotFittedError, match="call set_threshold of the detector"):
        ScoreMapDisplay.from_estimator(pipe, good)


def test_all_score_maps_share_one_scale(plt):
    images, _ = spotted()
    display = ScoreMapDisplay.from_estimator(Brightness(), images)
    scales = {(im.norm.vmin, im.norm.vmax) for im in display.im_}
    assert scales == {color_limits(images.mean(axis=3), [1, 1, 1, -1, -1])}
    assert display.colorbar_.ax.get_ylabel() == "score (high = defect)"
    given = ScoreMapDisplay.from_estimator(Brightness(), images, vmin=1, vmax=9, colorbar=False)
    assert {(im.norm.vmin, im.norm.vmax) for im in given.im_} == {(1, 9)}
    assert given.colorbar_ is None


def test_opacity_follows_the_score(plt):
    images, masks = spotted()
    shown = ScoreMapDisplay.from_estimator(Brightness(), images).im_[4]
    opacity = shown.get_alpha()
    assert opacity[masks[4]].min() > 2 * opacity[~masks[4]].max()


def test_files_arrays_and_pil_images_of_mixed_sizes(plt, tmp_path):
    path = tmp_path / "lot 7" / "part.png"
    path.parent.mkdir()
    Image.fromarray(np.full((20, 10), 40, np.uint8)).save(path)
    images = [
        str(path),
        np.full((9, 40), 30000, np.uint16),
        np.full((12, 12, 3), 0.2),
        Image.new("RGB", (17, 23)),
    ]
    maps = [np.eye(*shape) for shape in [(20, 10), (9, 40), (12, 12), (23, 17)]]
    display = ScoreMapDisplay.from_predictions(images, maps, [1, -1, 1, -1])
    assert [im.get_array().shape for im in display.im_] == [m.shape for m in maps]
    assert titles(display) == [
        "lot 7/part.png\ngood",
        "image 1\ndefect",
        "image 2\ngood",
        "image 3\ndefect",
    ]
    display.figure_.canvas.draw()


def test_regions_of_interest_are_outlined(plt):
    images, masks = spotted()
    region = np.zeros(images.shape[1:3], dtype=bool)
    region[2:15, 3:] = True
    model = Pipeline(
        [("features", FilterBank(image_size=64, roi=region, random_state=0)), ("bank", PatchCore())]
    ).fit(images[:3])
    display = ScoreMapDisplay.from_estimator(model, images[2:5], masks[2:5])
    assert all(np.array_equal(one, region) for one in display.roi)
    (legend,) = display.figure_.legends
    assert [text.get_text() for text in legend.get_texts()] == ["true defect", "region of interest"]
    # A contour in each overlay, and the truth's in those with a defect.
    n_lines = [len(panel.collections) for panel in display.axes_[:, 1]]
    assert n_lines == [1 + mask.any() for mask in masks[2:5]]
    maps = np.ones((3, *region.shape))
    found = ScoreMapDisplay.from_predictions(images[:3], maps, roi=[region, None, region])
    assert found.roi[1] is None and [len(row[1].collections) for row in found.axes_] == [1, 0, 1]
    one = ScoreMapDisplay.from_predictions(images[:3], maps, roi=region, n_images=2)
    assert len(one.roi) == 2
    assert ScoreMapDisplay.from_predictions(images[:3], maps).roi is None


@pytest.mark.parametrize(
    ("roi", "match"),
    [
        (np.ones((4, 4), bool), r"roi of image 0: expected shape \(19, 31\)"),
        ([None], "Expected roi as one mask"),
    ],
)
def test_regions_that_do_not_fit(plt, roi, match):
    images, _ = spotted(1, 1)
    with pytest.raises(ValueError, match=match):
        ScoreMapDisplay.from_predictions(images, np.ones((2, *images.shape[1:3])), roi=roi)


def test_masks_in_files_and_none_as_masks(plt, tmp_path):
    images, masks = spotted(1, 1)
    for i in range(2):
        Image.fromarray(images[i]).save(tmp_path / f"{i}.png")
    Image.fromarray(masks[1]).save(tmp_path / "mask.png")
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    in_files = MaskFiles(paths, [None, str(tmp_path / "mask.png")])
    for y in (in_files, [None, masks[1]]):
        display = ScoreMapDisplay.from_estimator(Brightness(), paths, y)
        assert_array_equal(display.labels, [1, -1])
        assert_array_equal(display.masks[1], masks[1])


def test_wrong_verdicts_are_named(plt):
    images, _ = spotted(1, 1)
    display = ScoreMapDisplay.from_estimator(Brightness(), images, [-1, 1], names=["a", "b"])
    assert titles(display)[0].endswith("), missed")
    assert titles(display)[1] == "b\ndefect (-100.00), false alarm"


def test_long_names_keep_their_end(plt):
    images, _ = spotted(1, 1)
    names = ["x" * 300 + "end.png", "b"]
    display = ScoreMapDisplay.from_estimator(Brightness(), images, names=names)
    title = titles(display)[0].split("\n")[0]
    assert title.startswith("...")
    assert title.endswith("end.png")
    assert len(title) < 100


def test_many_images_are_thinned_evenly(plt):
    images, _ = spotted(30, 7)
    for n_images, expected in [(4, [0, 12, 24, 36]), (1, [0]), (None, range(37)), (99, range(37))]:
        display = ScoreMapDisplay.from_estimator(
            Brightness(), images, np.repeat([1, -1], [30, 7]), n_images=n_images
        )
        assert [title.split("\n")[0] for title in titles(display)] == [
            f"image {i}" for i in expected
        ]
        plt.close(display.figure_)
    display = ScoreMapDisplay.from_predictions(images, images.mean(axis=3))
    assert len(display.axes_) == 16
    with pytest.raises(ValueError, match="n_images must be at least 1 or None, got 0"):
        ScoreMapDisplay.from_estimator(Brightness(), images, n_images=0)


def test_scale_is_taken_from_all_maps_drawn_or_not(plt):
    images, _ = spotted(3, 2)
    maps = images.mean(axis=3)
    display = ScoreMapDisplay.from_predictions(images, maps, [1, 1, 1, -1, -1], n_images=1)
    assert display.im_[0].norm.vmax == 200


def test_plot_again_on_given_axes(plt):
    images, _ = spotted()
    display = ScoreMapDisplay.from_estimator(Brightness(), images)
    figure, axes = plt.subplots(1, 5)
    assert display.plot(axes, layout="overlay", im_kw={"cmap": "gray"}) is display
    assert display.figure_ is figure
    assert_array_equal(display.axes_[:, 0], axes)
    assert display.im_[0].get_cmap().name == "gray"
    with pytest.raises(ValueError, match="expected 10 axes for 5 images with 2 panels each, got 5"):
        display.plot(axes)
    with pytest.raises(ValueError, match="layout must be one of"):
        display.plot(layout="side")


@pytest.mark.parametrize("layout", ["beside", "overlay"])
@pytest.mark.parametrize("shape", [(20, 20), (60, 15), (15, 60)])
@pytest.mark.parametrize("n_images", [1, 7])
def test_nothing_in_a_new_figure_overlaps_or_is_cut(plt, layout, shape, n_images):
    images, masks = spotted(n_images - 1, 1, shape=shape)
    names = ["a rather long/name_of_an_image_file_0123456789.jpeg"] * n_images
    display = ScoreMapDisplay.from_estimator(
        Brightness(), images, masks, names=names, layout=layout
    )
    display.figure_.canvas.draw()
    whole = display.figure_.bbox
    renderer = display.figure_.canvas.get_renderer()
    boxes = [panels[0].get_tightbbox(renderer) for panels in display.axes_]
    boxes += [legend.get_window_extent() for legend in display.figure_.legends]
    boxes.append(display.colorbar_.ax.get_tightbbox(renderer))
    for i, box in enumerate(boxes):
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 0, 0, 1, 1], r"y holds \[0, 1\]; expected the labels \+1 \(good\) and -1"),
        (["good"] * 5, r"y holds \['good'\]; expected the labels"),
        ([1, 1], "expected one entry of y per image, got 2 for 5 images"),
        (np.zeros((5, 4, 4), bool), r"mask of image 0: expected shape \(19, 31\)"),
    ],
)
def test_truth_in_another_form_is_refused(plt, y, message):
    images, _ = spotted()
    with pytest.raises(ValueError, match=message):
        ScoreMapDisplay.from_estimator(Brightness(), images, y)


def test_predictions_that_do_not_fit_are_refused(plt):
    images, _ = spotted()
    maps = images.mean(axis=3)
    draw = ScoreMapDisplay.from_predictions
    with pytest.raises(ValueError, match="one score map per image, got 4 for 5"):
        draw(images, maps[:4])
    with pytest.raises(ValueError, match=r"score map of image 0: expected shape \(19, 31\)"):
        draw(images, maps.transpose(0, 2, 1))
    with pytest.raises(ValueError, match=r"decision scores of shape \(5,\)"):
        draw(images, maps, decisions=[1.0])
    with pytest.raises(ValueError, match="one name per image, got 1 names for 5"):
        draw(images, maps, names=["a"])


# ProCurveDisplay ------------------------------------------------------------------------------


def test_pro_curve_of_an_estimator(plt):
    images, masks = spotted()
    pipe = FrozenEstimator(Pipeline([("detector", Brightness())]).fit(images))
    display = ProCurveDisplay.from_estimator(pipe, images, masks, max_fpr=0.2)
    assert display.line_.get_label() == "Brightness (AUPRO = 1.000)"
    assert display.ax_.get_xlim() == (0, 0.2)
    assert display.ax_.get_legend() is not None
    nothing = np.zeros(images.shape[1:3], dtype=bool)
    nothing[0] = True
    with pytest.raises(ValueError, match="inside of roi"):
        ProCurveDisplay.from_estimator(pipe, images, masks, roi=nothing)


@pytest.mark.parametrize("max_fpr", [0.07, 1.0])
def test_area_in_the_legend_is_the_score(plt, max_fpr):
    rng = np.random.default_rng(3)
    masks = rng.random((4, 23, 29)) < 0.02
    maps = rng.random((4, 23, 29)) + 0.5 * masks
    display = ProCurveDisplay.from_predictions(masks, maps, max_fpr=max_fpr)
    assert display.aupro == pytest.approx(aupro_score(masks, maps, max_fpr=max_fpr), rel=1e-12)
    assert display.line_.get_label() == f"AUPRO = {display.aupro:.3f}"
    region = rng.random((23, 29)) < 0.7
    inside = ProCurveDisplay.from_predictions(masks, maps, max_fpr=max_fpr, roi=region)
    expected = aupro_score(masks, maps, max_fpr=max_fpr, roi=region)
    assert inside.aupro == pytest.approx(expected, rel=1e-12) and inside.aupro != display.aupro


def test_a_long_curve_is_drawn_with_few_points(plt):
    fpr = np.sort(np.random.default_rng(0).random(50_001))
    fpr[0] = 0
    pro = np.sqrt(fpr)
    display = ProCurveDisplay(fpr, pro).plot(curve_kwargs={"color": "black"})
    x, y = display.line_.get_data()
    assert len(x) <= 2000
    assert (x[0], x[-1]) == (fpr[0], fpr[-1])
    assert_allclose(np.interp(fpr, x, y), pro, atol=0.002)
    assert len(display.fpr) == 50_001


def test_pro_curves_share_axes(plt):
    fpr = np.array([0.0, 0.3])
    first = ProCurveDisplay(fpr, fpr, name="a").plot()
    second = ProCurveDisplay(fpr, fpr, aupro=0.15, name="b").plot(first.ax_, name="c")
    assert second.figure_ is first.figure_
    texts = [text.get_text() for text in first.ax_.get_legend().get_texts()]
    assert texts == ["a", "c (AUPRO = 0.150)"]


# ScoreHistogramDisplay ------------------------------------------------------------------------


def test_histogram_counts_each_image_once(plt):
    rng = np.random.default_rng(0)
    y = np.repeat([1, -1], [57, 23])
    decisions = rng.normal(y, 1.0)
    display = ScoreHistogramDisplay.from_predictions(y, decisions, bins=11)
    good, bad = ([bar.get_height() for bar in bars] for bars in display.bars_)
    assert (sum(good), sum(bad)) == (57, 23)
    edges = np.array([bar.get_x() for bar in display.bars_[0]])
    below = edges < -1e-12
    assert np.sum(np.array(good)[below]) == np.sum(decisions[y == 1] < 0)
    assert np.sum(np.array(bad)[below]) == np.sum(decisions[y == -1] < 0)
    assert "negative = defect" in display.ax_.get_xlabel()


@pytest.mark.parametrize("threshold", [0.0, -0.3, 5.0, -7.1])
@pytest.mark.parametrize("decisions", [[0.0], [0.1, 0.2, 0.3], [-1, 0, 1, 2], [-0.3, -0.3]])
def test_no_score_falls_out_of_the_histogram(plt, decisions, threshold):
    display = ScoreHistogramDisplay.from_predictions(None, decisions, threshold=threshold, bins=3)
    (bars,) = display.bars_
    assert sum(bar.get_height() for bar in bars) == len(decisions)
    left = sum(bar.get_height() for bar in bars if bar.get_x() < threshold - 1e-9)
    assert left == np.sum(np.array(decisions) < threshold)
    assert display.line_.get_xdata()[0] == threshold
    assert bars.get_label().startswith(
        f"images: {left:.0f} of {len(decisions)} predicted as defects"
    )


def test_histogram_of_an_estimator_says_what_to_expect(plt):
    images, masks = spotted(20, 2)
    images[0] = 101
    _, ax = plt.subplots()
    display = ScoreHistogramDisplay.from_estimator(Brightness(), images, masks, ax=ax)
    assert display.ax_ is ax
    good, bad, line = (text.get_text() for text in ax.get_legend().get_texts())
    # Clopper and Pearson: 1 of 20
    assert good == ("good: 1 of 20 false alarms = 5.0 %\n(expect 0.1 to 24.9 % on new good images)")
    assert bad == "defective: 2 of 2 found = 100.0 %"
    assert line == "threshold; below it: defect"


def test_histogram_refuses_what_does_not_fit(plt):
    with pytest.raises(ValueError, match=r"y holds \[0, 1\]; expected the labels"):
        ScoreHistogramDisplay.from_predictions([0, 1], [0.5, -0.5])
    with pytest.raises(ValueError, match="at least one"):
        ScoreHistogramDisplay.from_predictions(None, [])
    with pytest.raises(ValueError, match="NaN"):
        ScoreHistogramDisplay.from_predictions(None, [np.nan])
    with pytest.raises(ValueError, match="one entry of y per image, got 1 for 2 images"):
        ScoreHistogramDisplay.from_predictions([1], [0.5, -0.5])


# NearestGoodDisplay ---------------------------------------------------------------------------


def spot(image=0, box=(8, 12, 16, 20), good_image=2, good_box=(0, 24, 8, 31), **changes):
    sides = ("top", "left", "bottom", "right")
    record = {"image": image, "peak": 7.5, "distance": 1234.5678, "good_image": good_image}
    record |= dict(zip(sides, box, strict=True))
    return record | dict(zip([f"good_{s}" for s in sides], good_box, strict=True)) | changes


def numbered(n, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape, 3), dtype=np.uint8)


def test_crops_show_the_patch_and_what_is_around(plt):
    images, good = numbered(2, (60, 70)), numbered(3, (19, 31), seed=1)
    display = NearestGoodDisplay.from_predictions(
        images, good, [spot(1, (20, 30, 28, 34))], context=1
    )
    (left, right), (place, good_place) = display.crops[0], display.boxes[0]
    assert_array_equal(left, images[1, 12:36, 22:42])  # 8 pixels on each side
    assert place == (8, 8, 16, 12)
    # At the upper right corner there is nothing beyond, but as much is shown.
    assert_array_equal(right, good[2, :19, 8:31])
    assert good_place == (0, 16, 8, 23)
    for panel, box, crop in zip(display.axes_[0], display.boxes[0], display.crops[0], strict=True):
        top, left, bottom, right = box
        assert panel.patches[0].get_bbox().extents.tolist() == [
            left - 0.5, top - 0.5, right - 0.5, bottom - 0.5,
        ]  # fmt: skip
        assert_array_equal(panel.images[0].get_array(), crop)
    assert [panel.get_title(loc="left") for panel in display.axes_[0]] == [
        "image 1\nhot spot, score 7.50",
        "image 2\nnearest good, distance 1234.57",
    ]


@pytest.mark.parametrize("context", [0, 0.5, 3, 1000])
def test_the_marked_patch_is_the_one_of_the_record(plt, context):
    images, good = numbered(1, (60, 70)), numbered(3, (19, 31), seed=1)
    display = NearestGoodDisplay.from_predictions(images, good, [spot()], context=context)
    for crop, (top, left, bottom, right), patch in zip(
        display.crops[0],
        display.boxes[0],
        (images[0, 8:16, 12:20], good[2, :8, 24:31]),
        strict=True,
    ):
        assert_array_equal(crop[top:bottom, left:right], patch)
    if context == 1000:
        assert_array_equal(display.crops[0][0], images[0])
    if context == 0:
        assert display.crops[0][0].shape == (8, 8, 3)


def test_hot_spots_of_an_estimator_beside_its_training_images(plt, tmp_path):
    good = list(make_textures(5, size=(128, 120), random_state=0))
    images, _, _ = make_defects(make_textures(3, size=(128, 120), random_state=1), random_state=0)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    pipe = Pipeline(
        [("f", FilterBank(image_size=128, random_state=0)), ("d", PatchCore(random_state=0))]
    ).fit(good, [-1, 1, 1, 1, 1])
    spots = nearest_good(pipe, images, n_peaks=2)
    display = NearestGoodDisplay.from_estimator(
        pipe, paths, good, n_peaks=2, good_names=list("abcde")
    )
    again = NearestGoodDisplay.from_predictions(images, good, spots)
    assert len(display.crops) == len(spots) > 3
    for found, expected, record in zip(display.crops, again.crops, spots, strict=True):
        for one, other in zip(found, expected, strict=True):
            assert_array_equal(one, other)
        assert record["good_image"] > 0
    assert display.texts[0][0].split("\n")[0] == f"{tmp_path.name}/0.png"
    assert display.texts[0][1].split("\n")[0] == "abcde"[spots[0]["good_image"]]
    few = NearestGoodDisplay.from_estimator(pipe, paths, good, n_images=2, names=["x", "y", "z"])
    assert [text.split("\n")[0] for text, _ in few.texts] == ["x", "z"]
    display.figure_.canvas.draw()


def test_hot_spots_on_given_axes(plt):
    display = NearestGoodDisplay.from_predictions(
        numbered(1, (60, 70)), numbered(3, (19, 31)), [spot()]
    )
    figure, axes = plt.subplots(1, 2)
    assert display.plot(axes, im_kw={"interpolation": "nearest"}) is display
    assert display.figure_ is figure
    assert display.axes_[0, 0].images[0].get_interpolation() == "nearest"
    with pytest.raises(ValueError, match="expected 2 axes for 1 images with 2 panels each, got 1"):
        display.plot(axes[:1])


@pytest.mark.parametrize("shape", [(20, 20), (60, 15), (15, 60)])
@pytest.mark.parametrize("n_spots", [1, 7])
def test_no_hot_spot_overlaps_another(plt, shape, n_spots):
    images = numbered(1, shape)
    box = (2, 2, shape[0] // 4, shape[1] // 4)
    spots = [spot(0, box, 0, box)] * n_spots
    names = ["a rather long/name_of_an_image_file_0123456789.jpeg"]
    display = NearestGoodDisplay.from_predictions(
        images, images, spots, names=names, good_names=names, context=99
    )
    renderer = display.figure_.canvas.get_renderer()
    display.figure_.canvas.draw()
    whole = display.figure_.bbox
    boxes = [panel.get_tightbbox(renderer) for panel in display.axes_.ravel()]
    for i, one in enumerate(boxes):
        assert whole.x0 <= one.x0 < one.x1 <= whole.x1
        assert whole.y0 <= one.y0 < one.y1 <= whole.y1
        assert not any(one.overlaps(other) for other in boxes[:i])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spots": []}, "at least one hot spot to draw, got none"),
        ({"spots": [spot(good_image=3)]}, r"good image of place 3, got 3 images; pass the X of"),
        (
            {"spots": [spot(image=1)]},
            "expected the image of place 1, got 1 images; pass the images",
        ),
        (
            {"spots": [spot(good_box=(16, 0, 24, 8))]},
            "good image 2: expected at least 24 x 8 pixels, where the patch ends, got 19 x 31",
        ),
        ({"context": -1}, "context must be at least 0, got -1"),
        ({"context": np.nan}, "context must be at least 0, got nan"),
        ({"good_names": ["a"]}, "expected one name per image, got 1 names for 3"),
    ],
    ids=str,
)
def test_hot_spots_that_do_not_fit_are_refused(plt, changes, message):
    fits = {"images": numbered(1, (60, 70)), "good": numbered(3, (19, 31)), "spots": [spot()]}
    with pytest.raises(ValueError, match=message):
        NearestGoodDisplay.from_predictions(**(fits | changes))


# matplotlib -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda: ScoreMapDisplay.from_estimator(None, None),
        lambda: ScoreMapDisplay.from_predictions(None, None),
        lambda: NearestGoodDisplay.from_estimator(None, None, None),
        lambda: NearestGoodDisplay.from_predictions(None, None, None),
        lambda: NearestGoodDisplay([], [], []).plot(),
        lambda: ProCurveDisplay.from_estimator(None, None, None),
        lambda: ProCurveDisplay.from_predictions(None, None),
        lambda: ScoreHistogramDisplay.from_estimator(None, None),
        lambda: ScoreHistogramDisplay.from_predictions(None, None),
        lambda: ScoreMapDisplay([], []).plot(),
        lambda: ProCurveDisplay([], []).plot(),
        lambda: ScoreHistogramDisplay([]).plot(),
    ],
)
def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch, draw):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install skanomaly\[plot\]"):
        draw()
