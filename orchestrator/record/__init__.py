"""The record of a search on disk: its studies, its folder, its identity."""
