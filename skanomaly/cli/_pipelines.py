"""From names on the command line to pipelines, with the defaults of the command line."""

from skanomaly import registry
from skanomaly.feature_extraction import FeatureExtractor, FilterBank
from skanomaly.feature_extraction.backbones import describe_backbone, has_weights
from skanomaly.model_selection import HeldOutThreshold
from skanomaly.pipeline import Pipeline

SPADE_NEIGHBORS = 50
BEST_FEATURES = "efficientnet_lite0"


def detector_defaults(n_images):
    """{class: parameters} of detectors whose defaults differ on the command line.

    A class that is missing here has its own defaults.
    """
    return {
        # A model of a fold has fewer images to choose from than the final one.
        "SPADE": {"n_neighbors": max(1, min(SPADE_NEIGHBORS, n_images)), "image_score": "map_max"},
    }


def default_features():
    """Name of the features where none are named: the best ones whose weights are installed."""
    return BEST_FEATURES if has_weights(BEST_FEATURES) else "filter_bank"


def make_features(name, weights, random_state):
    """A FilterBank, or a network by its name; None: the default."""
    name = default_features() if name is None else name
    if name == "filter_bank":
        if weights is not None:
            raise ValueError(
                "weights are those of a network, got weights for filter_bank; choose a network as "
                "features, such as resnet18, or leave weights out"
            )
        return FilterBank(random_state=random_state)
    options = {} if weights is None else {"weights": weights}
    return FeatureExtractor(name, random_state=random_state, **options)


def make_detector(name, random_state, n_images):
    """The detector of a name in the registry.

    ``n_images`` is the smallest number of good images that it will be fitted on.
    """
    detector = registry.find_detector(name).load()()
    parameters = detector_defaults(n_images).get(type(detector).__name__, {})
    if "random_state" in detector.get_params(deep=False):
        parameters = {**parameters, "random_state": random_state}
    return detector.set_params(**parameters)


def make_few_shot(features, weights, sizes, random_state):
    """Pipeline for a handful of good images: RegAD on two layers of a network, or a FilterBank.

    ``sizes`` may have image_size, resize and roi; the image size is RegAD's where it is left out.
    """
    from skanomaly.detectors.regad import RegAD

    sizes = {"image_size": RegAD().image_size, **sizes}
    of_features = {name: value for name, value in sizes.items() if name != "roi"}
    extractor = make_features(features, weights, random_state).set_params(**of_features)
    if isinstance(extractor, FilterBank):  # which RegAD learns from the images by itself
        extractor = None
    else:
        stages = describe_backbone(extractor.backbone).stages or ()
        # With the first stage as well, of four times the cells, no more defects are found.
        extractor.set_params(layers=stages[1:] or None).fit(None)
    return make_pipeline(None, RegAD(extractor, random_state=random_state, **sizes))


def make_pipeline(features, detector):
    """Pipeline of features and detector; features None: the detector takes images."""
    steps = [("detector", detector)]
    return Pipeline(steps if features is None else [("features", features), *steps])


def with_threshold(pipe, target_fpr, folds, random_state):
    """The pipeline with a threshold from held-out good images; folds None: in one fit if it can."""
    how = {} if folds is None else {"method": "folds", "cv": folds}
    return HeldOutThreshold(pipe, target_fpr=target_fpr, random_state=random_state, **how)


def fit_model(model, images, groups=None, *, bars):
    """Fit a pipeline with a threshold; progress bars are shown now, but not by the saved model."""
    detector = model.estimator.named_steps["detector"]
    # A detector that takes images may train for minutes in each fold; the others are fast.
    is_slow = "features" not in model.estimator.named_steps
    has_bars = is_slow and "verbose" in detector.get_params(deep=False)
    inner = ["detector__verbose"] if has_bars else []
    model.set_params(verbose=int(bars), **{f"estimator__{key}": int(bars) for key in inner})
    model.fit(images, groups=groups)
    model.set_params(verbose=0, **{f"estimator__{key}": 0 for key in inner})
    model.estimator_.set_params(**dict.fromkeys(inner, 0))
    return model
