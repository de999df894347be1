"""The order of the axes of a layer's output, measured: where are rows, columns and channels?

A layer returns maps (b, C, h, w), "NCHW"; maps (b, h, w, C), "NHWC"; or tokens (b, n, C),
"tokens", some of which may come before those of the image's patches.
"""

import copy
import math

import torch

LAYOUTS = ("NCHW", "NHWC", "tokens")
# Number of axes, those that grow with the image's height, and those that grow with its width.
_GROWING = {
    (4, (2,), (3,)): "NCHW",
    (4, (1,), (2,)): "NHWC",
    (3, (1,), (1,)): "tokens",
}
_MAX_PREFIX = 16  # tokens


def measure_layouts(network, image_size, n_channels, fallback=None):
    """Layouts of a network's layers, from how their shapes follow the image's size.

    Parameters
    ----------
    network : torch.fx.GraphModule
        From :func:`~skanomaly.feature_extraction.backbones.trim`, on the CPU.
    image_size : tuple (height, width)
    n_channels : int
    fallback : str or None
        Layout of a layer that measuring leaves open.

    Returns
    -------
    dict of str to {"NCHW", "NHWC", "tokens"}

    Raises
    ------
    ValueError
        The network does not take images of this size; a layer returns no maps; or its layout
        cannot be told, or is another one.

    Notes
    -----
    Images are made twice as high, then twice as wide: the axes that grow are rows and columns.
    A network that takes one size only shows one shape; there maps are the two neighboring axes
    that have the image's aspect ratio, and an output of three axes counts as tokens.
    """
    height, width = image_size
    # Shapes cost nothing where no number is computed, which is possible with all but odd networks.
    device, probe = "meta", _without_numbers(network)
    try:
        shapes = _output_shapes(probe, image_size, n_channels, device)
    except ValueError:
        device, probe = "cpu", network
        shapes = _output_shapes(probe, image_size, n_channels, device)
    try:
        taller = _output_shapes(probe, (2 * height, width), n_channels, device)
        wider = _output_shapes(probe, (height, 2 * width), n_channels, device)
    except ValueError:
        taller = wider = shapes  # it takes one size
    return {
        name: _from_growth(name, shape, taller[name], wider[name])
        or _from_one_shape(name, shape, image_size, fallback)
        for name, shape in shapes.items()
    }


def _without_numbers(network):
    """Copy of a network on torch's meta device, where tensors have a shape and nothing else."""
    tensors = [*network.parameters(), *network.buffers()]
    # What the copy would copy is given to it instead.
    return copy.deepcopy(network, {id(t): torch.empty_like(t, device="meta") for t in tensors})


def _output_shapes(network, image_size, n_channels, device):
    """Shapes {layer: (1, ...)} of what a network returns for a blank image.

    Raises ValueError where it does not take images of this size, or a layer returns something else
    than maps or tokens.
    """
    try:
        with torch.inference_mode():
            # Not by calling the module, which would print each error that it raises.
            outputs = network.forward(torch.zeros(1, n_channels, *image_size, device=device))
    except Exception as error:  # whatever a network of any make raises
        raise size_error(image_size, error) from error
    shapes = {name: tuple(getattr(output, "shape", ())) for name, output in outputs.items()}
    for name, shape in shapes.items():
        if len(shape) not in (3, 4):
            raise ValueError(
                f"layer {name!r} returns shape {shape}, expected maps (b, C, h, w) or (b, h, w, C) "
                "or tokens (b, n, C); choose a layer before the pooling"
            )
    return shapes


def size_error(image_size, error):
    """The ValueError that stands for what a network raises where it does not take a size."""
    height, width = image_size
    return ValueError(
        f"the network does not take images of {height} x {width} pixels ({error}); "
        "choose another image_size"
    )


def token_grid(n_tokens, image_size, n_prefix=0):
    """Rows and columns of the image's patches among n tokens, the last ones.

    Parameters
    ----------
    n_tokens : int
    image_size : tuple (height, width)
    n_prefix : int
        Number of prefix tokens that is tried first.

    Returns
    -------
    rows, columns : int
        As the patches of some stride have them, with as few prefix tokens as possible.

    Raises
    ------
    ValueError
        There is no such grid.
    """
    strides = range(1, min(image_size) + 1)
    whole = {
        _grid(image_size, stride, math.floor)
        for stride in strides
        if not any(side % stride for side in image_size)
    }
    cut = {_grid(image_size, s, rounding) for s in strides for rounding in (math.floor, math.ceil)}
    for grids, prefixes in ((whole, range(_MAX_PREFIX + 1)), (cut, (0, 1))):
        by_size = {rows * columns: (rows, columns) for rows, columns in grids}
        for prefix in (n_prefix, *prefixes):
            if n_tokens - prefix in by_size:
                return by_size[n_tokens - prefix]
    height, width = image_size
    raise ValueError(
        f"{n_tokens} tokens are no grid over an image of {height} x {width} pixels, with at most "
        f"{_MAX_PREFIX} prefix tokens; choose another image_size or another layer"
    )


def _grid(image_size, stride, rounding):
    return tuple(rounding(side / stride) for side in image_size)


def _from_growth(name, before, taller, wider):
    """Layout of a layer from its shapes at three sizes; None where they are the same."""
    growing = tuple(
        tuple(axis for axis in range(1, len(before)) if other[axis] != before[axis])
        for other in (taller, wider)
    )
    if growing == ((), ()):
        return None
    layout = _GROWING.get((len(before), *growing))
    if layout is None:
        raise _undecided(name, before)
    return layout


def _from_one_shape(name, shape, image_size, fallback):
    """Layout of a layer from a single shape."""
    if len(shape) == 3:
        return "tokens"
    places = {"NCHW": shape[2:], "NHWC": shape[1:3]}
    fitting = [layout for layout, grid in places.items() if _is_grid(grid, image_size)]
    if len(fitting) == 1:
        return fitting[0]
    if fallback is None:
        raise _undecided(name, shape)
    return fallback


def _is_grid(grid, image_size):
    """Whether maps of this many rows and columns have one stride along both sides of the image.

    A row or a column more or less may come from padding.
    """
    least = max(side / (n + 1) for side, n in zip(image_size, grid, strict=True))
    most = min(side / max(n - 1, 1e-9) for side, n in zip(image_size, grid, strict=True))
    return least <= most


def _undecided(name, shape):
    return ValueError(
        f"which axes of layer {name!r} are rows and columns cannot be told from its shape {shape}; "
        f'say it: layout="NCHW", "NHWC" or "tokens"'
    )
