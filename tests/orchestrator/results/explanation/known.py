"""Searches whose scores are a known function of the weights, written without running a search."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna

from orchestrator.config.plan import Plan
from orchestrator.record.search_records import SearchRecords
from orchestrator.results.explanation.explanation import Explanation, explained
from orchestrator.results.leaderboard import summarise
from orchestrator.sampling.process.candidates import anywhere
from orchestrator.sampling.sampler import coordinates_of
from orchestrator.space.search_space import Range, SearchSpace
from orchestrator.space.simplex import Simplex
from tests.orchestrator import toys

RATES = {"lr/outer": Range(1e-4, 1e-1, log=True)}
# The score at a rung, as a part of the way from .2 to the final score.
GAINED = {3: 0.5, 6: 0.8, 10: 1.0}
Score = Callable[[Mapping[str, float]], float]


def additive(effects: Mapping[str, float]) -> Score:
    """A share of .1 brings 63 % of a task's effect."""
    return lambda w: 0.5 + sum(e * (1 - np.exp(-w[task] / 0.1)) for task, e in effects.items())


def plan(tasks: Sequence[str], groups: Sequence[str] = (), **changes: Any) -> Plan:
    n = len(tasks)
    simplex = Simplex(tuple(tasks), (1 / n,) * n, zero_below=0.1 / n, groups=tuple(groups))
    return toys.plan(**{"space": SearchSpace(RATES, {}, simplex)} | changes)


def search(
    made: Plan,
    score: Score,
    *,
    n: int = 32,
    noise: float = 0.01,
    seed: int = 0,
    recorded: bool = True,
    held_out: Mapping[str, Score] | None = None,
) -> SearchRecords:
    """The records of n trials: 3 references, then random ones, of which the worse half is pruned.

    The rate .003 is best. held_out: the scores of validation tasks, by default two that have all
    of `score`; the score of a trial is their mean. recorded: whether skills at rungs are noted.
    """
    rng = np.random.default_rng(seed)
    records = toys.records(optuna.storages.InMemoryStorage(), made)
    tasks = held_out or {"greek": score, "korean": score}
    place = coordinates_of(made.space)
    params = made.space.rate_design(3, 0)
    params += place.params(anywhere(n - 3, place, rng))
    first: list[float] = []
    for number, own in enumerate(params):
        hyperparameters, weights = made.space.decode(own)
        away = 0.3 * (RATES["lr/outer"].share(hyperparameters["lr/outer"]) - 0.5) ** 2
        finals = {task: of(weights) - away for task, of in tasks.items()}
        skills: dict[str, list[float]] = {task: [] for task in tasks}
        records.search.ask(own)
        outcome = "complete"
        for rung, gained in GAINED.items():
            for task, final in finals.items():
                drawn = 0.2 + gained * (final - 0.2) + rng.normal(0, noise * len(tasks) ** 0.5)
                skills[task].append(drawn)
            mean = float(np.mean([row[-1] for row in skills.values()]))
            records.search.report(number, rung, mean)
            first += [mean] if rung == 3 else []
            if rung == 3 and number > 6 and mean < np.median(first):
                outcome = "pruned"
                break
        notes: dict[str, Any] = {"hyperparameters": hyperparameters, "task_weights": weights}
        if outcome == "complete":
            notes["tasks"] = {task: {"skill": [x[-1], 0.0, 9]} for task, x in skills.items()}
        if recorded:
            notes["rung_skills"] = skills
        records.search.finish(number, outcome, mean, notes)
    return records


def explanation(made: Plan, records: SearchRecords) -> Explanation:
    return explained(summarise(made.name, records), lambda: made, records).explanation


def permuted(made: Plan, order: Sequence[int]) -> Plan:
    """The same search with its training tasks in another order."""
    simplex = made.space.weights
    assert isinstance(simplex, Simplex)
    tasks = tuple(simplex.tasks[i] for i in order)
    return replace(made, space=replace(made.space, weights=replace(simplex, tasks=tasks)))
