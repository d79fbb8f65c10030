"""Scores models on the episodes of held-out tasks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import vmap

from fewshot.calibration import fitted_scale
from fewshot.episodes import Episode, gather_rows, hide_query_labels
from fewshot.functional import Hyperparameters, Params
from fewshot.kinds import CLASSIFICATION
from fewshot.learners.base import Learner
from fewshot.learners.metric.embedding import EmbeddingLearner, compares_embedded, of_embedded
from fewshot.metrics import by_group
from fewshot.models.base import CachesStates, Model
from fewshot.tasks.base import Pool, episode_keys
from fewshot.tasks.functions import FunctionPool
from fewshot.tasks.pool import TaskPool
from fewshot.tasks.regression import RegressionPool
from trials.contract import Stage
from trials.lanes.objective import TaskScores
from trials.lanes.step.mapping import over_lanes, same_for_lanes

# Limits of one scoring pass, so that the outputs of all episodes are never in memory together.
_EPISODES_AT_ONCE, EXAMPLES_AT_ONCE = 256, 512
_NUMBERS_AT_ONCE = 1 << 28  # in the examples of the episodes, in one lane
_TENSORS_OF_LAYER = 16  # that one layer of a transformer needs, each as large as its states
# Episodes per task that calibrate its logits: some thousand queries are enough.
_CALIBRATING = 64

# Outputs of l models for the queries of b episodes, (l, b, q, n_out), and their labels, (b, q, ..).
Answered = tuple[Tensor, Tensor]

# The pool that scores a stage, the number of episodes per task, and the random key of their draw.
HeldOut = tuple[Pool, int, Tensor]


@dataclass(frozen=True, eq=False)
class HeldOutTasks:
    """The tasks of one kind that score models.

    by_stage: for each stage the pool that scores it. Its episodes are the same for every trial.
    frozen: the frozen part of the model, whose results the learner takes instead of inputs.
    references: for other models, such as a pooled one, the scores (t, n) of the episodes of the
        test stage. The differences from them are reported.
    """

    learner: Learner
    by_stage: Mapping[Stage, HeldOut]
    frozen: CachesStates | None = None
    references: Mapping[str, Tensor] = field(default_factory=dict)
    _drawn: dict[Stage, Episode] = field(default_factory=dict)
    _rows: dict[Stage, tuple[Tensor, Episode]] = field(default_factory=dict)

    def episodes(self, stage: Stage) -> Episode:
        """The scoring episodes of a stage, (t * n, ...); drawn once."""
        if stage not in self._drawn:
            pool, n_episodes, key = self.by_stage[stage]
            drawn = pool.draw(key, n_episodes)
            self._drawn[stage] = Episode(*(part.flatten(0, 1) for part in drawn))
        return self._drawn[stage]

    def score(self, params: Params, hyper: Hyperparameters, stage: Stage) -> list[TaskScores]:
        """The scores of l models on the tasks of a stage; empty if there are none."""
        if stage not in self.by_stage:
            return []
        pool, n_episodes, key = self.by_stage[stage]
        task = torch.arange(len(pool.names), device=key.device).repeat_interleave(n_episodes)
        null_losses = pool.null_losses[task]
        calibrated = stage == "final" and pool.kind is CLASSIFICATION
        chunks: list[dict[str, Tensor]] = []
        kept: list[Answered] = []  # for calibration: the first episodes of each task
        at = 0
        for outputs, answers in self._answered(params, hyper, stage):
            place = torch.arange(at, at + len(answers), device=key.device)
            chunks.append(pool.kind.scores(outputs, answers, null_losses[place]))
            if calibrated:
                first = place % n_episodes < _CALIBRATING
                kept.append((outputs[:, first], answers[first]))
            at += len(answers)
        # (l, t, episodes) each
        scores = {
            name: torch.cat([chunk[name] for chunk in chunks], 1).unflatten(1, (-1, n_episodes))
            for name in chunks[0]
        }
        groups = self._groups(stage)
        scales = {"logit_scale": _scales(kept, len(pool.names))} if calibrated else {}
        gains = self._gains(scores, stage)
        return [
            TaskScores(
                name,
                _of_groups(scores["skill"][:, t], groups[t]),
                {metric: scores[metric][:, t].mean(1) for metric in pool.kind.reported}
                | {f"over_{who}": gain[:, t].mean(1) for who, gain in gains.items()}
                | {
                    f"over_{who}_se": own.std(1) / math.sqrt(own.shape[1])
                    for who, gain in gains.items()
                    for own in [_of_groups(gain[:, t], groups[t])]
                }
                | {metric: value[:, t] for metric, value in scales.items()},
                # Each episode of a family of functions has a function of its own.
                of_problems=groups[t] is not None or isinstance(pool, FunctionPool),
            )
            for t, name in enumerate(pool.names)
        ]

    def _groups(self, stage: Stage) -> list[Tensor | None]:
        """For each task the groups (n,) of its episodes; None if all are of one group."""
        pool, n_episodes, key = self.by_stage[stage]
        n_tasks = len(pool.names)
        if not isinstance(pool, RegressionPool):
            return [None] * n_tasks
        task = torch.arange(n_tasks, device=key.device)[:, None]
        found = pool.groups_of(episode_keys(key, n_tasks, n_episodes), task)
        return [own if len(own.unique()) > 1 else None for own in found]

    def _gains(self, scores: Mapping[str, Tensor], stage: Stage) -> dict[str, Tensor]:
        """By reference, the differences (l, t, n) from its scores."""
        if stage != "test" or not self.references:
            return {}
        own = scores["accuracy"] if "accuracy" in scores else scores["skill"]
        return {who: own - theirs.to(own) for who, theirs in self.references.items()}

    def _answered(self, params: Params, hyper: Hyperparameters, stage: Stage) -> Iterator[Answered]:
        """The outputs of l models for the scoring episodes of a stage, in chunks of episodes."""
        pool = self.by_stage[stage][0]
        if compares_embedded(self.learner) and isinstance(pool, TaskPool | RegressionPool):
            yield from self._compared(self.learner, params, hyper, *self._examples(pool, stage))
            return
        answer = over_lanes(self.learner.logits, shared=1)
        for part in _parts_of(self.episodes(stage), numbers_of(pool.features, self.frozen)):
            own = with_states(self.frozen, hide_query_labels(part), dims=2)
            yield answer(params, own, hyper), part.query_y

    @staticmethod
    def _compared(
        learner: EmbeddingLearner,
        params: Params,
        hyper: Hyperparameters,
        inputs: Tensor,
        rows: Episode,
    ) -> Iterator[Answered]:
        """`_answered` for learners that embed: an example is embedded once for all its episodes."""
        lanes = len(next(iter(hyper.values())))
        found = embedded(learner.embedding, params, inputs).expand(lanes, -1, -1)  # (l, u, d)
        mapped = Episode._make((0, None, 0, None))
        compare = vmap(of_embedded(learner).logits, in_dims=(0, mapped, 0))
        for part in _parts_of(rows, found.shape[-1]):
            support, query = (
                found.index_select(1, own.flatten()).unflatten(1, own.shape)
                for own in (part.support_x, part.query_x)
            )
            embedded_part = hide_query_labels(part)._replace(support_x=support, query_x=query)
            yield compare(params, embedded_part, hyper), part.query_y

    def _examples(self, pool: TaskPool | RegressionPool, stage: Stage) -> tuple[Tensor, Episode]:
        """The distinct examples of `episodes`, and these episodes as row numbers; computed once."""
        if stage not in self._rows:
            _, n_episodes, key = self.by_stage[stage]
            drawn = pool.by_row().draw(key, n_episodes)
            labelled = Episode(*(part.flatten(0, 1) for part in drawn))
            both = [labelled.support_x, labelled.query_x]
            used, places = torch.cat(both, 1).unique(return_inverse=True)
            support, query = places.split([part.shape[1] for part in both], 1)
            own = labelled._replace(support_x=support, query_x=query)
            self._rows[stage] = gather_rows(pool.inputs, used), own
        return self._rows[stage]


def _of_groups(scores: Tensor, groups: Tensor | None) -> Tensor:
    """The scores (l, n) of episodes, or (l, g) of their groups, which are the random sample."""
    return scores if groups is None else by_group(scores, groups)


def with_states(frozen: CachesStates | None, episodes: Episode, dims: int) -> Episode:
    """The episodes with hidden states as examples, if the model has a frozen part.

    dims: the number of dimensions before those of one example.
    """
    if frozen is None:
        return episodes
    support, query = episodes.support_x, episodes.query_x
    x = torch.cat([support, query], dims - 1)
    states = frozen.states(x.flatten(0, dims - 1)).unflatten(0, x.shape[:dims])
    parts = states.split([support.shape[dims - 1], query.shape[dims - 1]], dims - 1)
    return episodes._replace(support_x=parts[0], query_x=parts[1])


def numbers_of(features: tuple[int, ...], frozen: CachesStates | None) -> int:
    """How many numbers an example needs in memory; with a frozen part, in the layer above it."""
    if frozen is None:
        return math.prod(features)
    one = frozen.states(torch.empty(1, *features, device="meta"))
    return one.numel() * _TENSORS_OF_LAYER


def embedded(model: Model, params: Params, inputs: Tensor) -> Tensor:
    """Outputs (l, n, n_out) of l models with stacked parameters for inputs (n, *features).

    The first dimension is 1 if the model has no parameters.
    """
    embed = same_for_lanes(model)
    return torch.cat([embed(params, part) for part in inputs.split(EXAMPLES_AT_ONCE)], 1)


def _scales(answered: Sequence[Answered], n_tasks: int) -> Tensor:
    """Scales (l, t) that calibrate the logits of t tasks with the same number of episodes each."""
    logits = torch.cat([outputs for outputs, _ in answered], 1).unflatten(1, (n_tasks, -1))
    labels = torch.cat([answers for _, answers in answered]).unflatten(0, (n_tasks, -1))
    z, y = logits.flatten(2, 3), labels.flatten(1, 2)  # (l, t, e * q, way), (t, e * q)
    return fitted_scale(z, y.expand(z.shape[:-1]))


def _parts_of(episodes: Episode, width: int) -> Iterator[Episode]:
    """The episodes in chunks that fit in memory; each example has `width` numbers."""
    examples = episodes.support_x.shape[1] + episodes.query_x.shape[1]
    n = at_once(len(episodes.support_y), examples * width)
    return map(Episode._make, zip(*(part.split(n) for part in episodes), strict=True))


def at_once(n: int, numbers: int) -> int:
    """The number of episodes, up to n, of one scoring pass; each has `numbers` numbers."""
    return max(1, min(n, _EPISODES_AT_ONCE, _NUMBERS_AT_ONCE // max(1, numbers)))
