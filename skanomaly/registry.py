"""The registry of detectors: one line each, from which everything that lists detectors is made.

Public names, the command line, the contract tests, the test of the architecture and the API page
all read this table. It imports nothing, so that ``import skanomaly`` stays light.
"""

import importlib
from typing import NamedTuple

__all__ = ["DETECTORS", "EXTRACTORS", "STORED", "STORED_FUNCTIONS", "Entry", "find_detector"]


class Entry(NamedTuple):
    """A detector or an extractor.

    Parameters
    ----------
    name : str
        Of the class.
    module : str
        That defines the class, below ``skanomaly``.
    takes : {"features", "images"}
    needs_torch : bool
        Whether importing the class imports torch.
    """

    name: str
    module: str
    takes: str
    needs_torch: bool

    @property
    def package(self):
        """The sub-package in which the class is public, as "skanomaly.detectors"."""
        return f"skanomaly.{self.module.split('.')[0]}"

    @property
    def command(self):
        """The name on the command line: that of the module."""
        return self.module.rpartition(".")[2].lstrip("_")

    def load(self):
        """The class."""
        return getattr(importlib.import_module(f"skanomaly.{self.module}"), self.name)


DETECTORS = (
    Entry("PatchCore", "detectors._patchcore", "features", False),
    Entry("PaDiM", "detectors._padim", "features", False),
    Entry("SPADE", "detectors._spade", "features", False),
    Entry("CFlow", "detectors.cflow", "features", True),
    Entry("DifferNet", "detectors.differnet", "features", True),
    Entry("RegAD", "detectors.regad", "images", True),
    Entry("GlobalLocal", "detectors.global_local", "images", True),
    Entry("CutPaste", "detectors.cutpaste", "images", True),
    Entry("GANomaly", "detectors.ganomaly", "images", True),
    Entry("ARNet", "detectors.arnet", "images", True),
    Entry("TDG", "detectors.tdg", "images", True),
    Entry("FYD", "detectors.fyd", "images", True),
    Entry("MKD", "detectors.mkd", "images", True),
)
EXTRACTORS = (
    Entry("FilterBank", "feature_extraction", "images", True),
    Entry("FeatureExtractor", "feature_extraction", "images", True),
    Entry("RegistrationNetwork", "detectors.regad", "images", True),
)

# Classes that may stand in files of estimators, and the modules that define them. Names are never
# changed, as there are files with them; what a module is called may change.
STORED = {entry.name: entry.module for entry in (*DETECTORS, *EXTRACTORS)} | {
    "RegAD": "detectors.regad._regad",
    "RegistrationNetwork": "detectors.regad._registration",
    "GlobalLocal": "detectors.global_local._global_local",
    "TDG": "detectors.tdg._tdg",
    "CutPaste": "detectors.cutpaste._cutpaste",
    "CFlow": "detectors.cflow._cflow",
    "DifferNet": "detectors.differnet._differnet",
    "Architecture": "detectors.global_local._patch_comparison",
    "PatchGrid": "detectors.global_local._patch_grid",
    "GANomaly": "detectors.ganomaly._ganomaly",
    "FYD": "detectors.fyd._fyd",
    "ARNet": "detectors.arnet._arnet",
    "MKD": "detectors.mkd._mkd",
    "Erasures": "detectors.arnet._erasures",
    "FilterBank": "feature_extraction._filter_bank",
    "FeatureExtractor": "feature_extraction._pretrained",
    "ImageFit": "images._fitting",
    "Tiling": "images._tiles",
    "PositionwiseGaussian": "density._gaussian",
    "DenseCovariances": "density._covariances",
    "LowRankCovariances": "density._covariances",
    "PatchIndex": "neighbors._index",
    "GalleryIndex": "neighbors._gallery",
    "Pipeline": "pipeline",
    "EnsembleDetector": "ensemble._ensemble",
    "HeldOutThreshold": "model_selection._threshold",
    "Distributed": "distributed._distributed",
    "GoodOnlyKFold": "model_selection._split",
    "ScoreMonitor": "model_selection._monitor",
}
# Functions that may stand there as a parameter.
STORED_FUNCTIONS = {"foreground": "images._regions_of_interest"}


def find_detector(command):
    """The entry of a detector by its name on the command line; KeyError for an unknown one."""
    return {entry.command: entry for entry in DETECTORS}[command]
