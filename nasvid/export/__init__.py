"""Extracted models as folders in diffusers' layout."""
