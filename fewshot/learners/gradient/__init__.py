"""Learners that adapt by gradient steps from a meta-trained start."""
