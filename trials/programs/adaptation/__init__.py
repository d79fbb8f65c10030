"""The adaptation stage alone: a model on one new task, with or without a teacher."""
