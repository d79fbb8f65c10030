"""The Gaussian process of the sampler: what it sees of trials, and where it seeks its maximum."""
