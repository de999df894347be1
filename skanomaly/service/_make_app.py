"""make_app: the ASGI application around a detector."""

from numbers import Integral, Real
from typing import Any

import joblib

from skanomaly.model_selection import HeldOutThreshold, ScoreMonitor
from skanomaly.service._scorer import Scorer

_MB = 1_000_000


def make_app(
    detector: HeldOutThreshold,
    *,
    max_megabytes: float = 100,
    n_threads: int | None = None,
    monitor: ScoreMonitor | None = None,
    name: str = "detector",
) -> Any:
    """The ASGI application that ``skanomaly serve`` runs, for a server of your own.

    Parameters
    ----------
    detector : HeldOutThreshold
        Fitted. All requests share it.
    max_megabytes : float, default=100
        Size in megabytes (10^6 bytes) above which an upload is refused. The size of the image in it
        is limited by :func:`skanomaly.images.set_pixel_limit`.
    n_threads : int or None, default=None
        Images scored at a time. None: the number of processors, at most 4.
    monitor : ScoreMonitor or None, default=None
        Fitted on ``detector.oof_scores_``. It takes in the score of every image of ``POST /score``.
    name : str, default="detector"
        What ``GET /health`` calls the detector.

    Returns
    -------
    starlette.applications.Starlette
        ``POST /score``, ``POST /map`` and ``GET /health``; see the guide.

    Raises
    ------
    ImportError
        starlette or python-multipart is not installed.
    TypeError, ValueError
        A parameter is of another kind, or out of its range.

    Examples
    --------
    >>> from skanomaly import FilterBank, PatchCore, Pipeline
    >>> from skanomaly.datasets import make_textures
    >>> from skanomaly.model_selection import HeldOutThreshold
    >>> from skanomaly.service import make_app
    >>> pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", PatchCore())])
    >>> detector = HeldOutThreshold(pipe, target_fpr=0.1)
    >>> detector = detector.fit(make_textures(20, size=64, random_state=0))
    >>> app = make_app(detector)  # uvicorn.run(app)
    >>> [route.path for route in app.routes]
    ['/score', '/map', '/health']
    """
    try:
        from skanomaly.service._app import build
    except ImportError as error:
        raise ImportError(
            f"the service needs starlette and python-multipart ({error}); install them with: "
            'pip install "skanomaly[serve]"'
        ) from error
    if not hasattr(detector, "oof_map_maxima_"):
        raise TypeError(
            f"expected a fitted HeldOutThreshold, got {type(detector).__name__}; wrap the detector "
            "in one, which takes its thresholds from held-out good images"
        )
    if monitor is not None and not hasattr(monitor, "statistic_"):
        raise TypeError(
            f"expected a fitted ScoreMonitor or None, got {type(monitor).__name__}; fit it on "
            "detector.oof_scores_"
        )
    if not isinstance(max_megabytes, Real) or not 0 < max_megabytes < float("inf"):
        raise ValueError(f"max_megabytes must be above 0 and finite, got {max_megabytes!r}")
    if n_threads is None:
        n_threads = min(joblib.cpu_count(), 4)
    if not isinstance(n_threads, Integral) or n_threads < 1:
        raise ValueError(f"n_threads must be an integer of at least 1 or None, got {n_threads!r}")
    return build(Scorer(detector, monitor, name), int(max_megabytes * _MB), int(n_threads))
