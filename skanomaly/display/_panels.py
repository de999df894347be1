"""The layout of displays of images: a grid of panels, their titles and outlines."""

import math

import numpy as np

from skanomaly.display._common import DEFECT_COLOR, GOOD_COLOR
from skanomaly.images import OUTLINE_COLOR, ROI_COLOR

# All lengths are in inches. The images' shape is known, so that all positions can be computed.
_FONT_SIZE = 8  # points
_LETTER = 0.065  # width of a letter
_TITLE = 0.38  # height of two lines
_MARGIN, _PANEL_GAP, _GAP = 0.12, 0.05, 0.15
_LEGEND = 0.22  # height of the line below all panels
_COLORBAR = 0.9  # width, with its ticks and label
_PANEL_AREA = 1.7**2
_MIN_LETTERS = 29  # of a title, for the longest verdict
_FIGURE_ASPECT = 1.5  # width / height of a new figure, about


def new_panels(plt, images, n_panels, n_columns, *, is_plain=False):
    """Axes (n, n_panels) of a new figure, each with the aspect ratio of a typical image.

    A plain figure has neither color bar nor legend, but room for a title above each panel.
    """
    aspect = np.median([image.shape[0] / image.shape[1] for image in images])
    title_width = _MIN_LETTERS * _LETTER
    area, gap, colorbar, legend = _PANEL_AREA, _GAP, _COLORBAR, _LEGEND
    if is_plain:
        area, gap, colorbar, legend = title_width**2, 2 * _GAP, 0, 0
    panel_width, panel_height = math.sqrt(area / aspect), math.sqrt(area * aspect)
    panel_width = max(panel_width, title_width) if is_plain else panel_width
    width = max(n_panels * (panel_width + _PANEL_GAP), title_width) + gap
    height = panel_height + _TITLE + _GAP
    if n_columns is None:
        n_columns = round(math.sqrt(len(images) * _FIGURE_ASPECT * height / width))
    n_columns = min(max(n_columns, 1), len(images))
    n_rows = math.ceil(len(images) / n_columns)
    size = np.array(
        [n_columns * width + _MARGIN + colorbar, n_rows * height + 2 * _MARGIN + legend]
    )
    figure = plt.figure(figsize=size)
    panels = np.empty((len(images), n_panels), dtype=object)
    for i, j in np.ndindex(*panels.shape):
        row, column = divmod(i, n_columns)
        left = _MARGIN + column * width + j * (panel_width + _PANEL_GAP)
        bottom = size[1] - _MARGIN - row * height - _TITLE - panel_height
        place = np.array([left, bottom, panel_width, panel_height])
        panels[i, j] = figure.add_axes(place / np.tile(size, 2), anchor="NW")
    return panels


def given_panels(ax, n_images, n_panels):
    """Axes that the user has passed, as an array (n, n_panels)."""
    panels = np.array(ax, dtype=object)
    if panels.size != n_images * n_panels:
        raise ValueError(
            f"expected {n_images * n_panels} axes for {n_images} images with {n_panels} panels "
            f"each, got {panels.size}; pass as many, or ax=None for a new figure"
        )
    return panels.reshape(n_images, n_panels)


def title_and_color(name, decision, label):
    """Two lines, the name and the verdict, or without one the label; and the color of it."""
    if decision is None and label is None:
        return name, "black"
    is_defect = label == -1 if decision is None else decision < 0
    text, color = ("defect", DEFECT_COLOR) if is_defect else ("good", GOOD_COLOR)
    if decision is None:
        return f"{name}\n{text}", color
    text += f" ({decision:+.2f})"
    if label is not None and (label == -1) != is_defect:
        text += ", false alarm" if is_defect else ", missed"
    return f"{name}\n{text}", color


def describe(panels, title, color):
    """Title and frame of one image's panels."""
    for panel in panels:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set(color=color, linewidth=1.2)
    name, *verdict = title.split("\n")
    width = sum(panel.get_position(original=True).width for panel in panels)
    width *= panels[0].figure.get_figwidth()
    n_letters = max(int(width / _LETTER), _MIN_LETTERS)
    panels[0].set_title(
        "\n".join([_shorten(name, n_letters), *verdict]),
        loc="left",
        color=color,
        fontsize=_FONT_SIZE,
    )


def _shorten(name, n_letters):
    """The name without its start if it is too long: files mostly differ at the end."""
    return name if len(name) <= n_letters else "..." + name[-max(n_letters - 3, 1) :]


_LINES = {  # around what an outline is drawn: its label, color and dashes
    "truth": ("true defect", OUTLINE_COLOR, "-"),
    "roi": ("region of interest", ROI_COLOR, "--"),
}


def draw_outline(panel, mask, kind):
    """Draw a line around the mask's regions, closed also where they touch the border."""
    _, color, dashes = _LINES[kind]
    height, width = mask.shape
    panel.contour(
        np.arange(-1, width + 1),
        np.arange(-1, height + 1),
        np.pad(mask, 1).astype(np.uint8),
        levels=[0.5],
        colors=[np.array(color) / 255],
        linestyles=[dashes],
        linewidths=1.2,
    )
    panel.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def draw_colorbar(figure, overlay, panels, *, own_figure):
    """The color bar of all panels, at the right."""
    style = {"label": "score (high = defect)", "extend": "both", "extendfrac": 0.03}
    if not own_figure:
        return figure.colorbar(overlay, ax=panels, **style)
    width, height = figure.get_size_inches()
    bottom, top = _MARGIN + _LEGEND + _GAP, height - _MARGIN - _TITLE
    place = [1 - _COLORBAR / width, bottom / height, 0.13 / width, (top - bottom) / height]
    return figure.colorbar(overlay, cax=figure.add_axes(place), **style)


def draw_legend(figure, kinds):
    """The legend of the outlines, below all panels."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    lines = [
        Line2D([], [], color=np.array(color) / 255, linestyle=dashes, label=label)
        for label, color, dashes in map(_LINES.get, kinds)
    ]
    figure.legend(
        handles=lines,
        ncols=len(lines),
        loc="lower left",
        bbox_to_anchor=(_MARGIN / width, _MARGIN / height),
        fontsize=_FONT_SIZE,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
    )
