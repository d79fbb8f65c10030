"""Optimisers over stacked parameters, with one learning rate per lane."""
