"""How alike the training tasks are to the validation tasks, before any training."""
