"""The sampler, which chooses the parameters of new trials."""
