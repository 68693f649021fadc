"""Denoising: objective, noise schedules, text conditioning, sampling a video."""
