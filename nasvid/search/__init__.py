"""Searching a trained supernet: driver, record, constraints, Pareto front."""
