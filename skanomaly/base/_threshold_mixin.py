"""ThresholdMixin: verdicts from scores and a threshold."""

import numpy as np
from sklearn.base import OutlierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from skanomaly.utils.state import reading


class ThresholdMixin(OutlierMixin):
    """Verdicts from scores and a threshold.

    A child has ``score_samples(X)``, ``score_samples_and_map(X)`` and, fitted, the attribute
    ``offset_``, a threshold on ``score_samples``.
    """

    def score_map(self, X):
        """Anomaly maps in the images' own pixels.

        Parameters
        ----------
        X : FeatureMaps, array of shape (n, h, w, d) or (n, d), or images
            What ``fit`` takes.

        Returns
        -------
        ndarray of shape (n, H, W), float32, or list of n arrays (H, W)
            The higher, the more abnormal; a list where the images' sizes differ.
        """
        return self.score_samples_and_map(X)[1]

    @reading
    def decision_function(self, X):
        """Score of each image less the threshold ``offset_``: negative for a defect.

        Parameters
        ----------
        X : FeatureMaps, array of shape (n, h, w, d) or (n, d), or images
            What ``fit`` takes.

        Returns
        -------
        ndarray of shape (n,), float64

        Raises
        ------
        NotFittedError
            The estimator is not fitted, or was fitted without a threshold.
        """
        check_is_fitted(self)
        if not hasattr(self, "offset_"):
            raise NotFittedError(
                f"this {type(self).__name__} was fitted with contamination=None, without a "
                "threshold; call set_threshold with good images, or fit it in a HeldOutThreshold"
            )
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """Verdict on each image: +1 good, -1 defect.

        Parameters
        ----------
        X : FeatureMaps, array of shape (n, h, w, d) or (n, d), or images
            What ``fit`` takes.

        Returns
        -------
        ndarray of shape (n,), int
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def fit_predict(self, X, y=None, **kwargs):
        """Fit, and return the verdicts on the same images.

        Parameters
        ----------
        X, y : as in ``fit``
        **kwargs : dict
            Passed to ``fit``.

        Returns
        -------
        ndarray of shape (n,), int
            +1 good, -1 defect.
        """
        return self.fit(X, y, **kwargs).predict(X)
