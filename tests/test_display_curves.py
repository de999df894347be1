"""ROC and precision-recall displays: scikit-learn's, with defects as the positive class."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn import metrics
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.model_selection import cross_validate

from skanomaly.display import PrecisionRecallDisplay, RocCurveDisplay

DISPLAYS = [RocCurveDisplay, PrecisionRecallDisplay]

# 5 good images, 3 defects; low for a defect, one of each on the wrong side, and a tie.
Y = np.array([1, 1, -1, 1, -1, 1, -1, 1])
DECISIONS = np.array([2.0, 1.0, -3.0, -1.0, -1.0, 3.0, 0.5, 0.5])


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


class Recorded(OutlierMixin, BaseEstimator):
    """A detector whose X are its decisions."""

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def decision_function(self, X):
        return np.ravel(X)


def test_roc_by_hand():
    """From the lowest decision up: defect; defect and good at once; defect and good; 3 good."""
    display = RocCurveDisplay.from_predictions(Y, DECISIONS, drop_intermediate=False)
    assert_allclose(display.fpr, [0, 0, 1 / 5, 2 / 5, 3 / 5, 4 / 5, 1])
    assert_allclose(display.tpr, [0, 1 / 3, 2 / 3, 1, 1, 1, 1])
    assert_allclose(display.roc_auc, 1 - (1 / 3 * 1 / 5 + 1 / 3 / 2 * 1 / 5 + 1 / 3 / 2 * 1 / 5))
    assert_allclose(display.line_.get_xdata(), display.fpr)


def test_precision_recall_by_hand():
    display = PrecisionRecallDisplay.from_predictions(Y, DECISIONS, plot_chance_level=True)
    assert_allclose(display.recall[::-1], [0, 1 / 3, 2 / 3, 1, 1, 1, 1])
    assert_allclose(display.precision[::-1], [1, 1, 2 / 3, 3 / 5, 3 / 6, 3 / 7, 3 / 8])
    assert_allclose(display.average_precision, (1 + 2 / 3 + 3 / 5) / 3)
    assert_allclose(display.chance_level_.get_ydata(), 3 / 8)


def test_areas_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y = np.where(rng.random(53) < 0.3, -1, 1)
    decisions = np.round(y + 2 * rng.standard_normal(53), 1)
    estimator = Recorded().fit(None)
    roc = RocCurveDisplay.from_estimator(estimator, decisions, y)
    curve = PrecisionRecallDisplay.from_estimator(estimator, decisions, y)
    assert_allclose(roc.roc_auc, metrics.roc_auc_score(y == -1, -decisions))
    assert_allclose(curve.average_precision, metrics.average_precision_score(y == -1, -decisions))
    # What scikit-learn's own display says of the same arrays is another number.
    wrong = metrics.PrecisionRecallDisplay.from_predictions(y, decisions)
    assert abs(wrong.average_precision - curve.average_precision) > 0.1


@pytest.mark.parametrize("display", DISPLAYS)
def test_labels_names_and_shared_axes(display):
    first = display.from_estimator(Recorded().fit(None), DECISIONS, Y)
    second = display.from_predictions(Y, -DECISIONS, name="worse", ax=first.ax_)
    assert isinstance(first, display) and second.ax_ is first.ax_
    assert first.line_.get_label().startswith("Recorded (A")
    assert second.line_.get_label().startswith("worse (A")
    assert len(first.ax_.lines) == 2
    labels = first.ax_.get_xlabel() + first.ax_.get_ylabel()
    assert "defective images found" in labels and "Positive label" not in labels
    assert display.from_predictions(Y, DECISIONS).line_.get_label()[:10] == "detector ("
    assert display.from_predictions(Y, DECISIONS).plot() is not None


@pytest.mark.parametrize("display", DISPLAYS)
def test_masks_say_which_images_are_defects(display):
    masks = [None if label == 1 else np.eye(9, dtype=bool) for label in Y]
    assert_allclose(
        display.from_predictions(masks, DECISIONS).line_.get_xydata(),
        display.from_predictions(Y, DECISIONS).line_.get_xydata(),
    )


@pytest.mark.parametrize("display", DISPLAYS)
@pytest.mark.parametrize(
    ("y", "decisions", "message"),
    [
        ((Y == -1).astype(int), DECISIONS, "If 1 marks a defect in y, pass"),
        (np.ones(8), DECISIONS, "needs good and defective images"),
        (None, DECISIONS, "got no y"),
        (Y[:5], DECISIONS, "one entry of y per image"),
        (Y, DECISIONS[:, None], "expected decision scores of shape"),
        (Y, np.where(DECISIONS > 2, np.nan, DECISIONS), "NaN"),
    ],
)
def test_bad_input_is_refused(display, y, decisions, message):
    with pytest.raises(ValueError, match=message):
        display.from_predictions(y, decisions)


@pytest.mark.parametrize("display", [d for d in DISPLAYS if hasattr(d, "from_cv_results")])
def test_what_is_inherited_does_not_take_good_images_for_defects(display):
    """scikit-learn's from_cv_results asks for classifiers, and so refuses."""
    X, y = list(DECISIONS), Y
    results = cross_validate(
        Recorded(), X, y, cv=2, return_estimator=True, return_indices=True, scoring=lambda *_: 0.0
    )
    with pytest.raises(ValueError, match="binary classifier"):
        display.from_cv_results(results, X, y)


def test_without_matplotlib_an_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install skanomaly\[plot\]"):
        RocCurveDisplay.from_predictions(Y, DECISIONS)
