"""Learners, which adapt a model to a new task by its support set."""
