"""Which hyperparameters and task weights a new trial gets."""
