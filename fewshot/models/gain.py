"""The initial value of the learned scale of embeddings."""

import math

from fewshot.errors.inputs import input_error


def initial_gain(scale: float, spread: float) -> float:
    """The factor by which embeddings at the distance `spread` get the distance `scale`.

    Both are root mean square distances of an example from the mean of its episode, above 0. Raises
    InputError for a bad `scale`, which is an option of a model.
    """
    if not 0 < scale < math.inf:
        raise input_error("model.scale", "must be a number above 0.", scale)
    return scale / spread
