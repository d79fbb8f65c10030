"""The signs of life of workers, as their driver hears them."""

import time
from collections.abc import Callable

# The longest time between two signs of a worker, in seconds.
INTERVAL = 5.0
# Time that the driver did not listen counts up to this many seconds: when the driver itself was
# stopped, or its machine slept, the workers get a chance to give their next sign.
_LONGEST_GAP = 10.0


class Signs:
    """When each worker last gave a sign of life.

    A worker gives its first sign when its process has started; before that it is not silent.

    timeout: seconds after which a worker without a sign is silent. clock: seconds.
    """

    def __init__(self, timeout: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout = timeout
        self._clock, self._looked, self._listened = clock, clock(), 0.0
        self._last: dict[int, float] = {}

    @property
    def interval(self) -> float:
        """Seconds between two signs: several signs must be missing before a worker is silent."""
        return min(INTERVAL, self.timeout / 4)

    def heard(self, worker: int) -> None:
        self._last[worker] = self._now()

    def knows(self, worker: int) -> bool:
        """Whether the worker has given a sign since its start."""
        return worker in self._last

    def forget(self, worker: int) -> None:
        """The worker is gone."""
        self._last.pop(worker, None)

    def silent(self) -> list[int]:
        """The workers without a sign for longer than the timeout."""
        now = self._now()
        return [worker for worker, last in self._last.items() if now - last > self.timeout]

    def _now(self) -> float:
        """The time in which the driver has listened."""
        now = self._clock()
        self._listened += min(now - self._looked, _LONGEST_GAP)
        self._looked = now
        return self._listened
