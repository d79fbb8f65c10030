"""The sections of a config, each with its own checks."""
