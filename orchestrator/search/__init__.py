"""The search itself: its main loop, its trials, pruning, the finalists."""
