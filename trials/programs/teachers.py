"""Teachers: what a recipe's `teacher` names, ready to be asked about the rows that a student sees.

A teacher is a dataset's name, and then the frozen features of the same rows with a head on them; or
a model trained before, an `export`; or all `finalists` of a search, whose probabilities are
averaged. Of a task it is shown the support and its labels; queries have none when it sees them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fewshot.episodes import Episode, hide_query_labels, with_inputs
from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.functional import Hyperparameters, Params
from fewshot.learners.base import Learner
from fewshot.learners.learners import LEARNERS
from fewshot.learners.teacher import Fixed, Logistic, consensus
from fewshot.models.pretrained.encoder import names_module
from fewshot.models.untrained import Untrained
from fewshot.registry import in_untrusted_config, names_code
from fewshot.tasks.datasets import load_dataset
from fewshot.tasks.files import existing
from trials.contract import Component, Recipe, TrialSpec
from trials.data.pools import TaskKind, task_kinds
from trials.data.sources import Sources
from trials.lanes import checkpoint
from trials.programs.factories import build_learner, build_student

# Learners that need no training on features; the logistic head is fitted to one problem at a time.
EPISODIC_HEADS = ("simpleshot", "protonet", "ridge", "matching")
HEADS = ("logistic", *EPISODIC_HEADS)
CLASSES = TaskKind(regresses=False, source="rows")


@dataclass(frozen=True, eq=False)
class Teacher:
    """A learner with the parameters and hyperparameters of one model, or of several.

    inputs: what it sees of each row, (n, *features); None where rows are no rows, but points.
    """

    learner: Learner | Logistic | Fixed
    models: tuple[tuple[Params, Hyperparameters], ...]
    inputs: Tensor | None
    regresses: bool = False

    @torch.no_grad()
    def logits(self, rows: Episode) -> Tensor:
        """Scores (b, q, c) of the queries of b episodes, whose examples are places in `inputs`."""
        episodes = hide_query_labels(
            rows if self.inputs is None else with_inputs(rows, self.inputs)
        )
        said = [self.learner.logits(params, episodes, hyper) for params, hyper in self.models]
        if len(said) == 1:
            return said[0]
        return torch.stack(said).mean(0) if self.regresses else consensus(torch.stack(said))

    def labelled(self, support: Tensor, codes: Tensor) -> Tensor:
        """Scores (n, c) of every row, of rows `support` (s,) with classes (s,) as the one task."""
        assert self.inputs is not None, "functions have no rows"
        rows = torch.arange(len(self.inputs))
        return self.logits(Episode(support[None], codes[None], rows[None], rows[None]))[0]

    def to(self, device: torch.device) -> "Teacher":
        def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        models = tuple((moved(params), moved(hyper)) for params, hyper in self.models)
        inputs = None if self.inputs is None else self.inputs.to(device)
        return replace(self, models=models, inputs=inputs)


def export(*, path: str, trust_code: bool = False) -> list[Path]:
    """The model in a folder that `fewtune export` wrote; trust_code: run what its file names."""
    del trust_code  # see `_trained`
    return [existing(path, "teacher.path") / "model.safetensors"]


def finalists(*, path: str, trust_code: bool = False) -> list[Path]:
    """Every training of the finalists of the search whose folder is `path`."""
    del trust_code
    found = sorted((existing(path, "teacher.path") / "checkpoints").glob("final-*.safetensors"))
    if not found:
        rule = "must be the folder of a search that has come to its finalists."
        raise input_error("teacher.path", rule, path, "It is HOME/searches/NAME.")
    return found


# Models that were trained before, by `source`: from its options to the files of the models.
TRAINED: Mapping[str, Callable[..., list[Path]]] = MappingProxyType(
    {"export": export, "finalists": finalists}
)


def teacher_of(
    recipe: Recipe,
    sources: Sources | None,
    cache: Path,
    *,
    task_kind: TaskKind = CLASSES,
    classes: tuple[str, ...] | None = None,
) -> Teacher:
    """The teacher of `recipe`, on the CPU; raises InputError if it can't teach these tasks.

    sources: the student's datasets; None where all tasks are functions.
    task_kind: of the tasks. classes: of the one task that there is; None where there are episodes.
    """
    part = recipe.teacher
    assert part is not None, "a recipe without a teacher has none to build"
    if part.name in TRAINED:
        files = TRAINED[part.name](**part.options)
        seen = None if task_kind.source == "functions" else sources
        with in_untrusted_config():
            return _trained(files, recipe, seen, cache, task_kind, classes)
    if task_kind.regresses or sources is None:
        rule = f"must be one of {', '.join(TRAINED)} where numbers are learned."
        raise input_error("teacher.source", rule, part.name)
    return _on_features(part, recipe, sources, cache, classes)


def _on_features(
    part: Component,
    recipe: Recipe,
    sources: Sources,
    cache: Path,
    classes: tuple[str, ...] | None,
) -> Teacher:
    options = dict(part.options)
    name = options.pop("head", HEADS[0] if classes else EPISODIC_HEADS[0])

    def seen(own: Component) -> Component:
        return Component(name=part.name, options=_located(own, options) | options)

    inputs = _views(sources, seen, cache)
    if not inputs.is_floating_point():
        raise input_error(
            "teacher", "must see features, not ids.", part.name, "Give it an encoder."
        )
    inputs = inputs.flatten(1)
    if name == "logistic":
        return Teacher(Logistic(len(classes or ())), (({}, {}),), inputs)
    head = LEARNERS[name](model=Untrained(), way=len(classes) if classes else recipe.way)
    return Teacher(head, ((head.init(torch.Generator()), {}),), inputs)


def _trained(
    files: list[Path],
    recipe: Recipe,
    sources: Sources | None,
    cache: Path,
    task_kind: TaskKind,
    classes: tuple[str, ...] | None,
) -> Teacher:
    found, place = [checkpoint.trained(file) for file in files], str(files[0].parent)
    if recipe.teacher is None or recipe.teacher.options.get("trust_code") is not True:
        _refuse_code([spec.recipe for spec, _ in found], place)
    known, models = found[0][0].recipe, tuple((params, _hyper(one)) for one, params in found)
    if task_kind.regresses not in {each.regresses for each in task_kinds(known)}:
        rule = "must have learned what the tasks have, classes or numbers."
        raise input_error("teacher.path", rule, place)
    if sources is None:
        return Teacher(build_learner(known, (1,), 1, task_kind), models, None, regresses=True)
    inputs = _views(sources, _seen_by(known, files[0].parent), cache)
    features = tuple(inputs.shape[1:])
    if known.program == "adaptation":
        return Teacher(_fixed(known, features, cache, classes, place), models, inputs)
    way = 1 if task_kind.regresses else len(classes) if classes else recipe.max_way
    taught = build_learner(known, features, way, task_kind)
    if taught.model_scores_classes and not task_kind.regresses and way != known.way:
        rule = f"must tell {way} classes apart; its model was trained for {known.way}."
        raise input_error("teacher.path", rule, place)
    return Teacher(taught, models, inputs, task_kind.regresses)


def _refuse_code(recipes: list[Recipe], place: str) -> None:
    """A model's file may come from anywhere, and what it names would be imported."""
    parts = [
        part
        for recipe in recipes
        for part in (*recipe.datasets.values(), recipe.model, recipe.learner, recipe.teacher)
        if part is not None
    ]
    named = [part.name for part in parts if names_code(part.name)]
    named += [
        part.options["encoder"] for part in parts if names_module(part.options.get("encoder"))
    ]
    if named:
        rule = (
            f"is a model whose file names code, which is not run: {', '.join(sorted(set(named)))}."
        )
        remedy = "If you trust whoever made it, add `--trust-code`."
        raise input_error("teacher.path", rule, place, remedy)


def _seen_by(known: Recipe, folder: Path) -> Callable[[Component], Component]:
    """A student's dataset as a model that was trained before sees it."""
    like = next(task for task in known.tasks["validation"] if task.function is None)
    dataset = known.datasets[like.dataset]
    beside = {"encoder": str(folder / "encoder")} if (folder / "encoder").exists() else {}

    def seen(own: Component) -> Component:
        options = {**dataset.options, **beside, **_located(own, {})}
        return Component(name=dataset.name, options=options)

    return seen


def _fixed(
    recipe: Recipe,
    features: tuple[int, ...],
    cache: Path,
    classes: tuple[str, ...] | None,
    place: str,
) -> Fixed:
    """A distilled student as a teacher of the classes that it knows."""
    if classes is None:
        rule = "must have learned to learn: a distilled student knows its own classes only."
        raise input_error("teacher.path", rule, place, "Give features, or the export of a learner.")
    known = _classes(recipe, cache, Path(place) / "labels.json")
    unknown = sorted(set(classes) - set(known))
    if unknown:
        shown = ", ".join(unknown[:8])
        raise input_error(
            "teacher.path", f"must know all classes; it has not learned {shown}.", place
        )
    columns = torch.tensor([known.index(name) for name in classes])
    return Fixed(build_student(recipe, features, len(known)), columns)


def _classes(recipe: Recipe, cache: Path, exported: Path) -> list[str]:
    """The classes of a distilled student, in the order of its outputs.

    From the export's own list, if there is one: the data that it learned from need not be here.
    """
    if exported.exists():
        return [str(name) for name in json.loads(exported.read_text(encoding="utf-8"))]
    (spec,), sources = recipe.tasks["validation"], Sources(recipe.datasets, cache)
    labels, rows = sources.labels(spec, "teacher"), sources.rows(spec, spec.where, "teacher")
    return sorted(set(labels[rows]))


def _hyper(spec: TrialSpec) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in spec.hyperparameters.items()}


def _located(own: Component, given: Mapping[str, Any]) -> dict[str, Any]:
    """Where the student's dataset lies, which is where its teacher finds the same examples."""
    return {k: own.options[k] for k in ("path", "text") if k in own.options and k not in given}


def _views(sources: Sources, seen: Callable[[Component], Component], cache: Path) -> Tensor:
    """What a teacher sees of the rows of all datasets, (n, ...), in the order of the student's."""
    views, details = [], []
    for name, own in sources.parts.items():
        part = seen(own)
        inputs = load_dataset(part.name, part.options, cache).inputs
        rows = len(sources.dataset(name, "datasets").inputs)
        if len(inputs) != rows:
            rule = f"must see the {rows} examples of datasets.{name}, in their order."
            details.append(ErrorDetail("teacher", rule, len(inputs)))
        views.append(inputs)
    if details:
        raise InputError(details)
    return torch.cat(views)
