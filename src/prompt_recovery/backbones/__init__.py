"""Backbones: finding and loading a pretrained causal LM and its tokenizer, and adapting it."""
