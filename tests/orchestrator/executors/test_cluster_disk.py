"""A full disk while a search runs on a cluster: of the shared home, of a node, of the driver.

All nodes are on this machine. The search ends with one sentence, and goes on when there is space.
"""

import errno
import json
import os
import subprocess
import threading
import time
from contextlib import suppress

import pytest

from orchestrator.cli import app as cli
from orchestrator.config.loading import dump, parse
from orchestrator.record.home import Home
from orchestrator.record.studies.journal import _File
from orchestrator.tracking.sending.outbox import Outbox
from tests.orchestrator import tiny
from tests.orchestrator.executors.nodes import cluster_of
from tests.orchestrator.own_loops import data
from tests.orchestrator.test_own_loop import assert_nothing_is_lost_or_doubled, reported
from tests.test_disk import mounted, sentence

__all__ = ["mounted"]  # a fixture
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

NODES = ("127.0.0.3", "127.0.0.4")


@pytest.fixture(scope="module")
def disks(tmp_path_factory):
    """On a cluster of a head without room for a worker and two nodes: a path on the disk of each.

    The addresses differ, so that a message can name a node.
    """
    folder = tmp_path_factory.mktemp("disks")
    found = {address: folder / address for address in NODES}
    nodes = [
        {"num_cpus": 1, "node_ip_address": address, "env_vars": {"NODE_DISK": str(disk)}}
        for address, disk in found.items()
    ]
    with cluster_of({"node_ip_address": "127.0.0.2"}, *nodes):
        yield found


@pytest.fixture
def search(disks, tmp_path, capsys, monkeypatch):
    """`fewtune search` of a config on the cluster, with its driver in this process."""
    monkeypatch.delenv("FEWTUNE_STORAGE", raising=False)
    given = tmp_path / "search.yaml"

    def call(config, home, *options):
        given.write_text(dump(config))
        words = ["search", str(given), "--home", str(home), *options]
        code = cli.main(words)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, said.out, said.err)

    return call


def own_loop(function="slow"):
    return parse(data(function, search=data()["search"] | {"workers": 2, "rungs": [0.5]}))


def lanes():
    plain = tiny.config().model_dump()["search"]
    return tiny.config(search=plain | {"workers": 2, "trials": 4})


def completed(search, config, home):
    """Nothing that the search has reported is lost, and no trial has failed."""
    done = search(config, home, "--json", "--resume")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["state"] == "complete"
    assert sum(summary["trials"].values()) == config.search.trials
    assert summary["trials"]["failed"] == summary["trials"]["running"] == 0
    return summary


def running_in_mlflow(home):
    from mlflow import MlflowClient

    client = MlflowClient(home.tracking_uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return [r.data.tags["fewtune.key"] for r in runs if r.info.status == "RUNNING"]


def workers_are_gone():
    """Nothing of the search holds a CPU of the cluster any more."""
    import ray

    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < len(NODES):
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("reports", [1, 8])
def test_a_shared_home_that_is_full_loses_and_doubles_nothing(search, mounted, reports):
    """Whoever writes next finds it full: a trial, its worker, the study, MLflow's outbox."""
    place = mounted("size=64m")
    home = Home(place / "home")
    began = threading.Event()

    def filling():
        while reported(home) < reports and not began.is_set():
            time.sleep(0.05)
        with suppress(OSError), (place / "fill").open("wb", buffering=0) as file:
            while file.write(bytes(1 << 12)):
                pass

    thread = threading.Thread(target=filling)
    thread.start()
    try:
        said = sentence(search(own_loop(), home.path))
    finally:
        began.set()
        thread.join()
    assert f"failed {home.path}/" in said
    assert "No space left on device. Free some space there" in said
    assert "add `--resume`" in said
    workers_are_gone()
    (place / "fill").unlink()
    completed(search, own_loop(), home.path)
    assert_nothing_is_lost_or_doubled(home)


def test_a_checkpoint_that_a_worker_can_not_write_is_said_with_its_node(search, tmp_path):
    home = Home(tmp_path / "home")
    checkpoints = home.checkpoints("toy")
    checkpoints.mkdir(parents=True)
    (checkpoints / "search-0001.partial").symlink_to("/dev/full")
    said = sentence(search(lanes(), home.path))
    where = [f"{checkpoints / 'search-0001.safetensors'} on node {address} " for address in NODES]
    assert any(f"failed {each}can't be written: No space left" in said for each in where)
    assert running_in_mlflow(home) == []
    workers_are_gone()
    completed(search, lanes(), home.path)


def test_a_node_whose_own_disk_is_full_is_named(search, disks, tmp_path):
    """The trials there have not failed: they go on when there is space."""
    full, home = NODES[1], Home(tmp_path / "home")
    disks[full].symlink_to("/dev/full")
    said = sentence(search(own_loop("uses_the_disk_of_its_node"), home.path))
    assert "failed A file of the training function (" in said
    assert f"in uses_the_disk_of_its_node) on node {full} can't be written: No space left" in said
    assert running_in_mlflow(home) == []
    workers_are_gone()
    disks[full].unlink()
    completed(search, own_loop("uses_the_disk_of_its_node"), home.path)
    assert_nothing_is_lost_or_doubled(home)


@pytest.mark.parametrize("writer", [(_File, "append_logs"), (Outbox, "append")])
@pytest.mark.parametrize("after", [4, 25])
def test_a_driver_that_can_not_write_ends_its_workers(search, tmp_path, writer, after):
    owner, name = writer
    write, calls = getattr(owner, name), iter(range(after))

    def full(*arguments, **options):
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments, **options)

    home = Home(tmp_path / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, full)
        said = sentence(search(own_loop(), home.path))
    assert f"failed {home.path}" in said
    assert "No space left" in said
    workers_are_gone()
    completed(search, own_loop(), home.path)
    assert_nothing_is_lost_or_doubled(home)
