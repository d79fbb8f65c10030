"""Events of a search on their way to MLflow, and what MLflow shows of them."""
