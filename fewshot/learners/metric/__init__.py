"""Learners that compare embeddings with those of the examples."""
