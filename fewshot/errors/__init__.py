"""What can go wrong by a user's doing, as errors that say what to do."""
