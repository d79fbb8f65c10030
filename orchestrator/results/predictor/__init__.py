"""A predictor: a folder that predicts, without the search that found its model."""
