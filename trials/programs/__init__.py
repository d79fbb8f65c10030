"""What a lane minimises, and how a recipe becomes a program that runs trials."""
