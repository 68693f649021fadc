"""The processes of a run: ranks, launching them, asking them to stop."""
