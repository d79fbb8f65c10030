"""Trains trials side by side in one vectorised training step."""
