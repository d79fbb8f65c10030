"""The search space: ranges and the simplex of task weights."""
