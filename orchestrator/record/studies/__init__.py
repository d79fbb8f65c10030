"""The Optuna studies of a search, and where they are stored."""
