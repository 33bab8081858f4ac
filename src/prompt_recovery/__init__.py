"""Prompt recovery: given a text and what an LLM made of it, find the instruction."""

__version__ = "0.1.0"
