"""Damage image files at random, and see that none is scored whose file shows its damage.

    cd tests && python -m fuzz.images --count 10000 --seed 0

prints a table of what came of them. Each file must be refused by an ImageError that names it, or be
read without a word; a file that is read must not be one in which others see damage: a wrong
checksum in a PNG file, a complaint of torchvision's decoders, an error or a warning of Pillow.
"""

import argparse
import collections
import contextlib
import io
import os
import signal
import sys
import tempfile
import warnings
import zlib

import numpy as np
from PIL import Image

from skanomaly.exceptions import ImageError
from skanomaly.images import read_image

NAME = "image 7"
SECONDS = 20  # after which reading a file counts as a hang

REFUSED, FOREIGN, HANG = "refused", "foreign exception", "hang"
SAME, OTHER, SHOWN = "read, same pixels", "read, other pixels", "read, damage shows"
OUTCOMES = (REFUSED, SAME, OTHER, SHOWN, FOREIGN, HANG)
FAILURES = (FOREIGN, HANG, SHOWN)


def samples():
    """{name: content} of a small file of each kind."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:41, :54]
    shade = 120 + 60 * np.sin(rows / 5) * np.cos(columns / 7)
    gray = (shade + rng.integers(0, 30, shade.shape)).astype(np.uint8)
    color = np.stack([gray, gray[::-1], 255 - gray], axis=2)
    alpha = np.dstack([color, np.where(columns < 30, 255, 90).astype(np.uint8)])
    gray, deep, color, alpha = map(
        Image.fromarray, (gray, gray.astype(np.uint16) * 200, color, alpha)
    )
    palette = color.quantize(64)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 1, "camera"
    lossless = {"lossless": True, "exif": exif}
    return {
        "PNG 8 bits": _saved(gray, "PNG"),
        "PNG 16 bits": _saved(deep, "PNG"),
        "PNG RGB": _saved(color, "PNG", exif=exif),
        "PNG RGBA": _saved(alpha, "PNG"),
        "PNG palette": _saved(palette, "PNG", transparency=3),
        "JPEG": _saved(color, "JPEG", quality=85, exif=exif),
        "JPEG gray, restarts": _saved(gray, "JPEG", restart_marker_blocks=4),
        "JPEG progressive": _saved(color, "JPEG", progressive=True, quality=80),
        "TIFF": _saved(color, "TIFF", exif=exif),
        "TIFF 16 bits": _saved(deep, "TIFF"),
        "TIFF LZW": _saved(color, "TIFF", compression="tiff_lzw"),
        "TIFF deflate": _saved(gray, "TIFF", compression="tiff_adobe_deflate"),
        "BMP": _saved(color, "BMP"),
        "BMP palette": _saved(palette, "BMP"),
        "WebP lossless": _saved(color, "WEBP", **lossless),
        "WebP lossy": _saved(alpha, "WEBP", quality=70),
        "GIF": _saved(palette, "GIF"),
        "PPM": _saved(color, "PPM"),
        "PGM 16 bits": _saved(deep, "PPM"),
        "JPEG 2000": _saved(color, "JPEG2000"),
        "JPEG 2000 codestream": _saved(deep, "JPEG2000", no_jp2=True),
    }


def _saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# --- Damage -----------------------------------------------------------------------------------


def _flip_bits(content, rng, other):
    for place in rng.integers(0, len(content), rng.integers(1, 9)):
        content[place] ^= 1 << rng.integers(8)


def _clear_block(content, rng, other):
    start, stop = _block(content, rng)
    content[start:stop] = bytes(stop - start)


def _clear_end(content, rng, other):
    start = rng.integers(1, len(content))
    content[start:] = bytes(len(content) - start)


def _swap_blocks(content, rng, other):
    length = int(rng.integers(1, len(content) // 4))
    first, second = sorted(int(n) for n in rng.integers(0, len(content) - length, 2))
    second = max(second, min(first + length, len(content) - length))
    one, two = content[first : first + length], content[second : second + length]
    content[first : first + length], content[second : second + length] = two, one


def _truncate(content, rng, other):
    del content[rng.integers(0, len(content)) :]


def _truncate_little(content, rng, other):
    del content[len(content) - rng.integers(1, 30) :]


def _splice(content, rng, other):
    content[rng.integers(len(content)) :] = other[rng.integers(len(other)) :]


def _remove_block(content, rng, other):
    start, stop = _block(content, rng)
    del content[start:stop]


def _change_header(content, rng, other):
    for place in rng.integers(0, min(64, len(content)), rng.integers(1, 4)):
        content[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])


def _block(content, rng):
    start = int(rng.integers(len(content)))
    return start, min(len(content), start + int(rng.integers(1, 300)))


DAMAGES = (
    _flip_bits, _flip_bits, _clear_block, _clear_end, _swap_blocks, _truncate, _truncate_little,
    _splice, _remove_block, _change_header,
)  # fmt: skip


def mutate(content, rng, other=None):
    """The content of a file, damaged in one of many ways; ``other``: a file to splice it with."""
    damaged = bytearray(content)
    DAMAGES[rng.integers(len(DAMAGES))](damaged, rng, other or content)
    return bytes(damaged)


# --- What comes of it -------------------------------------------------------------------------


@contextlib.contextmanager
def _time_limit(seconds):
    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(content, pixels):
    """What comes of a file, (one of OUTCOMES, message); pixels: those before it was damaged."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with _time_limit(SECONDS):
                image = read_image(content, NAME)
        except ImageError as error:
            if "TimeoutError" in str(error):
                return HANG, str(error)
            return (REFUSED if str(error).startswith(NAME) else FOREIGN), str(error)
        except TimeoutError:
            return HANG, ""
        except Exception as error:
            return FOREIGN, repr(error)
    complaint = str(said[0].message) if said else complaint_of_others(content)
    if complaint:
        return SHOWN, complaint
    is_same = image.shape == pixels.shape and np.array_equal(image, pixels)
    return (SAME if is_same else OTHER), ""


def complaint_of_others(content):
    """What others find wrong with a file; empty if nothing."""
    if content.startswith(b"\x89PNG"):
        return _png_complaint(content)
    if content.startswith(b"\xff\xd8"):
        return _second_decoder("jpeg", content)
    if content.startswith(b"GIF8"):
        return _second_decoder("gif", content) or _pillow_complaint(content)
    if content.startswith(b"RIFF"):
        return _second_decoder("webp", content) or _pillow_complaint(content)
    return _pillow_complaint(content)


def _png_complaint(content):
    position, kind, data = 8, b"", b""
    while kind != b"IEND":
        head = content[position : position + 8]
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        body = content[position + 8 : position + 8 + length]
        checksum = content[position + 8 + length : position + 12 + length]
        if len(checksum) < 4 or zlib.crc32(kind + body).to_bytes(4, "big") != checksum:
            return f"the checksum of {kind!r} is wrong"
        data += body if kind == b"IDAT" else b""
        position += 12 + length
    try:
        zlib.decompress(data)
    except zlib.error as error:
        return str(error)
    return ""


def _pillow_complaint(content):
    def decode():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(content)) as image:
                image.load()

    return _what_is_said(decode)


def _second_decoder(kind, content):
    import torch
    from torchvision import io as decoders

    def decode():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a word on the future of the decoders themselves
            getattr(decoders, f"decode_{kind}")(bits)

    bits = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    # Later versions of torchvision may lack them.
    return _what_is_said(decode) if hasattr(decoders, f"decode_{kind}") else ""


def _what_is_said(decode):
    """What a decoder raises or, as libjpeg's warnings, writes to stderr."""
    with tempfile.TemporaryFile() as said:
        sys.stderr.flush()
        before = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            decode()
        except Exception as error:  # whatever the decoder has to say
            return repr(error)
        finally:
            os.dup2(before, 2)
            os.close(before)
        said.seek(0)
        return said.read().decode(errors="replace").strip()


def run(count, seed=0):
    """Damage files, each kind in turn; {kind: Counter of outcomes}, [(kind, i, outcome, message)].

    File i of a seed is always the same.
    """
    files = samples()
    names = list(files)
    pixels = {name: read_image(content) for name, content in files.items()}
    table = {name: collections.Counter() for name in names}
    failures = []
    for i in range(count):
        name = names[i % len(names)]
        damaged = damaged_file(files, i, seed)
        if damaged == files[name]:
            continue
        found, message = outcome(damaged, pixels[name])
        table[name][found] += 1
        if found in FAILURES:
            failures.append((name, i, found, message))
    return table, failures


def damaged_file(files, i, seed):
    """File i of a seed."""
    rng = np.random.default_rng((seed, i))
    names = list(files)
    return mutate(files[names[i % len(names)]], rng, files[rng.choice(names)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="number of files")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table, failures = run(options.count, options.seed)
    print(f"{'':22}" + "".join(f"{outcome:>20}" for outcome in OUTCOMES))
    for name, found in [*table.items(), ("all", sum(table.values(), collections.Counter()))]:
        print(f"{name:22}" + "".join(f"{found[outcome]:>20}" for outcome in OUTCOMES))
    for failure in failures:
        print(*failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
