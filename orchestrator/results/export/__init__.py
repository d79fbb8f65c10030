"""The folder that holds the best configuration and model of a search."""
