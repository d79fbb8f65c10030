"""The display of a search in MLflow: its events, their delivery, its pages."""
