"""Comparison of many runs in one report."""
