"""Kinds of workers in configs."""

import re
from typing import Any

import jsonschema
import pytest
import yaml

from fewshot.errors.inputs import ErrorDetail, InputError
from orchestrator import Search
from orchestrator.config.json_schema import json_schema
from orchestrator.config.loading import data_of, dump, load_config, parse
from orchestrator.config.plan import plan_of
from orchestrator.launch import _worker_kinds, check_room
from orchestrator.search.forecast import workers_of
from tests.orchestrator import own_loops, tiny
from tests.paths import ROOT

CHOICES = {
    "model": {"name": "mlp", "hidden": {"choices": [[4], [64, 64]]}},
    "learner": {
        "choices": [
            {"name": "ridge"},
            {"name": "maml", "adapt_steps": 1, "inner_steps": {"low": 1, "high": 9, "step": 1}},
        ]
    },
}
KINDS = [
    {"count": 2, "gpus": 1, "resources": {"accelerator_type:A100": 0.01}},
    {"count": 8, "cpus": 2, "only": {"model.hidden": ["4"]}},
]


def config(workers: Any, **search: Any) -> Any:
    usual = tiny.config().model_dump(exclude_none=True)["search"]
    return tiny.config(**CHOICES, search=usual | {"workers": workers} | search)


def faults(workers: Any, **search: Any) -> dict[str, ErrorDetail]:
    with pytest.raises(InputError) as caught:
        config(workers, **search)
    return {detail.path: detail for detail in caught.value.details}


def test_kinds_are_read_and_written(tmp_path):
    found = config(KINDS)
    assert [kind.count for kind in found.search.kinds] == [2, 8]
    assert (found.search.n_workers, workers_of(found)) == (10, 10)
    path = tmp_path / "c.yaml"
    path.write_text(dump(found))
    assert data_of(load_config(path)) == data_of(found)
    assert data_of(found)["search"]["workers"][1] == {
        "count": 8,
        "cpus": 2,
        "gpus": 0.0,
        "only": {"model.hidden": ["4"]},
    }


def test_kinds_in_words():
    assert [str(kind) for kind in config(KINDS).search.kinds] == [
        "2 with 1 CPU, 1 GPU, 0.01 accelerator_type:A100 each",
        "8 with 2 CPU each, only for trials with model.hidden: 4",
    ]


def test_the_first_program_of_a_worker_is_one_that_it_may_train():
    workers = [{"count": 1, "only": {"model.hidden": [size]}} for size in ("64, 64", "4")]
    found = config(workers)
    kinds = _worker_kinds(plan_of(found), found)
    assert [kind.recipe.model.options["hidden"] for kind in kinds] == [[64, 64], [4]]


def test_all_faults_are_found_at_once():
    workers = [
        {"count": 0, "gpu": 1},
        {"gpus": -1, "resources": {"big": 0}, "only": {"model.hidden": []}},
        {"count": 1, "gpus": 1.5},
    ]
    found = faults(workers, eta=1)
    place = "search.workers"
    assert found.keys() >= {f"{place}.0.count", f"{place}.0.gpu", f"{place}.1.count", "search.eta"}
    assert found.keys() >= {f"{place}.1.gpus", f"{place}.1.resources.big", f"{place}.2.gpus"}
    assert f"{place}.1.only.model.hidden" in found
    assert found[f"{place}.0.gpu"].remedy.startswith("Did you mean `gpus`?")


@pytest.mark.parametrize("workers", [[], 0, "all", 1.5, True])
def test_workers_are_a_number_auto_or_kinds(workers):
    assert "search.workers" in faults(workers)


def test_options_of_only_are_searched_ones():
    workers = [{"count": 1, "only": {"model.hiden": ["4"], "model.hidden": [4], "learner": ["x"]}}]
    found = faults([*workers, {"count": 1}])
    place = "search.workers.0.only"
    assert found.keys() == {
        f"{place}.model.hiden",
        f"{place}.model.hidden",
        f"{place}.learner",
    }
    assert found[f"{place}.model.hiden"].remedy.startswith("Did you mean `model.hidden`?")
    assert found[f"{place}.learner"].rule == "must list one of ridge, maml."


def test_resources_are_those_of_the_kinds():
    found = faults([{"count": 1, "gpus": 2}], cpus_per_worker=2, gpus_per_worker=1)
    assert found.keys() == {f"search.{n}_per_worker" for n in ("cpus", "gpus")} | {
        "search.workers.0.gpus"
    }
    assert found["search.cpus_per_worker"].remedy == "Write `cpus` there."


@pytest.mark.parametrize(
    ("only", "missing"),
    [
        ([{"model.hidden": ["4"]}], "model.hidden: 64, 64"),
        ([{"learner": ["ridge"]}, {"model.hidden": ["4"]}], "learner: maml, model.hidden: 64, 64"),
        ([{"learner": ["ridge"]}, {"learner.maml.inner_steps": [1, 2]}], "inner_steps: 3"),
        ([{"learner": ["ridge"]}, {"learner": ["maml"]}], None),
        ([{"learner.maml.inner_steps": [1]}, {"learner": ["maml"]}], None),
        ([{"model.hidden": ["4"]}, {}], None),
    ],
)
def test_each_trial_has_a_kind_of_workers(only, missing):
    workers = [{"count": 1, "only": each} if each else {"count": 1} for each in only]
    if missing is None:
        config(workers)
        return
    (detail,) = faults(workers).values()
    assert detail.path == "search.workers"
    assert missing in detail.rule


def test_an_own_loop_may_have_several_gpus_and_choices_of_its_own():
    space = {"rate": 0.1, "size": {"choices": ["small", "large"]}}
    workers = [{"count": 1, "gpus": 4}, {"count": 2, "only": {"size": ["small"]}}]
    search = own_loops.data()["search"] | {"workers": workers}
    found = parse(own_loops.data(space=space, search=search))
    assert [kind.gpus for kind in _worker_kinds(plan_of(found), found)] == [4, 0]


def test_one_machine_must_have_what_all_workers_need(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    with pytest.raises(InputError) as caught:
        check_room(config(KINDS))
    rules = [detail.rule for detail in caught.value.details]
    assert any("need 18 CPU, and this machine has 8" in rule for rule in rules)
    assert any("need 0.02 accelerator_type:A100, and this machine has 0" in rule for rule in rules)
    check_room(config([{"count": 4}, {"count": 2, "cpus": 2}]))


def test_an_export_has_no_kinds_of_workers(tmp_path, monkeypatch):
    """They are for options that are not searched any more. One process trains all recipes."""
    monkeypatch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", tiny.quiet)
    search = Search(config(KINDS, trials=3), home=tmp_path)
    search.run(executor="inline")
    exported = load_config(tmp_path / "searches" / "toy" / "best" / "config.yaml")
    assert exported.search.workers == 1
    space = own_loops.data()["space"] | {"size": {"choices": ["small", "large"]}}
    workers = [{"count": 1, "gpus": 1}, {"count": 2, "only": {"size": ["small"]}}]
    options = own_loops.data()["search"] | {"workers": workers, "trials": 3}
    Search(own_loops.data(space=space, search=options), home=tmp_path).run(executor="inline")
    exported = load_config(tmp_path / "searches" / "own" / "best" / "config.yaml")
    assert exported.search.workers == 1


def test_the_example_of_the_page_has_no_faults():
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    example = yaml.safe_load(block)
    usual = data_of(load_config(ROOT / "configs" / "quickstart.yaml"))
    found = parse(usual | example | {"search": usual["search"] | example["search"]})
    assert [kind.count for kind in found.search.kinds] == [2, 8]


def test_the_schema_knows_kinds():
    validator = jsonschema.Draft202012Validator(json_schema())
    assert not list(validator.iter_errors(data_of(config(KINDS))))
    for wrong in ([{"gpus": 1}], [{"count": 1, "gpu": 1}], "many"):
        search = data_of(config(1))["search"] | {"workers": wrong}
        assert list(validator.iter_errors(data_of(config(1)) | {"search": search}))
