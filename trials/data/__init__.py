"""From the recipe's datasets and tasks to pools of episodes."""
