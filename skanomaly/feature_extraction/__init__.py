"""Extractors: images in, FeatureMaps out."""

from skanomaly.feature_extraction._as_modules import as_module
from skanomaly.feature_extraction._filter_bank import FilterBank
from skanomaly.feature_extraction._pretrained import FeatureExtractor
from skanomaly.feature_extraction._tracing import NotTraceableError, trace

__all__ = ["FeatureExtractor", "FilterBank"]
