"""Losses, and what they are measured against."""
