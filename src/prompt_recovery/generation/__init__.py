"""Making datasets: originals, instructions, rewriters, the resumable pipeline, filters."""
