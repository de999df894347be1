"""Options of fit on how images are seen: their size, tiles, and the region of interest."""

from pathlib import Path

NAMES = ("image_size", "resize", "tile_size", "tile_overlap", "roi")


def add_image_options(parser):
    """Add them to a command's parser."""
    parser.add_argument(
        "--image-size",
        type=int,
        help="default: that of the features (efficientnet_lite0: 320, others: 224) or of the "
        "detector",
    )
    parser.add_argument("--resize", help="stretch (default), pad or crop")
    parser.add_argument(
        "--tile-size",
        type=int,
        metavar="PIXELS",
        help="look at tiles of this size cut from the images as they are, not reduced: for defects "
        "a few pixels wide in large images, at a multiple of the time (512 is usual)",
    )
    parser.add_argument(
        "--tile-overlap",
        type=int,
        metavar="PIXELS",
        help="of neighboring tiles (default: 64, or 32 of detectors on images)",
    )
    parser.add_argument(
        "--roi",
        metavar="FILE|foreground",
        help="judge only what lies inside: an image file of the images' own size, not black "
        "inside; or foreground, the parts that an even ground is told from in each image",
    )


def image_parameters(options):
    """{parameter: value} of the options that are set."""
    found = {name: getattr(options, name) for name in NAMES}
    if found["roi"] is not None:
        found["roi"] = read_region(found["roi"])
    return {name: value for name, value in found.items() if value is not None}


def read_region(text):
    """The mask (H, W), or the function of an image, that --roi names."""
    if text == "foreground":
        from skanomaly.images import foreground

        return foreground
    if not Path(text).is_file():
        raise FileNotFoundError(
            f"--roi {text}: no such file; name an image of the region, not black inside, or "
            "foreground"
        )
    from skanomaly.images import read_roi

    return read_roi(text, f"--roi {text}")  # the file of the detector holds it
