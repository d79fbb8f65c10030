"""Which trial comes next, which goes on at a rung, and when a search has had enough of them."""
