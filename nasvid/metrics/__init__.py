"""The evaluators that ship with nasvid: what an architecture costs, how it denoises, how fast."""
