"""Groups that splits share, fixed classes, and scales of the training tasks."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fewshot.errors.inputs import InputError
from trials.contract import Component, Recipe, TaskSpec
from trials.data.pools import TaskKind, dropped, pools_of, sources_of
from trials.data.scales import fixed_scales, with_scales

CPU = torch.device("cpu")
KIND = TaskKind(True, "table", "train")


@pytest.fixture
def make(tmp_path):
    """A recipe of schools: makes the tasks of each split from the schools that are given."""
    rng = np.random.default_rng(0)
    schools = np.repeat([f"s{i}" for i in range(6)], 12)
    table = pd.DataFrame(
        {
            "school": schools,
            "grade": rng.normal(size=72) + 300,
            "score": 10 * rng.normal(size=72) - 70,
            "passed": np.tile(["yes", "no"], 36),
            "day": pd.date_range("2026-01-01", periods=72).astype(str),
        }
    )
    table.to_csv(tmp_path / "t.csv", index=False)

    def recipe(train, validation, test, scale="train", **fields):
        own = {
            "dataset": "pupils",
            "label": "score",
            "kind": "regression",
            "within": "school",
        } | fields
        options = {"path": str(tmp_path / "t.csv"), "features": ["grade"], "scale": scale}
        return Recipe(
            program="meta_training",
            datasets={"pupils": Component(name="table", options=options)},
            tasks={
                split: (TaskSpec(name=split, where={"school": tuple(names)}, **own),)
                for split, names in (("train", train), ("validation", validation), ("test", test))
            },
            model=Component(name="mlp", options={"hidden": [4]}),
            learner=Component(name="maml"),
            way=1,
            shot=3,
            query=4,
            episodes=2,
            validation_episodes=4,
            test_episodes=4,
        )

    recipe.cache = tmp_path
    return recipe


def pools(recipe, make):
    return pools_of(recipe, sources_of(recipe, make.cache), CPU)


def details(recipe, make):
    with pytest.raises(InputError) as caught:
        pools(recipe, make)
    return caught.value.details


class TestSharedGroups:
    def test_are_refused_with_their_name(self, make):
        (detail,) = details(make(["s0", "s1"], ["s2", "s3"], ["s3", "s4"]), make)
        assert detail.path == "tasks.test.test"
        assert detail.rule == "must share no school with tasks.validation.validation."
        assert detail.found == "12 examples of 24, such as those of school s3"
        assert "split" in detail.remedy

    def test_are_found_in_tasks_without_groups(self, make):
        recipe = make(["s0", "s1"], ["s2"], ["s3"])
        train = replace(recipe.tasks["train"][0], within=None)
        same = replace(train, where={"school": ("s0", "s3")})
        pools(replace(recipe, tasks={**recipe.tasks, "train": (train,)}), make)
        found = details(replace(recipe, tasks={**recipe.tasks, "train": (same,)}), make)
        assert [detail.path for detail in found] == ["tasks.test.test"]

    def test_are_found_in_other_datasets_on_the_same_file(self, make):
        recipe = make(["s0"], ["s1"], ["s2"])
        part = recipe.datasets["pupils"]
        twin = replace(recipe.tasks["train"][0], dataset="twin", where={"school": ("s2",)})
        recipe = replace(
            recipe,
            datasets={"pupils": part, "twin": part},
            tasks={**recipe.tasks, "train": (*recipe.tasks["train"], replace(twin, name="twin"))},
        )
        assert "tasks.train.twin" in details(recipe, make)[0].rule

    def test_are_dropped_from_the_earlier_split(self, make):
        recipe = replace(make(["s0", "s1"], ["s1", "s2"], ["s2", "s3"]), overlap="drop")
        found = pools(recipe, make)[KIND]
        assert [found[split].sizes[split] for split in ("train", "validation", "test")] == [
            12,
            12,
            24,
        ]
        assert dropped(recipe, sources_of(recipe, make.cache)) == {"train": 12, "validation": 12}

    def test_may_be_allowed(self, make):
        pools(replace(make(["s0"], ["s0"], ["s0"]), overlap=True), make)

    def test_are_no_individuals_if_each_has_its_own_classes(self, make):
        """As the characters of an alphabet, of which some are trained and others are tested."""
        classes = {"kind": "classification", "label": "school", "within": "school"}
        recipe = make(["s0"], ["s0"], ["s0"], **classes)
        found = details(replace(recipe, way=2, shot=1, query=1), make)
        assert not any("share no school" in detail.rule for detail in found)
        recipe = make(["s0"], ["s0"], ["s0"], **(classes | {"label": "passed"}))
        found = details(replace(recipe, way=2, shot=1, query=1), make)
        assert all("share no school" in detail.rule for detail in found)


class TestOrder:
    def test_may_be_a_date(self, make):
        found = pools(make(["s0", "s1"], ["s2"], ["s3"], order="day"), make)[KIND]["train"]
        assert found.ordered.all()

    def test_must_be_numbers_or_dates(self, make):
        found = details(make(["s0", "s1"], ["s2"], ["s3"], order="passed"), make)
        assert [detail.path for detail in found] == [
            f"tasks.{split}.{split}.order" for split in ("train", "validation", "test")
        ]
        assert "number or a date" in found[0].rule
        assert found[0].found == "'yes' in row 0"

    @pytest.mark.parametrize("field", ["within", "order"])
    def test_must_be_a_column(self, make, field):
        found = details(make(["s0", "s1"], ["s2"], ["s3"], **{field: "none"}), make)
        assert all(detail.path.endswith(f".{field}") for detail in found)


class TestFixedClasses:
    def recipe(self, make):
        classes = {"kind": "classification", "label": "passed"}
        recipe = make(["s0", "s1"], ["s2"], ["s3"], **classes)
        return replace(recipe, way=2, shot=1, query=2, fixed_classes=True)

    def test_have_the_same_number_in_every_episode(self, make):
        recipe = self.recipe(make)
        sources = sources_of(recipe, make.cache)
        pool = pools_of(recipe, sources, CPU)[TaskKind(False, "table", "train")]["train"].by_row()
        drawn = pool.draw(torch.arange(50), 2)
        labels = sources.labels(recipe.tasks["train"][0], "")
        assert set(labels[drawn.support_x[..., 0].flatten().numpy()]) == {"no"}
        assert set(labels[drawn.query_x[..., 2:].flatten().numpy()]) == {"yes"}

    def test_must_be_the_same_in_all_tasks(self, make):
        recipe = self.recipe(make)
        other = replace(recipe.tasks["test"][0], label="school", within=None)
        other = replace(other, where={"school": ("s3", "s4")})
        found = details(replace(recipe, tasks={**recipe.tasks, "test": (other,)}), make)
        assert [(d.path, d.found) for d in found] == [("tasks.test.test", "s3, s4")]


class TestScaleOfTheTrainingTasks:
    def test_is_that_of_their_examples(self, make):
        recipe = make(["s0", "s1"], ["s2"], ["s3"])
        found = pools(recipe, make)
        known = with_scales(recipe, found)
        features, numbers = fixed_scales(known, KIND, CPU)
        table = pd.read_csv(make.cache / "t.csv")[:24]
        for scale, name in ((features, "grade"), (numbers, "score")):
            assert scale.mean.item() == pytest.approx(table[name].mean(), rel=1e-5)
            assert scale.spread.item() == pytest.approx(table[name].std(ddof=0), rel=1e-4)
        assert with_scales(known, {}) == known

    def test_needs_one_column_of_numbers(self, make):
        recipe = make(["s0", "s1"], ["s2"], ["s3"])
        other = replace(recipe.tasks["test"][0], label="grade2")
        wrong = replace(recipe, tasks={**recipe.tasks, "test": (other,)})
        with pytest.raises(InputError, match="numbers of several columns"):
            with_scales(wrong, pools(recipe, make))

    def test_is_not_known_before_the_data(self, make):
        with pytest.raises(InputError, match="Export the model"):
            fixed_scales(make(["s0"], ["s1"], ["s2"]), KIND, CPU)
