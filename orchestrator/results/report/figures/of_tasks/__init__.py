"""Figures about single tasks."""
