import json
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.loading import parse
from orchestrator.config.plan import derived_seed, plan_of
from orchestrator.space.search_space import Range
from orchestrator.space.simplex import Simplex
from tests.orchestrator.config.test_loading import changed
from trials.contract import Recipe, TaskSpec, TrialSpec


def planned(**changes: object) -> object:
    return plan_of(parse(changed({path.replace("__", "."): v for path, v in changes.items()})))


def test_seeds_differ_by_stage_by_number_and_by_search() -> None:
    seeds = [
        planned(seed=seed).spec(number, {}, {}, stage=stage).seed
        for seed in (0, 1)
        for stage in ("search", "final", "test")
        for number in range(20)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_parts_of_a_seed_do_not_run_into_each_other() -> None:
    assert derived_seed(1, 23) != derived_seed(12, 3)


def test_seeds_are_the_same_in_every_process() -> None:
    assert derived_seed(7, "final", 3) == 1115394900


def test_a_seed_that_is_given_is_taken() -> None:
    assert planned().spec(3, {}, {}, seed=99).seed == 99


@settings(deadline=None)
@given(
    st.lists(st.floats(0.001, 0.999), max_size=5),
    st.integers(1, 1000),
)
def test_rungs_ascend_and_the_last_is_the_last_step(shares, steps) -> None:
    rungs = planned(search={"rungs": shares}, steps=steps).rungs
    assert list(rungs) == sorted(set(rungs))
    assert rungs[0] >= 1
    assert rungs[-1] == steps


def test_rungs_are_shares_of_the_steps() -> None:
    assert planned(search={"rungs": [0.6, 0.3]}, steps=500).rungs == (150, 300, 500)


def test_only_the_search_stops_at_rungs() -> None:
    plan = planned(steps=10)
    specs = {s: plan.spec(4, {}, {}, stage=s, attempt=2) for s in ("search", "final", "test")}
    assert {s: x.rungs for s, x in specs.items()} == {
        "search": (3, 6, 10),
        "final": (10,),
        "test": (10,),
    }
    assert {x.attempt for x in specs.values()} == {2}


def test_each_becomes_a_task_for_every_value() -> None:
    section = {
        "each": {"script": ["greek", "Mkhedruli (Georgian)", 7]},
        "dataset": "glyphs",
        "label": "character",
        "where": {"font": "serif"},
        "corrupt": "shuffle",
    }
    first, second, third, fonts = planned(
        tasks__train=[section, changed({})["tasks"]["train"][1]]
    ).recipe.tasks["train"]
    assert first == TaskSpec(
        name="greek",
        dataset="glyphs",
        label="character",
        where={"font": ("serif",), "script": ("greek",)},
        corrupt="shuffle",
    )
    assert (second.name, second.where["script"]) == (
        "Mkhedruli_Georgian_",
        ("Mkhedruli (Georgian)",),
    )
    assert (third.name, third.where["script"]) == ("7", (7,))
    assert (fonts.name, fonts.where) == ("fonts", {"script": ("lao",)})


def test_the_recipe_survives_json_and_is_equal_for_equal_configs() -> None:
    plan = planned()
    assert json.loads(json.dumps(asdict(plan.recipe)))
    assert planned().recipe == plan.recipe
    assert planned().recipe.fingerprint == plan.recipe.fingerprint
    spec = plan.spec(3, {"lr/outer": 0.01}, {"greek": 1.0})
    assert TrialSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"episodes": {"way": 3}},
        {"model__hidden": [8]},
        {"tasks__train__1__corrupt": "shuffle"},
        {"datasets__glyphs__size": 7},
    ],
)
def test_what_changes_the_trials_changes_the_recipe(change) -> None:
    assert planned(**change).recipe.fingerprint != planned().recipe.fingerprint


def test_what_does_not_change_the_trials_leaves_the_recipe_alone() -> None:
    found: Recipe = planned(name="other", steps=99, search={"trials": 99}).recipe
    assert found == planned().recipe


def test_ranges_are_searched_and_numbers_are_fixed() -> None:
    space = planned(
        learner__name="maml",
        space={"lr/outer": {"low": 1e-3, "high": 1}, "lr/inner": 0.1, "lr/adapt": 1},
    ).space
    assert space.ranges == {"lr/outer": Range(1e-3, 1.0, log=True)}
    assert space.fixed == {"lr/inner": 0.1, "lr/adapt": 1.0}


def test_the_soft_weight_is_not_on_a_log_scale() -> None:
    space = planned(
        learner=...,
        teacher={"source": "text", "path": "x.csv"},
        tasks__train=[],
        space={
            "lr/adapt": 0.1,
            "distill/temperature": {"low": 1, "high": 20},
            "distill/soft_weight": {"low": 0, "high": 1},
        },
    ).space
    assert space.ranges == {
        "distill/temperature": Range(1, 20, log=True),
        "distill/soft_weight": Range(0, 1, log=False),
    }
    assert space.weights == {}


def test_weights_are_searched_around_the_prior_or_fixed() -> None:
    names = ("greek", "latin", "fonts")
    searched = planned().space.weights
    assert isinstance(searched, Simplex)
    assert searched.tasks == names
    assert searched.prior == pytest.approx((1 / 3,) * 3)
    assert searched.zero_below == pytest.approx(0.2 / 3)
    prior = {"latin": 0.5, "fonts": 0.3, "greek": 0.2}
    around = planned(space__task_weights={"prior": prior, "half_width": 2.0}).space.weights
    assert around.prior == pytest.approx((0.2, 0.5, 0.3))
    assert around.half_width == 2
    held = planned(space__task_weights={"prior": prior, "search": False}).space.weights
    assert held == pytest.approx(prior)
    fixed = planned(space__task_weights={"fixed": {"latin": 1.0}}).space.weights
    assert fixed == {"greek": 0.0, "latin": 1.0, "fonts": 0.0}


def test_a_single_task_has_all_the_weight() -> None:
    plan = planned(tasks__train=changed({})["tasks"]["train"][1:])
    assert plan.space.weights == {"fonts": 1.0}
