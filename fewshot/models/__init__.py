"""Models, which are pure functions of parameters and inputs."""
