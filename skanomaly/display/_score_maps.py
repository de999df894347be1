"""ScoreMapDisplay: images beside their score maps, all on one colour scale."""

import numpy as np

from skanomaly._heat_maps import (
    HEAT_COLOURS,
    OPACITY,
    check_limits,
    check_map,
    colour_limits,
    heat_levels,
    to_rgb,
)
from skanomaly._images import check_images, image_name, read_image, titles
from skanomaly._validation import check_decisions, holds_masks, read_labels
from skanomaly.display._common import load_pyplot
from skanomaly.display._panels import (
    describe,
    draw_colorbar,
    draw_legend,
    draw_outline,
    given_panels,
    new_panels,
    title_and_colour,
)
from skanomaly.display._selection import choose, chosen_images, pick
from skanomaly.pipeline import score_map

_N_PANELS = {"beside": 2, "overlay": 1}  # axes per image


class ScoreMapDisplay:
    """Images with their score maps on top, in one grid and on one colour scale.

    Use `from_estimator` or `from_predictions`. Every image has its place: the image itself and
    beside it the image under its score map. Low scores leave the image visible, only darker. All
    maps share one scale, so a colour means the same score everywhere and good images stay dark.

    Parameters
    ----------
    images : sequence of (H, W, 3) arrays, uint8
    score_maps : sequence of (H, W) arrays
        The higher, the more abnormal.
    decisions : ndarray of shape (n,) or None, default=None
        Decision scores; negative means the verdict is defect.
    labels : ndarray of shape (n,) or None, default=None
        The truth, +1 good, -1 defect.
    masks : sequence of (H, W) bool arrays or None, default=None
        The truth by pixel, drawn as an outline.
    names : sequence of str or None, default=None
        Titles.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of Axes, shape (n, 2), or (n, 1) where only overlays are drawn
    im_ : list of n matplotlib AxesImage
        The score maps.
    colorbar_ : matplotlib Colorbar or None

    See Also
    --------
    save_score_map : One picture file per image, without matplotlib.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from skanomaly.display import ScoreMapDisplay
    >>> images = np.zeros((2, 16, 16), dtype=np.uint8)
    >>> maps = np.ones((2, 16, 16))
    >>> maps[1, 4:8, 4:8] = 5
    >>> display = ScoreMapDisplay.from_predictions(images, maps, [1, -1], decisions=[0.5, -2])
    >>> display.axes_[1, 0].get_title(loc="left")
    'image 1\\ndefect (-2.00)'
    >>> plt.close(display.figure_)
    """

    def __init__(self, images, score_maps, *, decisions=None, labels=None, masks=None, names=None):
        self.images = images
        self.score_maps = score_maps
        self.decisions = decisions
        self.labels = labels
        self.masks = masks
        self.names = names

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, names=None, n_images=16, **plot_kw):
        """Score images and draw them.

        Parameters
        ----------
        estimator : fitted detector, or a Pipeline or search around one, that takes images
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
        y : array of shape (n,), masks of shape (n, H, W) or a list of (H, W), or None
            The truth: labels +1 good, -1 defect; or masks, True on the defect.
        names : sequence of str or None, default=None
            Titles; None: the file names, or the places in X.
        n_images : int or None, default=16
            Of more images than this, so many are scored and drawn, evenly spaced in X from the
            first to the last; None: all.
        **plot_kw
            Passed to `plot`.

        Returns
        -------
        display : ScoreMapDisplay

        Raises
        ------
        ValueError
            An image cannot be read, or y is neither labels of +1 and -1 nor masks of the images'
            sizes.
        ImportError
            matplotlib is not there.
        """
        load_pyplot(f"{cls.__name__}.from_estimator")
        images, names, chosen = chosen_images(X, names, n_images)
        return cls.from_predictions(
            images,
            score_map(estimator, images),
            None if y is None else pick(y, chosen, len(X)),
            decisions=estimator.decision_function(images),
            names=names,
            n_images=None,
            **plot_kw,
        )

    @classmethod
    def from_predictions(
        cls,
        images,
        score_maps,
        y=None,
        *,
        decisions=None,
        names=None,
        n_images=16,
        vmin=None,
        vmax=None,
        **plot_kw,
    ):
        """Draw images with score maps at hand.

        Parameters
        ----------
        images : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
        score_maps : array of shape (n, H, W), or list of n arrays (H, W)
            As `skanomaly.score_map` answers them, high for a defect.
        y : array of shape (n,), masks of shape (n, H, W) or a list of (H, W), or None
            The truth: labels +1 good, -1 defect; or masks, True on the defect.
        decisions : array of shape (n,) or None, default=None
            From `decision_function`: negative for a defect.
        names : sequence of str or None, default=None
            Titles; None: the file names, or the places in `images`.
        n_images : int or None, default=16
            Of more images than this, so many are drawn, evenly spaced from the first to the
            last; None: all.
        vmin, vmax : float or None, default=None
            Scores of the first and of the last colour. By default they are taken from all
            `score_maps`, drawn or not; see `plot`.
        **plot_kw
            Passed to `plot`.

        Returns
        -------
        display : ScoreMapDisplay

        Raises
        ------
        ValueError, ImportError
            As `from_estimator`.
        """
        load_pyplot(f"{cls.__name__}.from_predictions")
        images = check_images(images)
        if len(score_maps) != len(images):
            raise ValueError(
                f"expected one score map per image, got {len(score_maps)} for {len(images)} images"
            )
        names = titles(images, names)
        labels = read_labels(y, len(images))
        if decisions is not None:
            decisions = check_decisions(decisions, len(images))
        chosen = choose(n_images, len(images))
        pictures = [to_rgb(read_image(images[i], image_name(images[i], i))) for i in chosen]
        score_maps = [np.asarray(scores) for scores in score_maps]
        masks = None
        if y is not None and holds_masks(y):
            masks = [None if y[i] is None else np.asarray(y[i]).astype(bool) for i in chosen]
        for i, picture, mask in zip(chosen, pictures, masks or [None] * len(chosen), strict=True):
            check_map(picture, score_maps[i], f"score map of {names[i]}")
            if mask is not None:
                check_map(picture, mask, f"mask of {names[i]}")
        display = cls(
            pictures,
            [score_maps[i] for i in chosen],
            decisions=None if decisions is None else decisions[chosen],
            labels=None if labels is None else labels[chosen],
            masks=masks,
            names=[names[i] for i in chosen],
        )
        vmin, vmax = _limits(vmin, vmax, score_maps, decisions, labels)
        return display.plot(vmin=vmin, vmax=vmax, **plot_kw)

    def plot(
        self,
        ax=None,
        *,
        layout="beside",
        vmin=None,
        vmax=None,
        n_columns=None,
        colorbar=True,
        im_kw=None,
    ):
        """Draw.

        Parameters
        ----------
        ax : Axes, array of Axes, or None, default=None
            One per panel: two for each image, image and overlay, or one with
            ``layout="overlay"``. None makes a new figure.
        layout : {"beside", "overlay"}, default="beside"
            The image with its overlay beside it, or the overlay alone.
        vmin, vmax : float or None, default=None
            Scores of the first and of the last colour, for all images alike. By default `vmin` is
            the median peak of the maps of images with the verdict (or else the label) good, and
            `vmax` the median peak of the others, but at least as far above `vmin` as `vmin` is
            above a typical pixel. Pass both to compare one figure with another.
        n_columns : int or None, default=None
            Images in a row of a new figure.
        colorbar : bool, default=True
        im_kw : dict or None, default=None
            Keywords for the `imshow` of the score maps, such as `cmap` or `alpha`.

        Returns
        -------
        self : ScoreMapDisplay
        """
        plt = load_pyplot(f"{type(self).__name__}.plot")
        if layout not in _N_PANELS:
            raise ValueError(f"layout must be one of {sorted(_N_PANELS)}, got {layout!r}")
        n_panels = _N_PANELS[layout]
        if ax is None:
            self.axes_ = new_panels(plt, self.images, n_panels, n_columns)
        else:
            self.axes_ = given_panels(ax, len(self.images), n_panels)
        self.figure_ = self.axes_[0, 0].figure
        limits = _limits(vmin, vmax, self.score_maps, self.decisions, self.labels)
        self.im_ = [self._draw(i, limits, im_kw or {}) for i in range(len(self.images))]
        self.colorbar_ = None
        if colorbar:
            self.colorbar_ = draw_colorbar(
                self.figure_, self.im_[0], self.axes_, own_figure=ax is None
            )
        if ax is None and self.masks is not None:
            draw_legend(self.figure_)
        return self

    def _draw(self, i, limits, im_kw):
        """One image's panels; answers the overlay."""
        from matplotlib.colors import ListedColormap

        panels, scores = self.axes_[i], self.score_maps[i]
        for panel in panels:
            panel.imshow(self.images[i])
        style = {
            "cmap": ListedColormap(HEAT_COLOURS / 255, name="heat"),
            "vmin": limits[0],
            "vmax": limits[1],
            "alpha": OPACITY[heat_levels(scores, *limits)],
        }
        overlay = panels[-1].imshow(scores, **(style | im_kw))
        if self.masks is not None and self.masks[i] is not None and self.masks[i].any():
            draw_outline(panels[-1], self.masks[i])
        name = f"image {i}" if self.names is None else self.names[i]
        decision = None if self.decisions is None else self.decisions[i]
        label = None if self.labels is None else self.labels[i]
        describe(panels, *title_and_colour(name, decision, label))
        return overlay


def _limits(vmin, vmax, score_maps, decisions, labels):
    """Limits of the colour scale, those not given taken from the maps."""
    if vmin is None or vmax is None:
        verdicts = labels if decisions is None else np.where(decisions < 0, -1, 1)
        from_maps = colour_limits(score_maps, verdicts)
        vmin, vmax = from_maps[0] if vmin is None else vmin, from_maps[1] if vmax is None else vmax
    check_limits(vmin, vmax)
    return vmin, vmax
