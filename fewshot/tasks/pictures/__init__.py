"""Images as examples: from archives and folders, in any size."""
