"""Arithmetic of models: the results of `transformers` and PEFT, in less time and memory."""
