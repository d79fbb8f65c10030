"""Searched options, and the conditions under which a recipe reads a parameter."""

import pytest

from orchestrator.space.choices import Choice, Condition, WholeRange, active
from orchestrator.space.search_space import Range, SearchSpace
from orchestrator.space.simplex import Simplex

LEARNER = Choice(("protonet", "maml", "anil"))
SPACE = SearchSpace(
    {"lr/outer": Range(1e-4, 1e-1, log=True), "lr/inner": Range(1e-2, 1.0, log=True)},
    {"lr/adapt": 0.1},
    {"greek": 1.0},
    {
        "learner": LEARNER,
        "learner.maml.inner_steps": WholeRange(1, 5),
        "steps": WholeRange(50, 90, 20),
    },
    {
        "learner.maml.inner_steps": (Condition("learner", ("maml",)),),
        "lr/inner": (Condition("learner", ("maml", "anil")),),
        "lr/adapt": (Condition("learner", ("maml", "anil")),),
    },
)


@pytest.mark.parametrize(
    ("of", "values"),
    [
        (WholeRange(1, 5), [1, 2, 3, 4, 5]),
        (WholeRange(50, 90, 20), [50, 70, 90]),
        (LEARNER, LEARNER.options),
    ],
)
def test_each_value_has_an_equal_part_of_the_interval(of, values):
    n = 60 * len(values)
    drawn = [of.at((i + 0.5) / n) for i in range(n)]
    assert drawn == [value for value in values for _ in range(60)]
    assert of.at(0.0) == values[0]
    assert of.at(1.0) == values[-1]


def test_means():
    assert WholeRange(1, 5).mean([1, 2, 2]) == 2
    assert WholeRange(50, 90, 20).mean([50, 90, 90]) == 70
    assert LEARNER.mean(["anil", "maml", "maml"]) == "maml"


def test_a_trial_has_only_the_parameters_that_its_recipe_reads():
    full = {
        "learner": "maml",
        "lr/inner": 0.1,
        "lr/outer": 0.1,
        "learner.maml.inner_steps": 3,
        "steps": 50,
    }
    assert SPACE.active(full) == full
    protonet = SPACE.active(full | {"learner": "protonet"})
    assert protonet == {"learner": "protonet", "lr/outer": 0.1, "steps": 50}
    assert SPACE.decode(protonet)[0] == {"lr/outer": 0.1}
    assert SPACE.decode(full)[0] == {"lr/adapt": 0.1, "lr/outer": 0.1, "lr/inner": 0.1}
    assert SPACE.chosen(protonet) == {"learner": "protonet", "steps": 50}


def test_what_an_unread_choice_contains_is_unread_too():
    conditions = {"b": (Condition("a", (1,)),), "c": (Condition("b", (1,)),)}
    assert active({"a": 2, "b": 1, "c": 1}, conditions) == {"a": 2}
    assert active({"a": 1, "b": 1, "c": 1}, conditions) == {"a": 1, "b": 1, "c": 1}


def test_the_reference_is_tried_with_every_choice():
    design = SPACE.rate_design(16, seed=0)
    assert {point["learner"] for point in design} == set(LEARNER.options)
    assert {point["steps"] for point in design} == {50, 70, 90}
    assert all(("lr/inner" in p) == (p["learner"] != "protonet") for p in design)


def test_the_mean_of_several_recipes_is_that_of_the_most_frequent_one():
    points = [
        {"learner": "protonet", "lr/outer": 1e-2, "steps": 90},
        {
            "learner": "maml",
            "lr/outer": 1e-4,
            "lr/inner": 0.1,
            "learner.maml.inner_steps": 1,
            "steps": 50,
        },
        {
            "learner": "maml",
            "lr/outer": 1e-2,
            "lr/inner": 0.1,
            "learner.maml.inner_steps": 3,
            "steps": 90,
        },
    ]
    mean = SPACE.mean(points)
    assert mean == {
        "learner": "maml",
        "lr/outer": pytest.approx(1e-3),
        "lr/inner": pytest.approx(0.1),
        "learner.maml.inner_steps": 2,
        "steps": 70,
    }


def test_the_reference_is_known_whatever_its_recipe_reads():
    heads = Choice(("shared", "per_task"))
    space = SearchSpace(
        {"lr/outer": Range(1e-4, 1e-1, log=True), "task/own": Range(0.0, 1.0)},
        {},
        Simplex(("a", "b"), (0.5, 0.5), zero_below=0.1),
        {"heads": heads},
        {"task/own": (Condition("heads", ("per_task",)),)},
    )
    design = space.rate_design(16, seed=0)
    assert {"task/own" in point for point in design} == {True, False}
    assert all(space.is_reference(point) for point in design)
    other = space.weights.encode({"a": 0.8, "b": 0.2})
    assert not any(space.is_reference(point | other) for point in design)


@pytest.mark.parametrize(
    ("of", "value", "nearest"),
    [
        (WholeRange(8, 64, 8), 128, 64),
        (WholeRange(8, 64, 8), 17.0, 16),
        (Range(0.1, 1.0), 3, 1.0),
        (Choice((1, 5)), 5.0, 5),
    ],
)
def test_the_nearest_value_has_the_type_of_the_range(of, value, nearest):
    found = of.nearest(value)
    assert (found, type(found)) == (nearest, type(nearest))


@pytest.mark.parametrize("of", [WholeRange(8, 64, 8), Range(0.1, 1.0)])
@pytest.mark.parametrize("value", ["small", True, float("nan")])
def test_what_is_no_number_is_not_in_a_range(of, value):
    assert not of.accepts(value)
    assert not of.contains(value)
