"""Names on the command line become pipelines."""

from skanomaly.detectors import SPADE, PaDiM, PatchCore, RegAD
from skanomaly.feature_extraction import FeatureExtractor, FilterBank
from skanomaly.model_selection import HeldOutThreshold
from skanomaly.pipeline import Pipeline

CORESET_RATIO = 0.02
SPADE_NEIGHBORS = 50


def make_features(name, weights, random_state):
    """A FilterBank, or a network by its name in torchvision."""
    if name == "filter_bank":
        if weights is not None:
            raise ValueError("weights belong to a network: name it with features, as resnet18")
        return FilterBank(random_state=random_state)
    options = {} if weights is None else {"weights": weights}
    return FeatureExtractor(name, random_state=random_state, **options)


def make_detector(name, random_state, n_images):
    """A detector by its name, where a training sees as few as `n_images` good pictures."""
    if name == "patchcore":
        return PatchCore(
            coreset_ratio=CORESET_RATIO, image_score="map_max", random_state=random_state
        )
    if name == "padim":
        return PaDiM(random_state=random_state)
    if name == "spade":
        return SPADE(n_neighbors=max(1, min(SPADE_NEIGHBORS, n_images)), image_score="map_max")
    if name == "regad":
        return RegAD(random_state=random_state)
    from skanomaly.detectors import GlobalLocal  # it needs torch

    return GlobalLocal(random_state=random_state)


def make_pipeline(features, detector):
    """Both in a row; no features: the detector takes pictures itself."""
    steps = [("detector", detector)]
    return Pipeline(steps if features is None else [("features", features), *steps])


def with_threshold(pipe, target_fpr, folds, random_state):
    """The pipeline with a threshold from held-out good pictures."""
    return HeldOutThreshold(pipe, target_fpr=target_fpr, cv=folds, random_state=random_state)


def learn(model, images, name, *, bars):
    """Fit a detector of this name behind a threshold, with bars that its file does not ask for."""
    inner = ["detector__verbose"] if name == "global_local" else []  # each fold takes minutes
    model.set_params(verbose=int(bars), **{f"estimator__{key}": int(bars) for key in inner})
    model.fit(images)
    model.set_params(verbose=0, **{f"estimator__{key}": 0 for key in inner})
    model.estimator_.set_params(**dict.fromkeys(inner, 0))
    return model
