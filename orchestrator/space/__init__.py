"""The search space: ranges of scalars, a simplex of task weights."""
