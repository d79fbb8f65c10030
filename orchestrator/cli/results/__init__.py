"""The commands for the results of searches, and for their models."""
