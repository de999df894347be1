"""Reports: what is in the file, and what happens when it cannot be written."""

import base64
import errno
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import FeatureUnion

from skanomaly import FilterBank, PaDiM, PatchCore, Pipeline, map_regions, nearest_good, report
from skanomaly.datasets import make_inspection
from skanomaly.images import HEAT_COLORS, OPACITY, color_limits, heat_levels
from skanomaly.model_selection import HeldOutThreshold
from skanomaly.report import Explainer, Report
from skanomaly.report import _builder as report_module
from skanomaly.report._images import compress, encode_map, fair_limit, shrink_map
from skanomaly.report._outlines import outline_of
from skanomaly.report._summary import summarize


class Page(HTMLParser):
    """A report as a browser's parser sees it: the texts of its scripts, and the visible text."""

    def __init__(self, path):
        super().__init__()
        self.scripts, self.kinds, self.words, self._inside = {}, [], [], None
        self.policy = ""
        text = path.read_text(encoding="utf-8")
        self.feed(text)
        self.text = " ".join(self.words)
        self.data = json.loads(self.scripts["data"])
        self.records = self.data["images"]

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self._inside = tag
        if tag == "script":
            self.kinds.append(attrs.get("type", "code"))
            self._id = attrs.get("id", f"code{len(self.kinds)}")
            self.scripts[self._id] = ""
        if attrs.get("http-equiv") == "Content-Security-Policy":
            self.policy = attrs["content"]

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[self._id] += data
        elif self._inside != "style":
            self.words.append(data.strip())

    def images(self, block):
        *words, end = self.scripts[block].split(" ")
        assert end == "."
        return [Image.open(BytesIO(base64.b64decode(word))) for word in words]


def spotted(shape=(40, 60), peak=5.0):
    """An image with a bright spot, and its score map."""
    image = np.full((*shape, 3), 90, np.uint8)
    image[10:20, 30:40] = 220
    scores = np.zeros(shape, np.float32)
    scores[10:20, 30:40] = peak
    return image, scores


@pytest.fixture(scope="module")
def data():
    return make_inspection(16, 4, 4, size=64, random_state=0)


@pytest.fixture(scope="module")
def model(data):
    features = FilterBank(image_size=64, random_state=0)
    detector = PatchCore(random_state=0, image_score="map_max")
    pipe = Pipeline([("features", features), ("detector", detector)])
    return HeldOutThreshold(pipe, target_fpr=0.1, cv=2, random_state=0).fit(data.train.images)


# What is in the file ---------------------------------------------------------------------------


def test_images_are_in_the_file_with_their_records(tmp_path):
    made = Report(title="Line 3", note="batch 7")
    image, scores = spotted()
    regions = map_regions([scores], 1)
    made.add(image, scores, -1.5, name="a", label=-1, regions=regions)
    made.add(image, 0 * scores, 0.5, name="b")
    page = Page(made.save(tmp_path / "r.html"))
    first, second = page.records
    assert (first["name"], first["score"], first["label"]) == ("a", -1.5, -1)
    assert (first["height"], first["width"]) == (40, 60)
    assert first["regions"] == [{"box": [10, 30, 20, 40], "area": 100, "peak": 5.0}]
    assert (second["label"], second["regions"], second["spots"]) == (None, [], [])
    assert "Line 3" in page.text
    assert "batch 7" in page.text
    assert len(made) == 2


def test_of_many_regions_the_strongest_are_kept(tmp_path):
    image, _ = spotted()
    scores = np.zeros((40, 60), np.float32)
    scores[::4, ::4] = np.arange(150).reshape(10, 15) + 2
    made = Report()
    made.add(image, scores, -1, name="a", regions=map_regions([scores], 1))
    (record,) = Page(made.save(tmp_path / "r.html")).records
    assert record["n_regions"] == 150
    assert [region["peak"] for region in record["regions"]] == list(range(151, 101, -1))


def test_thumbnails_and_full_views_show_the_image(tmp_path):
    image, scores = spotted((400, 800))
    made = Report(full_size=200, thumb_size=50, map_size=100)
    made.add(image, scores, -1, name="a")
    page = Page(made.save(tmp_path / "r.html"))
    (thumb, heat), (full,) = page.images("small0"), page.images("large0")
    assert (thumb.size, heat.size, full.size) == ((50, 25), (100, 50), (200, 100))
    assert page.data["mime"] == "image/webp"
    colors = np.asarray(full.convert("RGB")).astype(int)
    assert_allclose(colors[50, 100], 90, atol=4)


def test_small_images_are_kept_as_they_are(tmp_path):
    made = Report(image_format="jpeg")
    made.add(*spotted(), -1, name="a")
    page = Page(made.save(tmp_path / "r.html"))
    assert page.data["mime"] == "image/jpeg"
    for image in (*page.images("small0"), *page.images("large0")):
        assert image.size == (60, 40)


def test_maps_have_the_colors_of_their_scores(tmp_path):
    image, _ = spotted()
    scores = np.tile(np.linspace(-2, 8, 60, dtype=np.float32), (40, 1))
    made = Report(vmin=1, vmax=6)
    made.add(image, scores, -1, name="a")
    heat = Page(made.save(tmp_path / "r.html")).images("small0")[1]
    pixels = np.asarray(heat.convert("RGBA"))
    levels = heat_levels(scores, 1, 6)
    assert_array_equal(pixels[:, :, :3], HEAT_COLORS[levels])
    assert_array_equal(pixels[:, :, 3], np.rint(255 * OPACITY)[levels])


def test_limits_not_given_come_from_all_maps(tmp_path):
    """Maps are packed before the limits are known; a color means one score all the same."""
    image, scores = spotted()
    maps = [scores + 1, 0.2 * scores, 0.3 * scores + 0.1]
    made = Report()
    for one, decision in zip(maps, (-1, 1, 1), strict=True):
        made.add(image, one, decision, name="a")
    page = Page(made.save(tmp_path / "r.html"))
    vmin, vmax = color_limits(maps, [-1, 1, 1])
    for i, one in enumerate(maps):
        pixels = np.asarray(page.images(f"small{i}")[1].convert("RGBA"))
        expected = heat_levels(one, vmin, vmax).astype(int)
        is_alike = np.abs(HEAT_COLORS[expected].astype(int) - pixels[:, :, :3]).max() <= 6
        assert is_alike


@pytest.mark.parametrize("given", [{"vmin": 100}, {"vmax": -100}, {"vmin": 1}, {"vmax": 4}])
def test_one_limit_alone_is_kept(given):
    made = Report(**given)
    made.add(*spotted(), -1, name="a")
    vmin, vmax = made._limits()
    assert vmin < vmax
    assert given.items() <= {"vmin": vmin, "vmax": vmax}.items()


def test_a_map_without_relief_has_the_color_of_its_score():
    heat = encode_map(np.full((9, 9), 3, np.float32), None, None)
    colored = Image.open(BytesIO(heat.colored(0, 6))).convert("RGBA")
    assert_array_equal(np.asarray(colored)[0, 0, :3], HEAT_COLORS[128])


def test_maps_shrink_by_means():
    scores = np.arange(64, dtype=np.float32).reshape(8, 8)
    assert_allclose(shrink_map(scores, 4), scores.reshape(4, 2, 4, 2).mean(axis=(1, 3)))


def test_names_are_data_and_never_markup(tmp_path):
    names = [
        "</script><script>alert(1)</script>",
        "<!-- <script>",
        '"quoted" & \'single\' <img src=x onerror="alert(1)">',
        "ünï cødé 部品 🔩 .png",
        "two  spaces",
        "not utf-8 \udcff",
    ]
    made = Report(title=names[0], note=names[2])
    for name in names:
        made.add(*spotted(), -1, name=name)
    page = Page(made.save(tmp_path / "r.html"))
    assert [record["name"] for record in page.records] == names
    assert set(page.kinds) == {"code", "application/json", "text/plain"}
    assert page.kinds.count("code") == 5
    assert names[0] in page.text


def test_two_images_of_one_name_are_two(tmp_path):
    made = Report()
    made.add(*spotted(), -1, name="a")
    made.add(*spotted(), 2, name="a")
    assert [p["score"] for p in Page(made.save(tmp_path / "r.html")).records] == [-1, 2]


@pytest.mark.parametrize(
    "image",
    [
        np.full((30, 20), 77, np.uint8),
        np.full((30, 20), 4000, np.uint16),
        np.full((30, 20, 7), 0.5, np.float32),
        np.full((30, 20, 2), 77, np.uint8),
        Image.new("RGBA", (20, 30)),
    ],
    ids=["gray", "16 bit", "seven channels", "two channels", "PIL"],
)
def test_images_of_every_kind(tmp_path, image):
    made = Report()
    made.add(image, np.zeros((30, 20)), 1, name="a")
    assert Page(made.save(tmp_path / "r.html")).images("large0")[0].size == (20, 30)


def test_no_images(tmp_path):
    page = Page(Report().save(tmp_path / "r.html"))
    assert "There are no images in this report." in page.text
    assert page.records == []


def test_nothing_is_loaded_from_anywhere(tmp_path):
    made = Report()
    made.add(*spotted(), -1, name="a")
    path = made.save(tmp_path / "r.html")
    page, text = Page(path), path.read_text(encoding="utf-8")
    assert "default-src 'none'" in page.policy
    assert "unsafe" not in page.policy
    without = text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"https?://|src=\"|@import|url\(", without)
    assert not re.search(
        r"\son\w+=|style=", re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    )


def test_nearest_good_patches_are_cut_from_both_images(tmp_path):
    image, scores = spotted((100, 100))
    good = np.full((100, 100, 3), 30, np.uint8)
    box = {"top": 12, "left": 32, "bottom": 16, "right": 36}
    good_box = {f"good_{side}": n for side, n in zip(box, (0, 96, 4, 100), strict=True)}
    spot = {**box, **good_box, "peak": 5.0, "distance": 2.5, "good": good, "good_name": "fine"}
    made = Report(context=2)
    made.add(image, scores, -1, name="a", nearest_good=[spot])
    page = Page(made.save(tmp_path / "r.html"))
    (shown,) = page.records[0]["spots"]
    assert (shown["name"], shown["peak"], shown["distance"]) == ("fine", 5.0, 2.5)
    assert shown["here"] == [20, 20, 8, 8, 12, 12]  # height, width, box
    assert shown["good"] == [20, 20, 0, 16, 4, 20]  # at the border
    _, here, there = page.images("large0")
    assert_allclose(np.asarray(here.convert("RGB"))[10, 10], 220, atol=4)
    assert_allclose(np.asarray(there.convert("RGB")), 30, atol=4)


# Outlines and reviews ---------------------------------------------------------------------------


def filled(path, shape):
    """The mask inside a path of M, H, V and Z, by counting the borders left of each pixel."""
    crossings = np.zeros((shape[0], shape[1] + 1), int)
    for loop in path.split("Z")[:-1]:
        words = re.findall(r"([MHV])([\d ]+)", loop)
        column, row = map(int, words[0][1].split())
        corners = [(row, column)]
        for kind, number in words[1:]:
            row, column = (row, int(number)) if kind == "H" else (int(number), column)
            corners.append((row, column))
        for (top, left), (bottom, right) in zip(corners, corners[1:] + corners[:1], strict=True):
            assert top == bottom or left == right  # horizontal or vertical
            crossings[min(top, bottom) : max(top, bottom), left] += 1
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


@pytest.mark.parametrize("seed", range(6))
def test_an_outline_is_the_border_of_its_mask(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(2, 40), rng.integers(2, 40))) < rng.choice([0.1, 0.5, 0.9])
    rgb = np.zeros((*mask.shape, 3), np.uint8)
    mask[0, 0], mask[-1, -1] = True, False  # neither all nor nothing
    assert_array_equal(filled(outline_of(255 * mask, rgb, "mask"), mask.shape), mask)


def test_outlines_of_large_masks_lose_no_scratch():
    mask = np.zeros((1000, 777), bool)
    mask[100:900, 333] = True
    path = outline_of(mask, np.zeros((1000, 777, 3), np.uint8), "mask")
    inside = filled(path, mask.shape)
    assert inside[mask].all() and inside.sum() < 6 * mask.sum()
    assert len(path) < 50


def test_masks_and_regions_of_interest_are_drawn(tmp_path):
    image, scores = spotted()
    mask, roi = scores > 1, np.ones((40, 60), np.uint8)
    roi[:5] = 0
    made = Report()
    made.add(image, scores, -1, name="a", mask=mask, roi=roi)
    made.add(image, scores, -1, name="b", mask=np.zeros((40, 60)), roi=roi)
    made.add(image, scores, -1, name="c", roi=np.ones((40, 60)))
    page = Page(made.save(tmp_path / "r.html"))
    outlines = page.data["outlines"]
    assert len(outlines) == 2  # the region of two images is there once
    first, second, third = page.records
    assert_array_equal(filled(outlines[first["truth"]], mask.shape), mask)
    assert_array_equal(filled(outlines[first["roi"]], mask.shape), roi == 1)
    assert (second["truth"], second["roi"]) == (None, first["roi"])
    assert (third["truth"], third["roi"]) == (None, None)  # all pixels count
    assert "ground truth" in page.text and "Region of interest" in page.text
    page = Page(report_of([1]).save(tmp_path / "r.html"))
    assert "ground truth" not in page.text and "Region of interest" not in page.text


def test_a_review_can_name_files_alone(tmp_path, monkeypatch):
    image, scores = spotted()
    Image.fromarray(image).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    made = Report()
    made.add("a.png", scores, -1, name="a")
    made.add(tmp_path / "a.png", scores, -1, name="b")
    made.add(image, scores, -1, name="c")
    made.add(image, scores, -1, name="d", file="kept/d.png")
    made.add(image, scores, -1, name="e", file="s3://bucket/e.png")
    files = [record["file"] for record in Page(made.save(tmp_path / "r.html")).records]
    path = str(tmp_path / "a.png")
    assert files == [path, path, None, str(tmp_path / "kept" / "d.png"), None]


def test_without_a_review_no_path_is_in_the_file(tmp_path):
    image, scores = spotted()
    Image.fromarray(image).save(tmp_path / "a.png")
    made = Report(review=False)
    made.add(tmp_path / "a.png", scores, -1, name="a")
    text = made.save(tmp_path / "r.html").read_text(encoding="utf-8")
    assert str(tmp_path) not in text and '<fieldset class="field" hidden>' in text


# Numbers ---------------------------------------------------------------------------------------


def report_of(decisions, labels=None):
    made = Report()
    labels = [None] * len(decisions) if labels is None else labels
    for decision, label in zip(decisions, labels, strict=True):
        made.add(*spotted(), decision, name="a", label=label)
    return made


def test_counts(tmp_path):
    made = report_of([-2, -1, -1, 3, 4], [-1, -1, 1, 1, -1])
    summary = summarize(made._records)
    assert (summary.n, summary.n_defect, summary.n_good) == (5, 3, 2)
    assert (summary.n_labeled_defect, summary.n_found) == (3, 2)
    assert (summary.n_labeled_good, summary.n_false_alarms) == (2, 1)
    text = Page(made.save(tmp_path / "r.html")).text
    assert "False alarms" in text
    assert "of 2 good" in text


def test_no_labels_no_rates(tmp_path):
    text = Page(report_of([-1, 1]).save(tmp_path / "r.html")).text
    assert "False alarms" not in text
    assert "Label" not in text


@pytest.mark.parametrize(
    "decisions",
    [[-2, -1, 0.0, 1, 5], [-90, -2, -1, -1, 1], [-3, -1], [2, 7], [0.0], [-1e-9], [1e6, -1e-6]],
)
def test_bars_hold_all_scores_and_none_crosses_the_threshold(decisions):
    summary = summarize(report_of(decisions)._records)
    counted = sum(int(bar.text.split()[0]) for bar in summary.bars)
    assert counted == len(decisions)
    assert summary.bars[0].low <= min(decisions)
    assert summary.is_cut == (min(decisions) < summary.low)
    assert summary.high >= max(decisions)
    assert all(bar.low >= 0 or bar.high <= 1e-12 * abs(bar.low) for bar in summary.bars)
    assert 0 <= summary.threshold_at <= 100
    assert max(bar.good + bar.defective for bar in summary.bars) == pytest.approx(100)


def test_a_few_very_low_scores_share_a_bar():
    summary = summarize(report_of([-1000, -50, -1, -0.5, -0.5, 1])._records)
    assert summary.is_cut
    assert summary.low == pytest.approx(-4)
    assert summary.bars[0].text == "2 images from -1e+03 to -3.88"
    summary = summarize(report_of([-1000, -900, -1, 1])._records)
    assert not summary.is_cut  # most defects are like that


def test_bars_are_colored_by_the_labels_if_there_are_any():
    bars = summarize(report_of([-1, 1], [1, -1])._records).bars
    assert [bar.good > 0 for bar in bars] == [True, False]
    bars = summarize(report_of([-1, 1])._records).bars
    assert [bar.good > 0 for bar in bars] == [False, True]


# Size ------------------------------------------------------------------------------------------


def test_large_reports_are_compressed(tmp_path):
    rng = np.random.default_rng(0)
    made = Report(max_megabytes=0.2, thumb_size=32)
    for i in range(8):
        image = rng.integers(0, 256, (200, 200), dtype=np.uint8)
        made.add(image, np.zeros((200, 200)), 1, name=str(i))
    made.add(np.zeros((200, 200), np.uint8), np.zeros((200, 200)), 1, name="flat")
    path = made.save(tmp_path / "r.html")
    assert path.stat().st_size < 260_000  # words and scripts come on top
    page = Page(path)
    assert page.images("large0")[0].width < 200
    assert page.images("large8")[0].width == 200  # small enough as it is
    made.max_megabytes = None
    assert made.save(path).stat().st_size > 300_000


@pytest.mark.parametrize("seed", range(5))
def test_a_fair_limit_uses_the_budget(seed):
    sizes = np.random.default_rng(seed).integers(1, 100, 7)
    for budget in (50, 200, sizes.sum() - 1):
        assert np.minimum(sizes, fair_limit(sizes, budget)).sum() == pytest.approx(budget)
    assert fair_limit(sizes, sizes.sum()) >= sizes.max()


def test_compressing_stops_at_64_pixels():
    noise = np.random.default_rng(0).integers(0, 256, (300, 100), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).save(buffer, format="WEBP", quality=80)
    least = Image.open(BytesIO(compress(buffer.getvalue(), -1, "WEBP")))
    assert max(least.size) == 64


# What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"full_size": 0}, "full_size must be an integer of at least 8"),
        ({"image_format": "png"}, "'webp' or 'jpeg', got 'png'"),
        ({"vmin": 2, "vmax": 1}, "vmin < vmax"),
        ({"map_threshold": "9"}, "map_threshold must be a number"),
        ({"context": -1}, "context must be at least 0"),
        ({"max_megabytes": 0}, "max_megabytes must be above 0"),
        ({"first": "missed"}, "first must be 'score' or 'mistakes'"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(ValueError, match=message):
        Report(**parameters)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score_map": np.zeros((3, 3))}, r"score_map of a: expected shape \(40, 60\)"),
        ({"score_map": np.full((40, 60), np.nan)}, "NaN or infinity"),
        ({"decision": np.nan}, "finite number"),
        ({"mask": np.ones((3, 3))}, r"mask of a: expected shape \(40, 60\)"),
        ({"roi": np.ones((60, 40))}, r"region of interest of a: expected shape \(40, 60\)"),
        ({"label": 0}, "expected the label 1"),
        (
            {"regions": [{"top": 0, "left": 0, "bottom": 41, "right": 9, "area": 1, "peak": 1}]},
            "within 40 x 60 pixels",
        ),
        ({"image": "nowhere.png"}, "nowhere.png: no such image file"),
    ],
)
def test_images_that_do_not_fit_are_refused(changes, message):
    image, score_map = spotted()
    given = {"image": image, "score_map": score_map, "decision": -1, "name": "a", **changes}
    made = Report()
    with pytest.raises(ValueError, match=message):
        made.add(**given)
    assert len(made) == 0


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("yesterday's")

    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"No space left on device.*r\.html") as caught:
        report_of([1]).save(path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "yesterday's"
    assert os.listdir(tmp_path) == ["r.html"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_disk_that_is_really_full(tmp_path, monkeypatch):
    opened = []

    def open_full(path, mode):
        opened.append(path)
        return open("/dev/full", "wb")

    monkeypatch.setattr(report_module, "open", open_full, raising=False)
    with pytest.raises(OSError, match=r"No space left on device.*r\.html"):
        report_of([1]).save(tmp_path / "r.html")
    assert len(opened) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path, model, data):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    with pytest.raises(PermissionError, match=r"r\.html"):
        report_of([1]).save(folder / "r.html")
    with pytest.raises(PermissionError, match=r"r\.html"):
        report.write(folder / "r.html", model, data.test.images)


def no_scoring(*_):
    raise AssertionError("scored before it was known whether the report can be written")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_to_is_known_before_scoring(
    tmp_path, monkeypatch, model, data, number
):
    def write_bytes(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    monkeypatch.setattr(HeldOutThreshold, "score_samples_and_map", no_scoring)
    with pytest.raises(OSError, match=r"cannot be written.*r\.html") as caught:
        report.write(tmp_path / "r.html", model, data.test.images)
    assert caught.value.errno == number


@pytest.mark.parametrize(
    ("place", "message"), [("nowhere/r.html", "there is no folder"), ("", "got a folder")]
)
def test_places_without_a_file_are_known_before_scoring(tmp_path, model, data, place, message):
    with pytest.raises(OSError, match=message):
        report.write(tmp_path / place, model, data.test.images)


def test_without_jinja_the_error_says_how_to_get_it():
    code = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from skanomaly.report import Report\n"
        "try: Report()\n"
        "except ImportError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install skanomaly[report]" in found.stdout, found.stderr


# write -----------------------------------------------------------------------------------------


def test_write_reports_what_the_estimator_returns(tmp_path, model, data):
    path = report.write(
        tmp_path / "r.html",
        model,
        data.test.images,
        data.test.masks,
        names=data.test.names,
        good=data.train.images,
        good_names=data.train.names,
        n_peaks=2,
        batch_size=3,
    )
    records = Page(path).records
    assert [r["name"] for r in records] == list(data.test.names)
    assert [r["label"] for r in records] == data.test.target.tolist()
    outlines = Page(path).data["outlines"]
    for record, mask in zip(records, data.test.masks, strict=True):
        drawn = "" if record["truth"] is None else outlines[record["truth"]]
        assert_array_equal(filled(drawn, mask.shape), mask)
    assert_allclose([r["score"] for r in records], model.decision_function(data.test.images))
    regions = map_regions(model.score_map(data.test.images), model.map_offset_)
    for i, record in enumerate(records):
        peaks = [region["peak"] for region in regions if region["image"] == i]
        assert_allclose([region["peak"] for region in record["regions"]], peaks)
    shown = [i for i, r in enumerate(records) if r["score"] < 0 or r["label"] == -1]
    assert [i for i, r in enumerate(records) if r["spots"]] == shown
    spots = nearest_good(model, [data.test.images[i] for i in shown], n_peaks=2)
    found = [spot for i in shown for spot in records[i]["spots"]]
    assert_allclose([spot["distance"] for spot in found], [s["distance"] for s in spots])
    assert [spot["name"] for spot in found] == [data.train.names[s["good_image"]] for s in spots]


def test_the_guide_is_right(tmp_path, monkeypatch, model, data):
    root = Path(__file__).resolve().parents[1]
    guide = (root / "docs" / "guide" / "report.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = {"model": model, "data": data}
    blocks = re.findall(r"^```python\n(.*?)^```$", guide, flags=re.MULTILINE | re.DOTALL)
    for block in blocks[1:]:  # the first loads the quickstart's model and data
        exec(block, names)
    first, second = (Page(tmp_path / name).records for name in ("line3.html", "by_hand.html"))
    assert any(record["spots"] for record in first)
    for one, other in zip(first, second, strict=True):
        assert one["score"] == pytest.approx(other["score"])
        assert len(one["regions"]) == len(other["regions"])


def test_write_does_not_depend_on_the_batch_size(tmp_path, model, data):
    parts = []
    for n in (3, 64):
        path = report.write(tmp_path / f"{n}.html", model, data.test.images, batch_size=n)
        parts.append(Page(path))
    one, other = parts
    for first, second in zip(one.records, other.records, strict=True):
        assert first["score"] == pytest.approx(second["score"], rel=1e-6)
    assert one.scripts["large0"] == other.scripts["large0"]


def test_write_takes_a_detector_without_a_map_threshold(tmp_path, model, data):
    """No regions then, and colors from the maps at hand."""
    pipe = model.estimator_
    page = Page(report.write(tmp_path / "r.html", pipe, data.test.images))
    assert not any(record["regions"] for record in page.records)
    assert_allclose(
        [record["score"] for record in page.records], pipe.decision_function(data.test.images)
    )
    page = Page(report.write(tmp_path / "r.html", pipe, data.test.images, threshold=-1))
    assert all(record["regions"] for record in page.records)


@pytest.mark.parametrize("kind", ["mask", "function", "union"])
def test_write_draws_the_region_of_interest_of_the_extractor(tmp_path, data, kind):
    regions = np.zeros((2, 64, 64), bool)
    regions[0, 10:50, 5:60], regions[1, 20:60, :40] = True, True
    roi, expected = regions[0], regions[0]
    if kind == "function":
        roi = region_right_of_center
        expected = region_right_of_center(data.test.images[0])
    features = FilterBank(n_filters=4, image_size=64, roi=roi, random_state=0)
    if kind == "union":
        other = FilterBank(n_filters=4, image_size=64, roi=regions[1], random_state=0)
        features = FeatureUnion([("one", features), ("other", other)])
        expected = regions.all(axis=0)
    pipe = Pipeline([("features", features), ("detector", PatchCore(random_state=0))])
    pipe.fit(data.train.images)
    page = Page(report.write(tmp_path / "r.html", pipe, data.test.images[:3]))
    (outline,) = page.data["outlines"]
    assert_array_equal(filled(outline, expected.shape), expected)
    assert [record["roi"] for record in page.records] == [0, 0, 0]


def region_right_of_center(image):
    return np.tile(np.arange(image.shape[1]) >= image.shape[1] // 2, (len(image), 1))


def test_write_takes_paths_of_mixed_sizes(tmp_path, model, data):
    paths = []
    for i, size in enumerate([(64, 64), (100, 40)]):
        paths.append(tmp_path / f"part {i}.png")
        Image.fromarray(data.test.images[i]).resize(size).save(paths[-1])
    page = Page(report.write(tmp_path / "r.html", model, paths))
    assert [(p["width"], p["height"]) for p in page.records] == [(64, 64), (100, 40)]
    assert page.records[0]["name"] == f"{tmp_path.name}/part 0.png"


def test_write_no_images_at_all(tmp_path, model):
    page = Page(report.write(tmp_path / "r.html", model, []))
    assert "There are no images in this report." in page.text


def test_write_a_threshold_above_all_scores(tmp_path, model, data):
    strict = Pipeline(model.estimator_.steps)
    strict[-1].offset_, before = 1e6, strict[-1].offset_
    try:
        page = Page(report.write(tmp_path / "r.html", strict, data.test.images))
    finally:
        strict[-1].offset_ = before
    assert all(record["score"] < 0 for record in page.records)
    assert not any(record["spots"] for record in page.records)  # no good images were passed


def test_write_refuses_good_images_for_a_detector_without_patches(tmp_path, data, monkeypatch):
    pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", PaDiM(n_components=9))])
    pipe.fit(data.train.images)
    monkeypatch.setattr(PaDiM, "score_samples_and_map", no_scoring)
    with pytest.raises(TypeError, match="keeps good patches"):
        report.write(tmp_path / "r.html", pipe, data.test.images, good=data.train.images)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y": [0, 1, 0, 1, 0, 1, 0, 1]}, "If 1 marks a defect in y, pass"),
        ({"y": [1, -1]}, "one entry of y per image"),
        ({"names": ["a"]}, "one name per image"),
    ],
)
def test_write_refuses_what_does_not_fit(tmp_path, model, data, given, message):
    with pytest.raises(ValueError, match=message):
        report.write(tmp_path / "r.html", model, data.test.images, **given)
    assert os.listdir(tmp_path) == []


def test_write_refuses_other_good_images(tmp_path, model, data):
    with pytest.raises(ValueError, match="the X of the estimator's fit"):
        report.write(tmp_path / "r.html", model, data.test.images, good=data.train.images[:1])


def test_write_shows_its_progress(tmp_path, model, data, capsys):
    report.write(tmp_path / "r.html", model, data.test.images[:2], verbose=1)
    assert "images" in capsys.readouterr().err


class CountingFilterBank(FilterBank):
    """A FilterBank that counts the images whose features it computes."""

    n_images = 0

    def _features(self, batch):
        CountingFilterBank.n_images += len(batch)
        return super()._features(batch)


@pytest.mark.parametrize("wrapped", [True, False], ids=["HeldOutThreshold", "Pipeline"])
def test_write_computes_the_features_of_each_image_once(tmp_path, data, wrapped):
    features = CountingFilterBank(image_size=64, random_state=0)
    model = Pipeline([("features", features), ("detector", PatchCore(random_state=0))])
    if wrapped:
        model = HeldOutThreshold(model, target_fpr=0.1, cv=2, random_state=0)
    model.fit(data.train.images)
    CountingFilterBank.n_images = 0
    images = data.test.images
    path = report.write(
        tmp_path / "r.html", model, images, data.test.target, good=data.train.images, batch_size=3
    )
    assert any(record["spots"] for record in Page(path).records)
    assert CountingFilterBank.n_images == len(images)


def test_write_without_a_threshold_is_refused(tmp_path, data):
    detector = PatchCore(contamination=None, random_state=0)
    pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", detector)])
    pipe.fit(data.train.images)
    with pytest.raises(NotFittedError, match="call set_threshold of the detector"):
        report.write(tmp_path / "r.html", pipe, data.test.images)
    assert os.listdir(tmp_path) == []


# Explainer -------------------------------------------------------------------------------------


def test_explanations_are_the_nearest_good_patches_with_their_images(model, data):
    images, good = data.test.images, data.train.images
    explainer = Explainer(model, good, good_names=data.train.names, n_peaks=2)
    expected = nearest_good(model, images, n_peaks=2)
    for X in (images, model.estimator_[:-1].transform(images)):
        found = explainer.explain(X)
        assert len(found) == len(images)
        for i, records in enumerate(found):
            own = [spot for spot in expected if spot["image"] == i]
            assert [spot["good_image"] for spot in records] == [one["good_image"] for one in own]
            for spot, one in zip(records, own, strict=True):
                assert spot["distance"] == pytest.approx(one["distance"], rel=1e-5)
                assert_array_equal(spot["good"], good[spot["good_image"]])
                assert spot["good_name"] == data.train.names[spot["good_image"]]
        some = explainer.explain(X, [5, 2])
        assert [len(records) > 0 for records in some] == [i in (2, 5) for i in range(len(images))]
        assert [spot["peak_row"] for spot in some[5]] == [spot["peak_row"] for spot in found[5]]
    assert explainer.explain(images, []) == [[] for _ in images]


def test_explanations_count_images_that_were_left_out_of_the_fit(model, data):
    """Each good image is nearest to itself, so that its place in the X of fit is known."""
    good = data.train.images
    y = np.where(np.isin(np.arange(len(good)), (0, 3)), -1, 1)
    pipe = clone(model.estimator).set_params(detector__coreset_ratio=1.0)
    for wrapped in (pipe, HeldOutThreshold(pipe, target_fpr=0.2, cv=2, random_state=0)):
        wrapped.fit(good, y)
        explanations = Explainer(wrapped, good).explain(good[1:5])
        places = [records[0]["good_image"] for records in explanations]
        assert [places[i] for i in (0, 1, 3)] == [1, 2, 4]
        assert places[2] not in (0, 3)
