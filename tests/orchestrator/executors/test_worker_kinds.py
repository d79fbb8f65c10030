"""Searches on a cluster whose nodes differ. All nodes are on this machine; its GPU is told of."""

import json

import pytest

from orchestrator import Search, Stopped
from orchestrator.cli import app as cli
from orchestrator.config.loading import dump
from orchestrator.record.home import Home
from orchestrator.search.scheduler import Scheduler
from tests.orchestrator import own_loops, tiny
from tests.orchestrator.executors.nodes import added, cluster_of
from tests.orchestrator.test_own_loop import assert_nothing_is_lost_or_doubled, reported

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

GPU_NODE = {"num_cpus": 1, "num_gpus": 1, "resources": {"big": 1}}


@pytest.fixture
def cluster(monkeypatch):
    """A head without room for a worker, and a node without GPUs."""
    monkeypatch.delenv("FEWTUNE_STORAGE", raising=False)
    small = {"num_cpus": 2, "env_vars": {"NODE_KIND": "small"}}
    with cluster_of({}, small) as made:
        yield made


def with_gpu(cluster):
    added(cluster, env_vars={"NODE_KIND": "large"}, **GPU_NODE)


def own_loop():
    """Large trials need the GPU and the resource of one node; small ones go elsewhere."""
    workers = [
        {"count": 1, "gpus": 1, "resources": {"big": 1}, "only": {"size": ["large"]}},
        {"count": 2, "only": {"size": ["small"]}},
    ]
    plain = own_loops.data()
    space = plain["space"] | {"size": {"choices": ["small", "large"]}}
    search = plain["search"] | {"workers": workers, "rungs": [0.5], "worker_timeout": 10}
    return own_loops.data("notes_its_node", space=space, search=search)


def assert_each_was_on_its_node(home):
    """The size of each trial, and the nodes that trained it."""
    notes = [path.read_text().split() for path in home.checkpoints("own").glob("*/files/nodes")]
    assert len(notes) >= 10 + 2 * 3, "the searched trials and the retrainings"
    assert {size for size, *_ in notes} == {"small", "large"}
    assert all(set(nodes) == {size} for size, *nodes in notes)


def test_trials_go_to_the_nodes_for_them_and_a_resumed_search_too(cluster, tmp_path):
    with_gpu(cluster)
    home = Home(tmp_path)
    search = Search(own_loop(), home=tmp_path)
    with pytest.raises(Stopped):
        search.run(should_stop=lambda: reported(home) >= 5)
    summary = Search.open("own", home=tmp_path).run(resume=True)
    assert summary.trials["complete"] + summary.trials["pruned"] == 10
    assert_each_was_on_its_node(home)
    assert_nothing_is_lost_or_doubled(home)


def test_trials_wait_for_a_node_that_comes_later(cluster, tmp_path, caplog):
    """Also when they have been given to a worker that could not start."""
    home = Home(tmp_path)

    left = iter([lambda: with_gpu(cluster)])

    def add_node():  # in the main thread, as Ray's own cluster needs it
        if "worker_waits worker=0" in caplog.text:
            next(left, lambda: None)()
        return False

    summary = Search(own_loop(), home=tmp_path).run(should_stop=add_node)
    assert caplog.text.count("worker_waits worker=0") == 1
    assert "'resources': {'big': 1.0}" in caplog.text
    assert summary.trials["failed"] == summary.trials["running"] == 0
    assert_each_was_on_its_node(home)


def test_two_recipes_on_two_kinds_of_workers(cluster, tmp_path, monkeypatch, capsys):
    """Of a model of fewtune: the references, the finals and the export have a worker, too."""
    with_gpu(cluster)
    workers = [
        {"count": 1, "gpus": 1, "only": {"model.hidden": ["8"]}},
        {"count": 2, "only": {"model.hidden": ["4"]}},
    ]
    plain = tiny.config().model_dump(exclude_none=True)["search"]
    options = {"workers": workers, "trials": 8, "reference_trials": 4, "lanes": 2}
    config = tiny.config(
        model={"name": "mlp", "hidden": {"choices": [[4], [8]]}}, search=plain | options
    )
    (tmp_path / "search.yaml").write_text(dump(config))
    given, admit = [], Scheduler.admit

    def noting(scheduler, free, worker):
        specs = admit(scheduler, free, worker)
        given.extend((spec, worker) for spec in specs if "model.hidden" in spec.choices)
        return specs

    monkeypatch.setattr(Scheduler, "admit", noting)
    words = [str(tmp_path / "search.yaml"), "--home", str(tmp_path / "home")]
    assert cli.main(["check", *words]) == 0
    said = capsys.readouterr().out
    assert "workers: 1 with 1 CPU, 1 GPU each, only for trials with model.hidden: 8" in said
    assert cli.main(["search", *words, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["state"], summary["trials"]["failed"]) == ("complete", 0)
    assert {spec.choices["model.hidden"] for spec, _ in given} == {"4", "8"}
    assert all((worker == 0) == (spec.choices["model.hidden"] == "8") for spec, worker in given)
    assert {spec.stage for spec, _ in given} == {"search", "final", "test"}
    assert (tmp_path / "home" / "searches" / "toy" / "best").is_dir()
