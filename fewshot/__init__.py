"""Learning new tasks from a few examples."""
