"""A connection to a Ray cluster, or to a Ray that is started on this machine for one search."""

import logging
import os
import signal
import threading
from functools import partial
from ipaddress import ip_address
from typing import Any

import ray

from orchestrator.executors.on_ray.local_cluster import LocalCluster

log = logging.getLogger(__name__)


class Connection(threading.Thread):
    """A thread that connects to a cluster and lives as long as the connection.

    `ray.init` does not run in the main thread, because there it would replace our SIGTERM handler.
    The thread must outlive the cluster: Linux kills the processes that Ray starts when the thread
    that started them ends.

    local: whether Ray is started on this machine, and ends with the connection.
    """

    def __init__(self, *, local: bool, **options: Any) -> None:
        super().__init__(name="ray-connection", daemon=True)
        self._init = partial(ray.init, **options)
        self._local = LocalCluster(self._init, ray.shutdown) if local else None
        self._connected, self._closed = threading.Event(), threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        # Ray's processes inherit this mask: closing the terminal must not end them before us.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            self._init() if self._local is None else self._local.start()
        except BaseException as error:
            self._error = error
        self._connected.set()
        self._closed.wait()

    def open(self) -> None:
        """Connect and wait until connected; raises the exceptions of `ray.init`."""
        self.start()
        while not self._connected.wait(0.05):
            _keep_handler()
        _keep_handler()
        if self._error is not None:
            self._closed.set()
            raise self._error

    def dead_part(self) -> str:
        """The name of a part of a local Ray that has died; empty if Ray can be used."""
        return "" if self._local is None else self._local.dead_part()

    def close(self) -> None:
        ray.shutdown() if self._local is None else self._local.end()
        self._closed.set()


def _keep_handler() -> None:
    """Restore Python's SIGTERM handler: the handler of Ray's C++ code aborts the process."""
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


def join() -> Connection | None:
    """Connect to a cluster; returns None if this process is already connected to one."""
    if ray.is_initialized():
        return None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local = not os.environ.get("RAY_ADDRESS")
    if local:  # only this process uses it, so it needs no dashboard
        options |= {"address": "local", "include_dashboard": False}
    else:
        options["address"] = "auto"
    connection = Connection(local=local, **options)
    connection.open()
    if local and not ip_address(ray.util.get_node_ip_address()).is_loopback:
        log.warning(
            "other machines can reach this Ray, because ray was imported too early address=%s",
            ray.util.get_node_ip_address(),
        )
    return connection
