"""The evaluators that ship with nasvid: cost, denoising loss and latency."""
