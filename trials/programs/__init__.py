"""The objectives of the lanes, built from recipes."""
