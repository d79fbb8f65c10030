"""Models that begin from weights of the transformers library."""
