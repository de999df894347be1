"""grid.toml: which features, detector and settings tune is to try, checked before any work."""

import tomllib
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from skanomaly.cli._names import DETECTORS, FROM_PICTURES

_FIXED = ("cache", "checkpoint", "contamination", "random_state", "verbose", "weights")


@dataclass
class Grid:
    """What a grid.toml says; the defaults are what it need not say."""

    features: str | None = None
    detector: str = "patchcore"
    weights: str | None = None
    cv: int = 5
    scoring: list = field(default_factory=lambda: ["image_auroc"])
    synthetic: bool = False
    target_fpr: float = 0.01
    random_state: int = 0
    grid: dict = field(default_factory=dict)
    path: Path = None

    @property
    def n_candidates(self):
        return len(list(product(*self.grid.values())))


_WORDS = {
    "features": (str, 'a text, "filter_bank" or a torchvision backbone as "resnet18"'),
    "detector": (str, f"one of {list(DETECTORS)}"),
    "weights": (str, "a text, a local file or a name"),
    "cv": (int, "a number of folds, at least 2"),
    "scoring": (list, 'a list of metrics as ["image_auroc", "aupro"], the deciding one first'),
    "synthetic": (bool, "true or false"),
    "target_fpr": ((int, float), "a share above 0 and up to 0.5, as 0.01"),
    "random_state": (int, "a whole number, at least 0"),
    "grid": (dict, "tables [grid.detector] and [grid.features]"),
}


def read_grid(path):
    """The Grid in a file. Raises ValueError with what is allowed where anything is not."""
    from skanomaly.model_selection import scorers

    said = _read(path)
    _refuse_unknown(path, "", said, _WORDS)
    for name, value in said.items():
        kind, expected = _WORDS[name]
        is_kind = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not is_kind:
            raise ValueError(f"{path}: {name} must be {expected}, got {value!r}")
    grid = Grid(**said, path=path)
    if grid.detector not in DETECTORS:
        raise ValueError(f"{path}: detector must be {_WORDS['detector'][1]}, got {grid.detector!r}")
    for name, is_right in (
        ("cv", grid.cv >= 2),
        ("target_fpr", 0 < grid.target_fpr <= 0.5),
        ("random_state", grid.random_state >= 0),
    ):
        if not is_right:
            raise ValueError(f"{path}: {name} must be {_WORDS[name][1]}, got {said[name]!r}")
    try:
        scorers(*grid.scoring)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: scoring: {error}") from error
    if grid.detector in FROM_PICTURES and (grid.features or grid.weights):
        raise ValueError(f"{path}: {grid.detector} takes pictures: leave out features and weights")
    grid.grid = _flat(path, grid.grid, grid.detector in FROM_PICTURES)
    return grid


def make_candidates(grid, n_images, cache):
    """(pipeline, {parameter: values}); each candidate's parameters are in their range."""
    from skanomaly.cli._models import make_detector, make_features, make_pipeline

    detector = make_detector(grid.detector, grid.random_state, n_images)
    features = None
    if grid.detector not in FROM_PICTURES:
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


def _flat(path, tables, takes_pictures):
    """{"detector__sigma": [2, 4], ...} from {"detector": {"sigma": [2, 4]}, ...}."""
    steps = ["detector"] if takes_pictures else ["features", "detector"]
    _refuse_unknown(path, "grid.", tables, steps)
    flat = {}
    for step, parameters in tables.items():
        if not isinstance(parameters, dict):
            raise ValueError(f"{path}: grid.{step} must be a table [grid.{step}]")
        for name, values in parameters.items():
            if not isinstance(values, list) or not values:
                raise ValueError(
                    f"{path}: grid.{step}.{name} must be a list of values to try, of one value "
                    f"where it is settled, got {values!r}"
                )
            flat[f"{step}__{name}"] = values
    return flat


def _check_parameters(path, step):
    """Now what a fit would refuse hours later."""
    try:
        step._validate_params()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
