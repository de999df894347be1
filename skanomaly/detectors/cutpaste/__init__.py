"""CutPaste: features of a network that learned to see pasted pieces, and Gaussians of them."""

from skanomaly.detectors.cutpaste._cutpaste import CutPaste

__all__ = ["CutPaste"]
