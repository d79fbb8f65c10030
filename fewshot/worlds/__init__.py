"""Worlds: families of reinforcement learning problems as pure functions on tensors."""
