"""What a rewriter changed: measures of a text, and of a pair of texts."""
