"""Where trials run: in this process, on a Ray cluster, as a submitted job."""
