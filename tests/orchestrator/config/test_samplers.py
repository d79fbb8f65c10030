"""The key `search.sampler` of a config."""

import pytest

from fewshot.errors.inputs import InputError
from orchestrator.config.json_schema import json_schema
from orchestrator.config.loading import data_of, parse, refused_code
from orchestrator.config.plan import plan_of
from orchestrator.results.export.export import fixed_config
from orchestrator.results.retrained import Finalist
from orchestrator.search.finals.intervals import Interval
from tests.orchestrator.tiny import config

OWN = "tests.orchestrator.sampling.test_optuna_samplers:without_a_seed"


def with_sampler(sampler: object) -> dict:
    data = data_of(config())
    return data | {"search": data["search"] | {"sampler": sampler}}


@pytest.mark.parametrize("name", ["fewtune", "gp", "tpe", "random", OWN])
def test_a_sampler_reaches_the_plan(name: str) -> None:
    assert plan_of(parse(with_sampler(name))).sampler == name


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ("tpo", "must be one of cmaes, fewtune, gp, random, tpe. Found 'tpo'. Did you mean `tpe`"),
        ("no.such:thing", "is in a module that is not found: no"),
        ("tests.paths:nothing", "must name a class or a function"),
        (3, "must be a single name"),
        (["gp"], "must be a single name"),
        (None, "must be a single name"),
    ],
)
def test_another_sampler_is_refused(sampler: object, said: str) -> None:
    with pytest.raises(InputError) as error:
        parse(with_sampler(sampler) | {"batch": 0})
    details = {detail.path: str(detail) for detail in error.value.details}
    assert details.keys() == {"search.sampler", "batch"}
    assert said in details["search.sampler"]


def test_the_code_of_an_exports_sampler_is_not_run_unasked() -> None:
    assert [detail.path for detail in refused_code(with_sampler(OWN))] == ["search.sampler"]
    assert refused_code(with_sampler("gp")) == []


def test_an_export_has_no_sampler() -> None:
    rates = dict.fromkeys(("lr/outer", "lr/inner", "lr/adapt"), 1e-3)
    best = Finalist(0, "searched", 0.1, Interval(0.1, 0.0, 0.2), rates, {"line": 1.0})
    fixed = fixed_config(parse(with_sampler(OWN)), best, 0)
    assert fixed.search.sampler == "fewtune"


def test_the_schema_lists_the_samplers() -> None:
    field = json_schema()["$defs"]["SearchSection"]["properties"]["sampler"]
    assert field["anyOf"][0] == {"enum": ["cmaes", "fewtune", "gp", "random", "tpe"]}
