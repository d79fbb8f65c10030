"""Models: pure functions of parameters and inputs."""
