"""Many runs: ablations with Hydra, sweeps with W&B's engine."""
