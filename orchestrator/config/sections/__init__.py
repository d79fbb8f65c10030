"""The sections of a config, each of which checks itself."""
