"""Searching as an experiment of NNI, with its web UI."""

from nasvid_strategies.nni.strategy import Nni

__all__ = ["Nni"]
