"""ScoreMapDisplay: images beside their heat maps, all with one color scale."""

from typing import Any, Self

import numpy as np

from skanomaly.display._common import load_pyplot
from skanomaly.display._panels import (
    describe,
    draw_colorbar,
    draw_legend,
    draw_outline,
    given_panels,
    new_panels,
    title_and_color,
)
from skanomaly.display._selection import select_images, select_places, select_targets
from skanomaly.images import (
    HEAT_COLORS,
    OPACITY,
    check_images,
    check_limits,
    check_map,
    color_limits,
    heat_levels,
    image_name,
    read_image,
    read_rois,
    titles,
    to_rgb,
)
from skanomaly.utils.targets import holds_masks, read_labels
from skanomaly.utils.unwrapping import decisions_and_maps, regions_of_interest
from skanomaly.utils.validation import check_decisions

_N_PANELS = {"beside": 2, "overlay": 1}  # axes per image


class ScoreMapDisplay:
    """Images under their heat maps, in one grid and with one color scale.

    Use `from_estimator` or `from_predictions`. Each image is shown as it is and, beside it, under
    its heat map. Low scores only darken the image. All maps share one scale, so that a color means
    the same score in all of them and good images stay dark.

    Parameters
    ----------
    images : sequence of (H, W, 3) arrays, uint8
    score_maps : sequence of (H, W) arrays
        The higher, the more abnormal.
    decisions : ndarray of shape (n,) or None, default=None
        Decision scores, negative for a defect.
    labels : ndarray of shape (n,) or None, default=None
        Ground truth, +1 good and -1 defect.
    masks : sequence of (H, W) bool arrays or None, default=None
        Ground truth by pixel, drawn as an outline.
    roi : sequence of (H, W) bool arrays or None, default=None
        Regions of interest, drawn as dashed outlines.
    names : sequence of str or None, default=None
        Titles.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of Axes, shape (n, 2), or (n, 1) if only overlays are drawn
    im_ : list of n matplotlib AxesImage
        The score maps.
    colorbar_ : matplotlib Colorbar or None

    See Also
    --------
    save_score_map : One image file for each image, without matplotlib.

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

    def __init__(
        self,
        images,
        score_maps,
        *,
        decisions=None,
        labels=None,
        masks=None,
        roi=None,
        names=None,
    ):
        self.images = images
        self.score_maps = score_maps
        self.decisions = decisions
        self.labels = labels
        self.masks = masks
        self.roi = roi
        self.names = names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        names: Any = None,
        n_images: int | None = 16,
        **plot_kw: Any,
    ) -> Self:
        """Score images and draw them; their features are computed once.

        The estimator's regions of interest are outlined.

        Parameters
        ----------
        estimator : fitted detector, or a Pipeline or search around one
            It takes images.
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
        y : array of shape (n,), masks of shape (n, H, W) or a list of (H, W), or None
            Ground truth: labels, +1 good and -1 defect; or masks, True on the defect.
        names : sequence of str or None, default=None
            Titles; None: the file names, or the places in X.
        n_images : int or None, default=16
            Maximum number of images; of more, this many are scored and drawn, evenly spaced in X.
            None: all.
        **plot_kw
            Passed to `plot`.

        Returns
        -------
        display : ScoreMapDisplay

        Raises
        ------
        ValueError
            An image cannot be read, or y is neither labels of +1 and -1 nor masks of the images'
            shapes.
        NotFittedError
            The estimator is not fitted, or has no threshold.
        ImportError
            matplotlib is not installed.
        """
        load_pyplot(f"{cls.__name__}.from_estimator")
        images, names, chosen = select_images(X, names, n_images)
        decisions, maps = decisions_and_maps(estimator, images)
        return cls.from_predictions(
            images,
            maps,
            None if y is None else select_targets(y, chosen, len(X)),
            decisions=decisions,
            roi=regions_of_interest(estimator, images),
            names=names,
            n_images=None,
            **plot_kw,
        )

    @classmethod
    def from_predictions(
        cls,
        images: Any,
        score_maps: Any,
        y: Any = None,
        *,
        decisions: Any = None,
        roi: Any = None,
        names: Any = None,
        n_images: int | None = 16,
        vmin: float | None = None,
        vmax: float | None = None,
        **plot_kw: Any,
    ) -> Self:
        """Draw images under given score maps.

        Parameters
        ----------
        images : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
        score_maps : array of shape (n, H, W), or list of n arrays (H, W)
            As `skanomaly.score_map` returns them, high for a defect.
        y : array of shape (n,), masks of shape (n, H, W) or a list of (H, W), or None
            Ground truth: labels, +1 good and -1 defect; or masks, True on the defect.
        decisions : array of shape (n,) or None, default=None
            From `decision_function`: negative for a defect.
        roi : None, array of shape (H, W), or list of n arrays (H, W), default=None
            Regions of interest in the images' own pixels, one for all images or one for each; None
            in a list: the whole image.
        names : sequence of str or None, default=None
            Titles; None: the file names, or the places in `images`.
        n_images : int or None, default=16
            Maximum number of images; of more, this many are drawn, evenly spaced. None: all.
        vmin, vmax : float or None, default=None
            Scores of the first and of the last color. By default they are computed from all
            `score_maps`, drawn or not; see `plot`.
        **plot_kw
            Passed to `plot`.

        Returns
        -------
        display : ScoreMapDisplay

        Raises
        ------
        ValueError, ImportError
            As in `from_estimator`.
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
        chosen = select_places(n_images, len(images))
        rgb_images = [to_rgb(read_image(images[i], image_name(images[i], i))) for i in chosen]
        score_maps = [np.asarray(scores) for scores in score_maps]
        rois = read_rois(roi, len(images))
        rois = [rois[i] for i in chosen]
        masks = None
        if y is not None and holds_masks(y):
            masks = [None if y[i] is None else np.asarray(y[i]).astype(bool) for i in chosen]
        outlines = zip(masks or [None] * len(chosen), rois, strict=True)
        for i, rgb, (mask, inside) in zip(chosen, rgb_images, outlines, strict=True):
            check_map(rgb, score_maps[i], f"score map of {names[i]}")
            for what, one in (("mask", mask), ("roi", inside)):
                if one is not None:
                    check_map(rgb, one, f"{what} of {names[i]}")
        display = cls(
            rgb_images,
            [score_maps[i] for i in chosen],
            decisions=None if decisions is None else decisions[chosen],
            labels=None if labels is None else labels[chosen],
            masks=masks,
            roi=rois if any(one is not None for one in rois) else None,
            names=[names[i] for i in chosen],
        )
        vmin, vmax = _limits(vmin, vmax, score_maps, decisions, labels)
        return display.plot(vmin=vmin, vmax=vmax, **plot_kw)

    def plot(
        self,
        ax: Any = None,
        *,
        layout: str = "beside",
        vmin: float | None = None,
        vmax: float | None = None,
        n_columns: int | None = None,
        colorbar: bool = True,
        im_kw: dict | None = None,
    ) -> Self:
        """Draw.

        Parameters
        ----------
        ax : Axes, array of Axes, or None, default=None
            One for each panel: two for each image, image and overlay, or one with
            ``layout="overlay"``. None makes a new figure.
        layout : {"beside", "overlay"}, default="beside"
            The image with its overlay beside it, or only the overlay.
        vmin, vmax : float or None, default=None
            Scores of the first and of the last color, the same for all images. By default `vmin`
            is the median peak of the maps of images predicted (or, without decisions, labeled) as
            good, and `vmax` the median peak of the others, but at least as far above `vmin` as
            `vmin` is above a median pixel. Pass both to compare figures.
        n_columns : int or None, default=None
            Number of images in a row of a new figure.
        colorbar : bool, default=True
            Whether to draw a color bar.
        im_kw : dict or None, default=None
            Keyword arguments of `imshow` for the score maps, such as `cmap` or `alpha`.

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
        kinds = [kind for kind, given in self._outlines().items() if given is not None]
        if ax is None and kinds:
            draw_legend(self.figure_, kinds)
        return self

    def _draw(self, i, limits, im_kw):
        """Draw the panels of an image; returns the overlay."""
        from matplotlib.colors import ListedColormap

        panels, scores = self.axes_[i], self.score_maps[i]
        for panel in panels:
            panel.imshow(self.images[i])
        style = {
            "cmap": ListedColormap(HEAT_COLORS / 255, name="heat"),
            "vmin": limits[0],
            "vmax": limits[1],
            "alpha": OPACITY[heat_levels(scores, *limits)],
        }
        overlay = panels[-1].imshow(scores, **(style | im_kw))
        for kind, masks in self._outlines().items():
            if masks is not None and masks[i] is not None and masks[i].any():
                draw_outline(panels[-1], masks[i], kind)
        name = f"image {i}" if self.names is None else self.names[i]
        decision = None if self.decisions is None else self.decisions[i]
        label = None if self.labels is None else self.labels[i]
        describe(panels, *title_and_color(name, decision, label))
        return overlay

    def _outlines(self):
        return {"truth": self.masks, "roi": self.roi}


def _limits(vmin, vmax, score_maps, decisions, labels):
    """Limits of the color scale; those that are None are computed from the maps."""
    if vmin is None or vmax is None:
        verdicts = labels if decisions is None else np.where(decisions < 0, -1, 1)
        from_maps = color_limits(score_maps, verdicts)
        vmin, vmax = from_maps[0] if vmin is None else vmin, from_maps[1] if vmax is None else vmax
    check_limits(vmin, vmax)
    return vmin, vmax
