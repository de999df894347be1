"""Write the API pages of detectors and extractors from the registry; run by docs/conf.py."""

from pathlib import Path

from skanomaly.registry import DETECTORS, EXTRACTORS

API = Path(__file__).parent / "api"
PAGE = """\
# {title}

{text}

```{{eval-rst}}
.. autosummary::
   :toctree: generated
   :nosignatures:

{names}
```
"""
PAGES = {
    "detectors.md": (
        "Detectors",
        "Estimators that return predictions, scores and score maps, from the features of images\n"
        "or from the images themselves.",
        DETECTORS,
        (
            "skanomaly.EnsembleDetector",
            "skanomaly.base.BaseDetector",
            "skanomaly.base.BaseImageDetector",
        ),
    ),
    "features.md": (
        "Features",
        "Transformers from images to feature maps: the first step of a pipeline.",
        EXTRACTORS,
        ("skanomaly.FeatureMaps", "skanomaly.base.BaseExtractor"),
    ),
}


def make_page(name):
    """The text of a page."""
    title, text, entries, others = PAGES[name]
    entries = sorted(entries, key=lambda entry: entry.takes)
    names = [f"skanomaly.{entry.name}" for entry in entries]
    return PAGE.format(
        title=title, text=text, names="\n".join(f"   {n}" for n in [*names, *others])
    )


def write_pages():
    """Write the pages that differ from the registry."""
    for name in PAGES:
        path, text = API / name, make_page(name)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_pages()
