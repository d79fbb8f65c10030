"""Checks that involve several sections of a config."""
