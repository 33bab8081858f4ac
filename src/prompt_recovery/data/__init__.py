"""Rewrite examples: read, validated, split by prompt, tokenised and put into batches."""
