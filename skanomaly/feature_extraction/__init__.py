"""Extractors: images in, FeatureMaps out."""

from skanomaly.feature_extraction._extractor import FeatureExtractor
from skanomaly.feature_extraction._filter_bank import FilterBank

__all__ = ["FeatureExtractor", "FilterBank"]
