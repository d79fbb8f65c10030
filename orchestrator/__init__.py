"""Which trials to run, where, and what came of them."""
