"""A forecast of the memory that a fit will hold."""

from typing import Any

from sklearn.base import clone
from sklearn.pipeline import Pipeline

__all__ = ["estimate_memory"]


def estimate_memory(pipeline: Any, X: Any, *, n_images: int | None = None) -> dict[str, int]:
    """Forecast what a fit would hold in memory, before it starts.

    Parameters
    ----------
    pipeline : Pipeline
        Extractor and detector, fitted or not; it is left as it is.
    X : images, as the pipeline's ``fit`` takes them
        The first two are read.
    n_images : int, default=None
        Forecast for so many images like these; None: as many as X has.

    Returns
    -------
    dict of str to int
        Bytes by what they are for, and their ``"total"``: an estimate, not a bound. In
        ``benchmarks/bench_memory.py`` the peak lay 5 to 20 % above it. The interpreter and its
        libraries come on top.

    Raises
    ------
    TypeError
        There is no Pipeline of an extractor and a detector.

    Examples
    --------
    >>> from skanomaly import FilterBank, PatchCore, Pipeline, estimate_memory
    >>> from skanomaly.datasets import make_textures
    >>> pipe = Pipeline([("features", FilterBank()), ("detector", PatchCore())])
    >>> needs = estimate_memory(pipe, make_textures(2, size=64), n_images=1000)
    >>> f"{needs['features'] / 1e6:.0f} MB"
    '423 MB'
    """
    if not isinstance(pipeline, Pipeline) or len(pipeline) < 2:
        raise TypeError(
            f"expected a Pipeline of extractor and detector, got {type(pipeline).__name__}"
        )
    sample = X[:2]
    maps = clone(pipeline[:-1]).fit(sample).transform(sample)
    n_images = len(X) if n_images is None else n_images
    n_values = sum(h * w * c for h, w, c in maps.layer_shapes.values())
    would_stream = pipeline[-2].would_stream(maps.layer_shapes, n_images)
    needs = {"features": 0 if would_stream else 4 * n_values * n_images}
    needs |= pipeline[-1]._forecast(maps.layer_shapes, n_images)
    return {**needs, "total": sum(needs.values())}
