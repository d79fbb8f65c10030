"""Reinforcement learning: policies are meta-trained on weighted problems of many worlds."""
