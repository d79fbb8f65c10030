"""Choices and ranges of whole numbers in configs."""

import pytest

from fewshot.errors.inputs import InputError
from orchestrator.config.loading import data_of, dump, load_config, parse
from orchestrator.config.paths import with_absolute_paths
from orchestrator.config.plan import plan_of, recipes_of
from orchestrator.config.sections.config import Config
from orchestrator.space.choices import Choice, Condition, WholeRange
from orchestrator.space.search_space import Range
from tests.orchestrator import own_loops, tiny

MAML = {"name": "maml", "adapt_steps": 1, "inner_steps": {"choices": [1, 2]}}
CHOICES = {
    "learner": {"choices": [{"name": "ridge"}, MAML]},
    "model": {
        "name": "mlp",
        "hidden": {"choices": [[4], [8, 8]]},
        "n_out": {"low": 2, "high": 6, "step": 2},
    },
    "steps": {"choices": [2, 8]},
    "space": {"lr/outer": {"low": 1e-4, "high": 1e-2}, "lr/inner": 0.01, "lr/adapt": 0.01},
    "search": {"trials": 4, "reference_trials": 2, "finalists": 1, "seeds": 2, "rungs": [0.5]},
}
CONFIG = tiny.config(**CHOICES)


def test_the_space_has_the_searched_options_by_readable_names():
    space = plan_of(CONFIG).space
    assert space.choices == {
        "model.hidden": Choice(("4", "8, 8")),
        "model.n_out": WholeRange(2, 6, 2),
        "learner": Choice(("ridge", "maml")),
        "learner.maml.inner_steps": Choice((1, 2)),
        "steps": Choice((2, 8)),
    }
    maml = (Condition("learner", ("maml",)),)
    assert space.conditions == {
        "learner.maml.inner_steps": maml,
        "lr/inner": maml,
        "lr/adapt": maml,
    }


def test_the_fields_are_those_of_the_plain_config():
    assert CONFIG.learner.name == "ridge"
    assert CONFIG.model.options() == {"hidden": [4], "n_out": 6}
    assert CONFIG.steps == 2


def test_a_variant_is_a_config_without_choices():
    values = {"learner": "maml", "learner.maml.inner_steps": 2, "model.hidden": "8, 8", "steps": 8}
    variant = CONFIG.variant(values)
    assert variant.searched == []
    assert (variant.learner.name, variant.learner.options()) == (
        "maml",
        {"adapt_steps": 1, "inner_steps": 2},
    )
    assert variant.model.options() == {"hidden": [8, 8], "n_out": 6}
    assert variant.steps == 8


def test_each_option_occurs_in_some_recipe():
    recipes = [recipe for _, recipe in recipes_of(CONFIG)]
    assert recipes[0].learner.name == "ridge"
    assert {r.model.options["n_out"] for r in recipes} == {2, 6}
    assert {r.learner.options.get("inner_steps") for r in recipes} == {None, 1, 2}


def test_a_dumped_config_is_read_back(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(dump(CONFIG))
    read = load_config(path)
    assert data_of(read) == data_of(CONFIG)
    assert read.searched == CONFIG.searched
    assert data_of(parse(data_of(CONFIG))) == data_of(CONFIG)


def test_paths_are_changed_beside_choices(tmp_path):
    (tmp_path / "t.csv").write_text("x,y\n1,a\n")
    data = {
        "name": "t",
        "datasets": {"t": {"source": "table", "path": "t.csv"}},
        "tasks": {
            s: [{"name": f"t_{s}", "dataset": "t", "label": "y"}]
            for s in ("train", "validation", "test")
        },
        "model": {"name": "mlp", "hidden": {"choices": [[4], [8]]}},
        "learner": {"name": "protonet"},
        "steps": 2,
        "space": {"lr/outer": 0.01},
    }
    found = with_absolute_paths(parse(data), tmp_path)
    assert found.datasets["t"].options()["path"] == str(tmp_path / "t.csv")
    assert [one.name for one in found.searched] == ["model.hidden"]


def test_a_trial_is_scored_as_often_as_others_whatever_its_steps():
    plan = plan_of(CONFIG)
    assert plan.rungs == (1, 2)
    spec = plan.trial(0, {"lr/outer": 1e-3, "learner": "ridge", "steps": 8})
    assert spec.rungs == (4, 8)
    assert [plan.rung(spec, step) for step in spec.rungs] == [1, 2]
    assert plan.rung(plan.trial(0, {"lr/outer": 1e-3, "steps": 8}, stage="final"), 8) == 2


def test_names_stand_for_parts():
    config = tiny.config(**CHOICES | {"learner": {"choices": ["ridge", "reptile"]}})
    assert config.variant({"learner": "reptile"}).learner.name == "reptile"


def errors(**changes):
    with pytest.raises(InputError) as caught:
        tiny.config(**CHOICES | changes)
    return {d.path: d.rule for d in caught.value.details}


def test_all_errors_of_choices_are_reported_at_once():
    found = errors(
        learner={"choices": ["ridge"]},
        model={"name": "mlp", "hidden": {"choices": [[4], [4]]}, "n_out": {"low": 4, "high": 2.5}},
        batch={"low": 8, "high": 20, "step": 8},
        steps={"choices": [2, 4], "low": 1},
    )
    assert found == {
        "learner.choices": "must be a list of at least two options.",
        "model.hidden.choices": "must not have an option twice.",
        "model.n_out": "must have whole numbers as `low`, `high` and `step`.",
        "batch": "must have low < high, and a step that divides high - low.",
        "steps.low": "can't be beside choices.",
    }


def test_an_error_in_an_option_is_found_before_the_search():
    found = errors(learner={"choices": ["ridge", {"name": "maml", "inner_step": 1}]})
    assert found == {"learner.choices.1.inner_step": "is not an option of maml."}


def test_errors_in_options_have_their_places_in_the_file():
    assert set(errors(batch={"choices": [0, 8]}, optimizer={"choices": ["adam", "adem"]})) == {
        "batch.choices.0",
        "optimizer.choices.1",
    }
    assert list(errors(batch={"low": 0, "high": 8, "step": 4})) == ["batch.low"]
    chosen = {"learner": "maml", "learner.maml.inner_steps": 2}
    nested = CONFIG.placed("learner.inner_steps", chosen)
    assert nested == "learner.choices.1.inner_steps.choices.1"


def test_errors_of_choices_come_with_those_of_other_sections():
    found = errors(
        batch={"choices": [8]},
        model={"choices": [{"name": "mlp", "n_out": 4}, {"name": "residual", "width": 4}]},
        search={**CHOICES["search"], "trials": 0},
        seed=-1,
    )
    assert list(found) == [
        "batch.choices",
        "seed",
        "search.trials",
        "model.choices.1.width",
    ]


def test_errors_between_sections_come_with_those_within_beside_choices():
    found = errors(search={**CHOICES["search"], "trials": 0}, space={"lr/outer": 0.01})
    assert list(found) == ["search.trials", "space.lr/adapt", "space.lr/inner"]


def test_every_variant_needs_its_scalars_and_no_other_is_accepted():
    space = {"lr/outer": 0.01, "distill/temperature": 2.0}
    found = errors(space=space)
    assert set(found) == {"space.lr/inner", "space.lr/adapt", "space.distill/temperature"}


def test_steps_that_make_fewer_rungs_are_refused():
    found = errors(steps={"choices": [8, 1]})
    assert list(found) == ["steps"]


def test_code_in_a_choice_of_an_untrusted_config_is_not_run(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(dump(CONFIG).replace("- name: ridge", "- name: evil.module:learner"))
    with pytest.raises(InputError) as caught:
        load_config(path, foreign=True)
    assert [d.path for d in caught.value.details] == ["learner.choices.0.name"]
    assert caught.value.details[0].found == "evil.module:learner"


def test_a_scalar_that_only_a_nested_option_reads_is_read_there():
    heads = {"name": "maml", "adapt_steps": 1, "heads": {"choices": ["shared", "per_task"]}}
    space = CHOICES["space"] | {"task/own": {"low": 0.0, "high": 1.0}}
    train = [{"function": "line"}, {"function": "square"}]
    held_out = [{"function": "sinusoid"}]
    tasks = {"train": train, "validation": held_out, "test": held_out}
    learner = {"choices": ["ridge", heads]}
    config = tiny.config(**CHOICES | {"learner": learner, "space": space, "tasks": tasks})
    assert plan_of(config).space.conditions["task/own"] == (Condition("learner", ("maml",)),)


RANGES = [
    ({"low": 1, "high": 5, "step": 2}, None),
    ({"low": 1, "high": 5, "step": 3}, "must have low < high, and a step that divides high - low."),
    ({"low": 5, "high": 1, "step": 1}, "must have low < high, and a step that divides high - low."),
    ({"low": 1, "high": 5, "step": 0}, "must have low < high, and a step that divides high - low."),
    ({"low": 1, "high": 5.0, "step": 1}, "must have whole numbers as `low`, `high` and `step`."),
    ({"low": 1, "step": 1}, "must have whole numbers as `low`, `high` and `step`."),
    ({"low": 1, "high": 5, "step": 2, "log": True}, "can't be beside low."),
    ({"choices": [1, 2]}, None),
    ({"choices": [1]}, "must be a list of at least two options."),
    ({"choices": [1, 2, 1.0]}, "must not have an option twice."),
    ({"choices": [1, None]}, "must not have an empty option."),
    ({"choices": [1, 2], "step": 1}, "can't be beside choices."),
]


@pytest.mark.parametrize(("written", "rule"), RANGES)
def test_ranges_and_choices_mean_the_same_in_recipes_and_in_own_loops(written, rule):
    places = {
        "learner.inner_steps": lambda: tiny.config(learner=MAML | {"inner_steps": written}),
        "space.width": lambda: parse(own_loops.data(space={"width": written})),
    }
    found = []
    for place, parsed in places.items():
        if rule is None:
            space = plan_of(parsed()).space
            found.append(next(iter(space.choices.values())))
            continue
        with pytest.raises(InputError) as caught:
            parsed()
        details = [d for d in caught.value.details if d.path.startswith(place)]
        found.append([(d.path.removeprefix(place), d.rule, d.found, d.remedy) for d in details])
        assert rule in [d.rule for d in details]
    assert found[0] == found[1]


def test_without_a_step_a_range_has_real_numbers_which_a_recipe_cannot_have():
    written = {"low": 1, "high": 5}
    space = plan_of(parse(own_loops.data(space={"width": written}))).space
    assert space.ranges["width"] == Range(1, 5)
    with pytest.raises(InputError, match=r"Write {low: 1, high: 5, step: 1}"):
        tiny.config(learner=MAML | {"inner_steps": written})


def test_each_variant_is_validated_once(monkeypatch):
    validated, validate = [], Config.model_validate.__func__

    def counted(cls, data):
        validated.append(data)
        return validate(cls, data)

    monkeypatch.setattr(Config, "model_validate", classmethod(counted))
    config = tiny.config(**CHOICES)
    plan_of(config)
    recipes_of(config)
    assert len(validated) == len(config.representatives()) + 1, "and the plain config"
    for values in config.representatives():
        assert config.variant(values) is config.variant(values)
    assert config.variant({"steps": 2}) != config.variant({"steps": 8})
    assert config == tiny.config(**CHOICES) != CONFIG.variant({})


def test_variants_of_an_own_loop_have_its_absolute_path(tmp_path):
    config = parse(own_loops.data(path="src", steps={"choices": [5, 10]}))
    config.variant({"steps": 5})
    found = with_absolute_paths(config, tmp_path)
    assert found.variant({"steps": 5}).path == str(tmp_path / "src")
    assert [one.name for one in found.searched] == ["steps"]
