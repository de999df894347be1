"""Hooks of detectors whose fit can be put together from parts of the images."""

import numpy as np


class PartsMixin:
    """Optional hooks of BaseDetector: a plan, what each part teaches, and one fit of them all.

    The parts may be learned in other processes, in any order, and more than once. A detector that
    writes the hooks has ``_fit`` call ``_fit_as_one_part``, so that one process runs the same code.
    """

    # A plan is best made from so many images, evenly spaced among all.
    _n_plan_images = 2
    # Whether it selects rows, which it can also do among those of all parts at once, by the hooks
    # from _project_part on.
    _selects_rows = False
    # What a detector without the hooks is, in a message.
    _why_not_in_parts = "it learns from all images at once; use PatchCore or PaDiM"

    def _plan_parts(self, X, n_images):
        """Draw all that is random, and set what all parts share.

        Parameters
        ----------
        X : FeatureMaps of shape (b, D)
            A few of the images: those at ``_plan_places``, or two.
        n_images : int
            How many there are in all.
        """
        raise self._not_in_parts()

    def _learn_part(self, X, first):
        """What some of the images teach; the detector stays as it is.

        Parameters
        ----------
        X : FeatureMaps of shape (b, D)
            Consecutive images.
        first : int
            Number of the first one among all.

        Returns
        -------
        dict of str to ndarray, number, str or None
        """
        raise self._not_in_parts()

    def _join_parts(self, states):
        """One state of those of consecutive parts, in their order, which stay as they are."""
        raise self._not_in_parts()

    def _fit_from(self, state):
        """Set the fitted attributes, from the state of all images, which stays as it is."""
        raise self._not_in_parts()

    def _project_part(self, X, first):
        """The rows of some consecutive images that may be selected.

        Returns
        -------
        Projected
            With ``rows`` (m, k), float32, by whose distances they are selected, and ``frames``
            (b, 2) of the images.
        """
        raise self._not_in_parts()

    def _n_selected_and_start(self, n_rows, n_images):
        """How many of n_rows rows of all parts, of n_images images, are selected; the first one."""
        raise self._not_in_parts()

    def _images_of(self, projected, places):
        """Places (n,) in a part, ascending, of the images of the rows at some places (m,)."""
        raise self._not_in_parts()

    def _gather_part(self, X, images, first, projected, places):
        """State of a part of which the rows at some places (m,) of its Projected are selected.

        ``X`` are FeatureMaps of the images at the places ``images`` (n,) in the part, which begins
        with number ``first`` among all; None where no row is selected.
        """
        raise self._not_in_parts()

    def _put_together(self, chosen, radius):
        """One state, from [places in the order of selection (m,), state] of each part.

        Every row lies within the ``radius`` of a selected one.
        """
        raise self._not_in_parts()

    def _plan_places(self, n_images):
        """Places (b,) of the images that a plan is made from."""
        return np.linspace(0, n_images - 1, min(self._n_plan_images, n_images)).astype(int)

    def _begin_plan(self, X, n_images):
        """Set what every fit sets, as if all images were good."""
        self._check_X(X, reset=True)
        self.learned_from_ = np.ones(n_images, dtype=bool)
        self.fit_digest_ = None

    def _fit_as_one_part(self, X):
        learned_from = self.learned_from_
        self._plan_parts(X[self._plan_places(len(X))], len(X))
        self.learned_from_ = learned_from
        self._fit_from(self._learn_part(X, 0))

    def _not_in_parts(self):
        return NotImplementedError(
            f"{type(self).__name__} cannot be fitted in parts: {self._why_not_in_parts}"
        )
