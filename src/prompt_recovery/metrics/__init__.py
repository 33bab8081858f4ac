"""Sharpened Cosine Similarity and the statistics around it."""
