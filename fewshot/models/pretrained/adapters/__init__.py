"""Low-rank weights of a transformer: their training, and their files."""
