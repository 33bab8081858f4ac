"""Runs: their folders and processes, ablations with Hydra, and sweeps with W&B's engine."""
