"""How much of each stage pays: steps, adaptation steps, and unlabelled examples."""
