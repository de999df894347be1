"""What notebooks show of results, and of estimators."""

import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from skanomaly import FeatureMaps, FilterBank, PatchCore, Pipeline
from skanomaly.datasets import check_dataset, make_inspection
from skanomaly.model_selection import HeldOutThreshold, ScoreMonitor
from skanomaly.report import Comparison, Report
from skanomaly.utils.notebooks import html_table, html_text

HOSTILE = '<script>"&\udcff'


def images_in(html):
    """The images that a piece of HTML holds."""
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', html)
    return [Image.open(BytesIO(b64decode(one))) for one in found]


def rows_of(html):
    return re.findall(r"<tr>(.*?)</tr>", html)[1:]


def test_a_report_shows_its_most_anomalous_images():
    made = Report(title=HOSTILE, vmin=0, vmax=1)
    scores = np.zeros((40, 60), np.float32)
    scores[10:20, 30:40] = 1
    for i in range(7):
        made.add(np.full((40, 60), 90, np.uint8), scores, i - 2.0, name=f"{HOSTILE}{i}")
    html = made._repr_html_()
    rows = rows_of(html)
    assert [re.search(r"\?(\d)<", row)[1] for row in rows] == list("01234")
    assert "defect" in rows[0] and "good" in rows[2] and "<script" not in html
    assert "7 images, 2 predicted as defective" in html
    views = images_in(html)
    assert len(views) == 10 and {view.size for view in views} == {(60, 40)}
    plain, heat = (np.asarray(view.convert("RGB")).astype(int) for view in views[:2])
    np.testing.assert_allclose(plain[15, 35], 90, atol=4)
    assert heat[15, 35].min() > 90 > heat[30, 10].max()  # a hot spot is bright, others are dimmed
    html.encode()  # no bytes of names that are not UTF-8
    assert rows_of(Report()._repr_html_()) == []


def test_a_comparison_shows_its_strongest_disagreements():
    numbers = np.array([[1.0, -1.0], [1.0, 2.0], [-3.0, 1.0]])
    buffer = BytesIO()
    Image.new("L", (30, 20)).save(buffer, "WEBP")
    view = (buffer.getvalue(),) * 3
    made = Comparison(["a", "b", "c"], ("<A>", "B"), numbers, numbers, None, {0: view, 2: view})
    html = made._repr_html_()
    assert repr(made) == "Comparison(2 of 3 verdicts differ)" and repr(made) in html
    assert [re.search(r">(\w)</td>", row)[1] for row in rows_of(html)] == ["c", "a"]
    assert "defect -3" in html and "&lt;A&gt;" in html
    assert [image.size for image in images_in(html)] == [(30, 20)] * 6


def test_findings_are_a_table():
    data = make_inspection(4, 2, 2, size=64, random_state=0)
    data.train.images[1] = data.train.images[0]
    data.train.names = [f"train/good/{HOSTILE}{i}.png" for i in range(4)]
    report = check_dataset(data)
    html = report._repr_html_()
    assert len(rows_of(html)) == len({finding.kind for finding in report.findings}) > 0
    assert "the same pixels in several images" in html and "<script" not in html
    for text in report.not_checked:
        assert html_text(text) in html


def test_features_are_a_table_of_layers():
    maps = FeatureMaps({"<1>": np.zeros((3, 4, 5, 6), np.float32)})
    (row,) = rows_of(maps._repr_html_())
    assert re.findall(r">([^<]+)</td>", row) == ["&lt;1&gt;", "4", "5", "6"]


@pytest.mark.parametrize(
    "estimator",
    [
        PatchCore(),
        FilterBank(),
        ScoreMonitor(),
        Pipeline([("features", FilterBank()), ("detector", PatchCore())]),
        HeldOutThreshold(Pipeline([("features", FilterBank()), ("detector", PatchCore())])),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_estimators_show_the_diagram_of_scikit_learn(estimator):
    html = estimator._repr_html_()
    assert "sk-container" in html and type(estimator).__name__ in html


def test_a_table_without_rows():
    assert html_table("<t>", ["<h>"], []).count("&lt;") == 2
