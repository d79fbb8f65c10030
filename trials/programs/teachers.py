"""Builds the teacher that a recipe names, for the rows that the student sees.

A teacher is one of:
- the name of a dataset: a head on frozen features of the same rows;
- `export`: an exported model;
- `finalists`: all finalists of a search, whose probabilities are averaged.

A teacher sees the support of a task with its labels. It never sees the labels of the queries.
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
from fewshot.learners.metric.embedding import compares_embedded, of_embedded
from fewshot.learners.teacher import FixedClassifier, Logistic, log_mean_probabilities
from fewshot.models.pretrained.encoder import ENCODERS, names_module
from fewshot.models.untrained import Untrained
from fewshot.registry import in_untrusted_config, is_import_path
from fewshot.tasks.datasets import load_dataset
from fewshot.tasks.files import existing
from trials.contract import Component, Recipe, TrialSpec
from trials.data.pools import TaskKind, task_kinds
from trials.data.sources import Sources
from trials.lanes import checkpoint
from trials.programs.factories import BuildContext, build_learner, build_student
from trials.programs.meta_training.scoring import EXAMPLES_AT_ONCE, embedded

# Learners that work on features without training. The logistic head is fitted to one problem at a
# time.
EPISODIC_HEADS = ("simpleshot", "protonet", "ridge", "matching")
HEADS = ("logistic", *EPISODIC_HEADS)
CLASSES = TaskKind(regresses=False, source="rows")


@dataclass(frozen=True, eq=False)
class Teacher:
    """A learner with the parameters and hyperparameters of one or several trained models.

    inputs: for each model its inputs of each row, (n, *features); None for tasks that are
    functions, whose episodes hold points instead of row numbers.
    """

    learner: Learner | Logistic | FixedClassifier
    models: tuple[tuple[Params, Hyperparameters], ...]
    inputs: tuple[Tensor, ...] | None
    regresses: bool = False

    @torch.no_grad()
    def logits(self, rows: Episode) -> Tensor:
        """Logits (b, q, c) of the queries of b episodes, whose examples are rows of `inputs`."""
        rows = hide_query_labels(rows)
        outputs = []
        for i, (params, hyper) in enumerate(self.models):
            episodes = rows if self.inputs is None else with_inputs(rows, self.inputs[i])
            outputs.append(self.learner.logits(params, episodes, hyper))
        if len(outputs) == 1:
            return outputs[0]
        stacked = torch.stack(outputs)
        return stacked.mean(0) if self.regresses else log_mean_probabilities(stacked)

    def labelled(self, support: Tensor, codes: Tensor) -> Tensor:
        """Logits (n, c) of all rows, for one task with the support rows (s,) and codes (s,)."""
        assert self.inputs is not None, "functions have no rows"
        n = len(self.inputs[0])
        # A head on features is fitted once, for all rows. Other models answer in parts, because
        # their layers need memory for each row.
        of_features = self.inputs[0].dim() == 2 and self.inputs[0].is_floating_point()
        parts = torch.arange(n).split(n if of_features else EXAMPLES_AT_ONCE)
        asked = [Episode(support[None], codes[None], rows[None], rows[None]) for rows in parts]
        return torch.cat([self.logits(episode)[0] for episode in asked])

    def to(self, device: torch.device) -> "Teacher":
        def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        models = tuple((moved(params), moved(hyper)) for params, hyper in self.models)
        inputs = None if self.inputs is None else tuple(x.to(device) for x in self.inputs)
        return replace(self, models=models, inputs=inputs)


def export(*, path: str, trust_code: bool = False) -> list[Path]:
    """The model in a folder that `fewtune export` wrote.

    trust_code: run the code that the model's file names.
    """
    del trust_code  # see `_trained`
    return [existing(path, "teacher.path") / "model.safetensors"]


def finalists(*, path: str, trust_code: bool = False) -> list[Path]:
    """All retrainings of the finalists of the search in the folder `path`."""
    del trust_code
    files = sorted((existing(path, "teacher.path") / "checkpoints").glob("final-*.safetensors"))
    if not files:
        rule = "must be the folder of a search that has retrained its finalists."
        raise input_error("teacher.path", rule, path, "It is HOME/searches/NAME.")
    return files


# Sources of trained models: each maps the teacher's options to the files of the models.
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

    sources: the student's datasets; None if all tasks are functions.
    task_kind: the kind of the tasks to teach.
    classes: the classes of the single new task of an adaptation; None for episodes.
    """
    part = recipe.teacher
    assert part is not None, "the recipe has no teacher"
    if part.name in TRAINED:
        files = TRAINED[part.name](**part.options)
        seen = None if task_kind.source == "functions" else sources
        with in_untrusted_config():
            return _trained(files, recipe, seen, cache, task_kind, classes)
    if task_kind.regresses or sources is None:
        rule = f"must be one of {', '.join(TRAINED)} for regression tasks."
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
            "teacher", "must have features, not token ids.", part.name, "Give it an encoder."
        )
    inputs = inputs.flatten(1)
    if name == "logistic":
        return Teacher(Logistic(len(classes or ())), (({}, {}),), (inputs,))
    head = LEARNERS[name](model=Untrained(), way=len(classes) if classes else recipe.way)
    return Teacher(head, ((head.init(torch.Generator()), {}),), (inputs,))


def _trained(
    files: list[Path],
    recipe: Recipe,
    sources: Sources | None,
    cache: Path,
    task_kind: TaskKind,
    classes: tuple[str, ...] | None,
) -> Teacher:
    trained, place = [checkpoint.trained(file) for file in files], str(files[0].parent)
    if recipe.teacher is None or recipe.teacher.options.get("trust_code") is not True:
        _refuse_code([spec.recipe for spec, _ in trained], place)
    known, models = trained[0][0].recipe, tuple((params, _hyper(one)) for one, params in trained)
    if task_kind.regresses not in {each.regresses for each in task_kinds(known)}:
        kind = "regression" if task_kind.regresses else "classification"
        rule = f"must be a model that was trained on {kind} tasks."
        raise input_error("teacher.path", rule, place)
    if sources is None:
        return Teacher(build_learner(known, (1,), 1, task_kind), models, None, regresses=True)
    inputs = _views(sources, _seen_by(known, files[0].parent), cache)
    features = tuple(inputs.shape[1:])
    if known.program == "adaptation":
        student = _fixed(known, inputs, cache, classes, place)
        return Teacher(student, models, (inputs,) * len(models))
    way = 1 if task_kind.regresses else len(classes) if classes else recipe.max_way
    context = BuildContext(inputs=inputs, cache=cache)
    taught = build_learner(known, features, way, task_kind, context=context)
    if taught.model_scores_classes and not task_kind.regresses and way != known.way:
        rule = f"must be trained with {way} classes per episode; it was trained with {known.way}."
        raise input_error("teacher.path", rule, place)
    if not compares_embedded(taught):
        taught = build_learner(known, features, way, task_kind)
        return Teacher(taught, models, (inputs,) * len(models), task_kind.regresses)
    with torch.no_grad():  # each row is embedded once, instead of in each episode
        views = [
            embedded(taught.embedding, {k: v.unsqueeze(0) for k, v in params.items()}, inputs)[0]
            for params, _ in models
        ]
    return Teacher(of_embedded(taught), models, tuple(views), task_kind.regresses)


def _refuse_code(recipes: list[Recipe], place: str) -> None:
    """Raises InputError if a recipe names code: a file may be untrusted, and could run it."""
    parts = [
        part
        for recipe in recipes
        for part in (*recipe.datasets.values(), recipe.model, recipe.learner, recipe.teacher)
        if part is not None
    ]
    named = [part.name for part in parts if is_import_path(part.name)]
    encoders = [part.options.get(key) for part in parts for key in ENCODERS]
    named += [name for name in encoders if name is not None and names_module(name)]
    if named:
        rule = (
            f"is a model whose file names code, which is not run: {', '.join(sorted(set(named)))}."
        )
        remedy = "If you trust the author of the model, add `--trust-code`."
        raise input_error("teacher.path", rule, place, remedy)


def _seen_by(known: Recipe, folder: Path) -> Callable[[Component], Component]:
    """Maps a student's dataset to the dataset that the trained model `known` reads."""
    like = next(task for task in known.tasks["validation"] if task.function is None)
    dataset = known.datasets[like.dataset]
    encoder = {"encoder": str(folder / "encoder")} if (folder / "encoder").exists() else {}

    def seen(own: Component) -> Component:
        options = {**dataset.options, **encoder, **_located(own, {})}
        return Component(name=dataset.name, options=options)

    return seen


def _fixed(
    recipe: Recipe,
    inputs: Tensor,
    cache: Path,
    classes: tuple[str, ...] | None,
    place: str,
) -> FixedClassifier:
    """A distilled student as a teacher; it can teach only the classes that it was trained on."""
    if classes is None:
        rule = "must be a meta-trained model; a distilled student knows only its own classes."
        raise input_error(
            "teacher.path", rule, place, "Use features or the export of a meta-trained model."
        )
    known = _classes(recipe, cache, Path(place) / "labels.json")
    unknown = sorted(set(classes) - set(known))
    if unknown:
        missing = ", ".join(unknown[:8])
        rule = f"must be trained on all classes; it was not trained on {missing}."
        raise input_error("teacher.path", rule, place)
    columns = torch.tensor([known.index(name) for name in classes])
    context = BuildContext(inputs=inputs, cache=cache)
    model = build_student(recipe, tuple(inputs.shape[1:]), len(known), context)
    return FixedClassifier(model, columns)


def _classes(recipe: Recipe, cache: Path, exported: Path) -> list[str]:
    """The classes of a distilled student, in the order of its outputs.

    They are read from the export's own list if there is one, because the training data may not be
    on this machine.
    """
    if exported.exists():
        return [str(name) for name in json.loads(exported.read_text(encoding="utf-8"))]
    (spec,), sources = recipe.tasks["validation"], Sources(recipe.datasets, cache)
    labels, rows = sources.labels(spec, "teacher"), sources.rows(spec, spec.where, "teacher")
    return sorted(set(labels[rows]))


def _hyper(spec: TrialSpec) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in spec.hyperparameters.items()}


def _located(own: Component, given: Mapping[str, Any]) -> dict[str, Any]:
    """The location options of the student's dataset, so that the teacher reads the same examples.

    Options that are `given` for the teacher are left out.
    """
    return {k: own.options[k] for k in ("path", "text") if k in own.options and k not in given}


def _views(sources: Sources, seen: Callable[[Component], Component], cache: Path) -> Tensor:
    """The teacher's inputs (n, ...) for the rows of all datasets, in the student's row order."""
    views, details = [], []
    for name, own in sources.parts.items():
        part = seen(own)
        inputs = load_dataset(part.name, part.options, cache).inputs
        rows = len(sources.dataset(name, "datasets").inputs)
        if len(inputs) != rows:
            rule = f"must have the same {rows} examples as datasets.{name}, in the same order."
            details.append(ErrorDetail("teacher", rule, len(inputs)))
        views.append(inputs)
    if details:
        raise InputError(details)
    return torch.cat(views)
