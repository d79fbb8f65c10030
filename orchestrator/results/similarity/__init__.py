"""How alike training and validation tasks are: warnings, agreement with a search, figures."""
