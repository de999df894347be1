"""The page: the template, its style sheet and its scripts, joined into one file."""

from base64 import b64encode
from hashlib import sha256

from skanomaly.report._images import compress, fair_limit

_SCRIPTS = ("data.js", "grid.js", "viewer.js", "review.js", "keys.js")
_MIME = {"WEBP": "image/webp", "JPEG": "image/jpeg"}


def load_template(caller, name="page.html"):
    """The template of a page; ImportError with the way out if jinja2 is not installed."""
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
    return environment.get_template(name)


def check_jinja(caller):
    """Raise ImportError, with the way out, if jinja2 is not installed."""
    load_template(caller)


def render(template, *, records, spool, limits, image_format, first, max_bytes, **texts):
    """Yield the page's bytes in pieces: with thousands of images it is large."""
    from markupsafe import Markup

    style = _source(template, "page.css")
    scripts = [_source(template, name) for name in _SCRIPTS]
    # Nothing is downloaded, and only the scripts in this file are run.
    policy = (
        f"default-src 'none'; img-src blob: data:; style-src {_hash(style)}; "
        f"script-src {' '.join(map(_hash, scripts))}; base-uri 'none'; form-action 'none'"
    )
    outlines, numbered = _outlines(records)
    pieces = template.generate(
        **texts,
        has_truth=any(record.truth for record in records),
        has_roi=any(record.roi for record in records),
        has_files=any(record.file for record in records),
        policy=policy,
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        data={
            "mime": _MIME[image_format],
            "first": first,
            "outlines": outlines,
            "images": [
                _entries(record) | some for record, some in zip(records, numbered, strict=True)
            ],
        },
        blocks=_blocks(records, spool, limits, image_format, max_bytes),
    )
    for piece in pieces:
        yield piece.encode("utf-8", errors="replace")  # file names may hold anything


def _blocks(records, spool, limits, image_format, max_bytes):
    """Yield (id, base64 words) of each block of data: those of the overview come first."""
    n_bytes = 0
    for i, record in enumerate(records):
        heat_map = record.heat_map.colored(*limits)
        n_bytes += len(record.thumb) + len(heat_map) + sum(map(len, _crops(record)))
        yield f"small{i}", _base64(record.thumb, heat_map)
    budget = 0.75 * max_bytes - n_bytes  # base64 turns three bytes into four
    limit = fair_limit([record.full[1] for record in records], budget)
    for i, record in enumerate(records):
        full = compress(spool.read(record.full), limit, image_format)
        yield f"large{i}", _base64(full, *_crops(record))


def render_comparison(template, *, images, **texts):
    """Yield the bytes of the page of a comparison: it needs no scripts."""
    from markupsafe import Markup

    style = _source(template, "comparison.css")
    pieces = template.generate(
        **texts,
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; base-uri 'none'",
        style=Markup(style),
        images=((record, _encoded(view)) for record, view in images),
    )
    for piece in pieces:
        yield piece.encode("utf-8", errors="replace")  # file names may hold anything


def _encoded(view):
    """A View with its files as texts."""
    files = {name: b64encode(getattr(view, name)).decode() for name in ("image", "first", "second")}
    return view._replace(**files)


def _outlines(records):
    """All outlines, each once, and for each record the places of its own among them, or None."""
    places: dict[str, int] = {}  # a region of interest is that of many images
    numbered = [
        {
            name: places.setdefault(path, len(places)) if path else None
            for name, path in (("truth", record.truth), ("roi", record.roi))
        }
        for record in records
    ]
    return list(places), numbered


def _crops(record):
    return [crop.encoded for spot in record.spots for crop in (spot["here"], spot["good"])]


def _entries(record):
    """What the page's scripts are given about an image."""
    height, width = record.shape
    spots = [
        {
            "peak": spot["peak"],
            "distance": spot["distance"],
            "name": spot["name"],
            "here": [*spot["here"].shape, *spot["here"].box],
            "good": [*spot["good"].shape, *spot["good"].box],
        }
        for spot in record.spots
    ]
    return {
        "name": record.name,
        "score": record.decision,
        "label": record.label,
        "height": height,
        "width": width,
        "regions": record.regions,
        "n_regions": record.n_regions,
        "spots": spots,
        "file": record.file,
    }


def _source(template, name):
    text, _, _ = template.environment.loader.get_source(template.environment, name)
    # Browsers normalize the line ends of a script to \n before they hash it.
    return text.replace("\r\n", "\n")


def _hash(text):
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _base64(*parts):
    """Words for a block of data; the last one marks the end, so that a cut file is noticed."""
    return " ".join([*(b64encode(part).decode() for part in parts), "."])
