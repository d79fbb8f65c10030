"""Builds the pools from which episodes are sampled, from the datasets that a recipe names."""
