"""Convolutional models for small images."""
