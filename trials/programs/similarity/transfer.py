"""Transfer of linear probes: what the labels of a training task teach about a validation task.

A probe of a training task is a ridge regression from features x to its labels: one column for each
of its classes (one number, if it is a regression task):

W = argmin ||XW - Y||^2 + r ||W||^2,  z(x) = x W.

A validation task is then learned from its support as the untrained model does it, by class means
or by ridge regression, but on z(x) in place of x. The gain of a probe is this skill minus that of
the same probe of permuted labels. Both have the same inputs, the same number of outputs and the
same episodes, so the gain is due to the labels alone. It is about 0 for labels without meaning.
"""

import torch
from torch import Tensor

from fewshot.episodes import Episode, hide_query_labels
from fewshot.functional import one_hot
from fewshot.kinds import REGRESSION
from fewshot.learners.metric.protonet import ProtoNet
from fewshot.learners.metric.ridge import Ridge, ridge
from fewshot.metrics import Estimate, estimate
from fewshot.models.untrained import Untrained
from fewshot.tasks.pool import TaskPool
from fewshot.tasks.regression import RegressionPool
from trials.contract import Recipe
from trials.data.pools import TaskKind
from trials.programs.factories import BuildContext
from trials.programs.similarity.affinity import key_of, n_episodes, task_features

# Examples of a training task to which its probe is fitted, at most.
_EXAMPLES = 600
# The initial penalty of the learner `ridge`, in units of the mean squared length of the features.
_PENALTY = torch.tensor(1.0)
# Permutations of the labels, over whose skills the mean is taken.
_PERMUTATIONS = 4

Rows = TaskPool | RegressionPool


def gains(
    plain: Recipe, train: Rows, validation: Rows, task_kind: TaskKind, context: BuildContext
) -> tuple[list[list[Estimate]], list[Estimate]]:
    """The gain of each training task on each validation task, and the skill of the features alone.

    plain: the recipe of the untrained model. Estimates are over episodes of the validation task.
    """
    generator = torch.Generator().manual_seed(plain.seed)
    known = [labelled(train, i, generator) for i in range(len(train.names))]
    drawn = validation.by_row().draw(key_of(plain), n_episodes(plain, validation))
    asked = Episode(*(part.flatten(0, 1) for part in drawn))
    rows = [own for own, _ in known] + [asked.support_x.flatten(), asked.query_x.flatten()]
    used, places = torch.cat(rows).unique(return_inverse=True)
    features = task_features(plain, train.inputs[used], task_kind, context)
    *fitted, support, query = places.split([len(own) for own in rows])
    episodes = asked._replace(
        support_x=support.view(asked.support_x.shape), query_x=query.view(asked.query_x.shape)
    )
    judged = _Judge(validation, plain.max_way, episodes)
    found = []
    for places_of, (_, labels) in zip(fitted, known, strict=True):
        x = features[places_of]
        middle = x.mean(0)
        scores = judged.skills((features - middle) @ probe(x - middle, labels))
        by_chance = [
            judged.skills((features - middle) @ probe(x - middle, labels[order]))
            for order in (
                torch.randperm(len(labels), generator=generator) for _ in range(_PERMUTATIONS)
            )
        ]
        gain = scores - torch.stack(by_chance).mean(0)
        found.append([estimate(own) for own in gain])
    return found, [estimate(own) for own in judged.skills(features)]


def labelled(pool: Rows, task: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows (n,) of examples of a task with labels (n, c): one column per class, or numbers.

    All classes have about the same part of at most `_EXAMPLES` examples.
    """
    if isinstance(pool, RegressionPool):
        n = int(pool.n_members[task])
        chosen = torch.randperm(n, generator=generator)[:_EXAMPLES]
        place = pool.first[task] + chosen
        return pool.members[place], pool.values[place, None].float()
    groups: list[tuple[int, int]] = [
        (g, c) for g in range(int(pool.n_groups[task])) for c in range(int(pool.n_classes[task, g]))
    ]
    most = max(2, _EXAMPLES // len(groups))
    rows, labels = [], []
    for label, (g, c) in enumerate(groups):
        n = int(pool.n_members[task, g, c])
        chosen = torch.randperm(n, generator=generator)[:most]
        rows.append(pool.members[task, g, c, chosen])
        labels.append(torch.full((len(chosen),), label))
    every = torch.cat(rows)
    return every, one_hot(torch.cat(labels), len(groups), torch.zeros(()))


def probe(x: Tensor, labels: Tensor) -> Tensor:
    """The weights (d, c) of the ridge regression from centred features (n, d) to labels (n, c)."""
    return ridge(x[None], (labels - labels.mean(0))[None], _PENALTY)[0]


class _Judge:
    """Scores features of the rows of episodes as the untrained model does.

    episodes: those of all validation tasks, with places in the features in place of examples.
    """

    def __init__(self, pool: Rows, way: int, episodes: Episode) -> None:
        self._pool, self._episodes = pool, episodes
        regresses = pool.kind is REGRESSION
        self._learner = (
            Ridge(model=Untrained(), way=1, kind=REGRESSION)
            if regresses
            else ProtoNet(model=Untrained(), way=way)
        )
        self._params = self._learner.init(torch.Generator().manual_seed(0))
        n = len(episodes.query_y) // len(pool.names)
        self._null_losses = pool.null_losses.repeat_interleave(n)

    def skills(self, features: Tensor) -> Tensor:
        """The skill (v, n) on the n episodes of each validation task, for features (u, d)."""
        places = self._episodes
        episodes = hide_query_labels(places)._replace(
            support_x=features[places.support_x], query_x=features[places.query_x]
        )
        outputs = self._learner.logits(self._params, episodes, {})
        found = self._pool.kind.scores(outputs, places.query_y, self._null_losses)
        skills: Tensor = found["skill"].unflatten(0, (len(self._pool.names), -1))
        return skills
