"""The way in and the way back: resize, pad, crop, and score maps in the image's own frame."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom

from skanomaly.images import RESIZE_MODES, ImageFit, upsampling

FRAMES = [(40, 40), (30, 70), (75, 31), (200, 90), (97, 251)]


def ramps(frame):
    """An image (H, W, 2) whose pixels are their own coordinates, scaled to [0, 1]."""
    y, x = np.mgrid[: frame[0], : frame[1]].astype(np.float32) / 300
    return np.dstack([y, x])


def seen_part(frame, mode):
    """Rows and columns of the image that the network sees, less a border of three pixels."""
    (rows, top, bottom), (columns, left, right) = ImageFit(64, 64, mode).axes(frame)
    y = (np.arange(frame[0]) + 0.5) * rows + top
    x = (np.arange(frame[1]) + 0.5) * columns + left
    edge_y, edge_x = 3 * max(rows, 1), 3 * max(columns, 1)
    inside_y = (y > max(top, 0) + edge_y) & (y < min(bottom, 64) - edge_y)
    return np.ix_(inside_y, (x > max(left, 0) + edge_x) & (x < min(right, 64) - edge_x))


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("frame", FRAMES)
def test_way_back_undoes_the_way_in(mode, frame):
    """A pixel's coordinates, sent in and brought back, are its own."""
    fit = ImageFit(64, 64, mode)
    image = ramps(frame)
    fitted = fit.apply(image)
    assert fitted.shape == (64, 64, 2) and fitted.dtype == np.float32
    part = seen_part(frame, mode)
    for axis in range(2):
        back = fit.to_frame(fitted[..., axis], frame, sigma=0)
        assert back.shape == frame and back.dtype == np.float32
        error = 300 * np.abs(back - image[..., axis])[part]
        # Pillow's resize itself is off by up to 0.06 pixels where it shrinks by a little.
        assert error.size > 0 and error.max() < 0.1  # pixels


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_a_hot_spot_comes_back_where_it_was(mode):
    frame = (120, 80)
    image = np.zeros((*frame, 1), np.float32)
    image[58:66, 30:38] = 1
    fitted = ImageFit(96, 96, mode).apply(image)[..., 0]
    back = ImageFit(96, 96, mode).to_frame(fitted, frame, sigma=2)
    y, x = np.mgrid[: frame[0], : frame[1]]
    center = (back * y).sum() / back.sum(), (back * x).sum() / back.sum()
    np.testing.assert_allclose(center, (61.5, 33.5), atol=0.1)


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_proportions(mode):
    """Only "stretch" changes them; "crop" sees less, "pad" adds."""
    (rows, *_), (columns, *_) = ImageFit(64, 64, mode).axes((100, 50))
    assert (rows == columns) == (mode != "stretch")
    assert (columns * 50 > 64, rows * 100 > 64) == (False, mode == "crop")


def test_pad_repeats_the_border():
    image = np.zeros((40, 20, 1), np.float32)
    image[:, -1] = 1
    fitted = ImageFit(40, 40, "pad").apply(image)[..., 0]
    assert fitted[:, :10].max() == 0 and fitted[:, 29:].min() == 1


def test_crop_keeps_the_center():
    image = np.arange(40, dtype=np.uint8).reshape(1, 40, 1).repeat(20, 0)
    fitted = ImageFit(20, 20, "crop").apply(image)
    assert np.array_equal(np.rint(fitted[0, :, 0] * 255), np.arange(10, 30))


def test_what_a_crop_left_out_takes_the_nearest_value():
    back = ImageFit(20, 20, "crop").to_frame(np.eye(20, dtype=np.float32), (20, 40), sigma=0)
    assert np.array_equal(back[:, :10], np.repeat(back[:, [10]], 10, axis=1))


def test_smoothing_is_scipys_gaussian():
    scores = np.random.default_rng(0).random((2, 7, 5), dtype=np.float32)
    smoothed = ImageFit(56, 40).smooth(scores, sigma=4)
    for one, expected in zip(smoothed, scores, strict=True):
        large = zoom(expected, 8, order=1, grid_mode=True, mode="nearest")
        np.testing.assert_allclose(one, gaussian_filter(large, 4), atol=2e-6)


def test_sigma_zero_on_the_grid_itself_changes_nothing():
    scores = np.random.default_rng(0).random((7, 5), dtype=np.float32)
    assert np.array_equal(ImageFit(7, 5).to_frame(scores, (7, 5), sigma=0), scores)


@pytest.mark.parametrize("n_to", [1, 2, 5, 14, 29])
def test_upsampling_keeps_constants_and_its_range(n_to):
    weights = upsampling(5, n_to)
    assert weights.shape == (n_to, 5) and weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)


def test_size_from_a_number_or_a_pair():
    assert ImageFit.from_size(64, "pad") == ImageFit(64, 64, "pad")
    assert ImageFit.from_size((64, 32), "stretch") == ImageFit(64, 32)


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("frame", [*FRAMES, (5, 200), (64, 64)])
@pytest.mark.parametrize("grid", [(8, 8), (7, 13), (1, 64)])
def test_a_pixel_lies_in_the_cell_that_its_center_lies_in(mode, frame, grid):
    """Pixel by pixel, by the line from the image to the input."""
    fit = ImageFit(64, 64, mode)
    inside = np.zeros(frame, bool)
    for axis in range(2):
        scale, first, _ = fit.axes(frame)[axis]
        for place in range(frame[axis]):
            cell = ((place + 0.5) * scale + first) / (64 / grid[axis])
            if abs(cell - round(cell)) < 1e-6:
                continue  # on the line between two
            pixel, at = [0, 0], int(np.clip(np.floor(cell), 0, grid[axis] - 1))
            pixel[axis] = place
            assert fit.cell_at(grid, frame, pixel)[axis] == at
            box = fit.cell_box(grid, frame, (at, 0) if axis == 0 else (0, at))
            is_seen = 0 < cell < grid[axis]
            assert (box[axis] <= place < box[axis + 2]) == is_seen
    for cell in np.ndindex(*grid):
        top, left, bottom, right = fit.cell_box(grid, frame, cell)
        assert 0 <= top < bottom <= frame[0] and 0 <= left < right <= frame[1]
        inside[top:bottom, left:right] = True
    assert inside.all() == (mode != "crop" or frame[0] == frame[1])


def test_cells_in_padding_are_the_border_of_the_image():
    fit = ImageFit(64, 64, "pad")  # a frame of 16 x 32 fills the rows 16 to 47 of the input
    assert [fit.cell_box((8, 8), (16, 32), (row, 0)) for row in (0, 1, 2, 5, 6, 7)] == [
        (0, 0, 1, 4), (0, 0, 1, 4), (0, 0, 4, 4), (12, 0, 16, 4), (15, 0, 16, 4), (15, 0, 16, 4),
    ]  # fmt: skip
    assert fit.cell_size((8, 8), (16, 32)) == (4, 4)
