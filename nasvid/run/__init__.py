"""One run: its folder, its session, its stages."""
