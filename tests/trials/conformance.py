"""What the laws of trials are tested on: a small recipe of each program, and how to drive it."""

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st

from fewshot.tasks.functions import FAMILIES, variance
from tests.fewshot import tiny_transformer
from tests.trials.double import REPORTS, programs_in_double
from trials.contract import (
    Component,
    Outcome,
    Recipe,
    RungReport,
    TaskSpec,
    TrialProgram,
    TrialResult,
    TrialSpec,
)
from trials.lanes.lanes import Lanes
from trials.programs.build import programs

_TRAIN = ("alpha", "beta", "gamma")
_LOADED: dict[tuple[str, Path, bool], partial[Lanes]] = {}


@dataclass(frozen=True, eq=False)
class Case:
    """A program on small data.

    hyperparameters: sensible ones, `rate` the optimiser's among them.
    variances: of the numbers of each held-out task that has numbers.
    unscored: others for those that decide how a model is trained, but not how it is scored.
    tasks: what the task weights weigh.
    double: whether its programs compute in float64, see tests.trials.double.
    """

    name: str
    recipe: Recipe
    cache: Path
    rate: str
    hyperparameters: Mapping[str, float]
    unscored: Mapping[str, float] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    variances: Mapping[str, float] = field(default_factory=dict)
    double: bool = False

    def program(
        self,
        folder: Path,
        *,
        lanes: int = 1,
        recipe: Recipe | None = None,
        new_process: bool = False,
    ) -> Lanes:
        """A program, see `programs` for `new_process`."""
        folder.mkdir(parents=True, exist_ok=True)
        making = self.programs(recipe or self.recipe, new_process=new_process)
        return making(lanes=lanes, folder=folder)

    def programs(
        self, recipe: Recipe | None = None, *, new_process: bool = False
    ) -> partial[Lanes]:
        """What makes programs of a recipe from `lanes` and `folder`.

        All programs of one recipe share its objective, because loading its data takes longer than
        some trials do. With `new_process` they get an objective of their own.
        """
        recipe = recipe or self.recipe
        make = programs_in_double if self.double else programs
        if new_process:
            return make(recipe, self.cache)
        key = repr(recipe), self.cache, self.double
        if key not in _LOADED:
            _LOADED[key] = make(recipe, self.cache)
        return _LOADED[key]

    @property
    def wild(self) -> dict[str, float]:
        """Hyperparameters of a trial that diverges."""
        return {**self.hyperparameters, self.rate: 1e300 if self.double else 1e30}

    def spec(self, number: int, *, rungs: tuple[int, ...] = (2, 4), **changes: Any) -> TrialSpec:
        """A trial whose rate, weights and seed hang on its number."""
        rates = {self.rate: self.hyperparameters[self.rate] * (1 + number / 4)}
        return TrialSpec(
            number=number,
            rungs=rungs,
            **{
                "seed": 100 + number,
                "recipe": self.recipe,
                "hyperparameters": {**self.hyperparameters, **rates},
                "task_weights": self.weights(number),
                **changes,
            },
        )

    def metrics(self, task: str) -> tuple[str, ...]:
        """What is reported of a held-out task."""
        return ("mse", "skill") if task in self.variances else ("accuracy", "f1")

    def weights(self, number: int) -> dict[str, float]:
        parts = np.random.default_rng(number).dirichlet([1.0] * len(self.tasks)).tolist()
        return dict(zip(self.tasks, parts, strict=True))


@dataclass
class Story:
    """All that a program said of one trial."""

    reports: list[RungReport] = field(default_factory=list)
    results: list[TrialResult] = field(default_factory=list)

    @property
    def result(self) -> TrialResult:
        (result,) = self.results
        return result


def drive(
    program: TrialProgram,
    specs: Iterable[TrialSpec],
    *,
    running: Iterable[TrialSpec] = (),
    stops: Mapping[str, int] | None = None,
) -> dict[str, Story]:
    """Run trials to their ends, and what came of each from now on.

    running: trials that the program holds already.
    stops: the step at which the trial of a key is stopped.
    """
    live = {spec.key: spec for spec in running}
    for spec in specs:
        program.admit(spec)
        live[spec.key] = spec
    stories = {key: Story() for key in live}
    while live:
        said, ended = grouped(program.advance()), program.ended()
        assert said or ended, "live trials have something to say"
        for result in ended:
            stories[result.key].results.append(result)
            del live[result.key]
        for key, reports in said.items():
            stories[key].reports += reports
            outcome = _outcome(reports[-1], live[key], (stops or {}).get(key))
            if outcome is not None:
                stories[key].results.append(program.release(key, outcome))
                del live[key]
    return stories


def _outcome(report: RungReport, spec: TrialSpec, stop: int | None) -> Outcome | None:
    if report.step == stop:
        return "pruned"
    if math.isnan(report.score.mean):
        return "failed"
    return "complete" if report.step == spec.rungs[-1] else None


def eventful(
    case: Case, specs: Sequence[TrialSpec], folder: Path, draw: Callable[[st.SearchStrategy], Any]
) -> dict[str, Story]:
    """Run trials to their ends while `draw` has them admitted, stopped, and their program killed.

    A report that is repeated after a kill must be the very same, and is told once.
    """
    some_lanes, one_in_four = st.integers(1, 4), st.integers(0, 3).map(lambda n: n == 0)
    waiting, live = deque(specs), {}
    stories = {spec.key: Story() for spec in specs}
    program = case.program(folder, lanes=draw(some_lanes))
    while waiting or live:
        for _ in range(min(len(waiting), draw(st.integers(0 if live else 1, 3)))):
            spec = waiting.popleft()
            live[spec.key] = spec
            program.admit(spec)
        if draw(one_in_four):
            program = case.program(folder, lanes=draw(some_lanes))
            live = {key: retried(spec) for key, spec in live.items()}
            for spec in live.values():
                program.admit(spec)
        for key, reports in grouped(program.advance()).items():
            story = stories[key]
            story.reports += [report for report in reports if report not in story.reports]
            complete = reports[-1].step == live[key].rungs[-1]
            if complete or draw(one_in_four):
                story.results.append(program.release(key, "complete" if complete else "pruned"))
                del live[key]
    return stories


def grouped(reports: Iterable[RungReport]) -> dict[str, list[RungReport]]:
    """The reports of each trial."""
    of_trial: dict[str, list[RungReport]] = {}
    for report in reports:
        of_trial.setdefault(report.key, []).append(report)
    return of_trial


def alone(case: Case, spec: TrialSpec, folder: Path) -> Story:
    """The same trial with a program of one lane to itself."""
    return drive(case.program(folder, recipe=spec.recipe), [spec])[spec.key]


def assert_same_reports(found: Iterable[RungReport], expected: Iterable[RungReport]) -> None:
    """Equal to the rounding of float64 in all but the key and the clock."""
    found, expected = list(found), list(expected)
    assert [report.step for report in found] == [report.step for report in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.score == _near(other.score)
        assert dict(one.metrics) == _near(other.metrics)
        assert one.per_task.keys() == other.per_task.keys()
        for task, estimate in one.per_task.items():
            assert estimate == _near(other.per_task[task])


def facts(report: RungReport) -> RungReport:
    """All of a report but the clock."""
    return replace(report, time=0.0, seconds=0.0, lane_seconds=0.0)


def _near(value: Any) -> Any:
    return pytest.approx(value, rel=REPORTS, abs=REPORTS, nan_ok=True)


# ---- the cases --------------------------------------------------------------------------------


def _scripts(path: Path) -> Component:
    """Images of 4 x 4 pixels: six scripts of five characters, twelve noisy copies of each."""
    rng = np.random.default_rng(0)
    clean = rng.uniform(size=(30, 4, 4))
    images = clean.repeat(12, 0) + 0.35 * rng.normal(size=(360, 4, 4))
    np.savez(
        path,
        images=(images.clip(0, 1) * 255).astype(np.uint8),
        script=np.arange(360) // 60,
        script_names=np.array([*_TRAIN, "delta", "epsilon", "zeta"]),
        character=np.arange(360) // 12,
    )
    return Component(name="images", options={"path": str(path)})


def _meta_training(folder: Path, learner: Component) -> Recipe:
    def tasks(*names: str) -> tuple[TaskSpec, ...]:
        return tuple(
            TaskSpec(name=name, dataset="scripts", label="character", where={"script": (name,)})
            for name in names
        )

    return Recipe(
        program="meta_training",
        datasets={"scripts": _scripts(folder / "scripts.npz")},
        tasks={
            "train": tasks(*_TRAIN),
            "validation": tasks("delta", "epsilon"),
            "test": tasks("zeta"),
        },
        model=Component(
            name="mlp", options={"hidden": [8]} | ({} if learner.name == "maml" else {"n_out": 6})
        ),
        learner=learner,
        way=3,
        shot=2,
        query=3,
        episodes=2,
        validation_episodes=6,
        test_episodes=8,
        seed=7,
    )


def protonet(folder: Path) -> Case:
    recipe = _meta_training(folder, Component(name="protonet"))
    return Case("protonet", recipe, folder, "lr/outer", {"lr/outer": 0.01}, {}, _TRAIN)


def conv(folder: Path) -> Case:
    """Convolutions, which are others for a single lane than for many."""
    case = protonet(folder)
    model = Component(name="conv", options={"width": 4, "blocks": 1, "n_out": 6})
    return replace(case, name="conv", recipe=replace(case.recipe, model=model))


def resnet12(folder: Path) -> Case:
    """In colour; the statistics of its batches must be those of one lane."""
    case = protonet(folder)
    model = Component(name="resnet12", options={"widths": [4], "norm": "batch", "n_out": 6})
    scripts = case.recipe.datasets["scripts"]
    coloured = replace(scripts, options={**scripts.options, "channels": 3})
    recipe = replace(case.recipe, model=model, datasets={"scripts": coloured})
    return replace(case, name="resnet12", recipe=recipe)


def ridge(folder: Path) -> Case:
    """Its parameters are not the model's alone, and its solver must not mind a diverged lane."""
    recipe = _meta_training(folder, Component(name="ridge"))
    return Case("ridge", recipe, folder, "lr/outer", {"lr/outer": 0.01}, {}, _TRAIN)


def baseline_pp(folder: Path) -> Case:
    """It is told which classes were drawn, and has a classifier for them."""
    recipe = _meta_training(folder, Component(name="baseline_pp", options={"adapt_steps": 2}))
    hyperparameters = {"lr/outer": 0.01, "lr/adapt": 0.1}
    return Case("baseline_pp", recipe, folder, "lr/outer", hyperparameters, {}, _TRAIN)


def maml(folder: Path) -> Case:
    learner = Component(name="maml", options={"inner_steps": 1, "adapt_steps": 2})
    return Case(
        "maml",
        _meta_training(folder, learner),
        folder,
        "lr/outer",
        {"lr/outer": 0.02, "lr/inner": 0.3, "lr/adapt": 0.4},
        {"lr/inner": 0.05},
        _TRAIN,
    )


def functions(folder: Path) -> Case:
    """Regression: three families to learn from, others to be tested on."""

    def tasks(*names: str) -> tuple[TaskSpec, ...]:
        return tuple(TaskSpec(name=name, function=name) for name in names)

    families = ("line", "quadratic", "square")
    recipe = Recipe(
        program="meta_training",
        datasets={},
        tasks={
            "train": tasks(*families),
            "validation": tasks("sinusoid", "line"),
            "test": tasks("square"),
        },
        model=Component(name="mlp", options={"hidden": [8]}),
        learner=Component(name="maml", options={"inner_steps": 1, "adapt_steps": 2}),
        way=1,
        shot=6,
        query=6,
        episodes=4,
        validation_episodes=6,
        test_episodes=8,
        seed=7,
    )
    return Case(
        "functions",
        recipe,
        folder,
        "lr/outer",
        {"lr/outer": 0.02, "lr/inner": 0.01, "lr/adapt": 0.02},
        {"lr/inner": 0.001},
        families,
        {name: variance(FAMILIES[name]) for name in ("sinusoid", "line", "square")},
    )


def _table(path: Path) -> Component:
    """Five regions, each with a class and a number that are functions of three columns."""
    rng = np.random.default_rng(2)
    rows = []
    for region in (*_TRAIN, "delta", "epsilon"):
        x, mix = rng.normal(size=(40, 3)), rng.normal(size=(3, 4))
        species = (x @ mix[:, :3]).argmax(1)
        rows += [
            {"region": region, "a": a, "b": 100 * b, "c": c / 50, "species": f"s{s}", "yield": y}
            for (a, b, c), s, y in zip(x, species, 1e3 + 50 * x @ mix[:, 3], strict=True)
        ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return Component(name="table", options={"path": str(path), "labels": ["yield"]})


def mixed(folder: Path) -> Case:
    """Classes and numbers of a table, learned by one model whose training tasks have own heads."""

    def tasks(label: str, *regions: str) -> tuple[TaskSpec, ...]:
        return tuple(
            TaskSpec(
                name=f"{label}_{region}",
                dataset="regions",
                label=label,
                kind="regression" if label == "yield" else "classification",
                where={"region": (region,)},
            )
            for region in regions
        )

    table = _table(folder / "regions.csv")
    yields = pd.read_csv(folder / "regions.csv").groupby("region")["yield"].var(ddof=0)
    recipe = Recipe(
        program="meta_training",
        datasets={"regions": table},
        tasks={
            "train": (*tasks("yield", "alpha"), *tasks("species", *_TRAIN[:2])),
            "validation": (*tasks("yield", "delta"), *tasks("species", "delta")),
            "test": (*tasks("yield", "epsilon"), *tasks("species", "epsilon")),
        },
        model=Component(name="mlp", options={"hidden": [8]}),
        learner=Component(name="anil", options={"adapt_steps": 2, "heads": "per_task"}),
        way=2,
        shot=4,
        query=3,
        episodes=3,
        validation_episodes=6,
        test_episodes=8,
        seed=7,
    )
    return Case(
        "mixed",
        recipe,
        folder,
        "lr/outer",
        {"lr/outer": 0.02, "lr/inner": 0.1, "lr/adapt": 0.2, "task/own": 0.8},
        {"lr/inner": 0.01},
        ("yield_alpha", "species_alpha", "species_beta"),
        {f"yield_{region}": yields[region] for region in ("delta", "epsilon")},
    )


def reptile(folder: Path) -> Case:
    """A learner with a loss of its own."""
    case = functions(folder)
    options = {"inner_steps": 2, "adapt_steps": 2}
    recipe = replace(case.recipe, learner=Component(name="reptile", options=options))
    return replace(case, name="reptile", recipe=recipe)


def taught(folder: Path) -> Case:
    """A teacher on the same images in training, whose tasks are drawn in proportion to weights."""
    recipe = replace(
        _meta_training(folder, Component(name="protonet")),
        teacher=Component(name="images", options={"head": "ridge"}),
        weights_as="sampling",
    )
    soft = {"distill/temperature": 2.0, "distill/soft_weight": 0.5}
    other = {"distill/temperature": 8.0, "distill/soft_weight": 0.9}
    return Case("taught", recipe, folder, "lr/outer", {"lr/outer": 0.01, **soft}, other, _TRAIN)


def distillation(folder: Path) -> Case:
    """Texts of four classes for the student; the teacher sees a noisy image of each class."""
    rng = np.random.default_rng(1)
    words = [[f"w{c}{i}" for i in range(4)] + ["and", "or", "if"] for c in range(4)]
    parts = ["support"] * 4 + ["unlabelled"] * 6 + ["query"] * 12 + ["test"] * 6
    rows = [
        {"text": " ".join(rng.choice(words[c], 5)), "label": f"class {c}", "part": part}
        for c in range(4)
        for part in parts
    ]
    texts, views = folder / "texts.jsonl", folder / "views.npz"
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    clean = rng.uniform(size=(4, 3, 3)).repeat(len(parts), 0)
    views_of = (clean + 0.2 * rng.normal(size=clean.shape)).clip(0, 1)
    np.savez(views, images=(views_of * 255).astype(np.uint8))

    def task(query: str) -> TaskSpec:
        return TaskSpec(
            name="topics",
            dataset="texts",
            label="label",
            where={"part": ("support",)},
            query={"part": (query,)},
            unlabelled={"part": ("unlabelled",)},
        )

    options = {"path": str(texts), "features": "ngrams", "buckets": 64, "max_length": 12}
    recipe = Recipe(
        program="adaptation",
        datasets={"texts": Component(name="text", options=options)},
        tasks={"train": (), "validation": (task("query"),), "test": (task("test"),)},
        model=Component(name="bag", options={"n_ids": 64, "width": 8}),
        learner=Component(name="student"),
        teacher=Component(name="images", options={"path": str(views)}),
        way=4,
        shot=3,
        query=1,
        episodes=1,
        validation_episodes=1,
        test_episodes=1,
        batch=8,
        seed=7,
    )
    hyperparameters = {"lr/adapt": 0.02, "distill/temperature": 3.0, "distill/soft_weight": 0.5}
    return Case(
        "distillation",
        recipe,
        folder,
        "lr/adapt",
        hyperparameters,
        {"distill/temperature": 9.0, "distill/soft_weight": 0.9},
    )


def fine_tuning(folder: Path) -> Case:
    """All of a transformer learns from labels alone, with weight decay."""
    case = distillation(folder)
    encoder = tiny_transformer.save(folder, layers=1)
    rng = np.random.default_rng(2)
    rows = [
        {"text": " ".join(rng.choice(list("abcdef"[c : c + 3]), n)), "label": str(c), "part": part}
        for c in range(4)
        for part, times in (("support", 2), ("query", 6), ("test", 3))
        for n in [3, 5] * times
    ]
    texts = folder / "letters.jsonl"
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"path": str(texts), "features": "tokens", "encoder": encoder, "max_length": 9}
    recipe = replace(
        case.recipe,
        datasets={"texts": Component(name="text", options=options)},
        tasks={
            split: tuple(replace(task, unlabelled=None) for task in tasks)
            for split, tasks in case.recipe.tasks.items()
        },
        model=Component(name="transformer", options={"encoder": encoder}),
        teacher=None,
        batch=4,
        overlap=True,  # of six letters: some texts are there twice
    )
    hyperparameters = {"lr/adapt": 0.002, "weight_decay": 0.1}
    return Case("fine_tuning", recipe, folder, "lr/adapt", hyperparameters)


def lora(folder: Path) -> Case:
    """Low-rank additions to a frozen transformer, whose hidden states are computed in advance."""
    encoder = tiny_transformer.save(folder, layers=2)
    rng = np.random.default_rng(3)
    rows = [
        {
            "text": " ".join(rng.choice(list("abcdef"[c : c + 3]), n)),
            "label": str(c),
            "topic": topic,
        }
        for topic in (*_TRAIN, "delta", "epsilon", "zeta")
        for c in range(4)
        for n in [3, 4, 5, 7] * 3
    ]
    texts = folder / "topics.jsonl"
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def tasks(*names: str) -> tuple[TaskSpec, ...]:
        return tuple(
            TaskSpec(name=name, dataset="texts", label="label", where={"topic": (name,)})
            for name in names
        )

    options = {"path": str(texts), "features": "tokens", "encoder": encoder, "max_length": 9}
    recipe = replace(
        _meta_training(folder, Component(name="protonet")),
        datasets={"texts": Component(name="text", options=options)},
        tasks={
            "train": tasks(*_TRAIN),
            "validation": tasks("delta", "epsilon"),
            "test": tasks("zeta"),
        },
        model=Component(name="lora", options={"encoder": encoder, "layers": 1, "rank": 2}),
        overlap=True,  # of six letters: some texts occur twice
    )
    return Case("lora", recipe, folder, "lr/outer", {"lr/outer": 0.01}, {}, _TRAIN)


# Programs whose steps read the lengths of texts, and are therefore not captured.
READ_LENGTHS = ("fine_tuning", "lora")

CASES: Mapping[str, Callable[[Path], Case]] = {
    "protonet": protonet,
    "conv": conv,
    "resnet12": resnet12,
    "ridge": ridge,
    "baseline_pp": baseline_pp,
    "maml": maml,
    "functions": functions,
    "mixed": mixed,
    "reptile": reptile,
    "taught": taught,
    "distillation": distillation,
    "fine_tuning": fine_tuning,
    "lora": lora,
}


def retried(spec: TrialSpec, times: int = 1) -> TrialSpec:
    return replace(spec, attempt=spec.attempt + times)


def remembered(case: Case, folder: Path) -> Callable[[TrialSpec], Story]:
    """`alone`, where each trial is run once, however often it is asked for."""

    @cache
    def run(text: str) -> Story:
        spec = TrialSpec.from_json(text)
        return alone(case, spec, folder / str(len(list(folder.iterdir()))))

    folder.mkdir()
    return lambda spec: run(replace(spec, attempt=0).to_json())
