"""What can be exported: the extractor and the detector of a pipeline, or the reason why not."""

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skanomaly.detectors import PaDiM, PatchCore
from skanomaly.feature_extraction import FeatureExtractor, FilterBank
from skanomaly.utils.unwrapping import inside

_EXPECTED = (
    "expected FilterBank or FeatureExtractor and then PatchCore or PaDiM, in a Pipeline or in "
    "what is wrapped around one"
)
_SEARCHES_ALL = "it chooses among all good images for each new one"
_HAS_NETWORKS = "its networks are part of the detector and have no export"
_REASONS = {
    "SPADE": _SEARCHES_ALL,
    "EnsembleDetector": "its members can be exported one by one",
    **dict.fromkeys(
        ("ARNet", "CFlow", "CutPaste", "DifferNet", "FYD", "GANomaly", "GlobalLocal"), _HAS_NETWORKS
    ),
    **dict.fromkeys(("MKD", "RegAD", "TDG"), _HAS_NETWORKS),
}


def find_parts(estimator):
    """The fitted extractor and detector within an estimator.

    Raises ValueError where there are others, or where their parameters have no export.
    """
    check_is_fitted(estimator)
    steps = []
    while (inner := inside(estimator)) is not None:
        if isinstance(estimator, Pipeline):
            steps += [step for _, step in estimator.steps[:-1] if step not in (None, "passthrough")]
        estimator = inner
    detector = estimator
    if not isinstance(detector, PatchCore | PaDiM):
        name = type(detector).__name__
        reason = _REASONS.get(name, "no export is known for it")
        raise ValueError(f"{_EXPECTED}; got {name}, which cannot be exported: {reason}")
    if len(steps) != 1 or not isinstance(steps[0], FilterBank | FeatureExtractor):
        names = ", ".join(type(step).__name__ for step in steps) or "nothing"
        raise ValueError(f"{_EXPECTED}; got {names} before {type(detector).__name__}")
    extractor = steps[0]
    check_is_fitted(extractor)
    check_is_fitted(detector)
    _check_parameters(extractor, detector)
    return extractor, detector


def _check_parameters(extractor, detector):
    for name in ("tile_size", "roi"):
        if getattr(extractor, name, None) is not None:
            raise ValueError(
                f"expected an extractor with {name}=None, got one that has it set: the exported "
                "model takes each image as a whole; fit without it"
            )
    if getattr(detector, "neighbors", "exact") != "exact":
        raise ValueError(
            f"expected neighbors='exact', got {detector.neighbors!r}: its graph has no export; "
            "set_params(neighbors='exact') of the detector needs no new fit"
        )
