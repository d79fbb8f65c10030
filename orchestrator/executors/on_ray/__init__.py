"""Workers as Ray actors, on a cluster or on a Ray of this machine."""
