"""What a trained model does with a new task: adapts, predicts, says how far it is from others."""
