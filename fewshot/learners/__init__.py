"""Learners: how a model learns a new task from its support set."""
