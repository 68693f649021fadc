"""The evaluators that ship with nasvid: cost, denoising loss, latency and caption fidelity."""
