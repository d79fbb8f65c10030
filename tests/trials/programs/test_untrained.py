"""The untrained model is a recipe like others, of which no step is taken."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fewshot.learners.metric.protonet import ProtoNet
from fewshot.models.untrained import Untrained
from tests.trials.conformance import functions, lora, mixed, protonet
from trials.contract import Component
from trials.programs.build import build
from trials.programs.data_summary import summarise_data
from trials.programs.untrained import is_untrained


def score(case, recipe, tmp_path, stage="final"):
    """The report and the result of the untrained model."""
    program = build(recipe, lanes=1, folder=tmp_path / "runs", cache=case.cache)
    spec = replace(
        case.spec(0),
        recipe=recipe,
        stage=stage,
        hyperparameters={},
        task_weights={},
        rungs=(0,),
    )
    program.admit(spec)
    (report,) = program.advance()
    return report, program.release(spec.key, "complete"), program


@pytest.mark.parametrize("make", [protonet, mixed, lora])
def test_scores_the_held_out_tasks_without_a_step(make, tmp_path):
    case = make(tmp_path)
    recipe = summarise_data(case.recipe, case.cache).untrained
    assert is_untrained(recipe)
    report, result, program = score(case, recipe, tmp_path)
    assert report.step == 0
    assert report.per_task.keys() == {task.name for task in case.recipe.tasks["validation"]}
    assert (result.outcome, program.lane_steps) == ("complete", 0)
    _, tested, _ = score(case, recipe, tmp_path / "test", stage="test")
    assert {a.task for a in tested.adaptations} == {t.name for t in case.recipe.tasks["test"]}


def test_is_a_prototypical_network_of_the_inputs(tmp_path):
    case = protonet(tmp_path)
    recipe = summarise_data(case.recipe, case.cache).untrained
    report, _, _ = score(case, recipe, tmp_path)
    program = case.program(tmp_path, lanes=1)  # of the same episodes
    (part,) = program._objective.parts
    learner = ProtoNet(model=Untrained(), way=recipe.way)
    episodes = part.scoring.episodes("final")
    right = learner.logits({}, episodes, {}).argmax(-1) == episodes.query_y
    accuracy = right.double().mean(1).view(len(report.per_task), -1).mean(1)
    found = [report.metrics[f"val/{task}/accuracy"] for task in report.per_task]
    assert_close(torch.tensor(found, dtype=torch.float64), accuracy)


def test_is_on_the_residual_models_way(tmp_path):
    """Which starts as it."""
    case = protonet(tmp_path)
    untrained, _, _ = score(case, summarise_data(case.recipe, case.cache).untrained, tmp_path)
    recipe = replace(case.recipe, model=Component(name="residual"))
    program = build(recipe, lanes=1, folder=tmp_path / "residual", cache=case.cache)
    program.admit(replace(case.spec(0), recipe=recipe, stage="final", rungs=(0, 20)))
    start, end = program.advance()[0], program.advance()[0]
    assert start.per_task == untrained.per_task
    assert end.per_task != untrained.per_task


def test_points_of_functions_and_ids_mean_nothing_untrained(tmp_path):
    case = functions(tmp_path)
    assert summarise_data(case.recipe, case.cache).untrained is None


def test_a_final_tells_what_calibrates_its_logits(tmp_path):
    case = protonet(tmp_path)
    recipe = summarise_data(case.recipe, case.cache).untrained
    final, _, _ = score(case, recipe, tmp_path)
    tested, _, _ = score(case, recipe, tmp_path / "test", stage="test")
    scales = [v for name, v in final.metrics.items() if name.endswith("/logit_scale")]
    assert len(scales) == len(final.per_task)
    assert all(0 < scale < 1e4 for scale in scales)
    assert not any(name.endswith("/logit_scale") for name in tested.metrics)
