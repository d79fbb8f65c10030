"""Whether this machine, its services and its workers can run a search."""
