"""Neural architecture search over video diffusion models."""

__version__ = "0.1.0"
