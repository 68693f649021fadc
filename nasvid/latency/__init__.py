"""Latency and memory of inference, known before an architecture is evaluated: tables of blocks."""
