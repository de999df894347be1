"""Fitted extractors as torch modules of plain operators, for an export."""

import torch

from skanomaly.feature_extraction import backbones
from skanomaly.feature_extraction._filter_bank import CLIP, FilterBank
from skanomaly.feature_extraction._pretrained import FeatureExtractor


def as_module(extractor: FilterBank | FeatureExtractor) -> torch.nn.Module:
    """The features of a fitted extractor as a module.

    Parameters
    ----------
    extractor : FilterBank or FeatureExtractor

    Returns
    -------
    torch.nn.Module
        Images (b, C, height, width) float32 in [0, 1] at the input's size in, a dict of
        str to maps (b, C, h, w) out. In float32 on the CPU, whatever the extractor's device is.
    """
    if isinstance(extractor, FilterBank):
        return _FilterBankModule(extractor)
    return _NetworkModule(extractor)


class _FilterBankModule(torch.nn.Module):
    def __init__(self, bank):
        super().__init__()
        # With the filters as tensors now: those made while torch traces would hold no numbers.
        self.bank = bank.snapshot()
        self.bank._tensors()
        self.register_buffer("mean", torch.tensor(bank.mean_)[:, None, None])
        self.register_buffer("scale", torch.tensor(bank.scale_)[:, None, None])

    def forward(self, images):
        standardized = (self.bank._raw(images) - self.mean) / self.scale
        return {"energies": standardized.clamp(-CLIP, CLIP)}


class _NetworkModule(torch.nn.Module):
    def __init__(self, extractor):
        super().__init__()
        size = extractor.image_fit.height, extractor.image_fit.width
        # As it was before the convolutions were packed, for which there is no operator elsewhere.
        whole = backbones.load_network(extractor.backbone, None, 0, size, extractor.configuration_)
        trimmed = backbones.rebuild(whole, extractor.layers_, extractor.weights_)
        self.network = trimmed.float().eval()
        self.layouts, self.layer_shapes = extractor.layouts_, extractor.layer_shapes_
        self.normalizes = extractor.n_channels_in_ == 3
        self.register_buffer("mean", torch.tensor(extractor.mean_)[:, None, None])
        self.register_buffer("std", torch.tensor(extractor.std_)[:, None, None])

    def forward(self, images):
        if self.normalizes:
            images = (images - self.mean) / self.std
        outputs = self.network(images)
        return {name: self._channels_first(name, output) for name, output in outputs.items()}

    def _channels_first(self, name, output):
        """A layer's output as (b, C, h, w)."""
        layout = self.layouts[name]
        if layout == "NHWC":
            return output.permute(0, 3, 1, 2)
        if layout == "tokens":
            rows, columns, n_channels = self.layer_shapes[name]
            tokens = output[:, -rows * columns :].reshape(-1, rows, columns, n_channels)
            return tokens.permute(0, 3, 1, 2)
        return output
