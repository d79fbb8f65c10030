"""From words to pools: what the splits may share, and what a step divides by."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils._pytree import tree_map

from fewshot.faults import InputError
from fewshot.kinds import CLASSIFICATION
from fewshot.learners.protonet import ProtoNet
from fewshot.models.untrained import Untrained
from fewshot.tasks.pool import Task, pool
from tests.trials.conformance import distillation, protonet
from trials.build import build, examine, programs
from trials.contract import Recipe, TaskSpec
from trials.disjoint import shared_rows
from trials.meta_training import MetaTraining, Part


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
            examine(with_task(case.recipe, "validation", spec), case.cache)
        first, second = caught.value.faults
        assert first.path == "tasks.validation.x"
        assert first.rule == "must share no example with tasks.train.alpha."
        assert first.found == "60 of 120"
        assert second.path == "tasks.test.zeta"
        assert second.rule == "must share no example with tasks.validation.x."
        assert second.found == "60 of 60"

    def test_may_share_examples_where_that_is_meant(self, case):
        spec = replace(case.recipe.tasks["train"][0], name="x")
        recipe = replace(with_task(case.recipe, "test", spec), overlap=True)
        assert examine(recipe, case.cache).task_sizes

    def test_tasks_of_one_split_may_share_examples(self, case):
        spec = replace(case.recipe.tasks["train"][0], name="noisy", noise=0.5)
        sizes = examine(with_task(case.recipe, "train", spec), case.cache).task_sizes
        assert sizes["noisy"] == sizes["alpha"] == 60

    def test_what_scores_a_student_taught_nobody(self, tmp_path):
        case = distillation(tmp_path)
        (task,) = case.recipe.tasks["validation"]
        examine(case.recipe, tmp_path)
        wrong = replace(task, unlabelled={"part": ("unlabelled", "query")})
        recipe = replace(case.recipe, tasks={**case.recipe.tasks, "validation": (wrong,)})
        with pytest.raises(InputError) as caught:
            examine(recipe, tmp_path)
        (fault,) = caught.value.faults
        assert fault.path == "tasks.validation.topics.query"
        assert fault.rule == "must share no example with tasks.validation.topics.unlabelled."
        assert fault.found == "48 of 48"
        assert examine(replace(recipe, overlap=True), tmp_path).classes

    def test_are_compared_row_by_row(self):
        rows = {"train": {"a": np.array([1, 2, 2, 3])}, "test": {"b": np.array([2, 2, 3, 4])}}
        (fault,) = shared_rows(rows)
        assert (fault.path, fault.found) == ("b", "2 of 3")


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
        objective = MetaTraining([Part(learner, drawn, {})], 5)
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
