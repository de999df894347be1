"""Further good images for a fitted detector, and images that it is to forget."""

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skanomaly.utils.memory_budget import check_memory
from skanomaly.utils.targets import good_images
from skanomaly.utils.validation import fitting


class UpdatesMixin:
    """Optional hooks of BaseDetector: learning on, and forgetting.

    - ``_partial_fit(X)`` learns from FeatureMaps of further good images. ``learned_from_`` has
      entries for all images of the call already, after those of the calls before.
    - ``_forget(images, places, X)`` makes as if some images had never been given: their numbers
      (k,), their places (k,) among the images learned from, and their FeatureMaps, or None where
      the user gave none.
    - ``_update_offset(X)`` sets ``offset_`` after either; X is None after ``_forget``.
    - ``_forecast_update(layer_shapes, n_before, n_new)`` returns the bytes that ``_partial_fit``
      holds, by what they are for; by default those of a fit of all images.
    """

    # Learned attributes that the hooks replace, never change in place: they are not copied first.
    _replaced_by_updates: tuple[str, ...] = ()

    @available_if(lambda self: hasattr(self, "_partial_fit"))
    @fitting(incremental=True)
    def partial_fit(self, X, y=None):
        """Learn from further good images, in addition to those before.

        Parameters
        ----------
        X, y : as in ``fit``
            The images are numbered on after those before, those that y marks as defects counted.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            As in ``fit``; or the features differ in kind from those before. The detector is then
            as it was.
        MemoryLimitError
            It would not fit into ``memory_limit``.

        Notes
        -----
        The first call is a fit. After any other one ``offset_`` is: of PatchCore, what it was, as
        no image becomes more abnormal by more rows; of SPADE, that of a fit on all images; of
        other detectors, that of the images of this call alone, the others being gone: let the last
        call see enough of them. A
        :class:`~skanomaly.model_selection.HeldOutThreshold` has an ``update`` of its own.

        The learned state is copied, so that a call that fails changes nothing.
        """
        if not hasattr(self, "layer_shapes_"):
            return self.fit(X, y)
        maps = self._check_X(X, reset=False)
        is_good = good_images(y, len(maps))
        maps = maps[is_good]
        self._check_memory_of_update(maps)
        self.learned_from_ = np.concatenate([self.learned_from_, is_good])
        self._partial_fit(maps)
        self.fit_digest_ = None  # it would depend on more than this call
        self._update_offset(maps)
        return self

    @available_if(lambda self: hasattr(self, "_forget"))
    @fitting(incremental=True)
    def forget(self, images, X=None):
        """Forget some of the images that were learned from.

        Parameters
        ----------
        images : array-like of shape (k,), int
            Their numbers: places in the X of ``fit``, and on through those of ``partial_fit``,
            images that were left out as defects counted. No other image is numbered anew.
        X : FeatureMaps, or array of shape (k, h, w, d) or (k, d), default=None
            Their features, in the same order; for a detector that keeps no images, PaDiM.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            An image is named twice or was not learned from, too few would be left, or X is needed
            and missing or not what was learned from. The detector is then as it was.

        Notes
        -----
        SPADE and PaDiM are then what a fit without these images would give, up to the rounding of
        sums, and the layers' scales, which stay those of the first fit. Of PatchCore the images'
        rows leave the bank; patches of other images that they stood for are not brought back.
        ``offset_`` becomes that of a fit on the others for SPADE, and stays for the others.
        """
        check_is_fitted(self)
        images, maps = np.asarray(images), None
        known = np.flatnonzero(self.learned_from_)
        _check_numbers(images, known)
        if X is not None:
            maps = self._check_X(X, reset=False)
            if len(maps) != len(images):
                raise ValueError(
                    f"expected the features of the {len(images)} images to forget, in their order, "
                    f"got n_samples={len(maps)}"
                )
        self.learned_from_ = self.learned_from_.copy()
        self.learned_from_[images] = False
        self._forget(images, np.searchsorted(known, images), maps)
        self.fit_digest_ = None
        self._update_offset(None)
        return self

    def _update_offset(self, X):
        """Set ``offset_`` after ``_partial_fit`` of X, or after ``_forget``, where X is None."""
        if X is not None:
            self._set_offset(X)

    def _forecast_update(self, layer_shapes, n_before, n_new):
        """Bytes that ``_partial_fit`` holds at its widest beside X, by what they are for."""
        return self._forecast(layer_shapes, n_before + n_new)

    def _check_memory_of_update(self, X):
        """Refuse an update that memory_limit does not allow, before anything is computed."""
        if "memory_limit" in self.get_params(deep=False):
            counts = int(self.learned_from_.sum()), len(X)
            needs = {"features": X.nbytes, **self._forecast_update(X.layer_shapes, *counts)}
            check_memory(needs, self.memory_limit, self._memory_advice)


def _check_numbers(images, known):
    """Raise ValueError unless the numbers are those of some, but not all, images learned from."""
    if images.ndim != 1 or len(images) == 0 or images.dtype.kind not in "iu":
        raise ValueError(
            f"expected numbers of images, an array of int of shape (k,), got {images.dtype} of "
            f"shape {images.shape}; numbers are places in the X of fit"
        )
    if len(np.unique(images)) < len(images):
        raise ValueError(f"expected each image once, got {images.tolist()}")
    unknown = np.setdiff1d(images, known)
    if len(unknown):
        raise ValueError(
            f"expected numbers of images that were learned from, got {unknown[:10].tolist()}, "
            "which were left out as defects, forgotten before, or never given"
        )
    if len(images) == len(known):
        raise ValueError(
            f"expected at least one image to be left, got all {len(known)}; fit the detector anew "
            "on other images"
        )
