"""A user's own training loop: a generator function that runs in a child process."""

from trials.own_loop.trial import Trial

__all__ = ["Trial"]
