"""Windows over an image, each of which gets a score, and the way from their scores to a map."""

from dataclasses import dataclass

import numpy as np

from skanomaly.images import linear_weights

CELL = 4  # pixels, about, of a side of the map's cells


@dataclass(frozen=True)
class WindowGrid:
    """Square windows that cover an image.

    Parameters
    ----------
    side : int
        Of a window, in pixels.
    height, width : int
        Of the image, at least a window's side.
    stride : int
        Pixels from one window to the next. The last ones end with the image, less than a stride
        after those before.
    """

    side: int
    height: int
    width: int
    stride: int

    @property
    def shape(self):
        """Windows (rows, columns)."""
        return tuple(len(starts) for starts in self.starts())

    def starts(self):
        """First rows of the windows, and first columns."""
        lasts = self.height - self.side, self.width - self.side
        return tuple(np.append(np.arange(0, last, self.stride), last) for last in lasts)

    def centers(self):
        """Rows and columns of the windows' middle pixels."""
        return tuple(starts + self.side // 2 for starts in self.starts())

    def cut(self, image):
        """All windows of an image (H, W, C), row by row: (rows * columns, side, side, C)."""
        rows, columns = self.starts()
        return np.stack(
            [image[y : y + self.side, x : x + self.side] for y in rows for x in columns]
        )

    def interpolate(self, scores):
        """Scores (rows, columns) of the windows, bilinear between their centers.

        Returns
        -------
        ndarray of shape (ceil(H / 4), ceil(W / 4))
            A cell nearer to the border than any window's center has the nearest one's score.
        """
        lengths = self.height, self.width
        for axis, (starts, length) in enumerate(zip(self.starts(), lengths, strict=True)):
            n_cells = -(-length // CELL)
            centers = (np.arange(n_cells) + 0.5) * (length / n_cells)  # of the cells, in pixels
            places = np.interp(centers, starts + self.side / 2, np.arange(len(starts)))
            weights = linear_weights(places, len(starts))  # (cells, windows)
            scores = np.moveaxis(np.tensordot(weights, scores, axes=(1, axis)), 0, axis)
        return scores
