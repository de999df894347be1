"""The registry of detectors: one line each, from which everything that lists detectors is made.

Public names, the command line, the contract tests, the test of the architecture and the API page
all read this table. It imports nothing, so that ``import skanomaly`` stays light.
"""

import importlib
from typing import NamedTuple

__all__ = ["DETECTORS", "EXTRACTORS", "Entry", "find_detector"]


class Entry(NamedTuple):
    """A detector or an extractor.

    Parameters
    ----------
    name : str
        Of the class.
    module : str
        Public module that the class is imported from.
    takes : {"features", "images"}
    needs_torch : bool
        Whether importing the class imports torch.
    method : str
        One line on what it learns, for tables.
    command_name : str or None, default=None
        Name on the command line; None: the class's name in lower case.
    """

    name: str
    module: str
    takes: str
    needs_torch: bool
    method: str
    command_name: str | None = None

    @property
    def command(self):
        """The name on the command line."""
        return self.command_name or self.name.lower()

    def load(self):
        """The class."""
        return getattr(importlib.import_module(self.module), self.name)


DETECTORS = (
    Entry("PatchCore", "skanomaly.detectors", "features", False, "a coreset of all good patches"),
    Entry("PaDiM", "skanomaly.detectors", "features", False, "a Gaussian at each position"),
    Entry("SPADE", "skanomaly.detectors", "features", False, "nothing: it keeps the good images"),
    Entry("RegAD", "skanomaly.detectors", "images", True, "a Gaussian from augmented images"),
    Entry(
        "GlobalLocal",
        "skanomaly.detectors",
        "images",
        True,
        "patches from their surroundings",
        command_name="global_local",
    ),
)
EXTRACTORS = (
    Entry("FilterBank", "skanomaly.feature_extraction", "images", True, "filters of good images"),
    Entry(
        "FeatureExtractor", "skanomaly.feature_extraction", "images", True, "nothing: pretrained"
    ),
    Entry("RegistrationNetwork", "skanomaly.detectors", "images", True, "maps that match"),
)


def find_detector(command):
    """The entry of a detector by its name on the command line; KeyError for an unknown one."""
    return {entry.command: entry for entry in DETECTORS}[command]
