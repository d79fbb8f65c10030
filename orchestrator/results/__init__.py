"""The results of a search: its summary, its export, the use of an export."""
