"""The Python interface: a search as an object."""
