"""The worlds that are shipped: families of reinforcement learning problems."""
