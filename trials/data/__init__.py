"""Builds pools of episodes from the datasets that a recipe names."""
