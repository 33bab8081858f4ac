"""Recoverers and baselines behind one interface."""
