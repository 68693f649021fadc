"""Denoising: objectives, text encoders, sampling videos."""
