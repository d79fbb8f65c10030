"""A config for a user's data file, as a start: `fewtune init`."""
