"""The report of a search: one HTML file that opens without a network."""
