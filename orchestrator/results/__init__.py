"""What came of a search: summary, export, and what an export is used for."""
