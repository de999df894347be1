"""Load and check inspection images, or generate surfaces and defects."""

from skanomaly.datasets._checks import check_dataset
from skanomaly.datasets._defects import ATTEMPTS, MIN_PIXELS, VISIBLE, make_defects
from skanomaly.datasets._folders import load_folder
from skanomaly.datasets._image_checks import group_near_duplicates
from skanomaly.datasets._layouts import list_items
from skanomaly.datasets._listing import EXTENSIONS, iterate_images
from skanomaly.datasets._manifest import load_manifest
from skanomaly.datasets._textures import make_inspection, make_textures

# Public names; the others are shared with the other sub-packages.
__all__ = [
    "load_folder",
    "load_manifest",
    "check_dataset",
    "group_near_duplicates",
    "make_inspection",
    "make_textures",
    "make_defects",
]
