"""Training of networks: the one loop, its configuration, augmentation and synthetic defects."""

from skanomaly.training._augmentation import (
    AUGMENTATIONS,
    IDENTITIES,
    augment,
    inverse,
    matrices,
    warp,
)
from skanomaly.training._config import TrainingConfig, configured, training_parameters, with_given
from skanomaly.training._dihedral import turned, turned_back
from skanomaly.training._loop import fit
from skanomaly.training._pastes import cut_paste, cut_paste_scar, jitter_colors
from skanomaly.training._shuffled_batches import shuffled_batches
from skanomaly.training._synthetic_stains import check_stains, stain

# Public names; the others are shared with the other sub-packages.
__all__ = [
    "TrainingConfig",
    "augment",
    "cut_paste",
    "cut_paste_scar",
    "fit",
    "jitter_colors",
    "stain",
]
