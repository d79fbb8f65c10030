"""Tasks of several sorts in one recipe: what they have in common, and what each has for itself."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.func import grad
from torch.utils._pytree import tree_map

from fewshot.errors.inputs import InputError
from fewshot.models.mlp import MLP
from tests.rounding import assert_same
from tests.trials.conformance import drive, mixed, protonet
from tests.trials.double import REPORTS, InDouble
from trials.contract import Component, TaskSpec
from trials.data.pools import TaskKind, pools_of, sources_of, task_kinds
from trials.programs.build import PROGRAMS
from trials.programs.data_summary import summarise_data

CLASSES, NUMBERS = TaskKind(False, "table"), TaskKind(True, "table")
CPU = torch.device("cpu")


@pytest.fixture
def case(tmp_path):
    return mixed(tmp_path)


def learned_by(case, name, **options):
    model = {"hidden": [8]} | ({"n_out": 6} if name in ("protonet", "ridge") else {})
    return replace(
        case.recipe,
        learner=Component(name=name, options=options),
        model=Component(name="mlp", options=model),
    )


def gradient(case, recipe, weights):
    """Of the loss with all weight on some tasks, at fresh parameters."""
    objective = InDouble(PROGRAMS["meta_training"](recipe, case.cache, CPU))
    exact = partial(torch.tensor, dtype=torch.float64)
    hyper = {name: exact(value) for name, value in case.hyperparameters.items()}
    given = exact([weights.get(task, 0.0) for task in objective.tasks])
    drawn = objective.batch(objective.draw(torch.tensor([1]), torch.tensor([0]), given[None]))
    batch = tree_map(lambda part: part[0], drawn)
    return grad(objective.loss)(objective.init(3), batch, hyper, given)


def test_tasks_are_sorted_by_what_they_tell_and_where_they_come_from(case):
    found = task_kinds(case.recipe)
    assert list(found) == [CLASSES, NUMBERS]
    assert [task.name for task in found[CLASSES]["train"]] == ["species_alpha", "species_beta"]
    assert [task.name for task in found[NUMBERS]["train"]] == ["yield_alpha"]


@pytest.mark.parametrize("name", ["maml", "fomaml", "anil", "meta_sgd", "reptile"])
def test_each_kind_has_columns_of_its_own_on_one_trunk(case, name):
    recipe = learned_by(case, name)
    numbers = gradient(case, recipe, {"yield_alpha": 1.0})
    classes = gradient(case, recipe, {"species_alpha": 1.0})
    for slope, mine, others in ((classes, [0, 1], [2]), (numbers, [2], [0, 1])):
        assert slope["weight1"].shape == (8, 3)
        assert (slope["weight1"][:, others] == 0).all()
        assert (slope["weight1"][:, mine] != 0).any()
        assert (slope["weight0"] != 0).any()


def test_heads_of_their_own_are_of_one_task_and_one_kind(case):
    recipe = learned_by(case, "maml", heads="per_task")
    case = replace(case, hyperparameters=case.hyperparameters | {"task/own": 1.0})
    slope = gradient(case, recipe, {"species_beta": 1.0})["weight1"]
    assert slope.shape == (3, 8, 3)
    assert (slope[[0, 2]] == 0).all()
    assert (slope[1, :, :2] != 0).any()
    assert (slope[1, :, 2] == 0).all()


def test_a_trial_that_owns_nothing_is_one_with_all_shared(case, tmp_path):
    """Whether tasks have parameters for themselves is a hyperparameter as any other."""
    case, stories = replace(case, double=True), {}
    for strategy, own in (("shared", 0.0), ("per_task", 0.0), ("per_task", 1.0)):
        recipe = learned_by(case, "anil", heads=strategy)
        hyper = case.hyperparameters | {"task/own": own}
        spec = case.spec(1, rungs=(15,), recipe=recipe, hyperparameters=hyper)
        program = case.program(tmp_path / f"{strategy} {own}", recipe=recipe)
        (stories[strategy, own],) = drive(program, [spec])[spec.key].reports
    losses = {key: report.metrics["train/loss"] for key, report in stories.items()}
    assert losses["per_task", 0.0] == pytest.approx(losses["shared", 0.0], rel=REPORTS)
    assert losses["per_task", 1.0] != pytest.approx(losses["shared", 0.0], rel=10 * REPORTS)


def test_numbers_are_learned_by_a_ridge_head_beside_prototypes(case):
    recipe = learned_by(case, "protonet")
    objective = PROGRAMS["meta_training"](recipe, case.cache, CPU)
    params = objective.init(0)
    model = MLP(features=(3,), hidden=(8,), n_out=6)
    trunk = model.init(torch.Generator().manual_seed(0))
    assert params.keys() == trunk.keys() | {"head.log_penalty_of_numbers"}
    assert all(torch.equal(params[name], value) for name, value in trunk.items())
    classes = gradient(case, recipe, {"species_alpha": 1.0})
    assert classes["head.log_penalty_of_numbers"] == 0
    numbers = gradient(case, recipe, {"yield_alpha": 1.0})
    assert numbers["head.log_penalty_of_numbers"] != 0
    assert all((slope["weight1"] != 0).any() for slope in (classes, numbers))


@pytest.mark.parametrize("name", ["protonet", "ridge", "maml"])
def test_the_unit_of_a_task_is_nothing_to_its_loss(case, name):
    """The loss is relative to the variance, the scale to the support."""
    recipe = learned_by(case, name)
    before = gradient(case, recipe, {"yield_alpha": 1.0})
    table = case.cache / "regions.csv"
    text = table.read_text().splitlines()
    rows = [line.rsplit(",", 1) for line in text[1:]]
    table.write_text("\n".join([text[0], *(f"{x},{float(y) / 1024!r}" for x, y in rows)]))
    after = gradient(case, recipe, {"yield_alpha": 1.0})
    # A power of two, so that the numbers are rounded alike when they are read.
    size = max(value.abs().max().item() for value in before.values())
    assert_same(after, before, operations=1e3, condition=1e2, size=size)


def test_a_kind_may_be_scored_without_being_trained(case, tmp_path):
    tasks = case.recipe.tasks
    only = {**tasks, "train": tuple(t for t in tasks["train"] if not t.regresses)}
    for learned in ("anil", "protonet"):
        recipe = replace(learned_by(case, learned), tasks=only)
        objective = PROGRAMS["meta_training"](recipe, case.cache, CPU)
        assert objective.tasks == ("species_alpha", "species_beta")
        params = {name: value[None] for name, value in objective.init(0).items()}
        hyper = {name: torch.tensor([value]) for name, value in case.hyperparameters.items()}
        scored = objective.score(params, hyper, "search")
        assert [score.task for score in scored] == ["species_delta", "yield_delta"]


def test_images_may_have_numbers_too(tmp_path):
    """Rows of any dataset; only those of tables have features to be scaled."""
    case = protonet(tmp_path)
    number = TaskSpec(name="which", dataset="scripts", label="character", kind="regression")
    tasks = {**case.recipe.tasks, "train": (number,)}
    recipe = replace(case.recipe, tasks=tasks, overlap=True)
    assert list(task_kinds(recipe)) == [TaskKind(False, "rows"), TaskKind(True, "rows")]
    pools = pools_of(recipe, sources_of(recipe, case.cache), CPU)
    assert pools[TaskKind(True, "rows")]["train"].sizes == {"which": 360}
    assert summarise_data(recipe, case.cache).task_sizes == {"which": 360}


def test_only_numbers_need_a_learner_of_numbers(case):
    tasks = {s: tuple(t for t in ts if t.regresses) for s, ts in case.recipe.tasks.items()}
    recipe = replace(learned_by(case, "protonet"), tasks=tasks, way=1)
    with pytest.raises(InputError, match="to learn numbers"):
        summarise_data(recipe, case.cache)


def test_all_faults_of_all_sorts_are_told_at_once(case):
    tasks = case.recipe.tasks
    wrong = (
        *(replace(task, label="species", kind="regression") for task in tasks["train"][:1]),
        *(replace(task, where={"region": ("omega",)}) for task in tasks["train"][1:]),
        TaskSpec(name="curve", function="curve"),
    )
    recipe = replace(case.recipe, tasks={**tasks, "train": wrong})
    sources = sources_of(recipe, case.cache)
    with pytest.raises(InputError) as caught:
        pools_of(recipe, sources, CPU)
    assert {input_error.path for input_error in caught.value.details} == {
        "tasks.train.yield_alpha.label",
        "tasks.train.species_alpha.where.region",
        "tasks.train.species_beta.where.region",
        "tasks.train.curve",
    }


def test_a_missing_class_is_told_with_its_row(case):
    table = case.cache / "regions.csv"
    lines = table.read_text().splitlines()
    lines[6] = ",".join("" if cell.startswith("s") else cell for cell in lines[6].split(","))
    table.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"species_alpha.label: must have a class.*row 5"):
        pools_of(case.recipe, sources_of(case.recipe, case.cache), CPU)
