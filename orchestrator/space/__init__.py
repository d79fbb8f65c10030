"""The space that is searched: ranges and the simplex of task weights."""
