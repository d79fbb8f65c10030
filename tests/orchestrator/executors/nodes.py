"""Ray clusters whose nodes are all on this machine."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest


@contextmanager
def cluster_of(head: dict, *nodes: dict) -> Iterator:
    """A cluster of these nodes, to which this process is connected.

    RAY_ADDRESS is that of the cluster. head, nodes: options of `Cluster.add_node`.
    """
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Ray writes the address of the cluster to this folder; other tests must not find it. The
    # folder is directly in /tmp, as the path of a socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ftn", dir="/tmp"))
    (folder / "ray").mkdir()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_TMPDIR", str(folder))
            made = Cluster()
            added(made, num_cpus=0, include_dashboard=False, **head)  # no room for a worker
            for node in nodes:
                added(made, **node)
            ray.init(address=made.address, log_to_driver=False)
            patch.setenv("RAY_ADDRESS", made.address)
            try:
                yield made
            finally:
                ray.shutdown()
                made.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def added(cluster, **options):
    """A new node. On a busy machine it may take longer than the 30 s that Ray allows."""
    own = psutil.Process()
    before = set(own.children(recursive=True))
    for left in reversed(range(8)):
        try:
            return cluster.add_node(**options)
        except Exception:
            for process in set(own.children(recursive=True)) - before:
                process.kill()  # what has started of this node
            if not left:
                raise
    raise AssertionError
