"""Latent space: the VAE, training one, and clips encoded once for all steps."""
