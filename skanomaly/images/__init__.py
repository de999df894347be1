"""Images: reading them, fitting them into a network's input and back, and heat map colors."""

from skanomaly.images._bit_depth import unused_high_bits, warn_of_unused_bits
from skanomaly.images._collections import (
    ImageSubset,
    check_images,
    image_name,
    name_in,
    place_in,
    titles,
)
from skanomaly.images._color import (
    HEAT_COLORS,
    OPACITY,
    OUTLINE_COLOR,
    ROI_COLOR,
    check_limits,
    check_map,
    color_limits,
    crop_around,
    heat_levels,
    limits_of_good,
    limits_of_levels,
    map_levels,
    outline,
    overlay,
    save_score_map,
    to_rgb,
)
from skanomaly.images._decoding import decode_image
from skanomaly.images._files import is_url, path_of
from skanomaly.images._fitting import RESIZE_MODES, ImageFit, linear_weights, upsampling
from skanomaly.images._headers import image_frame, is_transparent
from skanomaly.images._limits import pixel_limit, set_pixel_limit
from skanomaly.images._reading import (
    channels_of,
    computed_ahead,
    image_content,
    load_batch,
    load_batches,
    read_image,
    to_channels,
)
from skanomaly.images._regions_of_interest import (
    blank_outside,
    cells_inside,
    check_own_size,
    foreground,
    is_one_mask,
    pack_mask,
    read_roi,
    read_rois,
    unpack_mask,
)
from skanomaly.images._resampling import PRECISION_BITS, resampling_weights
from skanomaly.images._tiles import Tiling, tile_sides

# Public names; the others are shared with the other sub-packages.
__all__ = [
    "ImageFit",
    "check_images",
    "foreground",
    "load_batches",
    "pixel_limit",
    "read_image",
    "set_pixel_limit",
    "unused_high_bits",
]
