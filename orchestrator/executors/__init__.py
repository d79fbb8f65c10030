"""The executors, which run trials in this process, on a Ray cluster, or as a submitted job."""
