"""Early warnings that the result of a search may be poor, each with a remedy."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fewshot.learners.learners import learner_named
from fewshot.models.models import MODELS, is_pretrained
from fewshot.registry import options_of, resolve
from orchestrator.config.plan import Plan
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.own_loop import AnyConfig, OwnLoopConfig
from orchestrator.config.sections.tasks import FunctionSection, TaskSection, WorldSection
from orchestrator.record.search_records import SearchRecords
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.search.finals.finalists import UNTRAINED, role_of
from orchestrator.search.finals.intervals import MIN_TASKS, NEGLIGIBLE
from orchestrator.space.search_space import SearchSpace

# The edges of ranges are checked for the `_BEST` best trials, after `_ENOUGH` have completed.
_BEST, _ENOUGH = 3, 8
# A value is at the edge of its range if its distance is below this share of the range.
_EDGE = 0.05
# Hard limits of a parameter: its range can't be widened beyond them.
_LIMITS: Mapping[str, tuple[float, ...]] = {
    "distill/soft_weight": (0.0, 1.0),
    "task/own": (0.0, 1.0),
    "modal/text": (0.0, 1.0),
    "weight_decay": (0.0,),
}


@dataclass(frozen=True)
class Advice:
    """A warning about one key of the config, with a remedy."""

    path: str
    warning: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.warning} {self.remedy}"


def advice_on_config(config: AnyConfig, features: Sequence[int]) -> list[Advice]:
    """The warnings that need no trial. features: the shape of an example."""
    if isinstance(config, OwnLoopConfig):
        return _on_tasks(config, len(config.tasks.validation))
    if config.adapts:
        return []
    held_out = config.tasks.validation
    families = any(_has_problems(task) for task in held_out)
    n = MIN_TASKS if families else sum(len(task.names()) for task in held_out)
    if "world" in config.kinds:
        return _on_tasks(config, n)
    return _on_width(config, math.prod(features)) + _on_tasks(config, n)


def _has_problems(task: TaskSection | FunctionSection | WorldSection) -> bool:
    """Whether a task counts as many: a family of functions, a world, or one with groups."""
    return isinstance(task, FunctionSection | WorldSection) or bool(task.within)


def _is_of_problems(config: AnyConfig) -> bool:
    """Whether one training task is enough, because weights of its problems can't be found."""
    return isinstance(config, Config) and all(map(_has_problems, config.tasks.train))


def _on_width(config: Config, width: int) -> list[Advice]:
    """Warn about a narrow random layer: it loses pretrained features before training starts."""
    assert config.learner is not None, "there is advice for meta-training only"
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
        f"the layer starts at random and has only {n_out} outputs for the {width} features of the "
        "encoder. The untrained features are often better."
    )
    remedy = "Use `model: {name: residual}`, which starts as the untrained features."
    return [Advice("model.n_out", warning, remedy)]


def _on_tasks(config: AnyConfig, n: int) -> list[Advice]:
    """Warn about a single training task, and about too few validation tasks. n: their number."""
    advice, n_train = [], len(config.train_names())
    with_each = " with `each`" if isinstance(config, Config) else ""
    if n_train == 1 and config.space.task_weights.search and not _is_of_problems(config):
        advice.append(
            Advice(
                "tasks.train",
                "there is only one training task, so its weight is 1 and there are no weights to "
                "search.",
                f"Split the task{with_each}, or add tasks.",
            )
        )
    if n < MIN_TASKS:
        advice.append(
            Advice(
                "tasks.validation",
                f"{n} validation {'task is' if n == 1 else 'tasks are'} too few to rank trials: "
                "the best trial on them may not be the best on other tasks.",
                f"Use at least {MIN_TASKS}, better ten{with_each and ', for example'}{with_each}.",
            )
        )
    return advice


def advice_on_trials(
    plan: Plan, trials: Sequence[StudiedTrial], untrained: float = math.nan
) -> list[Advice]:
    """The warnings from the trials so far. untrained: the untrained model's score, or NaN."""
    scored = [t for t in trials if t.state == "complete" and not math.isnan(t.score)]
    ranked = sorted(scored, key=lambda t: (-t.score, t.number))
    ended = sum(t.state != "running" for t in trials)
    advice = []
    # The episodes of the two scores differ, so a negligible difference may be chance.
    if ranked and 3 * ended >= plan.trials and ranked[0].score < untrained - NEGLIGIBLE:
        name = plan.recipe.model.name
        starts_there = name == "residual" or is_pretrained(name) or plan.recipe.program == "worlds"
        model = "" if starts_there else "`model: {name: residual}`, "
        advice.append(
            Advice(
                "model",
                f"after {ended} of {plan.trials} trials the best score is {ranked[0].score:.3f}, "
                f"below the untrained model's {untrained:.3f}.",
                f"Try {model}lower rates, or training tasks that are more similar to the "
                "validation tasks.",
            )
        )
    # Better values may lie beyond the end of a range.
    far = len(ranked) >= _ENOUGH
    return advice + (on_edges(plan.space, ranked[:_BEST]) if far else [])


def on_edges(space: SearchSpace, best: Sequence[StudiedTrial]) -> list[Advice]:
    """Warn of each range at whose end all of the best trials are, on the scale of the range."""
    who = f"the best {len(best)} trials are" if len(best) > 1 else "the best trial is"
    advice = []
    for name, range_ in space.ranges.items():
        shares = [range_.share(t.params[name]) for t in best if name in t.params]
        if len(shares) < len(best):  # trials of some recipes do not have it
            continue
        for end, value, away in (
            ("low", range_.low, max(shares)),
            ("high", range_.high, 1 - min(shares)),
        ):
            if away < _EDGE and value not in _LIMITS.get(name, ()):
                warning = f"{who} at the {end} end of the range, {value:g}."
                change = "Decrease" if end == "low" else "Increase"
                advice.append(Advice(f"space.{name}.{end}", warning, f"{change} this limit."))
    return advice


class Adviser:
    """Passes each piece of advice to `advise` once and keeps it in the record of the search."""

    def __init__(
        self, plan: Plan, records: SearchRecords, advise: Callable[[Advice], None]
    ) -> None:
        self._plan, self._records, self._advise = plan, records, advise
        self._seen = 0
        self._stage = ""

    def report(self, found: Sequence[Advice]) -> None:
        """Call `advise` for the advice on new keys, and note it in the record of the search."""
        known = dict(self._records.search.notes.get("advice", {}))
        new = [advice for advice in found if advice.path not in known]
        for advice in new:
            self._advise(advice)
        if new:
            known |= {advice.path: str(advice) for advice in new}
            self._records.search.note("advice", known)

    def wrap_observer(self, observe: Callable[[str, SearchRecords], None]) -> Callable[[str], None]:
        """An observer of stages that checks the trials before it calls `observe`."""

        def watch(stage: str) -> None:
            self.check_trials(stage)
            observe(stage, self._records)

        return watch

    def check_trials(self, stage: str) -> None:
        """Check the trials if the stage is new or there are 10 % more trials than last time."""
        n = len(self._records.search)
        if stage == self._stage and n <= 1.1 * self._seen:
            return
        self._seen, self._stage = n, stage
        finals = self._records.final.trials()
        untrained = next((t.score for t in finals if role_of(t) == UNTRAINED.role), math.nan)
        found = advice_on_trials(self._plan, self._records.search.trials(), untrained)
        self.report(found)
        self._withdraw({advice.path for advice in found})

    def _withdraw(self, valid: set[str]) -> None:
        """Forget the advice on earlier trials that is not valid any more."""
        known = dict(self._records.search.notes.get("advice", {}))
        kept = {path: text for path, text in known.items() if path in valid or not _on_trials(path)}
        if kept != known:
            self._records.search.note("advice", kept)


def _on_trials(path: str) -> bool:
    """Whether the advice on this path is one of `advice_on_trials`."""
    return path == "model" or path.startswith("space.")
