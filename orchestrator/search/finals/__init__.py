"""The choice among the best trials: retrainings with new seeds, intervals, tests."""
