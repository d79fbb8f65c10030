"""What is kept on disk of a search: its studies, its folder, its identity."""
