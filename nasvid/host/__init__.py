"""This machine: files, terminal, device, GPU models."""
