"""Datasets whose examples have an image and a text."""
