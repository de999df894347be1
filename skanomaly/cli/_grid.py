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

    features: str | None = None
    detector: str = "patchcore"
    weights: str | None = None
    cv: int = 5
    scoring: list = field(default_factory=lambda: ["image_auroc"])
    synthetic: bool = False
    target_fpr: float = 0.06
    random_state: int = 0
    grid: dict = field(default_factory=dict)
    path: Path | None = None

    @property
    def n_candidates(self):
        return len(list(product(*self.grid.values())))

    @property
    def takes_images(self):
        """Whether the detector takes images rather than features."""
        return registry.find_detector(self.detector).takes == "images"


def _settings():
    """{name: (type, what is expected)} of the settings in a grid.toml."""
    return {
        "features": (str, 'a string, "filter_bank" or a torchvision backbone such as "resnet18"'),
        "detector": (str, f"one of {[entry.command for entry in registry.DETECTORS]}"),
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
    for name, is_valid in (
        ("detector", grid.detector in [entry.command for entry in registry.DETECTORS]),
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
        raise ValueError(f"{path}: {grid.detector} takes images; leave out features and weights")
    grid.grid = _flatten(path, grid.grid, grid.takes_images)
    return grid


def make_candidates(grid, n_images, cache):
    """(pipeline, {parameter: values}); the parameters of all candidates are valid."""
    from skanomaly.cli._pipelines import make_detector, make_features, make_pipeline

    detector = make_detector(grid.detector, grid.random_state, n_images)
    features = None
    if not grid.takes_images:
        features = make_features(grid.features or "filter_bank", grid.weights, grid.random_state)
        features.set_params(cache=cache)
    pipe = make_pipeline(features, detector)
    for name in grid.grid:
        step, _, parameter = name.partition("__")
        allowed = [p for p in pipe.named_steps[step].get_params(deep=False) if p not in _FIXED]
        _refuse_unknown(grid.path, f"grid.{step}.", [parameter], allowed)
    for values in product(*grid.grid.values()):
        pipe.set_params(**dict(zip(grid.grid, values, strict=True)))
        for step in pipe.named_steps.values():
            _check_parameters(grid.path, step)
    return pipe, grid.grid


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
