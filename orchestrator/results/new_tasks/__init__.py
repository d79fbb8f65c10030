"""The work of an exported model on tasks that the search had not."""
