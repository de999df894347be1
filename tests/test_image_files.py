"""What happens to each kind of file and input: the tables of docs/guide/data.md, line by line."""

import io
import os
import re
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from skanomaly import FeatureExtractor, FilterBank
from skanomaly.exceptions import ImageError, MissingImageError
from skanomaly.images import (
    check_images,
    image_content,
    image_name,
    pixel_limit,
    read_image,
    set_pixel_limit,
    unused_high_bits,
)
from skanomaly.utils.validation import is_images

GUIDE = Path(__file__).parents[1] / "docs" / "guide" / "data.md"
ROWS = {}  # line of a table -> the test of it

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (20, 31, 3), dtype=np.uint8)
GRAY = np.ascontiguousarray(COLOR[..., 0])
DEEP = RNG.integers(0, 2**16, (20, 31, 4)).astype(np.uint16)
# The left half is opaque, then half transparent, then not to be seen.
ALPHA = np.repeat(
    np.where(np.arange(31) < 15, 255, np.where(np.arange(31) < 20, 128, 0))[None], 20, 0
)


def line(title):
    """Decorator: the test of a line of the tables."""

    def note(test):
        ROWS[title] = test
        return test

    return note


def content_of(image, kind="PNG", **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels, color_type, more=b"", size=None):
    """A PNG file of 16 bits per color, which Pillow cannot write."""
    height, width = pixels.shape[:2] if size is None else size
    head = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))
    chunks = (
        chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff(pixels, **tags):
    """An uncompressed TIFF file of 16 bits per color, which Pillow cannot write."""
    height, width, n_colors = pixels.shape
    data = pixels.astype("<u2").tobytes()
    start = 8 + 2 + 12 * 10 + 4 + 8
    values = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, n_colors, start - 8), 259: (3, 1, 1),
        262: (3, 1, 2), 273: (4, 1, start), 277: (3, 1, n_colors), 278: (4, 1, height),
        279: (4, 1, len(data)), 284: (3, 1, tags.get("planar", 1)),
    }  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(values.items()))
    head = b"II*\0" + struct.pack("<IH", 8, len(values)) + table + bytes(4)
    return head + struct.pack("<4H", 16, 16, 16, 0) + data


def refused(item, message, name="image 3"):
    with pytest.raises(ImageError, match=message) as caught:
        read_image(item, name)
    assert str(caught.value).startswith(f"{name}: ")


def test_the_guide_tells_all_of_this_and_nothing_else():
    lines = re.findall(r"^\| (.+?) \| ", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    start, stop = lines.index("file"), lines.index("several columns, a single path, a single file")
    told = [title for title in lines[start : stop + 1] if title not in ("file", "other input")]
    assert told == list(ROWS)


# --- files ------------------------------------------------------------------------------------


@line("PNG, JPEG, TIFF, BMP, WebP, GIF, PPM, JPEG 2000")
def test_formats(tmp_path):
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000"):
        path = tmp_path / f"{kind}.dat"
        path.write_bytes(content_of(COLOR, kind))
        with Image.open(path) as image:
            assert np.array_equal(read_image(path), np.asarray(image.convert("RGB"))), kind


@line("HEIC, AVIF, SVG, HTML, text and other formats")
def test_other_formats():
    refused(b"\0\0\0\x18ftypheic\0\0\0\0", "a file of HEIC; expected one of PNG, JPEG, .* Convert")
    refused(b"\0\0\0\x1cftypavif\0\0\0\0", "a file of AVIF")
    refused(b'<?xml version="1.0"?><svg/>', "a file of SVG, HTML or XML")
    refused(b"\n<!DOCTYPE html>", "a file of SVG, HTML or XML")
    refused(b"/data/a.png", "text .a path must be a str")
    refused(b"", "it is empty")
    refused(content_of(COLOR, "TGA"), "unknown format; expected")


@line("several pages, animation")
def test_several_pages():
    more = {"save_all": True, "append_images": [Image.fromarray(255 - COLOR)]}
    for kind in ("PNG", "TIFF", "GIF"):
        refused(content_of(COLOR, kind, **more), "got 2 pages; save them as separate files")
    refused(content_of(COLOR, "WEBP", **more), "an animation of 2 frames")
    first = read_image(content_of(COLOR, "MPO", **more))
    assert np.array_equal(first, read_image(content_of(COLOR, "JPEG")))


def damaged_files():
    """(name, content, what is said of it)."""
    content = content_of(COLOR)
    yield "PNG, zeros in its second half", _zeros(content, len(content) // 2), "chunk"
    yield "PNG, a bit of its pixels", _flip(content, 60), "checksum of its chunk 'IDAT'"
    yield "PNG, a bit of its header", _flip(content, 20), "checksum of its chunk 'IHDR'"
    yield "PNG, no end", content[:-12], "ends before its last chunk"
    short = png(DEEP[:-1, :, :3], 2, size=(20, 31))
    yield "PNG, a line too few", short, "more or fewer lines"
    jpeg = content_of(COLOR, "JPEG", quality=90)
    start = jpeg.index(b"\xff\xda") + 14
    yield "JPEG, cut", jpeg[: start + 100], "ends within its pixels"
    yield "JPEG, cut and ended", jpeg[: start + 100] + b"\xff\xd9", "before the last pixel"
    yield "JPEG, more data", jpeg[:-2] + jpeg[start : start + 9] + b"\xff\xd9", "after the last"
    codes = jpeg[:start] + b"\xfe" * 4 + jpeg[start:]
    yield "JPEG, other data", codes, "codes that do not exist|after the last pixel"
    steps = content_of(COLOR, "JPEG", progressive=True)
    yield "JPEG, a scan too few", steps[: steps.rindex(b"\xff\xda")] + b"\xff\xd9", "scans are miss"
    parts = content_of(COLOR, "JPEG", restart_marker_blocks=2)
    yield "JPEG, a restart lost", parts.replace(b"\xff\xd0", b"", 1), "after the last pixel"
    yield "JPEG, another restart", parts.replace(b"\xff\xd0", b"\xff\xd5", 1), "restart markers"
    for kind in ("TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000"):
        yield f"{kind}, cut", content_of(COLOR, kind)[:-20], "damaged"
    packed = content_of(COLOR, "TIFF", compression="tiff_adobe_deflate")
    place = packed.index(b"\x78\x9c") + 300
    yield "TIFF, a bit of its pixels", _flip(packed, place), "damaged"
    turned = content_of(COLOR, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0")
    yield "JPEG, its orientation", turned, "EXIF data are damaged"


def _flip(content, place):
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def _zeros(content, start):
    return content[:start] + bytes(len(content) - start)


@line("damaged or truncated")
@pytest.mark.parametrize(
    ("content", "message"), [pytest.param(*rest, id=name) for name, *rest in damaged_files()]
)
def test_damaged_files(content, message, tmp_path):
    path = tmp_path / "bad.dat"
    path.write_bytes(content)
    refused(str(path), message, name=str(path))


@line("bytes after the end of the image")
def test_bytes_after_the_end():
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        content = content_of(COLOR, kind)
        assert np.array_equal(read_image(content + b"more"), read_image(content)), kind


@line("a missing file, a folder, a named pipe, a device")
def test_what_is_no_regular_file(tmp_path):
    with pytest.raises(MissingImageError, match="no such image file"):
        read_image(tmp_path / "gone.png")
    refused(tmp_path, "got a folder", name=str(tmp_path))
    refused("a\0b.png", "cannot be read", name="a\0b.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        refused(tmp_path / "pipe.png", "got a named pipe", name=str(tmp_path / "pipe.png"))
        refused("/dev/null", "got a device", name="/dev/null")


@pytest.fixture
def usual_limit():
    yield
    set_pixel_limit(None)


@line("more than 268,435,456 pixels")
def test_limit_of_pixels(usual_limit, monkeypatch):
    assert pixel_limit() == 268_435_456
    large = [
        png(DEEP[..., :3], 2, size=(30_000, 20_000)),
        content_of(COLOR, "JPEG").replace(struct.pack(">HH", 20, 31), b"\xff\xff\xff\xff"),
        content_of(COLOR, "BMP").replace(
            struct.pack("<ii", 31, 20), struct.pack("<ii", 2**16, 2**15)
        ),
        b"P5 100000 100000 255\n",
    ]
    for content in large:
        refused(content, "expected at most 268,435,456 pixels, got .*set_pixel_limit")
    set_pixel_limit(20 * 31 - 1)
    refused(content_of(COLOR), r"expected at most 619 pixels, got 31 x 20 \(width x height\)")
    set_pixel_limit(20 * 31)
    # Pillow's own limit, an error above twice its value and a warning below, does not show.
    for limit in (9, 400):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for kind in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"):
            assert read_image(content_of(COLOR, kind)).shape == COLOR.shape
        assert limit == Image.MAX_IMAGE_PIXELS
    for n_pixels in (0, 2.5):
        with pytest.raises(ValueError, match="whole number of pixels"):
            set_pixel_limit(n_pixels)
    monkeypatch.setenv("SKANOMALY_PIXEL_LIMIT", "many")
    with pytest.raises(ValueError, match="SKANOMALY_PIXEL_LIMIT, got 'many'"):
        read_image(content_of(COLOR))


@line("gray of 8 or 16 bits")
def test_gray():
    for kind in ("PNG", "TIFF", "PPM", "JPEG2000"):
        for image in (GRAY, DEEP[..., 0]):
            read = read_image(content_of(image, kind))
            assert read.dtype == image.dtype and np.array_equal(read[..., 0], image), kind
    # Gray and alpha.
    assert np.array_equal(read_image(png(_opaque(DEEP[..., :2]), 4))[..., 0], DEEP[..., 0])


def _opaque(pixels):
    pixels = pixels.copy()
    pixels[..., -1] = 2**16 - 1
    return pixels


@line("RGB of 16 bits")
def test_colors_of_16_bits():
    color = DEEP[..., :3]
    for content in (png(color, 2), png(_opaque(DEEP), 6), tiff(color)):
        read = read_image(content)
        assert read.dtype == np.uint16 and np.array_equal(read, color)
    seen = read_image(png(np.dstack([color, ALPHA * 257]), 6))
    assert np.array_equal(seen[:, :15], color[:, :15]) and not seen[:, 20:].any()
    hidden = chunk(b"tRNS", color[4, 5].astype(">u2").tobytes())
    read = read_image(png(color, 2, hidden))
    assert not read[4, 5].any() and np.array_equal(read[5:], color[5:])
    refused(tiff(color, planar=2), "a plane for each color")
    refused(b"P6\n# by hand\n31 20\n65535\n" + color.tobytes(), "values up to 65535; save it as")
    content = bytearray(content_of(COLOR, "JPEG2000", no_jp2=True))
    content[42] = 11  # twelve bits of the first color
    refused(bytes(content), "got 12 bits")


@line("10, 12 or 14 bits in 16")
def test_unused_high_bits(tmp_path):
    for bits, unused in ((8, 8), (10, 6), (12, 4), (14, 2), (15, 0), (16, 0)):
        image = np.full((9, 9), 2**bits - 1, dtype=np.uint16)
        assert unused_high_bits(image) == unused
    assert unused_high_bits(GRAY) == unused_high_bits(GRAY / 255) == 0
    images = [DEEP[..., :3] >> 4 for _ in range(3)]
    network = FeatureExtractor("squeezenet1_1", weights=None, image_size=64, random_state=0)
    for extractor in (network, FilterBank(image_size=64, random_state=0)):
        with pytest.warns(UserWarning, match=r"use the lower 12 alone.*read_image\(image\) << 4"):
            extractor.fit(images)
        extractor.fit([image << 4 for image in images])
        extractor.fit([*images, DEEP[..., :3]])  # one of them uses the range
    network.fit()


@line("32-bit whole numbers")
def test_whole_numbers_of_32_bits():
    values = DEEP[..., 0].astype(np.int32)
    read = read_image(content_of(values, "TIFF"))
    assert read.dtype == np.uint16 and np.array_equal(read[..., 0], values)
    refused(content_of(values + 2**15, "TIFF"), "expected 16-bit values")


@line("float TIFF")
def test_float_tiff():
    values = GRAY.astype(np.float32) / 255
    assert np.array_equal(read_image(content_of(values, "TIFF"))[..., 0], values)
    refused(content_of(values * 2, "TIFF"), r"expected in \[0, 1\]")


@line("1 bit")
def test_one_bit():
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        read = read_image(content_of(GRAY > 99, kind))
        assert np.array_equal(read[..., 0], 255 * (GRAY > 99)), kind


@line("palette")
def test_palette():
    image = Image.fromarray(COLOR).quantize(16)
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert np.array_equal(read_image(content_of(image, kind)), np.asarray(image.convert("RGB")))


@line("alpha, transparent palette entry or color")
def test_what_is_transparent_is_black():
    alpha = ALPHA.astype(np.uint8)
    for kind in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        read = read_image(content_of(np.dstack([COLOR, alpha]), kind, **options))
        assert np.array_equal(read[:, :15], COLOR[:, :15])
        half = COLOR[:, 15:20].astype(int)
        assert np.abs(read[:, 15:20] - half * 128 / 255).max() <= 0.5
        assert not read[:, 20:].any()
        other = np.where(np.arange(31)[:, None] < 20, COLOR, 255 - COLOR)
        hidden = content_of(np.dstack([other, alpha]), kind, **options)
        assert np.array_equal(read_image(hidden), read)
    gray = content_of(Image.merge("LA", list(map(Image.fromarray, (GRAY, alpha)))))
    assert read_image(gray).shape == (20, 31, 1) and not read_image(gray)[:, 20:].any()
    for image in (GRAY, DEEP[..., 0]):
        one = int(image[3, 4])
        read = read_image(content_of(image, transparency=one))[..., 0]
        assert np.array_equal(read, np.where(image == one, 0, image))
    color = tuple(int(n) for n in COLOR[3, 4])
    assert not read_image(content_of(COLOR, transparency=color))[3, 4].any()
    palette = Image.fromarray(COLOR).quantize(16)
    read = read_image(content_of(palette, transparency=bytes([0] * 8 + [255] * 8)))
    is_hidden = np.asarray(palette) < 8
    assert not read[is_hidden].any()
    assert np.array_equal(read[~is_hidden], np.asarray(palette.convert("RGB"))[~is_hidden])


@line("CMYK")
def test_cmyk():
    flat = np.full((16, 16, 3), [200, 100, 50], np.uint8)
    for kind in ("JPEG", "TIFF"):
        read = read_image(content_of(Image.fromarray(flat).convert("CMYK"), kind))
        assert read.dtype == np.uint8 and np.abs(read.astype(int) - flat).max() < 6


@line("EXIF orientation")
def test_orientation():
    image = Image.fromarray(COLOR)
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    turned = image.rotate(90, expand=True)
    for kind in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        assert np.array_equal(read_image(content_of(turned, kind, exif=exif, **options)), COLOR)
    assert read_image(content_of(turned, "JPEG", exif=exif)).shape == COLOR.shape
    exif[0x0112] = 0  # as some cameras write; it says nothing
    assert np.array_equal(read_image(content_of(image, exif=exif)), COLOR)


@line("ICC profile")
def test_icc_profile():
    assert np.array_equal(read_image(content_of(COLOR, icc_profile=b"not even a profile")), COLOR)


# --- other input ------------------------------------------------------------------------------


@line("path")
def test_paths(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(content_of(COLOR))
    (entry,) = os.scandir(tmp_path)
    for item in (str(path), path, entry, np.array([str(path)])[0]):
        assert np.array_equal(read_image(item), COLOR)
        assert image_name(item, 3) == str(path)
        assert is_images([item])


@line("bytes of a file")
def test_bytes_of_a_file(tmp_path):
    content = content_of(COLOR)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with path.open("rb") as file:
        file.read(99)
        items = [content, bytearray(content), memoryview(content), io.BytesIO(content), file]
        for item in items * 2:  # a file is read a second time
            assert np.array_equal(read_image(item), COLOR)
            assert read_image(image_content(item, "a")).shape == COLOR.shape
            assert image_content(item, "a") == content and is_images([item])
            assert image_name(item, 3) == "image 3"
        fitted = FilterBank(image_size=64, random_state=0).fit(items)
        maps = fitted.transform(items).arrays()["energies"]
        assert (maps == fitted.transform([COLOR]).arrays()["energies"]).all()
    refused(content[:-30], "damaged or unreadable PNG")
    refused(io.StringIO("text"), "open it with mode 'rb'")
    refused(file, r"pass its bytes: file.read\(\)")  # closed


@line("PIL image")
def test_pil_images():
    image = Image.fromarray(np.dstack([COLOR, ALPHA.astype(np.uint8)]))
    assert np.array_equal(read_image(image), read_image(content_of(image)))
    pages = content_of(COLOR, "TIFF", save_all=True, append_images=[Image.fromarray(255 - COLOR)])
    with Image.open(io.BytesIO(pages)) as both:
        both.seek(1)
        assert np.array_equal(read_image(both), 255 - COLOR)
    lazy = Image.open(io.BytesIO(content_of(COLOR, "BMP")[:-50]))
    refused(lazy, "damaged or unreadable PIL image .*pass the path or the bytes")


@line("uint8, uint16 array")
def test_arrays_of_pixels(tmp_path):
    np.save(tmp_path / "a.npy", COLOR)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for image in (COLOR, mapped, np.asfortranarray(COLOR), COLOR[::-1][::-1]):
        assert np.array_equal(read_image(image), COLOR)
    swapped = read_image(DEEP.astype(">u2"))
    assert swapped.dtype == np.uint16 and np.array_equal(swapped, DEEP)


@line("float array")
def test_float_arrays():
    for dtype in (np.float16, np.float32, np.float64):
        image = np.linspace(0, 1, 81, dtype=dtype).reshape(9, 9)
        image[3, 4] = np.nextafter(dtype(1), dtype(2))
        image[5, 6] = -1e-7
        read = read_image(image)
        assert read.dtype == np.float32 and read.min() == 0 and read.max() == 1
    assert image[3, 4] > 1  # the array itself is as it was
    refused(np.full((9, 9), 1.01), "got 1.01 to 1.01")
    refused(np.full((9, 9), -0.01), "got -0.01 to -0.01")


@line("bool array")
def test_bool_arrays():
    assert np.array_equal(read_image(GRAY > 99)[..., 0], 255 * (GRAY > 99))


@line("other whole numbers")
def test_other_whole_numbers():
    for dtype in (np.int64, np.int8, np.uint32):
        refused(np.ones((9, 9), dtype), rf"got {np.dtype(dtype)}; convert them")
    refused(np.ones((9, 9), complex), "got complex128")
    refused(np.full((9, 9), None), "expected a path, the bytes of an image file, an array")


@line("NaN, infinity, masked pixels")
def test_pixels_without_a_value():
    for value in (np.nan, np.inf):
        refused(np.full((9, 9), value), "NaN or infinite")
    refused(np.ma.masked_less(GRAY, 99), "some of its pixels are masked")
    assert np.array_equal(read_image(np.ma.array(COLOR)), COLOR)


@line("array of four channels")
def test_four_channels():
    assert read_image(DEEP).shape == DEEP.shape


@line("torch tensor")
def test_tensors():
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(COLOR)
    assert np.array_equal(read_image(tensor), COLOR)
    assert check_images(tensor[None]).shape == (1, *COLOR.shape)
    refused(tensor.permute(2, 0, 1), "channels come last")
    refused((tensor / 255).requires_grad_(), "got Tensor, which is no array .*requires grad")
    refused((tensor / 255).bfloat16(), "got Tensor, which is no array")


@line("column of a table")
def test_columns():
    paths = ["a.png", "b.png"]
    columns = [np.array(paths), np.array(paths)[:, None], np.array(paths, dtype=object)[:, None]]
    if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType"):
        columns.append(np.array(paths, dtype=np.dtypes.StringDType()))
        assert is_images(columns[-1])
    for column in columns:
        assert list(check_images(column)) == paths
    with pytest.raises(ValueError, match=r"one column of them, got an array of shape \(1, 2\)"):
        check_images(np.array([paths]))


def test_columns_of_pandas():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"path": ["a.png", "b.png"], "line": 3}, index=[7, 8])
    for column in (
        table["path"],
        table[["path"]],
        table["path"].array,
        table["path"].astype("string"),
    ):
        assert list(check_images(column)) == ["a.png", "b.png"]
    with pytest.raises(ValueError, match=r'table with 2 columns; pass .*such as table\["path"\]'):
        check_images(table)


@line("several columns, a single path, a single file")
def test_what_is_no_collection(tmp_path):
    for X, message in {
        "a.png": "the single path 'a.png'",
        Path("a.png"): "the single path 'a.png'",
        b"content": "a single file as bytes; pass a list",
        io.BytesIO(b"content"): "a single file as BytesIO",
    }.items():
        with pytest.raises(ValueError, match=message):
            check_images(X)
    with pytest.raises(ValueError, match="got dict"):
        check_images({"a": COLOR})

    class Table:
        columns = ("path", "line")

        def __len__(self):
            return 1

        def __getitem__(self, i):
            return ["a.png"]

    with pytest.raises(ValueError, match="got a table with 2 columns"):
        check_images(Table())


# --- decoders ---------------------------------------------------------------------------------


def test_each_code_of_a_jpeg_file_is_followed():
    """No file as encoders write it is refused, whatever its tables, scans and restarts."""
    smooth = np.asarray(Image.fromarray(COLOR).resize((61, 43)))
    modes = {"L": smooth[..., 0], "RGB": smooth}
    for image in (*map(Image.fromarray, modes.values()), Image.fromarray(smooth).convert("CMYK")):
        for options in (
            {"quality": 100}, {"quality": 3}, {"optimize": True}, {"progressive": True},
            {"progressive": True, "quality": 98, "subsampling": 0},
            {"subsampling": 1, "restart_marker_rows": 1},
            {"restart_marker_blocks": 1}, {"progressive": True, "restart_marker_blocks": 3},
        ):  # fmt: skip
            content = content_of(image, "JPEG", **options)
            with Image.open(io.BytesIO(content)) as expected:
                expected = np.asarray(expected.convert("L" if image.mode == "L" else "RGB"))
            assert np.array_equal(read_image(content).squeeze(), expected), (image.mode, options)


def test_interlaced_png_file():
    """Of 16 bits per color, in seven passes, each of which has its own lines."""
    lines = b""
    for row, column, down, across in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4),
                                      (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)):  # fmt: skip
        for part in DEEP[row::down, column::across, :3].astype(">u2"):
            lines += b"\0" + part.tobytes()
    head = struct.pack(">IIBBBBB", 31, 20, 16, 2, 0, 0, 1)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines))
    assert np.array_equal(read_image(content + chunk(b"IEND", b"")), DEEP[..., :3])


def test_the_global_of_pillow_for_truncated_files(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for kind in ("PNG", "JPEG"):
        content = content_of(COLOR, kind)
        assert read_image(content).shape == COLOR.shape
        refused(content[:-60], f"damaged or unreadable {kind}")
    refused(content_of(COLOR, "TIFF"), "LOAD_TRUNCATED_IMAGES is set.*set it to False")


def test_threads_see_no_warnings():
    """Pillow warns of a damaged table, here of a value beyond the end; a thread cannot catch it."""
    content = content_of(COLOR, "TIFF", description="a" * 50)
    place = content.index(struct.pack("<HHI", 270, 2, 51)) + 8
    damaged = content[:place] + struct.pack("<I", 10**6) + content[place + 4 :]
    with warnings.catch_warnings(record=True) as said, ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("always")
        barrier = threading.Barrier(4)

        def read(_):
            barrier.wait()
            refused(damaged, "damaged or unreadable TIFF")

        list(pool.map(read, range(4)))
    assert said == []
