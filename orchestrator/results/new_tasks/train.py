"""Training of one trial from a config that leaves nothing to search."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from fewshot.errors.inputs import ErrorDetail, InputError
from orchestrator.config.plan import derived_seed, plan_of
from orchestrator.config.sections.config import Config
from orchestrator.record.home import Home
from orchestrator.space.simplex import Simplex
from trials.contract import RungReport
from trials.errors import advance_or_raise
from trials.programs.build import build


@dataclass(frozen=True)
class Trained:
    """Scores of one trained trial.

    validation: on the validation episodes that a search uses for its finalists.
    test: on the test tasks.
    """

    validation: RungReport
    test: RungReport

    @property
    def tested(self) -> tuple[str, float]:
        """A measure and its mean: `accuracy` if all test tasks have it, else `skill`."""
        skills, metrics = self.test.per_task, self.test.metrics
        accuracies = [metrics.get(f"test/{task}/accuracy") for task in skills]
        known = [value for value in accuracies if value is not None]
        if len(known) == len(skills):
            return "accuracy", sum(known) / len(known)
        return "skill", sum(value.mean for value in skills.values()) / len(skills)


def train(config: Config, home: Home) -> Trained:
    """Train and score the trial of `config`; raises InputError if anything is left to search."""
    plan = plan_of(config)
    details = [
        ErrorDetail(f"space.{name}", "must be a number for `train`, not a range.", None)
        for name in plan.space.ranges
    ] + [
        ErrorDetail(name, "must be a single option for `train`.", None)
        for name in plan.space.choices
    ]
    if isinstance(plan.space.weights, Simplex):
        rule = "must have `fixed` weights or `search: false`."
        details.append(ErrorDetail("space.task_weights", rule))
    if details:
        raise InputError(details)
    hyperparameters, weights = plan.space.decode({})
    seed = derived_seed(plan.seed, "final", 0) if plan.trial_seed is None else plan.trial_seed
    spec = plan.spec(0, hyperparameters, weights, stage="final", seed=seed)
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        program = build(
            plan.recipe,
            lanes=1,
            folder=Path(folder),
            cache=home.cache,
            threads=config.search.cpus_per_worker,
        )
        program.admit(spec)
        (validation,) = advance_or_raise(program)
        program.release(spec.key, "complete")
        program.admit(replace(spec, stage="test", initial=spec.key))
        (test,) = advance_or_raise(program)
    return Trained(validation, test)
