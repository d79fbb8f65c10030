"""The signals of the dashboard's command."""

import os
import signal
import subprocess
import sys
import weakref

import pytest

from orchestrator.cli.start import _ending


class Forgotten:
    pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_callback_of_the_garbage_collector_is_not_lost(number):
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        try:
            signals = _ending(process)
            collected = Forgotten()
            watched = weakref.ref(collected, lambda _: os.kill(os.getpid(), number))
            del collected
            assert process.wait(timeout=10) == -signal.SIGTERM
        finally:
            process.kill()
            for n, handler in before.items():
                signal.signal(n, handler)
    assert watched() is None
    assert signals == [number]
