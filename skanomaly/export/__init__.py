"""Fitted pipelines as files for other programs."""

from skanomaly.export._onnx import export_onnx

__all__ = ["export_onnx"]
