"""Policies for worlds in lanes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fewshot.errors.inputs import InputError
from fewshot.randomness import fold
from trials.contract import Component, Recipe, RungReport, TaskSpec, TrialSpec
from trials.programs.build import build
from trials.programs.worlds.objective import untrained_policy, world_training

CPU = torch.device("cpu")
RATES = {"lr/outer": 0.01, "lr/inner": 0.3, "lr/adapt": 0.3}


def world(name: str, **options: object) -> TaskSpec:
    task = str(options.pop("task", name))
    return TaskSpec(name=task, world=Component(name=name, options=options))


def recipe(learner: str = "maml_pg", **changes: object) -> Recipe:
    navigation = world("navigation", horizon=6)
    shuffled = world("navigation", horizon=6, reward="shuffled", task="shuffled")
    own = {"adapt_steps": 2} if learner != "rl2" else {"memory": 6}
    made = Recipe(
        program="worlds",
        datasets={},
        tasks={"train": (navigation, shuffled), "validation": (navigation,), "test": (navigation,)},
        model=Component(name="mlp", options={"hidden": [8]}),
        learner=Component(name=learner, options=own),
        way=1,
        shot=3,
        query=2,
        episodes=4,
        validation_episodes=6,
        test_episodes=6,
    )
    return replace(made, **changes)


def spec(number: int, recipe: Recipe, weight: float = 0.5) -> TrialSpec:
    return TrialSpec(
        number=number,
        seed=number,
        recipe=recipe,
        hyperparameters=RATES,
        task_weights={"navigation": weight, "shuffled": 1 - weight},
        rungs=(2, 3),
    )


def reports(specs: list[TrialSpec], lanes: int, folder: Path) -> dict[tuple[str, int], RungReport]:
    program = build(specs[0].recipe, lanes=lanes, folder=folder, cache=folder, device="cpu")
    found: dict[tuple[str, int], RungReport] = {}
    for one in specs:
        program.admit(one)
    live = {one.key for one in specs}
    while live:
        for report in program.advance():
            found[report.key, report.step] = report
            if report.step == 3:
                program.release(report.key, "complete")
                live.remove(report.key)
    return found


@pytest.mark.parametrize("learner", ["maml_pg", "policy_gradient", "rl2"])
def test_a_trial_in_lanes_is_the_trial_alone(learner: str, tmp_path: Path):
    specs = [spec(i, recipe(learner), weight) for i, weight in enumerate((0.5, 1.0, 0.2))]
    together = reports(specs, 3, tmp_path / "together")
    for one in specs:
        for key, report in reports([one], 1, tmp_path / one.key).items():
            assert together[key].score.mean == pytest.approx(report.score.mean, abs=1e-3)
            assert together[key].metrics["train/loss"] == pytest.approx(
                report.metrics["train/loss"], abs=1e-3
            )


def test_returns_after_each_step_and_the_share_of_worse_problems_are_metrics(tmp_path: Path):
    report = reports([spec(0, recipe())], 1, tmp_path)["search-0000", 3]
    own = {name for name in report.metrics if name.startswith("val/navigation/")}
    assert own == {
        f"val/navigation/{name}" for name in ("return_0", "return_1", "return_2", "worse")
    }
    assert 0 <= report.metrics["val/navigation/worse"] <= 1
    assert report.per_task["navigation"].n == 6


@pytest.mark.parametrize("first_order", [False, True])
def test_a_step_of_adaptation_follows_the_gradient(first_order: bool):
    options = {"adapt_steps": 1, "first_order": first_order}
    made = recipe(shot=40, query=40)
    made = replace(made, learner=Component(name="maml_pg", options=options))
    objective = world_training(made, Path(), CPU)
    one = objective.held_out_worlds[0]
    keys = fold(torch.tensor(0), torch.arange(20))
    hyper = {name: torch.tensor(value) for name, value in RATES.items()}
    with torch.no_grad():
        _, returns = objective.learner.adapt(objective.init(0), one.world, keys, hyper)
    assert returns[:, 1].mean() > returns[:, 0].mean()


def test_first_and_second_order_have_different_gradients():
    grads = []
    for first_order in (False, True):
        options = {"adapt_steps": 1, "first_order": first_order}
        made = replace(recipe(), learner=Component(name="maml_pg", options=options))
        objective = world_training(made, Path(), CPU)
        params = {k: v.requires_grad_() for k, v in objective.init(0).items()}
        keys = fold(torch.tensor(0), torch.arange(4))
        hyper = {name: torch.tensor(value) for name, value in RATES.items()}
        own = objective.held_out_worlds[0]
        loss = objective.learner.meta_losses(params, own.world, 1.0, keys, hyper).mean()
        grads.append(torch.autograd.grad(loss, [params["weight0"]])[0])
    assert not torch.allclose(*grads)
    assert torch.cosine_similarity(*(g.flatten() for g in grads), dim=0) > 0.5


def test_the_untrained_policy_adapts_without_searched_rates():
    plain = untrained_policy(recipe())
    assert plain.learner == Component(name="policy_gradient", options={"adapt_steps": 2})
    assert plain.tasks["train"] == ()
    assert untrained_policy(recipe("rl2")).learner.name == "rl2"


def test_worlds_with_different_actions_are_refused_together():
    tasks = {"train": (world("bandit"),), "validation": (world("navigation"),), "test": ()}
    with pytest.raises(InputError, match="must all have the same actions"):
        world_training(recipe(tasks=tasks), Path(), CPU)


def test_all_errors_of_all_worlds_are_told_at_once():
    tasks = {"train": (world("bandit", arms=1),), "validation": (world("nowhere"),), "test": ()}
    with pytest.raises(InputError) as error:
        world_training(recipe(tasks=tasks), Path(), CPU)
    assert len(error.value.details) == 2


def test_a_recipe_of_worlds_survives_json():
    one = spec(0, recipe())
    assert TrialSpec.from_json(one.to_json()) == one


def test_a_memory_learns_the_better_arm():
    tasks = {split: (world("bandit", arms=2),) for split in ("train", "validation", "test")}
    made = recipe("rl2", tasks=tasks, shot=10, episodes=200, validation_episodes=300)
    objective = world_training(made, Path(), CPU)
    params, moments = objective.init(0), {}
    keys = fold(torch.tensor(5), torch.arange(300))
    own = objective.held_out_worlds[0]
    with torch.no_grad():
        before = objective.learner.adapt(params, own.world, keys, {})[1].mean()
    for step in range(60):
        params = {k: v.detach().requires_grad_() for k, v in params.items()}
        drawn = fold(torch.tensor(step), torch.arange(200))
        loss = objective.learner.meta_losses(params, own.world, 0.5, drawn, {}).mean()
        for name, grad in zip(params, torch.autograd.grad(loss, [*params.values()]), strict=True):
            moments[name] = 0.9 * moments.get(name, 0) + 0.1 * grad
            params[name] = params[name] - 0.03 * moments[name].sign()
    with torch.no_grad():
        after = objective.learner.adapt(params, own.world, keys, {})[1].mean()
    assert after > before + 0.03
