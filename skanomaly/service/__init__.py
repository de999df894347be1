"""A detector as a web service: images in over HTTP, verdicts, scores, regions and maps out."""

from skanomaly.service._make_app import make_app

__all__ = ["make_app"]
