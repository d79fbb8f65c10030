"""Policies that were learned in worlds: how an export acts, and how it adapts to an environment."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from fewshot.episodes import Count
from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.functional import Params
from fewshot.randomness import fold
from fewshot.registry import is_import_path
from fewshot.tasks.files import write_text
from fewshot.worlds.base import Actions
from fewshot.worlds.environments import Gymnasium
from fewshot.worlds.rollout import Before, no_action
from fewshot.worlds.worlds import world_of
from trials.contract import TrialSpec
from trials.lanes import checkpoint
from trials.programs.worlds.objective import learner_of

MODEL, RESULT = "model.safetensors", "adaptation.json"
_UNKNOWN = float("nan")  # the reference of an environment that is not scored


class Policy:
    """A policy that acts on one observation at a time.

    policy = Policy.load("exported")
    policy.reset()                    # at the start of a problem, not of each trajectory
    action = policy.act(observation)  # numbers in [-1, 1], or the number of a choice

    A policy with a memory (rl2) learns from the reward of the action before: `act(observation,
    reward)`, and is told with `start=True` that a further trajectory starts.
    """

    def __init__(self, spec: TrialSpec, params: Params) -> None:
        task = spec.recipe.tasks["validation"][0]
        if task.world is None:
            raise input_error("DIR", "must be a policy that was learned in worlds.", task.name)
        world = world_of(task.world.name, task.world.options)
        self.spec, self.params = spec, params
        self.actions: Actions = world.actions
        self.n_observation: int = world.n_observation
        self.learner = learner_of(spec.recipe, self.actions, self.n_observation)
        self.reset()

    @classmethod
    def load(cls, folder: Path | str, *, trust_code: bool = False) -> "Policy":
        """The policy in a folder that `fewtune export` or `fewtune adapt --env` wrote.

        Raises InputError if it is not one, or if it names code and `trust_code` is false.
        """
        spec, params = checkpoint.trained(Path(folder) / MODEL)
        parts = [spec.recipe.model, *(t.world for t in spec.recipe.tasks["validation"] if t.world)]
        code = [part.name for part in parts if is_import_path(part.name)]
        if code and not trust_code:
            remedy = "Add `--trust-code` if you trust its author."
            raise input_error("DIR", "names code that would be run.", code, remedy)
        return cls(spec, params)

    def reset(self) -> None:
        """Forget what was seen: a new problem begins."""
        self._memory, self._first = self.learner.memory(), True
        self._action = no_action(self.actions, torch.zeros((), dtype=torch.int64))

    @property
    def memory(self) -> list[float] | None:
        """What it remembers of the problem; None for a policy without a memory."""
        return None if self._memory is None else self._memory.tolist()

    def act(self, observation: Any, reward: float = 0.0, *, start: bool = False) -> Any:
        """The likeliest action for an observation of `n_observation` numbers.

        An int for choices, else a float32 array (n,) in [-1, 1]. Raises ValueError for an
        observation of another size.
        """
        seen = torch.as_tensor(np.asarray(observation, dtype=np.float32)).flatten()
        if len(seen) != self.n_observation:
            rule = f"`observation` must have {self.n_observation} numbers, got {len(seen)}."
            raise ValueError(rule)
        begins = float(start or self._first)
        before = Before(self._action, torch.tensor(float(reward)), torch.tensor(begins))
        with torch.no_grad():
            action, self._memory = self.learner.act(self.params, self._memory, seen, before)
        self._action, self._first = action, False
        return int(action) if self.actions.discrete else action.clamp(-1, 1).numpy()


@dataclass(frozen=True)
class AdaptedPolicy:
    """A policy that was adapted to an environment: the mean returns after 0, 1, .. steps."""

    folder: Path
    returns: tuple[float, ...]


def adapt_to_environment(
    folder: Path,
    env: str,
    arguments: Mapping[str, Any],
    out: Path,
    *,
    seed: int = 0,
    trust_code: bool = False,
) -> AdaptedPolicy:
    """Adapt an exported policy to `gymnasium.make(env, **arguments)`, and write it to `out`.

    It plays as many trajectories as in the search: `episodes.shot` for each step.
    Raises InputError if the environment does not fit the policy, or if `out` is not an empty folder
    or an adapted policy.
    """
    policy = Policy.load(folder, trust_code=trust_code)
    if out.exists() and not (out / RESULT).exists() and (not out.is_dir() or any(out.iterdir())):
        raise input_error("--out", "must be a new or empty folder, or an adapted policy.", str(out))
    world: Any = _environment(env, arguments, policy)
    keys = fold(torch.tensor(seed), torch.arange(1))
    hyper = {name: torch.tensor(value) for name, value in policy.spec.hyperparameters.items()}
    adapted, returns = policy.learner.adapt(policy.params, world, keys, hyper)
    found = AdaptedPolicy(out, tuple(returns[0].tolist()))
    out.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", checkpoint.SPEC: policy.spec.to_json()}
    own: dict[str, Tensor] = {k: v[0].detach().contiguous() for k, v in adapted.items()}
    save_file(own, out / MODEL, metadata)
    result = {"env": env, "arguments": dict(arguments), "returns": list(found.returns)}
    write_text(out / RESULT, json.dumps(result, indent=2))
    return found


def adapt_from_command(
    folder: Path,
    data: str | None,
    env: str | None,
    arguments: Sequence[str],
    out: Path,
    *,
    trust_code: bool,
) -> list[str]:
    """`adapt_to_environment` for texts KEY=VALUE; the lines to print.

    Raises InputError unless there is an environment and no data.
    """
    if env is None or data is not None:
        rule = "needs either `--data` or `--env`."
        raise input_error("adapt", rule, {"--data": data, "--env": env})
    pairs = [text.partition("=") for text in arguments]
    details = [
        ErrorDetail("--env-arg", "must be KEY=VALUE.", text)
        for text, (key, equals, _) in zip(arguments, pairs, strict=True)
        if not (key.isidentifier() and equals)
    ]
    if details:
        raise InputError(details)
    own = {key: _value(text) for key, _, text in pairs}
    found = adapt_to_environment(folder, env, own, out, trust_code=trust_code)
    returns = [
        f"mean return after {k} steps of adaptation: {value:.4g}"
        for k, value in enumerate(found.returns)
    ]
    return [*returns, f'the adapted policy: {out}; `Policy.load("{out}").act(observation)`']


def _value(text: str) -> Any:
    """A number, true, false or null as in JSON; else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _environment(env: str, arguments: Mapping[str, Any], policy: Policy) -> Gymnasium:
    task = policy.spec.recipe.tasks["validation"][0]
    assert task.world is not None, "a policy is one of a world"
    horizon = world_of(task.world.name, task.world.options).horizon
    try:
        world = Gymnasium(env=env, reference=_UNKNOWN, fixed=arguments, horizon=horizon)
    except InputError as error:
        raise input_error("--env", f"can't be played: {error}", env) from error
    shape = world.actions, world.n_observation
    if shape != (policy.actions, policy.n_observation):
        rule = f"must have {policy.actions}, and {policy.n_observation} numbers to observe."
        raise input_error("--env", rule, f"{env}: {shape}")
    return world


def policy_card(shot: Count) -> list[str]:
    """The section of the model card about the commands and the files."""
    return [
        "## Use",
        "",
        "```sh",
        "# Adapt the policy to an environment of gymnasium, and keep it:",
        "fewtune adapt . --env Pendulum-v1 --env-arg g=11.5 --out mine",
        "# Train the same policy again:",
        "fewtune train config.yaml",
        "```",
        "",
        "```python",
        "from orchestrator import Policy",
        "",
        'policy = Policy.load("mine")',
        "action = policy.act(observation)  # numbers in [-1, 1], or the number of a choice",
        "```",
        "",
        f"A step of adaptation plays {shot} trajectories. A policy with a memory adapts while it "
        "acts, without steps.",
    ]
