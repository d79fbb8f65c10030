"""From words to pools: what the splits may share, and what a step divides by."""

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from torch.testing import assert_close
from torch.utils._pytree import tree_map

from fewshot.errors.inputs import InputError
from fewshot.kinds import CLASSIFICATION
from fewshot.learners.metric.protonet import ProtoNet
from fewshot.models.untrained import Untrained
from fewshot.tasks.base import Dataset
from fewshot.tasks.pool import Task, pool
from tests.trials.conformance import distillation, protonet
from trials.contract import Component, Recipe, TaskSpec
from trials.data import disjoint
from trials.data.disjoint import identities, shared_rows
from trials.programs.build import build, programs
from trials.programs.data_summary import summarise_data
from trials.programs.meta_training.objective import MetaTraining
from trials.programs.meta_training.task_group import TaskGroup


def with_task(recipe: Recipe, split: str, spec: TaskSpec) -> Recipe:
    return replace(recipe, tasks={**recipe.tasks, split: (*recipe.tasks[split], spec)})


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return protonet(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_program_has_the_threads_that_it_is_told(case, tmp_path, threads):
    before = torch.get_num_threads()
    try:
        build(case.recipe, lanes=1, folder=tmp_path, cache=case.cache, threads=threads)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


class TestSplits:
    def test_share_no_example(self, case):
        where = {"script": ("alpha", "zeta")}
        spec = TaskSpec(name="x", dataset="scripts", label="character", where=where)
        with pytest.raises(InputError) as caught:
            summarise_data(with_task(case.recipe, "validation", spec), case.cache)
        first, second = caught.value.details
        assert first.path == "tasks.validation.x"
        assert first.rule == "must share no example with tasks.train.alpha."
        assert first.found == "60 of 120, such as row 0 of scripts"
        assert second.path == "tasks.test.zeta"
        assert second.rule == "must share no example with tasks.validation.x."
        assert second.found.startswith("60 of 60, such as row ")

    def test_may_share_examples_where_that_is_meant(self, case):
        spec = replace(case.recipe.tasks["train"][0], name="x")
        recipe = replace(with_task(case.recipe, "test", spec), overlap=True)
        assert summarise_data(recipe, case.cache).task_sizes

    def test_tasks_of_one_split_may_share_examples(self, case):
        spec = replace(case.recipe.tasks["train"][0], name="noisy", noise=0.5)
        sizes = summarise_data(with_task(case.recipe, "train", spec), case.cache).task_sizes
        assert sizes["noisy"] == sizes["alpha"] == 60

    def test_what_scores_a_student_taught_nobody(self, tmp_path):
        case = distillation(tmp_path)
        (task,) = case.recipe.tasks["validation"]
        summarise_data(case.recipe, tmp_path)
        wrong = replace(task, unlabelled={"part": ("unlabelled", "query")})
        recipe = replace(case.recipe, tasks={**case.recipe.tasks, "validation": (wrong,)})
        with pytest.raises(InputError) as caught:
            summarise_data(recipe, tmp_path)
        (input_error,) = caught.value.details
        assert input_error.path == "tasks.validation.topics.query"
        assert input_error.rule == "must share no example with tasks.validation.topics.unlabelled."
        assert input_error.found.startswith("48 of 48, such as ")
        assert summarise_data(replace(recipe, overlap=True), tmp_path).classes
        found = summarise_data(replace(recipe, overlap="drop"), tmp_path)
        assert found.dropped == {"train": 48}  # the validation's queries and the test's
        assert len(found.classes) == 4

    def test_are_compared_row_by_row(self):
        rows = {"train": {"a": np.array([1, 2, 2, 3])}, "test": {"b": np.array([2, 2, 3, 4])}}
        (input_error,) = shared_rows(rows, np.arange(5, dtype=np.uint64), "rows {} and {}".format)
        assert (input_error.path, input_error.found) == ("b", "2 of 3, such as rows 2 and 2")


def text_dataset(texts: list[str], noise: float = 0.0) -> Dataset:
    inputs = torch.arange(len(texts))[:, None] + noise
    return Dataset(inputs, pd.DataFrame({"utterance": texts}), text="utterance")


class TestIdentities:
    def test_of_texts_are_the_texts_up_to_case_and_white_space(self):
        one = text_dataset(["Set an alarm", "stop", "go"])
        two = text_dataset([" set  an ALARM", "halt", "stop", "go"], noise=1e-3)
        found = identities([one, two]).tolist()
        assert found[0] == found[3]
        assert found[1] == found[5]
        assert found[2] == found[6]
        assert len(set(found)) == 4

    def test_of_tables_are_all_that_the_tables_have_in_common(self):
        people = pd.DataFrame({"age": [50, 50, 61], "sex": [0, 0, 1], "school": ["a", "b", "b"]})
        inputs = torch.tensor(people[["age", "sex"]].to_numpy(), dtype=torch.float32)
        one = Dataset(inputs, people, ("age", "sex"))
        copied = people[["school", "sex", "age"]].iloc[::-1].reset_index(drop=True)
        copied["age"] = copied["age"].astype(float)  # as it is read where another row has none
        copied["new"] = range(3)
        two = Dataset(inputs.flip(0), copied, ("age", "sex"))
        found = identities([one, two])
        assert len(set(found.tolist())) == 3  # pupils of one age and sex in two schools are two
        assert_array_equal(found[:3], found[:2:-1])

    def test_of_all_else_are_what_the_model_reads(self):
        columns = pd.DataFrame({"label": range(4)})
        rows = [[0.0, 1.0], [0.0, 1.0], [-0.0, 1.0], [0.0, 1.0 + 1e-6]]
        found = identities([Dataset(torch.tensor(rows), columns)])
        assert len(set(found.tolist())) == 2
        assert found[0] == found[1] == found[2]
        ids = identities([Dataset(torch.tensor([[1, 2], [2, 1], [1, 2]]), columns[:3])])
        assert len(set(ids.tolist())) == 2

    def test_of_large_rows_are_found_in_pieces(self, monkeypatch):
        inputs = torch.randn(10, 3, 4)
        whole = identities([Dataset(inputs, pd.DataFrame({"label": range(10)}))])
        monkeypatch.setattr(disjoint, "_CHUNK", 100)
        pieces = identities([Dataset(inputs, pd.DataFrame({"label": range(10)}))])
        assert_array_equal(whole, pieces)

    def test_of_a_hundred_thousand_rows_take_no_second(self):
        rows, n = torch.randn(100_000, 384), 100_000
        begun = time.process_time()
        assert len(identities([Dataset(rows, pd.DataFrame({"label": np.zeros(n)}))])) == n
        assert time.process_time() - begun < 2  # measured: 0.4; CI's machines are shared


def of_files(tmp_path, sources: dict[str, Component], label: str = "label") -> Recipe:
    """Training tasks of the first dataset, validation of the second, test of the third."""
    splits = ("train", "validation", "test")
    tasks = {
        split: (TaskSpec(name="one", dataset=name, label=label),)
        for split, name in zip(splits, sources, strict=True)
    }
    return replace(protonet(tmp_path).recipe, datasets=sources, tasks=tasks, way=2)


class TestTheSameExamplesInAnotherFile:
    """Copies under other names, which are other rows of other datasets."""

    @pytest.fixture
    def texts(self, tmp_path):
        def write(name: str, words: str, kind: str = "text") -> Component:
            rows = [f"{word} number {i},{word}" for word in words for i in range(12)]
            (tmp_path / name).write_text("\n".join(["text,label", *rows]))
            options = {"path": str(tmp_path / name), "features": "ngrams", "max_length": 8}
            return Component(name=kind, options=options)

        words = {"one": "ab", "two": "bc", "three": "de"}
        return {name: write(f"{name}.csv", own) for name, own in words.items()}

    def test_are_refused_as_texts(self, tmp_path, texts):
        with pytest.raises(InputError) as caught:
            summarise_data(of_files(tmp_path, texts), tmp_path)
        (input_error,) = caught.value.details
        assert input_error.path == "tasks.validation.one"
        assert input_error.rule == "must share no example with tasks.train.one."
        example = "'b number 0' (row 0 of two and row 12 of one)"
        assert input_error.found == f"12 of 24, such as {example}"
        for remedy in ("`tasks.overlap: drop`", "`tasks.overlap: true`", "`where`"):
            assert remedy in input_error.remedy

    def test_are_left_out_where_that_is_asked_for(self, tmp_path, texts):
        recipe = of_files(tmp_path, texts)
        with pytest.raises(InputError, match="needs 2 classes"):
            summarise_data(replace(recipe, overlap="drop"), tmp_path)
        rows = [f"{word} number {i},{word}" for word in "abx" for i in range(12)]
        (tmp_path / "one.csv").write_text("\n".join(["text,label", *rows]))
        found = summarise_data(replace(of_files(tmp_path, texts), overlap="drop"), tmp_path)
        assert found.task_sizes == {"one": 24}
        assert found.dropped == {"train": 12}

    def test_are_refused_as_rows_of_a_table(self, tmp_path):
        rng = np.random.default_rng(0)
        table = pd.DataFrame(rng.normal(size=(40, 3)), columns=["x", "y", "z"])
        table["label"] = ["a", "b"] * 20
        table.to_csv(tmp_path / "one.csv", index=False)
        table.to_parquet(tmp_path / "two.parquet")
        (table + table).assign(label=table.label).to_csv(tmp_path / "three.csv", index=False)
        sources = {
            name: Component(name="table", options={"path": str(tmp_path / name)})
            for name in ("one.csv", "two.parquet", "three.csv")
        }
        with pytest.raises(InputError) as caught:
            summarise_data(of_files(tmp_path, sources), tmp_path)
        (input_error,) = caught.value.details
        assert input_error.found == "40 of 40, such as row 0 of two.parquet and row 0 of one.csv"


@pytest.mark.parametrize("precision", ["tf32", "float32"])
def test_products_are_as_exact_as_the_recipe_says(case, precision):
    programs(replace(case.recipe, precision=precision), case.cache)
    for part in (torch.backends.cuda.matmul, torch.backends.cudnn):
        assert part.allow_tf32 == (precision == "tf32")


class TestNullLosses:
    def test_every_episode_is_divided_by_its_own(self):
        labels = np.arange(60) // 6
        one = Task("one", np.arange(60), labels, np.zeros(60, dtype=np.int64))
        inputs = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
        drawn = pool([one], inputs, way=(2, 6), shot=1, query=2)
        learner = ProtoNet(model=Untrained(), way=6)
        objective = MetaTraining([TaskGroup(learner, drawn, {})], 5)
        drawn = objective.batch(
            objective.draw(torch.tensor([3]), torch.tensor([0]), torch.ones(1, 1))
        )
        (batch,) = tree_map(lambda part: part[0], drawn)
        episodes = batch.episodes
        ways = episodes.support_y.amax(-1) + 1
        assert len(ways.unique()) > 1
        logits = learner.logits({}, episodes, {})
        losses = CLASSIFICATION.losses(logits, episodes.query_y).mean(-1)
        found = objective.loss({}, (batch,), {}, torch.ones(1))
        assert_close(found, (losses / ways.log()).mean())
