"""This machine: files, display, device, cards."""
