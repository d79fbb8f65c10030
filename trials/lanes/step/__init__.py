"""The computation of one training step of all lanes."""
