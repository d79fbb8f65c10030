"""What passes between the packages survives the way; unequal recipes can be told apart."""

import pickle
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot.losses.distillation import Distillation
from trials.contract import Component, Recipe, TaskSpec, TrainingFunction, TrialSpec

names = st.text(min_size=1, max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
values = st.one_of(names, st.integers(), st.booleans(), numbers)
options = st.dictionaries(names, st.one_of(values, st.none(), st.lists(values, max_size=3)))
components = st.builds(Component, name=names, options=options)
rows = st.dictionaries(names, st.lists(values, max_size=3).map(tuple), max_size=2)
tasks = st.builds(
    TaskSpec,
    name=names,
    dataset=names,
    label=names,
    where=rows,
    within=st.none() | names,
    corrupt=st.sampled_from([None, "shuffle"]),
    noise=st.floats(0, 1),
    query=st.none() | rows,
    unlabelled=st.none() | rows,
    n_unlabelled=st.none() | st.integers(0, 1000),
)
some_tasks = st.lists(tasks, max_size=2).map(tuple)
counts = st.integers(1, 9) | st.tuples(st.integers(1, 4), st.integers(5, 9))
recipes = st.builds(
    Recipe,
    way=counts,
    shot=counts,
    query=counts,
    datasets=st.dictionaries(names, components, max_size=2),
    tasks=st.fixed_dictionaries(dict.fromkeys(("train", "validation", "test"), some_tasks)),
    teacher=st.none() | components,
    distillation=st.builds(
        Distillation,
        direction=st.sampled_from(["forward", "reverse"]),
        standardise=st.booleans(),
        decoupled=st.none() | st.tuples(numbers, numbers),
    ),
    weights_as=st.sampled_from(["loss", "sampling"]),
    model=components,
    learner=components,
)
specs = st.builds(
    TrialSpec,
    recipe=recipes,
    stage=st.sampled_from(["search", "final", "test"]),
    hyperparameters=st.dictionaries(names, numbers, max_size=3),
    task_weights=st.dictionaries(names, numbers, max_size=3),
    rungs=st.lists(st.integers(0, 10**6), max_size=4).map(tuple),
    initial=st.none() | names,
)

RECIPE = Recipe(
    program="meta_training",
    datasets={"a": Component(name="images", options={"size": 14})},
    tasks={
        "train": (TaskSpec(name="one", dataset="a", label="l", where={"s": ("x",)}),),
        "validation": (TaskSpec(name="two", dataset="a", label="l"),),
        "test": (),
    },
    model=Component(name="mlp", options={"hidden": [8]}),
    learner=Component(name="protonet"),
    way=5,
    shot=1,
    query=5,
    episodes=4,
    validation_episodes=40,
    test_episodes=100,
)
# Another value for each of its fields.
OTHERS = {
    "program": "adaptation",
    "datasets": {"a": Component(name="images", options={"size": 15})},
    "tasks": {**RECIPE.tasks, "train": (replace(RECIPE.tasks["train"][0], corrupt="shuffle"),)},
    "model": Component(name="mlp", options={"hidden": [8, 8]}),
    "learner": Component(name="maml"),
    "way": 6,
    "shot": 2,
    "query": 6,
    "episodes": 5,
    "validation_episodes": 41,
    "test_episodes": 101,
    "batch": 1,
    "teacher": Component(name="text"),
    "distillation": Distillation(decoupled=(1.0, 8.0)),
    "weights_as": "sampling",
    "sampled_episodes": 3,
    "seed": 1,
    "optimizer": "sgd",
    "precision": "tf32",
    "imbalance": "random",
    "fixed_classes": True,
    "overlap": True,
    "function": TrainingFunction(name="loop:train", folder="/"),
}


class TestTrialSpec:
    @settings(max_examples=40)
    @given(specs)
    def test_survives_json_and_pickling(self, spec):
        again = TrialSpec.from_json(spec.to_json())
        assert again == spec
        assert again.recipe.fingerprint == spec.recipe.fingerprint
        assert again.to_json() == spec.to_json()
        assert pickle.loads(pickle.dumps(spec)) == spec

    def test_its_key_tells_stages_and_numbers_apart(self):
        spec = TrialSpec(
            number=7, seed=0, recipe=RECIPE, hyperparameters={}, task_weights={}, rungs=(1,)
        )
        assert spec.key == "search-0007"
        others = [
            replace(spec, number=8),
            replace(spec, stage="final"),
            replace(spec, stage="test"),
        ]
        assert len({spec.key, *(other.key for other in others)}) == 4
        assert replace(spec, attempt=3).key == spec.key

    def test_keys_sort_as_numbers_do(self):
        spec = TrialSpec(
            number=0, seed=0, recipe=RECIPE, hyperparameters={}, task_weights={}, rungs=(1,)
        )
        keys = [replace(spec, number=n).key for n in (2, 10, 999)]
        assert keys == sorted(keys)


class TestFingerprint:
    def test_every_field_has_another_value_here(self):
        assert set(OTHERS) == {field.name for field in fields(Recipe)}

    @pytest.mark.parametrize("name", OTHERS)
    def test_differs_where_a_recipe_differs(self, name):
        other = replace(RECIPE, **{name: OTHERS[name]})
        assert other.fingerprint != RECIPE.fingerprint

    def test_does_not_hang_on_the_order_of_options(self):
        one, other = (
            replace(RECIPE, model=Component(name="mlp", options=dict(pairs)))
            for pairs in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)])
        )
        assert one.fingerprint == other.fingerprint

    def test_is_the_same_in_every_process(self):
        assert RECIPE.fingerprint == "667cf567e626"
