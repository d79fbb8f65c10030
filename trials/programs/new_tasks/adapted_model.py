"""A model that is adapted to one new task, as a function of its parameters and inputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.errors.inputs import input_error
from fewshot.functional import Params
from fewshot.learners.base import KeepsAdapted, Learner
from fewshot.models.base import Model
from fewshot.models.pretrained.encoder import padding_id
from fewshot.models.pretrained.token_batches import similar_lengths, token_counts
from trials.contract import Recipe
from trials.data.pools import task_kind_of
from trials.programs.factories import build_learner, build_student

Examples = tuple[Tensor, Tensor]  # (n, *features), and their labels (n,) or (n, 1)
_AT_ONCE = 256  # examples of one forward pass
_TOLERANCE = 1e-3  # of the outputs of a kept model, in units of the largest output
# Models of token ids that ignore padding, so that texts can be cut after their last token.
_IGNORE_PADDING = frozenset({"lora", "transformer"})


@dataclass(frozen=True, eq=False)
class AdaptedModel:
    """A function from x (n, *features) to logits (n, c), or to numbers (n, 1).

    function: of parameters and inputs.
    support: the examples that the model learned from, if predictions need them; else None. Then
        the predictions of some examples may depend on the other examples.
    padding: the id that fills up texts, if the model reads token ids and ignores padding.
    """

    function: Callable[[Params, Tensor], Tensor]
    params: Params
    support: Examples | None = None
    padding: int | None = None

    @torch.no_grad()
    def outputs(self, x: Tensor) -> Tensor:
        """The outputs (n, c) for x (n, *features), n >= 1."""
        if self.support is not None:
            return self.function(self.params, x)
        if self.padding is None or x.dim() != 2 or x.is_floating_point():
            return torch.cat([self.function(self.params, part) for part in x.split(_AT_ONCE)])
        lengths = token_counts(x, self.padding)
        batches = [b for rows in similar_lengths(lengths) for b in rows.split(_AT_ONCE)]
        found = [self.function(self.params, x[b, : int(lengths[b].max())]) for b in batches]
        return torch.cat(found)[torch.cat(batches).argsort()]


def learned(
    recipe: Recipe,
    params: Params,
    hyperparameters: Mapping[str, float],
    support: Examples,
    *,
    regresses: bool,
) -> AdaptedModel:
    """The meta-trained model of a recipe after it has learned from the support.

    The new task is treated like the first validation task that matches `regresses`.

    support: x (s, *features) with labels (s,), of which each of 0..c-1 occurs, or numbers (s, 1).
    Raises InputError if the parameters do not fit the recipe or the shape of the examples.
    """
    features, way = tuple(support[0].shape[1:]), _way(recipe, support, regresses)
    learner = _learner(recipe, features, way, regresses)
    _check(learner, params, features, way, regresses=regresses)
    hyper = {name: torch.tensor(value) for name, value in hyperparameters.items()}
    padding = _padding(recipe)
    if isinstance(learner, KeepsAdapted):
        x = _without_padding(support[0], padding)
        with torch.no_grad():
            fitted = learner.fit(params, x, support[1], hyper)
        kept = _of_fitted(learner, fitted, way, padding)
        if _agree(kept, learner, params, (x, support[1]), hyper):
            return kept
    return _of_support(learner, params, support, hyper, way)


def restored(
    recipe: Recipe,
    params: Params,
    hyperparameters: Mapping[str, float],
    features: tuple[int, ...],
    way: int,
    support: Examples | None,
    *,
    regresses: bool,
) -> AdaptedModel:
    """The adapted model that `learned` or a student's training returned, from its parts.

    way: the number of outputs. support: the support of the `AdaptedModel`, or None.
    """
    padding = _padding(recipe)
    if recipe.program == "adaptation":
        return of_student(build_student(recipe, features, way), params, padding)
    learner = _learner(recipe, features, recipe.max_way if regresses else way, regresses)
    if support is not None:
        hyper = {name: torch.tensor(value) for name, value in hyperparameters.items()}
        return _of_support(learner, params, support, hyper, way)
    if not isinstance(learner, KeepsAdapted):
        rule = "has no support, which its learner needs."
        raise input_error("DIR", rule, recipe.learner.name, "Adapt the model again.")
    return _of_fitted(learner, params, way, padding)


def of_student(model: Model, params: Params, padding: int | None = None) -> AdaptedModel:
    """The adapted model of a student, which was trained on its task."""
    return AdaptedModel(model.apply, params, padding=padding)


def _way(recipe: Recipe, support: Examples, regresses: bool) -> int:
    return recipe.max_way if regresses else int(support[1].max()) + 1


def _learner(recipe: Recipe, features: tuple[int, ...], way: int, regresses: bool) -> Learner:
    like = next(task for task in recipe.tasks["validation"] if task.regresses == regresses)
    return build_learner(recipe, features, way, task_kind_of(recipe, like))


def _check(
    learner: Learner, params: Params, features: tuple[int, ...], way: int, *, regresses: bool
) -> None:
    """Raises InputError if the parameters do not fit the learner."""
    fresh = learner.init(torch.Generator())
    if missing := fresh.keys() - params.keys():
        rule = f"must hold the model that its config.yaml describes; it has no {min(missing)}."
        raise input_error("DIR", rule, None, "Export it again.")
    # Not checked for classes: a trained head may have more classes than this problem.
    if regresses and any(params[name].shape != value.shape for name, value in fresh.items()):
        rule = "must have as many feature columns as the data that the model was trained on."
        raise input_error("--data", rule, features, "Remove other numeric columns.")
    if not regresses and learner.model_scores_classes:
        widths = [
            (params[name].shape[-1], way)
            for name, value in fresh.items()
            if value.dim() and value.shape[-1] == way and params[name].shape[-1] < way
        ]
        if widths:
            rule = f"must have at most {widths[0][0]} classes: the model was trained with so many."
            raise input_error("--data", rule, way, "Leave out some classes.")


def _of_fitted(
    learner: KeepsAdapted, fitted: Params, way: int, padding: int | None
) -> AdaptedModel:
    # A trained head may have more outputs than the task has classes.
    return AdaptedModel(lambda p, x: learner.predict(p, x)[:, :way], fitted, padding=padding)


def _of_support(
    learner: Learner,
    params: Params,
    support: Examples,
    hyper: Mapping[str, Tensor],
    way: int,
) -> AdaptedModel:
    def function(params: Params, x: Tensor) -> Tensor:
        unknown = torch.zeros(len(x), *support[1].shape[1:], dtype=support[1].dtype)
        episode = Episode(*(part[None] for part in (*support, x, unknown)))
        return learner.logits(params, episode, hyper)[0, :, :way]

    return AdaptedModel(function, params, support)


def _agree(
    kept: AdaptedModel,
    learner: Learner,
    params: Params,
    support: Examples,
    hyper: Mapping[str, Tensor],
) -> bool:
    """Whether the kept model predicts the same as the learner.

    It does not if an output depends on other examples of a forward pass (`norm: batch`).
    """
    x, y = support
    episode = Episode(*(part[None] for part in (x, y, x[:1], torch.zeros_like(y[:1]))))
    with torch.no_grad():
        expected = learner.logits(params, episode, hyper)[0]
    found = kept.outputs(x[:1])
    expected = expected[:, : found.shape[1]]
    return bool((found - expected).abs().max() <= _TOLERANCE * (1 + expected.abs().max()))


def _without_padding(x: Tensor, padding: int | None) -> Tensor:
    if padding is None or x.dim() != 2 or x.is_floating_point():
        return x
    return x[:, : int(token_counts(x, padding).max())]


def _padding(recipe: Recipe) -> int | None:
    if recipe.model.name not in _IGNORE_PADDING:
        return None
    return padding_id(str(recipe.model.options["encoder"]))
