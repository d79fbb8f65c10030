"""When a worker is taken for silent."""

from orchestrator.executors.on_ray.signs import INTERVAL, Signs


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def listen(self, signs: Signs, seconds: int) -> None:
        """The driver looks at its workers every second."""
        for _ in range(seconds):
            self.now += 1
            signs.silent()


def test_a_worker_is_silent_after_the_timeout_and_not_before() -> None:
    clock = Clock()
    signs = Signs(30.0, clock=clock)
    signs.heard(0)
    clock.listen(signs, 20)
    signs.heard(1)
    clock.listen(signs, 10)
    assert signs.silent() == []
    clock.listen(signs, 1)
    assert signs.silent() == [0]
    signs.heard(0)
    assert signs.silent() == []
    clock.listen(signs, 31)
    assert signs.silent() == [0, 1]
    signs.forget(0)
    assert signs.silent() == [1]


def test_a_worker_that_has_not_started_is_not_silent() -> None:
    clock = Clock()
    signs = Signs(30.0, clock=clock)
    clock.listen(signs, 1000)
    assert signs.silent() == []


def test_a_driver_that_did_not_listen_hears_its_workers_first() -> None:
    """It was stopped for an hour, or its machine slept."""
    clock = Clock()
    signs = Signs(30.0, clock=clock)
    signs.heard(0)
    clock.now += 3600
    assert signs.silent() == []
    clock.listen(signs, 15)
    assert signs.silent() == []
    clock.listen(signs, 10)
    assert signs.silent() == [0]


def test_several_signs_must_be_missing() -> None:
    assert Signs(120.0).interval == INTERVAL
    assert Signs(10.0).interval == 2.5
