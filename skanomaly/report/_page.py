"""The page: the template, its style and its scripts, put together into one file."""

from base64 import b64encode
from hashlib import sha256

from skanomaly.report._pictures import fair_limit, squeezed

_SCRIPTS = ("data.js", "grid.js", "viewer.js", "keys.js")
_MIME = {"WEBP": "image/webp", "JPEG": "image/jpeg"}


def load_template(caller):
    """The page's template, or an error that says how to get what it needs."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError(
            f"{caller} needs jinja2; install it with: pip install skanomaly[report]"
        ) from error
    environment = Environment(
        loader=PackageLoader("skanomaly.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def render(template, *, pictures, limits, image_format, max_bytes, **words):
    """The page's bytes, piece by piece: with thousands of pictures it is large."""
    from markupsafe import Markup

    style = _source(template, "page.css")
    scripts = [_source(template, name) for name in _SCRIPTS]
    # Nothing is fetched, and only what is in this very file is run.
    policy = (
        f"default-src 'none'; img-src blob: data:; style-src {_hash(style)}; "
        f"script-src {' '.join(map(_hash, scripts))}; base-uri 'none'; form-action 'none'"
    )
    pieces = template.generate(
        **words,
        policy=policy,
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        data={
            "mime": _MIME[image_format],
            "pictures": [_words(picture) for picture in pictures],
        },
        blocks=_blocks(pictures, limits, image_format, max_bytes),
    )
    for piece in pieces:
        yield piece.encode("utf-8", errors="replace")  # file names may hold anything


def _blocks(pictures, limits, image_format, max_bytes):
    """(id, base64 words) of each block of data: first what the overview shows, then the rest."""
    n_bytes = 0
    for i, picture in enumerate(pictures):
        heat = picture.heat.coloured(*limits)
        n_bytes += len(picture.thumb) + len(heat) + sum(map(len, _crops(picture)))
        yield f"small{i}", _base64(picture.thumb, heat)
    left = 0.75 * max_bytes - n_bytes  # base64 makes four bytes of three
    limit = fair_limit([len(picture.full) for picture in pictures], left)
    for i, picture in enumerate(pictures):
        full = squeezed(picture.full, limit, image_format)
        yield f"large{i}", _base64(full, *_crops(picture))


def _crops(picture):
    return [crop.encoded for spot in picture.spots for crop in (spot["here"], spot["good"])]


def _words(picture):
    """What the page's scripts know of a picture."""
    height, width = picture.frame
    spots = [
        {
            "peak": spot["peak"],
            "distance": spot["distance"],
            "name": spot["name"],
            "here": [*spot["here"].frame, *spot["here"].box],
            "good": [*spot["good"].frame, *spot["good"].box],
        }
        for spot in picture.spots
    ]
    return {
        "name": picture.name,
        "score": picture.decision,
        "label": picture.label,
        "height": height,
        "width": width,
        "regions": picture.regions,
        "n_regions": picture.n_regions,
        "spots": spots,
    }


def _source(template, name):
    text, _, _ = template.environment.loader.get_source(template.environment, name)
    # Browsers hash a script after they have turned the ends of its lines into \n.
    return text.replace("\r\n", "\n")


def _hash(text):
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _base64(*parts):
    """Words for a block of data; the last one says that it is whole."""
    return " ".join([*(b64encode(part).decode() for part in parts), "."])
