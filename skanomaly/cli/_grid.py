"""grid.toml: the features, the detector and the settings that tune tries, checked at once."""

import tomllib
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from skanomaly import registry

# Parameters that no grid may have: they are set by tune, or do not change the scores.
_FIXED = ("cache", "checkpoint", "contamination", "random_state", "verbose", "weights")


@dataclass
class Grid:
    """The settings in a grid.toml, with their defaults."""

    features: str | list | None = None
    detector: str | list = "patchcore"
    weights: str | None = None
    cv: int = 5
    scoring: list = field(default_factory=lambda: ["image_auroc"])
    synthetic: bool = False
    target_fpr: float = 0.06
    random_state: int = 0
    grid: dict = field(default_factory=dict)
    path: Path | None = None

    @property
    def steps(self):
        """Names of features and detector of each kind of pipeline."""
        return list(product(_as_list(self.features), _as_list(self.detector)))

    @property
    def n_candidates(self):
        return len(self.steps) * len(list(product(*self.grid.values())))

    @property
    def takes_images(self):
        """Whether any detector takes images rather than features."""
        names = _as_list(self.detector)
        return any(registry.find_detector(name).takes == "images" for name in names)


def default_grid():
    """The Grid of no file: features, image sizes, detectors and smoothing, by painted defects."""
    from skanomaly.cli._pipelines import default_features

    return Grid(
        features=list(dict.fromkeys(["filter_bank", default_features()])),
        detector=["patchcore", "padim"],
        cv=3,
        synthetic=True,
        grid={"features__image_size": [224, 320], "detector__sigma": [2.0, 4.0, 8.0]},
    )


def _settings():
    """{name: (type, what is expected)} of the settings in a grid.toml."""
    return {
        "features": (
            (str, list),
            'a string, "filter_bank" or a backbone such as "efficientnet_lite0", or a list of them',
        ),
        "detector": (
            (str, list),
            f"one of {[entry.command for entry in registry.DETECTORS]}, or a list of them",
        ),
        "weights": (str, "a string, a local file or a name"),
        "cv": (int, "a number of folds, at least 2"),
        "scoring": (list, 'a list of metrics such as ["image_auroc", "aupro"]'),
        "synthetic": (bool, "true or false"),
        "target_fpr": ((int, float), "a share above 0 and up to 0.5, such as 0.06"),
        "random_state": (int, "an integer, at least 0"),
        "grid": (dict, "tables [grid.detector] and [grid.features]"),
    }


def read_grid(path):
    """The Grid in a file; ValueError with what is expected for anything else."""
    from skanomaly.model_selection import scorers

    found, settings = _read(path), _settings()
    _refuse_unknown(path, "", found, settings)
    for name, value in found.items():
        kind, expected = settings[name]
        is_kind = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not is_kind:
            raise ValueError(f"{path}: {name} must be {expected}, got {value!r}")
    grid = Grid(**found, path=path)
    known = [entry.command for entry in registry.DETECTORS]
    detectors, features = _as_list(grid.detector), _as_list(grid.features)
    for name, is_valid in (
        ("detector", _are_names(detectors) and set(detectors) <= set(known)),
        ("features", grid.features is None or _are_names(features)),
        ("cv", grid.cv >= 2),
        ("target_fpr", 0 < grid.target_fpr <= 0.5),
        ("random_state", grid.random_state >= 0),
    ):
        if not is_valid:
            raise ValueError(f"{path}: {name} must be {settings[name][1]}, got {found[name]!r}")
    try:
        scorers(*grid.scoring)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: scoring: {error}") from error
    if grid.takes_images and (grid.features or grid.weights):
        raise ValueError(
            f"{path}: {', '.join(detectors)} takes images; leave out features and weights"
        )
    if grid.takes_images and len(detectors) > 1:
        raise ValueError(
            f"{path}: detector must be a list of those that take features, got {detectors}"
        )
    grid.grid = _flatten(path, grid.grid, grid.takes_images)
    return grid


def make_candidates(grid, n_images):
    """List of (parameters, pipeline); all parameters are valid.

    The parameters are those in the grid, and the names of features and detector of which there are
    several.
    """
    from sklearn.base import clone

    candidates = []
    for features, detector in grid.steps:
        pipe = _make_pipeline(grid, features, detector, n_images)
        for name in grid.grid:
            step, _, parameter = name.partition("__")
            allowed = [p for p in pipe.named_steps[step].get_params(deep=False) if p not in _FIXED]
            _refuse_unknown(grid.path, f"grid.{step}.", [parameter], allowed)
        named = {}
        if isinstance(grid.features, list):
            named["features"] = features
        if isinstance(grid.detector, list):
            named["detector"] = detector
        for values in product(*grid.grid.values()):
            parameters = dict(zip(grid.grid, values, strict=True))
            candidate = clone(pipe).set_params(**parameters)
            for step in candidate.named_steps.values():
                _check_parameters(grid.path, step)
            candidates.append((named | parameters, candidate))
    return candidates


def _make_pipeline(grid, features, detector, n_images):
    """The pipeline of one name of features and one of a detector, without the grid's parameters."""
    from skanomaly.cli._pipelines import make_detector, make_features, make_pipeline

    detector = make_detector(detector, grid.random_state, n_images)
    if grid.takes_images:
        return make_pipeline(None, detector)
    # In a list the weights are those of the networks.
    without = features == "filter_bank" and isinstance(grid.features, list)
    weights = None if without else grid.weights
    return make_pipeline(make_features(features, weights, grid.random_state), detector)


def _as_list(names):
    """One name, or None, as a list; a list as it is."""
    return names if isinstance(names, list) else [names]


def _are_names(names):
    """Whether these are one or more different strings."""
    texts = [name for name in names if isinstance(name, str)]
    return len(names) == len(texts) == len(set(texts)) > 0


def _read(path):
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a TOML file in UTF-8 ({error})") from error
    except OSError as error:
        raise OSError(f"{path}: expected a TOML file to read ({error.strerror})") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not a TOML file ({error})") from error


def _refuse_unknown(path, where, names, allowed):
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise ValueError(f"{path}: {where}{unknown[0]} is unknown; allowed are {sorted(allowed)}")


def _flatten(path, tables, takes_images):
    """{"detector__sigma": [2, 4], ...} from {"detector": {"sigma": [2, 4]}, ...}."""
    steps = ["detector"] if takes_images else ["features", "detector"]
    _refuse_unknown(path, "grid.", tables, steps)
    flat = {}
    for step, parameters in tables.items():
        if not isinstance(parameters, dict):
            raise ValueError(f"{path}: grid.{step} must be a table [grid.{step}]")
        for name, values in parameters.items():
            if not isinstance(values, list) or not values:
                raise ValueError(
                    f"{path}: grid.{step}.{name} must be a list of values to try, or of a single "
                    f"value to keep, got {values!r}"
                )
            flat[f"{step}__{name}"] = values
    return flat


def _check_parameters(path, step):
    """Refuse at once what a fit would refuse after hours of other fits."""
    try:
        step._validate_params()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
