"""Filters for image-text pools: de-duplicate, score, prune by the density of concepts."""

__version__ = "0.1.0"
