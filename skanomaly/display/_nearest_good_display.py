"""NearestGoodDisplay: hot spots beside the good patches nearest to them."""

from typing import Any, Self

from skanomaly.display._common import DEFECT_COLOR, GOOD_COLOR, load_pyplot
from skanomaly.display._panels import describe, given_panels, new_panels
from skanomaly.display._selection import select_images
from skanomaly.images import check_images, crop_around, image_name, read_image, titles, to_rgb
from skanomaly.pipeline import nearest_good

_SIDES = ("top", "left", "bottom", "right")
_WAY_OUT = {
    "image": "pass the images that the hot spots were found in, in the same order",
    "good image": "pass the X of the estimator's fit, in the same order",
}


class NearestGoodDisplay:
    """Crops of images around their hot spots, each beside the good patch nearest to it.

    Use `from_estimator` or `from_predictions`. The left panel shows the hot spot, the right one
    the place in a training image whose features are most similar. A rectangle marks the patch
    itself. The difference between the two explains the score; if there is no visible difference,
    the score may be a false alarm.

    Parameters
    ----------
    crops : sequence of pairs of (h, w, 3) arrays, uint8
        Around the hot spot, and around the good patch.
    boxes : sequence of pairs of tuples (top, left, bottom, right)
        The patches in the crops' own pixels; bottom and right are exclusive.
    texts : sequence of pairs of str
        Titles of two lines: the name of the image, and the score or the distance.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of Axes, shape (n, 2)

    See Also
    --------
    skanomaly.nearest_good : The records that are drawn.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from skanomaly import FilterBank, PatchCore, Pipeline
    >>> from skanomaly.datasets import make_defects, make_textures
    >>> from skanomaly.display import NearestGoodDisplay
    >>> good = make_textures(6, size=(64, 64), random_state=0)
    >>> defective, masks, kinds = make_defects(good[:1], random_state=0)
    >>> detector = PatchCore(random_state=0)
    >>> pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", detector)]).fit(good)
    >>> display = NearestGoodDisplay.from_estimator(pipe, defective, good)
    >>> display.axes_.shape
    (1, 2)
    >>> plt.close(display.figure_)
    """

    def __init__(self, crops, boxes, texts):
        self.crops = crops
        self.boxes = boxes
        self.texts = texts

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        good: Any,
        *,
        n_peaks: int = 1,
        names: Any = None,
        good_names: Any = None,
        n_images: int | None = 16,
        context: float = 3,
        **plot_kw: Any,
    ) -> Self:
        """Find hot spots and their nearest good patches, and draw them.

        Parameters
        ----------
        estimator : fitted PatchCore or SPADE, or a Pipeline or search around one
            It takes images.
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
        good : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
            The X of the estimator's fit, in the same order; the estimator does not keep images.
        n_peaks : int, default=1
            Maximum number of hot spots per image.
        names, good_names : sequence of str or None, default=None
            Names of the images of X and of `good` in the titles; None: the file names, or their
            places.
        n_images : int or None, default=16
            Maximum number of images; of more, this many are used, evenly spaced in X. None: all.
        context : float, default=3
            Width of the surroundings shown on each side of a patch, in multiples of its longer
            side.
        **plot_kw
            Passed to `plot`.

        Returns
        -------
        display : NearestGoodDisplay

        Raises
        ------
        ValueError
            An image cannot be read, or `good` is not the X of the estimator's fit.
        TypeError
            The detector does not keep good patches.
        ImportError
            matplotlib is not installed.
        """
        load_pyplot(f"{cls.__name__}.from_estimator")
        images, names, _ = select_images(X, names, n_images)
        return cls.from_predictions(
            images,
            good,
            nearest_good(estimator, images, n_peaks=n_peaks),
            names=names,
            good_names=good_names,
            context=context,
            **plot_kw,
        )

    @classmethod
    def from_predictions(
        cls,
        images: Any,
        good: Any,
        spots: Any,
        *,
        names: Any = None,
        good_names: Any = None,
        context: float = 3,
        **plot_kw: Any,
    ) -> Self:
        """Draw given hot spots.

        Parameters
        ----------
        images, good, names, good_names, context
            As in `from_estimator`.
        spots : list of dict, or DataFrame
            As `skanomaly.nearest_good` returns them for `images`; all are drawn.
        **plot_kw
            Passed to `plot`.

        Returns
        -------
        display : NearestGoodDisplay

        Raises
        ------
        ValueError, ImportError
            As in `from_estimator`; or there are no spots.
        """
        load_pyplot(f"{cls.__name__}.from_predictions")
        images, good = check_images(images), check_images(good)
        spots = spots.to_dict("records") if hasattr(spots, "to_dict") else spots
        if len(spots) == 0:
            raise ValueError("expected at least one hot spot to draw, got none")
        if not context >= 0:
            raise ValueError(f"context must be at least 0, got {context!r}")
        names, good_names = titles(images, names), titles(good, good_names)
        crops, boxes, texts = [], [], []
        for spot in spots:
            box = [spot[side] for side in _SIDES]
            good_box = [spot[f"good_{side}"] for side in _SIDES]
            pair = (
                _crop(images, spot["image"], box, context, "image"),
                _crop(good, spot["good_image"], good_box, context, "good image"),
            )
            crops.append(tuple(crop for crop, _ in pair))
            boxes.append(tuple(place for _, place in pair))
            left = f"{names[spot['image']]}\nhot spot, score {spot['peak']:.2f}"
            right = good_names[spot["good_image"]]
            texts.append((left, f"{right}\nnearest good, distance {spot['distance']:.2f}"))
        return cls(crops, boxes, texts).plot(**plot_kw)

    def plot(
        self, ax: Any = None, *, n_columns: int | None = None, im_kw: dict | None = None
    ) -> Self:
        """Draw.

        Parameters
        ----------
        ax : array of Axes or None, default=None
            Two for each hot spot. None makes a new figure.
        n_columns : int or None, default=None
            Number of pairs in a row of a new figure.
        im_kw : dict or None, default=None
            Keyword arguments of `imshow`, such as `interpolation`.

        Returns
        -------
        self : NearestGoodDisplay
        """
        plt = load_pyplot(f"{type(self).__name__}.plot")
        from matplotlib.patches import Rectangle
        from matplotlib.patheffects import withStroke

        if ax is None:
            lefts = [left for left, _ in self.crops]
            self.axes_ = new_panels(plt, lefts, 2, n_columns, is_plain=True)
        else:
            self.axes_ = given_panels(ax, len(self.crops), 2)
        self.figure_ = self.axes_[0, 0].figure
        for panels, *pairs in zip(self.axes_, self.crops, self.boxes, self.texts, strict=True):
            colors = DEFECT_COLOR, GOOD_COLOR
            for panel, crop, box, text, color in zip(panels, *pairs, colors, strict=True):
                panel.imshow(crop, **(im_kw or {}))
                describe([panel], text, color)
                top, left, bottom, right = box
                corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
                frame = Rectangle(corner, *size, fill=False, color=color, linewidth=1.5)
                frame.set_path_effects([withStroke(linewidth=3, foreground="white")])
                panel.add_patch(frame)
        return self


def _crop(images, i, box, context, kind):
    """(h, w, 3) around a box of an image, and the box in it."""
    if not 0 <= i < len(images):
        raise ValueError(
            f"expected the {kind} of place {i}, got {len(images)} images; {_WAY_OUT[kind]}"
        )
    rgb = to_rgb(read_image(images[i], image_name(images[i], i)))
    frame = rgb.shape[:2]
    bottom, right = box[2:]
    if bottom > frame[0] or right > frame[1]:
        raise ValueError(
            f"{kind} {i}: expected at least {bottom} x {right} pixels, where the patch ends, "
            f"got {frame[0]} x {frame[1]}; {_WAY_OUT[kind]}"
        )
    return crop_around(rgb, box, context)
