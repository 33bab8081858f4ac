"""Dataset generation: original texts, instructions, filters and the resumable pipeline."""
