"""Learning new tasks from a few examples: episodes, models, learners, losses, metrics."""
