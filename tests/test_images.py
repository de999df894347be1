"""Reading images: every kind of file and array, and clear errors for everything else."""

import numpy as np
import pytest
from PIL import Image

from skanomaly.exceptions import ImageError, MissingImageError
from skanomaly.images import (
    ImageFit,
    check_images,
    load_batches,
    read_image,
    to_channels,
)


@pytest.fixture
def gray():
    return np.random.default_rng(0).integers(0, 256, (12, 10), dtype=np.uint8)


@pytest.fixture
def color():
    return np.random.default_rng(1).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("as_path", [str, lambda p: p], ids=["str", "Path"])
def test_png_is_read_to_the_bit(tmp_path, color, as_path):
    path = saved(tmp_path, Image.fromarray(color), "a.png")
    assert np.array_equal(read_image(as_path(path)), color)


def test_gray_has_one_channel(tmp_path, gray):
    assert np.array_equal(read_image(saved(tmp_path, Image.fromarray(gray), "a.png"))[..., 0], gray)


def test_16_bits_keep_their_range(tmp_path):
    values = np.linspace(0, 65535, 120).astype(np.uint16).reshape(12, 10)
    image = read_image(saved(tmp_path, Image.fromarray(values), "a.png"))
    assert image.dtype == np.uint16 and np.array_equal(image[..., 0], values)
    fitted = ImageFit(12, 10).apply(image)
    np.testing.assert_allclose(fitted[..., 0], values / 65535, atol=1e-6)


def test_float_tiff_in_unit_range(tmp_path):
    values = np.random.default_rng(0).random((12, 10), dtype=np.float32)
    assert np.array_equal(
        read_image(saved(tmp_path, Image.fromarray(values), "a.tif"))[..., 0], values
    )


def test_palette_becomes_rgb(tmp_path, color):
    palette = Image.fromarray(color).quantize(16)
    image = read_image(saved(tmp_path, palette, "a.png"))
    assert np.array_equal(image, np.asarray(palette.convert("RGB")))


def test_palette_with_transparency_becomes_rgb(tmp_path, color):
    palette = Image.fromarray(color).quantize(16)
    path = saved(tmp_path, palette, "a.png", transparency=b"\x00\x80" + b"\xff" * 14)
    assert read_image(path).shape == (12, 10, 3)


def test_cmyk_jpeg_becomes_rgb(tmp_path, color):
    path = saved(tmp_path, Image.fromarray(color).convert("CMYK"), "a.jpg")
    image = read_image(path)
    assert image.shape == (12, 10, 3) and image.dtype == np.uint8


def test_an_opaque_alpha_channel_is_dropped(tmp_path, color):
    rgba = np.dstack([color, np.full((12, 10), 255, np.uint8)])
    assert np.array_equal(read_image(saved(tmp_path, Image.fromarray(rgba), "a.png")), color)


def test_bilevel_becomes_gray(tmp_path, gray):
    path = saved(tmp_path, Image.fromarray(gray > 99), "a.png")
    assert np.array_equal(read_image(path)[..., 0], 255 * (gray > 99))


def test_exif_orientation_is_honored(tmp_path, color):
    upright = Image.fromarray(color)
    exif = upright.getexif()
    exif[0x0112] = 6  # turned by a quarter
    path = saved(tmp_path, upright.rotate(90, expand=True), "a.png", exif=exif)
    assert np.array_equal(read_image(path), color)


def test_arrays_and_pil_images_are_images(color):
    assert np.array_equal(read_image(color), color)
    assert np.array_equal(read_image(Image.fromarray(color)), color)
    assert read_image(color[..., 0]).shape == (12, 10, 1)
    assert read_image(np.zeros((12, 10, 7), np.float64)).dtype == np.float32


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MissingImageError, match=r"nowhere\.png: no such image file"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(ValueError):
        read_image(tmp_path / "nowhere.png")


def test_truncated_jpeg_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), "cut.jpg")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImageError, match=r"cut\.jpg: damaged"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"not an image at all"], ids=["zero bytes", "text"])
def test_file_that_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "fake.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"fake\.png: not an image"):
        read_image(path)


def test_damaged_png_is_named(tmp_path, color):
    path = saved(tmp_path, Image.fromarray(color), "bad.png")
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"bad\.png: damaged"):
        read_image(path)


def test_folder_instead_of_a_file(tmp_path):
    with pytest.raises(ImageError, match="got a folder"):
        read_image(tmp_path)


def test_several_pages_are_refused(tmp_path, gray):
    page = Image.fromarray(gray)
    path = saved(tmp_path, page, "pages.tif", save_all=True, append_images=[page])
    with pytest.raises(ImageError, match="2 pages"):
        read_image(path)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            None,
            "image 3: expected a path, the bytes of an image file, an array or a PIL image, "
            "got None",
        ),
        (np.zeros((1, 1), np.uint8), "at least 8 x 8 pixels"),
        (np.zeros((3, 64, 64), np.uint8), "channels come last"),
        (np.zeros((12, 10), np.int64), "expected uint8, uint16 or float pixels, got int64"),
        (np.full((12, 10), np.nan), "NaN or infinite"),
        (np.full((12, 10), 255.0), r"expected in \[0, 1\], got 255 to 255"),
        (np.full((12, 10), -0.5), r"expected in \[0, 1\]"),
        (np.zeros((2, 12, 10, 3), np.uint8), r"expected shape \(H, W\) or \(H, W, C\)"),
        (Image.fromarray(np.full((12, 10), 70_000, np.int32)), "expected 16-bit values"),
    ],
)
def test_items_that_are_no_image(item, message):
    with pytest.raises(ImageError, match=message):
        read_image(item, "image 3")


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("a/path.png", "got the single path"),
        ([], "at least one image, got none"),
        (np.zeros((0, 12, 10), np.uint8), "at least one image, got none"),
        (np.zeros((12, 10), np.uint8), r"got shape \(12, 10\)"),
        (Image.fromarray(np.zeros((9, 9), np.uint8)), "expected a collection"),
        (None, "expected a collection of images, got NoneType"),
        ((i for i in range(3)), "expected a collection of images, got generator"),
    ],
)
def test_collections_that_are_none(X, message):
    with pytest.raises(ValueError, match=message):
        check_images(X)


def test_channels(gray, color):
    assert np.array_equal(to_channels(gray[..., None], 3, "a")[..., 2], gray)
    assert to_channels(color, 3, "a") is color
    with pytest.raises(ImageError, match="image 4: expected 3 channels, got 5"):
        to_channels(np.zeros((12, 10, 5)), 3, "image 4")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 50])
def test_batches_come_in_order_whatever_their_size(batch_size):
    images = [np.full((9 + i, 8), 20 * i, np.uint8) for i in range(7)]
    batches = list(load_batches(images, ImageFit(8, 8), 3, batch_size, n_threads=2))
    values = np.concatenate([batch[:, 0, 0, 0] for batch, _ in batches])
    frames = np.concatenate([frames for _, frames in batches])
    np.testing.assert_allclose(values, np.arange(7) * 20 / 255, rtol=1e-6)
    assert frames.tolist() == [[9 + i, 8] for i in range(7)]


def test_an_unreadable_image_stops_the_batches(tmp_path):
    images = [np.zeros((9, 9), np.uint8), tmp_path / "gone.png", np.zeros((9, 9), np.uint8)]
    with pytest.raises(MissingImageError, match=r"gone\.png"):
        list(load_batches(images, ImageFit(8, 8), 3, 1))
