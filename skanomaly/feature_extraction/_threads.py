"""Work on several images at a time, a thread each."""

import torch

from skanomaly._threads import lone_threads


def map_images(function, *items):
    """Call function on each image's items; as many images at a time as torch has threads.

    An image's result does not depend on how many threads there are.
    """
    with lone_threads(torch.get_num_threads()) as pool:
        return list(pool.map(function, *items))
