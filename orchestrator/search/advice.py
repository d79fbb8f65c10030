"""What a search should tell its user early: signs that its answer will be poor, with remedies."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fewshot.learners.learners import learner_named
from fewshot.models.models import MODELS
from fewshot.registry import options_of, resolve
from orchestrator.config.plan import Plan
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.tasks import FunctionSection
from orchestrator.record.search_records import SearchRecords
from orchestrator.record.study import StudiedTrial
from orchestrator.search.finalists import UNTRAINED, role_of
from orchestrator.search.intervals import MIN_TASKS, NEGLIGIBLE

# The best of so many trials are looked at, once so many have reached the last rung.
_BEST, _ENOUGH = 3, 8
# A rate is at the edge of its range if it is within this share of it.
_EDGE = 0.05
# Values that a parameter can't go beyond, so that its range can't be widened there.
_LIMITS: Mapping[str, tuple[float, ...]] = {
    "distill/soft_weight": (0.0, 1.0),
    "task/own": (0.0, 1.0),
    "weight_decay": (0.0,),
}


@dataclass(frozen=True)
class Advice:
    """A key of the config, what is likely to be wrong with it, and what to do."""

    path: str
    warning: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.warning} {self.remedy}"


def advice_on_config(config: Config, features: Sequence[int]) -> list[Advice]:
    """What can be said before the first trial. features: the shape of an example."""
    if config.adapts:
        return []
    return _on_width(config, math.prod(features)) + _on_tasks(config)


def _on_width(config: Config, width: int) -> list[Advice]:
    """A narrow random layer throws pretrained features away before anything is learned."""
    assert config.learner is not None, "only meta-training is advised on"
    model = resolve(MODELS, config.model.name, "model.name")
    option = options_of(model, ()).get("n_out")
    pretrained = any(p.options().get("features") == "encoder" for p in config.datasets.values())
    scores_classes = learner_named(config.learner.name).model_scores_classes
    if option is None or scores_classes or not pretrained:
        return []
    n_out = config.model.options().get("n_out", option.default)
    if n_out >= width:
        return []
    warning = (
        f"{n_out} outputs are fewer than the {width} features of the encoder, and start at random: "
        "the untrained features are often better."
    )
    return [Advice("model.n_out", warning, "Use `model: {name: residual}`, which starts as them.")]


def _on_tasks(config: Config) -> list[Advice]:
    found, n_train = [], len(config.train_names())
    if n_train == 1 and config.space.task_weights.search:
        found.append(
            Advice(
                "tasks.train",
                "one training task has the weight 1: there are no weights to search.",
                "Split it with `each`, or add tasks.",
            )
        )
    held_out = config.tasks.validation
    n = sum(len(task.names()) for task in held_out)
    # A family of functions stands for all its functions.
    if n < MIN_TASKS and not any(isinstance(task, FunctionSection) for task in held_out):
        found.append(
            Advice(
                "tasks.validation",
                f"{n} validation {'task is' if n == 1 else 'tasks are'} too few to rank trials by: "
                "what is best on them may not be best on other tasks.",
                f"Give at least {MIN_TASKS}, better ten, for example with `each`.",
            )
        )
    return found


def advice_on_trials(
    plan: Plan, trials: Sequence[StudiedTrial], untrained: float = math.nan
) -> list[Advice]:
    """What the trials so far show. untrained: the untrained model's score, NaN if there is none."""
    scored = [t for t in trials if t.state == "complete" and not math.isnan(t.score)]
    ranked = sorted(scored, key=lambda t: (-t.score, t.number))
    ended = sum(t.state != "running" for t in trials)
    found = []
    # Their episodes differ, so a difference that is not worth having may be chance.
    if ranked and 3 * ended >= plan.trials and ranked[0].score < untrained - NEGLIGIBLE:
        model = "" if plan.recipe.model.name == "residual" else "`model: {name: residual}`, "
        found.append(
            Advice(
                "model",
                f"after {ended} of {plan.trials} trials the best score is {ranked[0].score:.3f}, "
                f"below the untrained model's {untrained:.3f}.",
                f"Try {model}lower rates, or training tasks that are more alike to the validation "
                "tasks.",
            )
        )
    return found + _on_edges(plan, ranked)


def _on_edges(plan: Plan, ranked: Sequence[StudiedTrial]) -> list[Advice]:
    """Where the best trials lie at the end of a range, better ones may lie beyond it."""
    if len(ranked) < _ENOUGH:
        return []
    found = []
    for name, range_ in plan.space.ranges.items():
        shares = [range_.share(t.params[name]) for t in ranked[:_BEST]]
        for end, value, away in (
            ("low", range_.low, max(shares)),
            ("high", range_.high, 1 - min(shares)),
        ):
            if away < _EDGE and value not in _LIMITS.get(name, ()):
                warning = f"the best {_BEST} trials are at the {end} end of the range, {value:g}."
                lower = "lower" if end == "low" else "higher"
                found.append(Advice(f"space.{name}.{end}", warning, f"Set it {lower}."))
    return found


class Adviser:
    """Tells each piece of advice once, and keeps it in the record of the search."""

    def __init__(
        self, plan: Plan, records: SearchRecords, advise: Callable[[Advice], None]
    ) -> None:
        self._plan, self._records, self._advise = plan, records, advise
        self._seen = 0
        self._stage = ""

    def tell(self, found: Sequence[Advice]) -> None:
        told = dict(self._records.search.notes.get("advice", {}))
        new = [advice for advice in found if advice.path not in told]
        for advice in new:
            self._advise(advice)
        if new:
            told |= {advice.path: str(advice) for advice in new}
            self._records.search.note("advice", told)

    def watching(self, observe: Callable[[str, SearchRecords], None]) -> Callable[[str], None]:
        """An observer of stages that looks at the trials before it calls `observe`."""

        def watch(stage: str) -> None:
            self.look(stage)
            observe(stage, self._records)

        return watch

    def look(self, stage: str) -> None:
        """Look at the trials, if there are 10 % more than when they were last looked at."""
        n = len(self._records.search)
        if stage == self._stage and n <= 1.1 * self._seen:
            return
        self._seen, self._stage = n, stage
        finals = self._records.final.trials()
        untrained = next((t.score for t in finals if role_of(t) == UNTRAINED.role), math.nan)
        self.tell(advice_on_trials(self._plan, self._records.search.trials(), untrained))
