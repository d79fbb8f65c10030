"""Where examples come from, and the episodes that are drawn from them."""
