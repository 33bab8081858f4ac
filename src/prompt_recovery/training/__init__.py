"""Training recoverers with Lightning."""
