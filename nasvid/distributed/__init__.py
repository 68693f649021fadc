"""The processes of a run: ranks, how to launch them and how to stop them."""
