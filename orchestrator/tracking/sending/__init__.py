"""The way of events from the driver to MLflow."""
