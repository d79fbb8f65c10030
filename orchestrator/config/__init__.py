"""From YAML to a checked config and a plan."""
