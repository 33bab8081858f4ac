"""How likely it is that an LLM rewrote a text: features, a calibrated classifier, and a verdict."""
