"""The feature extractors that ship with nasvid."""
