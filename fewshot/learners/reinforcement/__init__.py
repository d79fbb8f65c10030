"""Learners for worlds, which adapt a policy to a new problem by trajectories of their own."""
