"""Learners that take gradient steps read the results of a frozen part, computed once."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fewshot.models.pretrained.split_encoder import SplitEncoder
from tests.trials.conformance import lora
from trials.contract import Component
from trials.lanes.step.gradient import gradient_of
from trials.programs.build import PROGRAMS, build
from trials.programs.data_summary import summarise_data
from trials.programs.factories import build_learner
from trials.programs.meta_training.objective import MetaTraining

LEARNERS = {
    "fomaml": {"inner_steps": 1, "adapt_steps": 2},
    "anil": {"inner_steps": 1, "adapt_steps": 2},
    "baseline": {"adapt_steps": 2},
    "fine_tuned_protonet": {"inner": "all", "adapt_steps": 2},
}
RATES = {"lr/outer": 0.01, "lr/inner": 0.1, "lr/adapt": 0.1, "adapt/steps": 2.0}
CPU = torch.device("cpu")


@pytest.fixture(params=LEARNERS)
def case(request, tmp_path):
    learner = Component(name=request.param, options=LEARNERS[request.param])
    found = lora(tmp_path)
    return replace(found, recipe=replace(found.recipe, learner=learner))


def on_inputs(objective: MetaTraining, recipe) -> MetaTraining:
    """The same objective, whose model computes everything from the inputs."""
    parts = [
        replace(
            part,
            learner=build_learner(recipe, part.train.features, recipe.max_way, None, part.train),
            frozen=None,
        )
        for part in objective.parts
    ]
    return MetaTraining(parts, recipe.episodes)


def test_gradients_and_scores_are_those_on_inputs(case, monkeypatch):
    objective = PROGRAMS["meta_training"](case.recipe, case.cache, CPU)
    plain = on_inputs(objective, case.recipe)
    below = SplitEncoder.below  # rounded as in the store
    monkeypatch.setattr(SplitEncoder, "below", lambda self, x: below(self, x).half().float())
    params = {
        name: value[None].repeat(2, *[1] * value.dim()) for name, value in plain.init(0).items()
    }
    for name in params:
        params[name] = params[name] + 0.01 * torch.arange(1, 3).view(
            2, *[1] * (params[name].dim() - 1)
        )
    hyper = {name: torch.full((2,), RATES[name]) for name in objective.hyperparameters}
    seeds, weights = torch.tensor([3, 4]), torch.full((2, len(objective.tasks)), 0.5)
    found, scores = [], []
    for each in (objective, plain):
        drawn = each.draw(seeds, torch.tensor([1, 1]), weights)
        found.append(gradient_of(each)(params, drawn, hyper, weights))
        with torch.no_grad():
            scores.append([s.skill for s in each.score(params, hyper, "search")])
    assert_close(found[0], found[1], atol=1e-5, rtol=1e-3)
    for one, other in zip(*scores, strict=True):
        assert_close(one, other)


def test_the_lower_layers_are_computed_once(case, tmp_path, monkeypatch):
    summarise_data(case.recipe, case.cache)  # forecasts its memory too
    program = build(case.recipe, lanes=1, folder=tmp_path / "runs", cache=case.cache)

    def computed(self, x):
        raise AssertionError("they are in the store")

    monkeypatch.setattr(SplitEncoder, "below", computed)
    rates = {name: RATES[name] for name in program._objective.hyperparameters}
    program.admit(replace(case.spec(0), recipe=case.recipe, hyperparameters=rates))
    reports = program.advance()
    assert len(reports) == 1
    assert reports[0].score.mean == reports[0].score.mean


def test_adaptation_of_a_pretrained_model_starts_at_the_class_means(case_named, tmp_path):
    fine_tuning = case_named("fine_tuning")
    lora = Component(name="lora", options=case_named("lora").recipe.model.options)
    encoder = fine_tuning.recipe.model.options["encoder"]
    lora = replace(lora, options={**lora.options, "encoder": encoder})
    recipe = replace(fine_tuning.recipe, model=lora)
    objective = PROGRAMS["adaptation"](recipe, fine_tuning.cache, torch.device("cpu"))
    one, other = objective.init(0), objective.init(1)
    assert torch.equal(one["head.weight"], other["head.weight"])
    assert one["head.weight"].abs().sum() > 0
    scores = objective.score({n: v[None] for n, v in one.items()}, {}, "search")
    assert scores[0].skill.mean() > 0.2  # without any step; the encoder is random
