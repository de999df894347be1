"""Images: reading them, fitting them into a network's input and back, and heat map colors."""

from skanomaly.images._color import (
    HEAT_COLORS,
    OPACITY,
    OUTLINE_COLOR,
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
from skanomaly.images._fitting import RESIZE_MODES, ImageFit, linear_weights, upsampling
from skanomaly.images._reading import (
    ImageSubset,
    channels_of,
    check_images,
    image_content,
    image_name,
    load_batch,
    load_batches,
    name_in,
    read_image,
    titles,
    to_channels,
)

# Public names; the others are shared with the other sub-packages.
__all__ = ["ImageFit", "check_images", "load_batches", "read_image"]
