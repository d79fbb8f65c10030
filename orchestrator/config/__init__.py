"""The configuration of a search: from YAML to a validated config, then to a plan."""
