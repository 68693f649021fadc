"""Subnets as folders in the layout of diffusers."""
