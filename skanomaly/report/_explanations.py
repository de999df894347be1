"""Explainer: the good patches that hot spots were compared with, as records for Report.add."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from skanomaly.feature_maps import FeatureMaps
from skanomaly.images import check_images, titles
from skanomaly.utils.unwrapping import check_nearest_good, innermost, places_of_good_images


class Explainer:
    """The good patches nearest to the hot spots of images, with the images they come from.

    Parameters
    ----------
    estimator : fitted PatchCore or SPADE, or a Pipeline or search around one
    good : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
        The X of the estimator's fit, in the same order; the estimator does not keep images.
    good_names : sequence of str or None, default=None
        Names of the good images; None: folder and file name, or their places.
    n_peaks : int, default=1
        Maximum number of hot spots per image.

    Raises
    ------
    TypeError
        The detector does not keep good patches.

    See Also
    --------
    skanomaly.nearest_good : The same records without the good images.

    Examples
    --------
    >>> from skanomaly import FilterBank, PatchCore, Pipeline
    >>> from skanomaly.datasets import make_textures
    >>> from skanomaly.report import Explainer
    >>> good = make_textures(6, size=(64, 64), random_state=0)
    >>> detector = PatchCore(coreset_ratio=1.0, random_state=0)
    >>> pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", detector)]).fit(good)
    >>> first, second = Explainer(pipe, good, good_names="abcdef").explain(good[:2])
    >>> first[0]["good_name"], second[0]["good_name"]  # each is nearest to itself
    ('a', 'b')
    """

    def __init__(
        self,
        estimator: Any,
        good: Any,
        *,
        good_names: Sequence[str] | None = None,
        n_peaks: int = 1,
    ):
        self.detector = check_nearest_good(estimator)
        self.estimator = estimator
        self.good = check_images(good)
        self.good_names = titles(self.good, good_names)
        self.n_peaks = n_peaks

    def explain(self, X: Any, chosen: Sequence[int] | None = None) -> list[list[dict]]:
        """Records of hot spots, as the argument ``nearest_good`` of ``Report.add`` expects them.

        Parameters
        ----------
        X : list of paths, arrays or PIL images, array of shape (n, H, W[, C]), or FeatureMaps
            Images, or their features as the steps before the detector return them: features at
            hand are not computed again.
        chosen : sequence of int or None, default=None
            Places in X of the images to explain; None: all.

        Returns
        -------
        list of n lists of dict
            For each image its hot spots, from the highest peak to the lowest; empty for images
            that are not chosen. The entries are those of :func:`skanomaly.nearest_good`, and
            ``"good"`` and ``"good_name"``.

        Raises
        ------
        ValueError
            An image cannot be read, or the good images are not the X of the estimator's fit.
        """
        explanations: list[list] = [[] for _ in range(len(X))]
        chosen = range(len(X)) if chosen is None else chosen
        if len(chosen) == 0:
            return explanations
        if isinstance(X, FeatureMaps):
            features = X[np.asarray(chosen)]
        else:
            _, features = innermost(self.estimator, [X[i] for i in chosen])
        for spot in self.detector.nearest_good(features, n_peaks=self.n_peaks):
            explanations[chosen[spot["image"]]].append(spot | self._good_entries(spot))
        return explanations

    def _good_entries(self, spot):
        """The good image with the patch nearest to a hot spot: its place, itself, its name."""
        place = spot["good_image"]
        for places in places_of_good_images(self.estimator):
            place = int(places[place])
        if place >= len(self.good):
            raise ValueError(
                f"expected the good image of place {place}, got {len(self.good)} images as "
                "good; pass the X of the estimator's fit, in the same order"
            )
        return {"good_image": place, "good": self.good[place], "good_name": self.good_names[place]}
