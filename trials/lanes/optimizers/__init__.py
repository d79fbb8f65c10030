"""Optimisers over stacked parameters, with a learning rate for each lane."""
