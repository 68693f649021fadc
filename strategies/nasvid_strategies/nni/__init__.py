"""Searching as an experiment of NNI, with its web UI."""
