"""Sources of examples, from which episodes are drawn."""
