"""A search over environments of gymnasium, its export, and the adaptation of the export."""

import importlib.util
import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from fewshot.errors.inputs import InputError
from orchestrator.config.loading import parse
from orchestrator.launch import run
from orchestrator.record.home import Home
from orchestrator.results.export.export import export
from orchestrator.results.leaderboard import summary_of
from orchestrator.results.new_tasks.policy import Policy, adapt_from_command, adapt_to_environment
from tests.orchestrator.tiny import quiet

needs_gymnasium = pytest.mark.skipif(
    importlib.util.find_spec("gymnasium") is None, reason="needs gymnasium"
)
SEARCH = {"trials": 2, "reference_trials": 1, "finalists": 1, "seeds": 3, "lanes": 2, "rungs": []}
PENDULUM = {
    "world": "gymnasium",
    "name": "pendulum",
    "env": "Pendulum-v1",
    "vary": {"g": [8, 12]},
    "horizon": 8,
    "reference": -20,
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a search over pendulums of varied gravity."""
    config = parse(
        {
            "name": "pendulum",
            "tasks": {split: [PENDULUM] for split in ("train", "validation", "test")},
            "model": {"name": "mlp", "hidden": [8]},
            "learner": {"name": "maml_pg", "adapt_steps": 1},
            "episodes": {"shot": 2, "query": 1, "per_task": 2, "validation": 3, "test": 3},
            "steps": 2,
            "space": {"lr/outer": {"low": 1e-3, "high": 1e-2}, "lr/inner": 0.1, "lr/adapt": 0.1},
            "search": SEARCH,
        }
    )
    home = Home.at(tmp_path_factory.mktemp("home"))
    with patch("orchestrator.tracking.sending.mlflow_sender.recorder", quiet):
        found = run(config, home, placement="inline")
    assert found.summary.trials["complete"] == 2
    assert found.summary.measure == "skill"
    assert found.summary.difference.note == "over seeds and 3 problems"
    of = {each.model: each for each in found.summary.returns}
    assert list(of) == ["candidate", "untrained"]
    assert all(len(each.after) == 2 and 0 <= each.worse <= 1 for each in of.values())
    page = summary_of("pendulum", home).report().read_text(encoding="utf-8")
    assert "1 step of adaptation changes the mean return of the candidate in pendulum" in page
    out = tmp_path_factory.mktemp("out") / "exported"
    export("pendulum", home, out)
    return out


@needs_gymnasium
def test_an_export_acts_on_an_observation(exported: Path):
    import gymnasium

    policy = Policy.load(exported)
    env = gymnasium.make("Pendulum-v1")
    action = policy.act(env.reset(seed=0)[0])
    assert action.shape == (1,)
    assert np.abs(action).max() <= 1
    with pytest.raises(ValueError, match="`observation` must have 3 numbers, got 2"):
        policy.act([0.0, 1.0])


@needs_gymnasium
def test_an_export_adapts_to_an_environment_and_the_result_acts(exported: Path, tmp_path: Path):
    found = adapt_to_environment(exported, "Pendulum-v1", {"g": 11.5}, tmp_path / "mine")
    assert len(found.returns) == 2
    assert json.loads((tmp_path / "mine" / "adaptation.json").read_text())["arguments"] == {
        "g": 11.5
    }
    before, after = Policy.load(exported), Policy.load(tmp_path / "mine")
    assert (before.params["bias1"] != after.params["bias1"]).any()
    assert after.act([1.0, 0.0, 0.5]).shape == (1,)


@needs_gymnasium
def test_an_environment_that_does_not_fit_is_refused_before_anything_is_written(
    exported: Path, tmp_path: Path
):
    out = tmp_path / "mine"
    with pytest.raises(InputError, match="--env: must have"):
        adapt_to_environment(exported, "CartPole-v1", {}, out)
    with pytest.raises(InputError, match="--env: can't be played"):
        adapt_to_environment(exported, "Pendulum-v1", {"gravity": 3}, out)
    assert not out.exists()


@needs_gymnasium
def test_the_command_needs_an_environment_or_data(exported: Path, tmp_path: Path):
    with pytest.raises(InputError, match="needs either `--data` or `--env`"):
        adapt_from_command(exported, None, None, [], tmp_path / "x", trust_code=False)
    with pytest.raises(InputError, match="--env-arg: must be KEY=VALUE"):
        adapt_from_command(exported, None, "Pendulum-v1", ["g"], tmp_path / "x", trust_code=False)


@needs_gymnasium
def test_the_card_says_how_to_use_the_policy(exported: Path):
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "fewtune adapt . --env" in card
    assert "Policy.load" in card


@pytest.mark.slow
def test_a_policy_with_a_memory_goes_through_search_and_export(tmp_path: Path):
    bandit = {"world": "bandit", "arms": 2}
    config = parse(
        {
            "name": "bandits",
            "tasks": {split: [bandit] for split in ("train", "validation", "test")},
            "model": {"name": "mlp", "hidden": []},
            "learner": {"name": "rl2", "memory": 16},
            "episodes": {"shot": 10, "query": 1, "per_task": 8, "validation": 20, "test": 20},
            "steps": 4,
            "space": {"lr/outer": {"low": 0.01, "high": 0.03}},
            "search": SEARCH,
        }
    )
    home = Home.at(tmp_path / "home")
    with patch("orchestrator.tracking.sending.mlflow_sender.recorder", quiet):
        found = run(config, home, placement="inline")
    assert found.summary.trials["complete"] == 2
    assert {each.worse for each in found.summary.returns} == {None}
    export("bandits", home, tmp_path / "exported")
    policy = Policy.load(tmp_path / "exported")
    runs = []
    for paying in (0, 1, 0):
        policy.reset()
        reward, memories = 0.0, []
        for _ in range(5):
            arm = policy.act([0.0], reward, start=True)
            assert arm in (0, 1)
            reward = float(arm == paying)
            memories.append(policy.memory)
        runs.append(memories)
    assert runs[0] == runs[2]
    assert runs[0][0] == runs[1][0]  # nothing is known before the first reward
    assert runs[0][-1] != runs[1][-1]
