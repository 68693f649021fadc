"""Extracted models as folders in diffusers' layout, where they can be in whole pipelines."""
