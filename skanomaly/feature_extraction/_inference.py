"""A trimmed network at work: images in, maps with channels last out."""

import logging

import numpy as np
import torch
from sklearn.utils import gen_batches

from skanomaly.feature_extraction._axis_order import size_error, token_grid
from skanomaly.feature_extraction._packing import can_pack, has_fast_bfloat16, pack
from skanomaly.utils.threads import limit_if_shared

logger = logging.getLogger("skanomaly")


class InferenceNetwork:
    """A trimmed network on its device, in its precision, ready for images of one size.

    Parameters
    ----------
    network : torch.fx.GraphModule or torch.nn.Module
        From :func:`~skanomaly.feature_extraction.backbones.trim`; it is changed in place.
    layouts : dict of str to {"NCHW", "NHWC", "tokens"}
        Order of the axes of each layer's output.
    image_size : tuple (height, width)
    n_channels : int
    normalization : tuple of two sequences of three floats
        Mean and standard deviation, which normalize images of three channels.
    n_prefix_tokens : int
        Tokens before those of the image's patches, as far as known.
    device : torch.device
    dtype : {"float32", "bfloat16", "auto"}
        "auto" takes bfloat16 where the device multiplies it in hardware.

    Raises
    ------
    ValueError
        The network does not take images of this size, or a layer has another layout.

    Attributes
    ----------
    layer_shapes : dict of str to tuple (h, w, C)
    place : tuple of (str, str, bool)
        Kind of device, precision, and whether convolutions are packed: what the last digits of
        features depend on.
    """

    def __init__(
        self,
        network,
        layouts,
        image_size,
        n_channels,
        normalization,
        n_prefix_tokens,
        device,
        dtype,
    ):
        self.layouts, self.image_size = layouts, image_size
        self.n_prefix_tokens = n_prefix_tokens
        self.device, self.dtype = device, _precision(dtype, device)
        network = network.to(
            device=self.device, dtype=self.dtype, memory_format=torch.channels_last
        )
        is_traced = isinstance(network, torch.fx.GraphModule)
        self.is_packed = device.type == "cpu" and can_pack() and is_traced
        # A packed network takes one image at a time: its maps stay in the processor's cache. So
        # does one that is not traced, of large products, which round otherwise for several.
        self.takes_one = device.type == "cpu" and (self.is_packed or not is_traced)
        self.network = pack(network) if self.is_packed else network
        self.normalization = None
        if n_channels == 3:
            self.normalization = [
                torch.tensor(values, device=device)[:, None, None]  # (3, 1, 1)
                for values in normalization
            ]
        # This first image also packs the weights, which several threads must not do at a time.
        blank = np.zeros((1, *image_size, n_channels), dtype=np.float32)
        try:
            outputs = self._outputs(blank)
        except Exception as error:  # whatever a network of any make raises
            raise size_error(image_size, error) from error
        self.layer_shapes = {name: self._shape_of(name, maps) for name, maps in outputs.items()}

    @property
    def place(self):
        return self.device.type, str(self.dtype), self.is_packed

    def __call__(self, batch):
        """Features of images.

        Parameters
        ----------
        batch : ndarray of shape (b, height, width, C), float32 in [0, 1]

        Returns
        -------
        dict of str to ndarray of shape (b, h, w, C), float32
        """
        step = 1 if self.takes_one else len(batch)
        with limit_if_shared():
            pieces = [self._maps(batch[part]) for part in gen_batches(len(batch), step)]
        if len(pieces) == 1:
            return pieces[0]
        return {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}

    def _maps(self, batch):
        outputs = self._outputs(batch)
        return {
            name: np.ascontiguousarray(self._channels_last(name, output).float().cpu().numpy())
            for name, output in outputs.items()
        }

    def _outputs(self, batch):
        """{layer: tensor in the layer's own layout}."""
        with torch.inference_mode():
            images = torch.from_numpy(batch).permute(0, 3, 1, 2).to(self.device)  # (b, C, H, W)
            if self.normalization is not None:
                mean, std = self.normalization
                images = (images - mean) / std
            images = images.to(self.dtype).contiguous(memory_format=torch.channels_last)
            # Not by calling the module, which would print each error that it raises.
            return self.network.forward(images)

    def _channels_last(self, name, output):
        """A layer's output as (b, h, w, C)."""
        layout = self.layouts[name]
        if layout == "NCHW":
            return output.permute(0, 2, 3, 1)
        if layout == "tokens":
            rows, columns, n_channels = self.layer_shapes[name]
            # (b, prefix + rows * columns, C)
            return output[:, -rows * columns :].reshape(-1, rows, columns, n_channels)
        return output

    def _shape_of(self, name, output):
        """(h, w, C) of a layer's maps, from its output for one image."""
        layout, shape = self.layouts[name], tuple(getattr(output, "shape", ()))
        if len(shape) != (3 if layout == "tokens" else 4):
            raise ValueError(
                f"layer {name!r} returns shape {shape}, which is not layout={layout!r}; "
                'take layout="auto", or another layer'
            )
        if layout == "tokens":
            try:
                grid = token_grid(shape[1], self.image_size, self.n_prefix_tokens)
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from error
            return (*grid, shape[2])
        return tuple(self._channels_last(name, output).shape[1:])


def _precision(dtype, device):
    """The torch dtype in use; "auto" is the fast one."""
    if dtype == "auto":
        is_fast = device.type != "cpu" or has_fast_bfloat16()
        logger.info("bfloat16 is %s here", "fast and taken" if is_fast else "slow: float32 taken")
        dtype = "bfloat16" if is_fast else "float32"
    return getattr(torch, dtype)
