import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.learners.learners import LEARNERS
from fewshot.losses.distillation import Distillation
from fewshot.models.models import MODELS
from orchestrator.config.loading import dump, load_config, parse
from orchestrator.config.plan import plan_of
from orchestrator.config.sections.space import RangeSection
from orchestrator.space.simplex import Simplex
from tests.paths import ROOT
from trials.contract import Component, Recipe

SHIPPED = sorted(ROOT.glob("configs/*.yaml"))

SMALL: dict[str, Any] = {
    "name": "small",
    "datasets": {"glyphs": {"source": "glyphs", "size": 14}},
    "tasks": {
        "train": [
            {"each": {"script": ["greek", "latin"]}, "dataset": "glyphs", "label": "character"},
            {"name": "fonts", "dataset": "glyphs", "where": {"script": "lao"}, "label": "font"},
        ],
        "validation": [{"name": "v", "dataset": "glyphs", "label": "character"}],
        "test": [{"name": "t", "dataset": "glyphs", "label": "character"}],
    },
    "model": {"name": "mlp", "hidden": [16], "n_out": 8},
    "learner": {"name": "protonet"},
    "steps": 10,
    "space": {"lr/outer": {"low": 1e-3, "high": 1e-1}},
}


def changed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """SMALL with the values at some paths set anew, or taken out with `...`."""
    data = copy.deepcopy(SMALL)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place: Any = data
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
        if value is ...:
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = value
    return data


def details(changes: Mapping[str, Any]) -> list[ErrorDetail]:
    with pytest.raises(InputError) as caught:
        parse(changed(changes))
    return list(caught.value.details)


def written(folder: Path, text: str) -> Path:
    path = folder / "search.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# ---- what is right ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_can_be_planned(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEWTUNE_DATA", raising=False)
    config = load_config(path)
    plan = plan_of(config)
    assert config.name == path.stem
    assert plan.space.reference().keys() <= plan.space.box().keys()


def test_there_are_shipped_configs() -> None:
    assert "quickstart" in {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("error")
def test_what_is_dumped_loads_to_the_same(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    again = load_config(written(tmp_path, dump(config)))
    assert again == config
    assert dump(again) == dump(config)
    assert plan_of(again) == plan_of(config)


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
awkward = st.sampled_from(
    ["1e5", "1e-3", ".5e2", "yes", "null", "~", "007", "1_000", "0x1", "#", ""]
)


@settings(deadline=None, max_examples=40)
@given(st.lists(words | awkward | st.integers(), min_size=1, max_size=5))
def test_any_value_of_a_column_survives_a_dump(tmp_path_factory, values) -> None:
    config = parse(changed({"tasks.train.1.where": {"script": values}}))
    path = tmp_path_factory.mktemp("dump") / "c.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load_config(path).tasks.train[1].where == {"script": values}


def test_numbers_may_be_written_as_in_yaml_1_2(tmp_path: Path) -> None:
    text = (
        yaml.safe_dump(SMALL).replace("low: 0.001", "low: 1e-3").replace("high: 0.1", "high: 1e-1")
    )
    assert "1e-3" in text
    assert load_config(written(tmp_path, text)).space.lr_outer == RangeSection(low=1e-3, high=0.1)


def test_a_whole_number_is_a_number_and_a_scalar_fixes() -> None:
    space = parse(changed({"space": {"lr/outer": 1}})).space
    assert space.scalars() == {"lr/outer": 1.0}


def test_yaml_anchors_and_merges_work(tmp_path: Path) -> None:
    text = yaml.safe_dump(SMALL | {"tasks": None}) + (
        "tasks:\n"
        "  train:\n"
        "    - &one {name: a, dataset: glyphs, label: character}\n"
        "    - {<<: *one, name: b}\n"
        "  validation: [*one]\n"
        "  test: [*one]\n"
    )
    text = text.replace("tasks: null\n", "")
    assert load_config(written(tmp_path, text)).train_names() == ["a", "b"]


def test_options_that_the_builder_supplies_to_others_can_be_the_users() -> None:
    options = {"source": "text", "path": "x.csv", "features": "encoder", "encoder": "e"}
    config = parse(changed({"datasets.texts": options}))
    del options["source"]
    assert config.datasets["texts"].options() == options


def test_a_dataset_may_be_called_like_a_type() -> None:
    (input_error,) = details({"datasets.float": {"source": "glyphs", "size": 14, "sise": 3}})
    assert input_error.path == "datasets.float.sise"


FUNCTIONS: dict[str, Any] = {
    "datasets": {},
    "tasks.train": [{"function": "line"}, {"function": "noise", "name": "static"}],
    "tasks.validation": [{"function": "sinusoid"}],
    "tasks.test": [{"function": "sinusoid"}],
    "learner": {"name": "maml"},
    "space": {"lr/outer": 0.01, "lr/inner": 0.01, "lr/adapt": 0.01},
}


def test_tasks_may_be_functions(tmp_path: Path) -> None:
    config = parse(changed(FUNCTIONS))
    assert config.train_names() == ["line", "static"]
    assert load_config(written(tmp_path, dump(config))) == config
    recipe = plan_of(config).recipe
    assert recipe.regresses
    assert recipe.way == 1
    assert [(t.name, t.function) for t in recipe.tasks["train"]] == [
        ("line", "line"),
        ("static", "noise"),
    ]


def test_functions_need_no_word_about_datasets() -> None:
    assert parse(changed(FUNCTIONS | {"datasets": ...})).datasets == {}


def test_episodes_may_differ_in_shape(tmp_path: Path) -> None:
    shapes = {"way": [3, 5], "shot": [1, 4], "query": 6, "imbalance": "random"}
    config = parse(changed({"episodes": shapes}))
    assert load_config(written(tmp_path, dump(config))) == config
    recipe = plan_of(config).recipe
    assert (recipe.way, recipe.shot, recipe.query) == ((3, 5), (1, 4), 6)
    assert (recipe.max_way, recipe.imbalance) == (5, "random")


def test_a_number_of_classes_is_five_unless_it_is_given() -> None:
    assert plan_of(parse(SMALL)).recipe.way == 5


def test_a_new_task_to_distil_has_one_shape() -> None:
    teacher = {"learner": ..., "teacher": {"source": "glyphs"}, "tasks.train": []}
    space = {"lr/adapt": 0.1, "distill/temperature": 2.0, "distill/soft_weight": 0.5}
    (input_error,) = details(teacher | {"space": space, "episodes.shot": [1, 5]})
    assert (input_error.path, input_error.found) == ("episodes.shot", [1, 5])


def test_labels_may_be_shuffled_or_noisy(tmp_path: Path) -> None:
    changes = {"tasks.train.0.corrupt": "shuffle", "tasks.train.1.corrupt": {"noise": 0.3}}
    config = parse(changed(changes))
    assert load_config(written(tmp_path, dump(config))) == config
    tasks = plan_of(config).recipe.tasks["train"]
    assert [(t.corrupt, t.noise) for t in tasks] == [("shuffle", 0), ("shuffle", 0), (None, 0.3)]


@pytest.mark.parametrize("share", [0, 1.5, "x"])
def test_a_share_of_noise_is_above_0_and_at_most_1(share) -> None:
    (input_error,) = details({"tasks.train.1.corrupt": {"noise": share}})
    assert input_error.path == "tasks.train.1.corrupt.noise"


LINE = {"function": "line"}
ROWS = {"name": "r", "dataset": "glyphs", "label": "character"}


@pytest.mark.parametrize(
    ("changes", "path", "rule"),
    [
        ({"tasks.train.0.function": "lines"}, "tasks.train.0.function", "must be one of line"),
        ({"tasks.train.0.function": 3}, "tasks.train.0.function", "must be text"),
        ({"tasks.train.0.label": "y"}, "tasks.train.0.label", "can't be used with `function`"),
        ({"tasks.train.0.nmae": "y"}, "tasks.train.0.nmae", "can't be used with `function`"),
        ({"tasks.train.0.name": "a/b"}, "tasks.train.0.name", "letters, digits"),
        ({"tasks.train": [LINE, LINE]}, "tasks.train", "twice"),
        ({"tasks.train": [LINE, ROWS]}, "datasets", "must not be empty"),
        ({"tasks.test": [LINE | {"group": "g"}]}, "tasks.test.0.group", "for training tasks"),
        ({"learner.name": "protonet", "space": {"lr/outer": 0.1}}, "learner.name", "to learn numb"),
        ({"datasets": SMALL["datasets"]}, "datasets", "not used"),
        ({"episodes.way": 5}, "episodes.way", "not used"),
        ({"episodes.way": [2, 5]}, "episodes.way", "not used"),
        ({"episodes.shot": [1, 5]}, "episodes.shot", "single number if tasks have numbers"),
        ({"learner.first_ordre": True}, "learner.first_ordre", "is not an option of maml"),
        (
            {"learner": {"name": "fomaml", "first_order": False}},
            "learner.first_order",
            "is not an option of fomaml",
        ),
        ({"learner.kind": "x"}, "learner.kind", "is not an option of maml"),
        (
            {"learner.name": "meta_sgd"},
            "space.lr/adapt",
            "is not used",
        ),
    ],
)
def test_what_does_not_fit_functions_is_named(changes, path, rule) -> None:
    (input_error,) = details(copy.deepcopy(FUNCTIONS) | changes)
    assert input_error.path == path
    assert rule in input_error.rule


# ---- classes and numbers ----------------------------------------------------------------------

WIDTH = {"name": "width", "dataset": "glyphs", "label": "width", "kind": "regression"}


def kinds_of(recipe: Recipe) -> list[bool]:
    return [task.regresses for tasks in recipe.tasks.values() for task in tasks]


@pytest.mark.parametrize("learner", ["meta_sgd", "protonet", "ridge", "simpleshot"])
def test_classes_and_numbers_may_be_learned_in_one_search(tmp_path: Path, learner: str) -> None:
    space = {"lr/outer": 0.1} | ({"lr/inner": 0.1} if learner == "meta_sgd" else {})
    mixed = {"tasks.train.1": WIDTH, "learner.name": learner, "space": space, "model.n_out": ...}
    config = parse(changed(mixed))
    assert load_config(written(tmp_path, dump(config))) == config
    recipe = plan_of(config).recipe
    assert kinds_of(recipe) == [False, False, True, False, False]
    assert recipe.way == 5
    assert not recipe.regresses


def test_without_a_class_there_is_no_way() -> None:
    tasks = {f"tasks.{split}": [WIDTH] for split in ("train", "validation", "test")}
    recipe = plan_of(parse(changed(tasks | {"learner.name": "ridge"}))).recipe
    assert recipe.regresses
    assert recipe.way == 1


@pytest.mark.parametrize(
    ("task", "path", "rule"),
    [
        ({"kind": "ranking"}, "tasks.train.1.kind", "must be 'classification' or 'regression'"),
        ({"group": "a/b"}, "tasks.train.1.group", "letters, digits"),
    ],
)
def test_what_does_not_fit_numbers_is_named(task, path, rule) -> None:
    (input_error,) = details({"tasks.train.1": WIDTH | task})
    assert input_error.path == path
    assert rule in input_error.rule


def test_tasks_in_a_group_share_a_weight() -> None:
    tasks = {"tasks.train.0.group": "scripts"}
    simplex = plan_of(parse(changed(tasks))).space.weights
    assert isinstance(simplex, Simplex)
    assert simplex.names == ("lambda.ilr1",)
    weights = simplex.decode({"lambda.ilr1": 1.0})
    assert weights["greek"] == weights["latin"] != weights["fonts"]


def test_a_group_has_the_prior_of_its_tasks() -> None:
    prior = {"space.task_weights.prior": {"greek": 0.6, "latin": 0.2, "fonts": 0.2}}
    simplex = plan_of(parse(changed({"tasks.train.0.group": "scripts"} | prior))).space.weights
    assert isinstance(simplex, Simplex)
    assert simplex.prior == pytest.approx((0.4, 0.4, 0.2))


def test_a_single_group_leaves_no_weights_to_search() -> None:
    tasks = {"tasks.train.0.group": "all", "tasks.train.1.group": "all"}
    assert plan_of(parse(changed(tasks))).space.weights == pytest.approx(
        {"greek": 1 / 3, "latin": 1 / 3, "fonts": 1 / 3}
    )


def test_a_group_may_be_called_like_a_task() -> None:
    tasks = {"tasks.train.0.group": "fonts"}
    simplex = plan_of(parse(changed(tasks))).space.weights
    assert isinstance(simplex, Simplex)
    assert len(simplex.names) == 1
    assert len(set(simplex.groups)) == 2


OWN_HEADS: dict[str, Any] = {
    **{key: value for key, value in FUNCTIONS.items() if key != "space"},
    "learner": {"name": "maml", "heads": "per_task"},
    "space": {
        "lr/outer": 0.01,
        "lr/inner": 0.01,
        "lr/adapt": 0.01,
        "task/own": {"low": 0.0, "high": 1.0},
    },
}


def test_how_much_tasks_have_for_themselves_is_searched() -> None:
    space = plan_of(parse(changed(OWN_HEADS))).space
    assert space.ranges["task/own"].high == 1.0
    assert space.reference()["task/own"] == 0.0, "what is not chosen for a task is shared"


@pytest.mark.parametrize(
    ("changes", "path", "rule"),
    [
        ({"space.task/own": ...}, "space.task/own", "is needed"),
        ({"space.task/own": 1.5}, "space.task/own", "between 0 and 1"),
        ({"learner.heads": "shared"}, "space.task/own", "is not used"),
    ],
)
def test_what_tasks_have_for_themselves_is_said(changes, path, rule) -> None:
    (input_error,) = details(copy.deepcopy(OWN_HEADS) | changes)
    assert input_error.path == path
    assert rule in input_error.rule


def test_functions_are_not_distilled() -> None:
    teacher = {"learner": ..., "teacher": {"source": "glyphs"}, "tasks.train": []}
    space = {"lr/adapt": 0.1, "distill/temperature": 2.0, "distill/soft_weight": 0.5}
    (input_error,) = details(copy.deepcopy(FUNCTIONS) | teacher | {"space": space})
    assert input_error.path == "teacher"


TAUGHT: dict[str, Any] = {
    "teacher": {"source": "glyphs", "size": 28, "head": "ridge"},
    "space.distill/temperature": {"low": 1, "high": 8},
    "space.distill/soft_weight": {"low": 0, "high": 1},
}


def test_a_learner_may_have_a_teacher(tmp_path: Path) -> None:
    soft = {"standardise": True, "decoupled": {"target": 1, "non_target": 8}}
    config = parse(changed(TAUGHT | {"distillation": soft}))
    assert load_config(written(tmp_path, dump(config))) == config
    assert not config.adapts
    plan = plan_of(config)
    assert plan.recipe.program == "meta_training"
    assert plan.recipe.teacher == Component(name="glyphs", options={"size": 28, "head": "ridge"})
    assert plan.recipe.distillation == Distillation(standardise=True, decoupled=(1.0, 8.0))
    hyperparameters, weights = plan.space.decode(plan.space.rate_design(1, 0)[0])
    assert hyperparameters["distill/soft_weight"] == 0, "the reference has no teacher"
    assert list(weights.values()) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("source", ["export", "finalists"])
def test_a_teacher_may_be_what_was_trained_before(source) -> None:
    teacher = {"source": source, "path": "runs/searches/before"}
    recipe = plan_of(parse(changed(TAUGHT | {"teacher": teacher}))).recipe
    assert recipe.teacher == Component(name=source, options={"path": "runs/searches/before"})


def test_features_are_of_the_students_own_path_unless_they_have_another() -> None:
    teacher = {"source": "text", "encoder": "minilm"}
    recipe = plan_of(parse(changed(TAUGHT | {"teacher": teacher}))).recipe
    assert recipe.teacher.options == {"encoder": "minilm"}


def test_numbers_are_taught_without_a_temperature() -> None:
    teacher = {"source": "export", "path": "x"}
    taught = copy.deepcopy(FUNCTIONS) | {"teacher": teacher, "space.distill/soft_weight": 0.5}
    assert plan_of(parse(changed(taught))).space.fixed["distill/soft_weight"] == 0.5
    (input_error,) = details(taught | {"space.distill/temperature": 2})
    assert (input_error.path, input_error.rule) == (
        "space.distill/temperature",
        "is not used by any part of this search.",
    )


@pytest.mark.parametrize(
    ("changes", "path", "rule"),
    [
        ({"teacher": {"source": "glyps"}}, "teacher.source", "must be one of export, finalists"),
        ({"teacher": {"source": "export"}}, "teacher.path", "is needed by export"),
        ({"teacher": {"source": "finalists", "path": "x", "c": 3}}, "teacher.c", "is not an opt"),
        ({"teacher.size": "x", "teacher.sise": 3}, "teacher.sise", "is not an option of glyphs"),
        ({"teacher.head": "ridg"}, "teacher.head", "must be one of logistic, simpleshot"),
        ({"teacher.head": "logistic"}, "teacher.head", "together with a `learner`"),
        (
            {"teacher": {"source": "export", "path": "x", "head": "ridge"}},
            "teacher.head",
            "can't be used with export",
        ),
        ({"distillation.direction": "backward"}, "distillation.direction", "'forward' or 'rev"),
        ({"distillation.standardize": True}, "distillation.standardize", "not a known key"),
        (
            {"distillation": {"direction": "reverse", "decoupled": {}}},
            "distillation.decoupled",
            "can't be used with `direction: reverse`",
        ),
        (
            {"distillation.decoupled": {"target": -1}},
            "distillation.decoupled.target",
            "at least 0",
        ),
        ({"space.task_weights.weights_as": "samples"}, "space.task_weights.weights_as", "'loss'"),
        (
            {"space": {"lr/outer": 1, "distill/soft_weight": 1}},
            "space.distill/temperature",
            "is needed",
        ),
    ],
)
def test_what_does_not_fit_a_teacher_is_named(changes, path, rule) -> None:
    (input_error,) = details(copy.deepcopy(TAUGHT) | changes)
    assert input_error.path == path
    assert rule in input_error.rule


def test_a_learner_with_a_loss_of_its_own_has_no_teacher() -> None:
    rates = {"space.lr/inner": 0.1, "space.lr/adapt": 0.1}
    (input_error,) = details(copy.deepcopy(TAUGHT) | rates | {"learner.name": "reptile"})
    assert (input_error.path, input_error.found) == ("learner.name", "reptile")


def test_functions_are_not_taught_by_features_nor_with_a_soft_loss() -> None:
    soft = {"space.distill/soft_weight": 0.5, "distillation": {"standardise": True}}
    found = details(copy.deepcopy(FUNCTIONS) | soft | {"teacher": {"source": "glyphs"}})
    assert {f.path for f in found} == {"teacher.source", "distillation"}


def test_weights_are_of_losses_unless_they_are_of_draws() -> None:
    assert plan_of(parse(changed({}))).recipe.weights_as == "loss"
    drawn = parse(changed({"space.task_weights.weights_as": "sampling"}))
    assert plan_of(drawn).recipe.weights_as == "sampling"


def test_draws_by_weight_do_not_go_with_parameters_of_each_task() -> None:
    given = {
        "learner": {"name": "meta_sgd", "rates": "per_task"},
        "space": {"lr/outer": 0.1, "lr/inner": 0.1, "task/own": 0.5},
        "space.task_weights.weights_as": "sampling",
    }
    (input_error,) = details(given)
    assert input_error.path == "space.task_weights.weights_as"


def test_tasks_of_rows_need_a_dataset() -> None:
    (input_error,) = details({"datasets": {}})
    assert (input_error.path, input_error.rule) == ("datasets", "must not be empty.")


# ---- what is wrong ----------------------------------------------------------------------------

UNKNOWN = [
    ("trails", 3, "name, seed"),
    ("search.trails", 3, "trials"),
    ("space.lr/innr", 0.1, "lr/inner"),
    ("space.lr/outer.hi", 0.2, "low, high"),
    ("space.task_weights.widht", 1, "half_width"),
    ("episodes.shots", 1, "shot"),
    ("tasks.training", [], "train"),
    ("tasks.train.0.labels", "x", "label"),
    ("datasets.glyphs.sise", 3, "size, per_character, seed"),
    ("model.hiden", 3, "hidden, n_out"),
    ("learner.steps", 3, "remove it"),
]


@pytest.mark.parametrize(("path", "value", "known"), UNKNOWN)
def test_an_unknown_key_is_named_with_those_that_are_known(path, value, known) -> None:
    (input_error,) = details({path: value})
    assert input_error.path == path
    assert input_error.found == (value or [])
    assert known in input_error.remedy


WRONG = [
    ("name", "../x", "letters, digits"),
    ("name", "/abs", "letters, digits"),
    ("name", "a/b", "letters, digits"),
    ("name", "a\\b", "letters, digits"),
    ("name", "", "letters, digits"),
    ("name", "..", "letters, digits"),
    ("name", "a..b", "letters, digits"),
    ("name", ".hidden", "letters, digits"),
    ("name", "it's", "letters, digits"),
    ("name", 'a"b', "letters, digits"),
    ("name", "a\n", "letters, digits"),
    ("name", "é", "letters, digits"),
    ("name", "x" * 65, "1 to 64"),
    ("name", 3, "must be text"),
    ("seed", -1, "at least 0"),
    ("seed", 0.5, "whole number"),
    ("steps", "many", "whole number"),
    ("steps", -1, "at least 0"),
    ("steps", 0, "above 0 if anything is searched"),
    ("batch", True, "whole number"),
    ("episodes", 3, "mapping"),
    ("episodes.way", -1, "at least 2"),
    ("episodes.shot", 0, "above 0"),
    ("episodes.way", [1, 5], "at least 2"),
    ("episodes.way", [5], "two: [low, high]"),
    ("episodes.way", [5, 3], "lower number first"),
    ("episodes.shot", [2, 2], "lower number first"),
    ("episodes.query", [1, 2.5], "whole number"),
    ("episodes.query", "5", "whole number"),
    ("episodes.shot", True, "whole number"),
    ("episodes.imbalance", "random", "needs a range of shots"),
    ("tasks.train.1.corrupt", "noise", "must be 'shuffle', or {noise: ..}"),
    ("tasks.overlap", 1, "true, false or drop"),
    ("datasets", [], "mapping"),
    ("datasets.glyphs", "glyphs", "mapping"),
    ("datasets.glyphs.source", "glyps", "must be one of glyphs, images, named_glyphs, table, text"),
    ("model.name", "mpl", f"must be one of {', '.join(sorted(MODELS))}"),
    ("learner.name", "proto", f"must be one of {', '.join(sorted(LEARNERS))}"),
    ("tasks.train.0.dataset", "gliphs", "must be one of glyphs"),
    ("tasks.test.0.dataset", "gliphs", "must be one of glyphs"),
    ("tasks.train.1.name", "a/b", "letters, digits"),
    ("tasks.train.1.corrupt", "shufle", "'shuffle'"),
    ("tasks.train.1.n_unlabelled", 0, "above 0"),
    ("tasks.train.1.where", 3, "mapping"),
    ("tasks.train.1.where.script", 1.5, "text or a whole number"),
    ("tasks.train.1.where.script", True, "text or a whole number"),
    ("tasks.train.1.where.script", [], "must not be empty"),
    ("tasks.train.0.each.script", "greek", "must be a list"),
    ("tasks.train.0.each.script", [], "must not be empty"),
    ("tasks.validation", [], "must not be empty"),
    ("search.rungs", 0.3, "must be a list"),
    ("search.eta", 1, "above 1"),
    ("search.seeds", 1, "at least 2"),
    ("search.lanes", 0, "at least 1, or auto"),
    ("search.lanes", "many", "at least 1, or auto"),
    ("search.lanes", True, "at least 1, or auto"),
    ("optimizer", "rmsprop", "'adam' or 'sgd'"),
    ("precision", "bf16", "'float32' or 'tf32'"),
    ("search.finalists", 0, "above 0"),
    ("search.reference_trials", 100, "must not exceed search.trials = 48"),
    ("space.lr/outer", "fast", "must be a number, or {low: .., high: ..}"),
    ("space.lr/outer", True, "must be a number, or {low: .., high: ..}"),
    ("space.lr/outer", [1e-3, 1e-1], "must be a number, or {low: .., high: ..}"),
    ("space.lr/outer", float("inf"), "must be a number, or {low: .., high: ..}"),
    ("space.lr/outer", -0.1, "above 0"),
    ("space.lr/outer.low", "x", "must be a number"),
    ("space.lr/outer.low", 0.5, "below high = 0.1"),
    ("space.lr/outer.low", 0.1, "below high = 0.1"),
    ("space.lr/outer.high", float("inf"), "finite"),
    ("space.lr/outer.high", None, "must not be empty"),
    ("space.task_weights.half_width", 0.0, "above 0"),
    ("space.task_weights.zero_below", 1.0, "below 1"),
    ("space.task_weights.search", "no", "true or false"),
    ("space.task_weights.prior", [0.5], "mapping"),
]


@pytest.mark.parametrize(("path", "value", "rule"), WRONG)
def test_a_wrong_value_is_one_fault_with_its_place_and_itself(path, value, rule) -> None:
    (input_error,) = details({path: value})
    assert input_error.path == path
    assert input_error.found == value
    assert rule in input_error.rule
    # What a user can't know of.
    for internal in ("Section", "Part", "function-", "Value error", "union", "instance of"):
        assert internal not in str(input_error)


def test_each_wrong_value_in_a_list_is_a_fault_of_its_own() -> None:
    found = details({"tasks.train.1.where.script": ["lao", 1.5, False]})
    assert [f.path for f in found] == [f"tasks.train.1.where.script.{i}" for i in (1, 2)]
    assert "quotes" in found[0].remedy
    assert "yes, no" in found[1].remedy


@pytest.mark.parametrize(
    ("changes", "path", "rule"),
    [
        ({"steps": ...}, "steps", "is needed"),
        ({"space.lr/outer": {"low": 0.1}}, "space.lr/outer.high", "is needed"),
        ({"space.lr/outer": ...}, "space.lr/outer", "is needed"),
        ({"learner.name": "maml", "space.lr/adapt": 0.1}, "space.lr/inner", "is needed"),
        ({"datasets.glyphs.source": ...}, "datasets.glyphs.source", "is needed"),
        ({"datasets.glyphs": {"source": "images"}}, "datasets.glyphs.path", "is needed by images"),
        ({"tasks.train.1.label": ...}, "tasks.train.1.label", "is needed"),
        ({"tasks.train.1.name": ...}, "tasks.train.1", "needs either `name` or `each`"),
        ({"tasks.train.0.name": "x"}, "tasks.train.0", "needs either `name` or `each`"),
        ({"tasks.train.1.name": "greek"}, "tasks.train", "twice"),
        ({"tasks.train": []}, "tasks.train", "at least one task"),
        ({"space.lr/inner": 0.1}, "space.lr/inner", "is not used"),
        ({"space.distill/temperature": 2}, "space.distill/temperature", "is not used"),
        ({"learner": ...}, "learner", "is needed to train on"),
        ({"space.weight_decay": -0.1}, "space.weight_decay", "must not be negative"),
        ({"distillation": {}}, "distillation", "not used without a `teacher`"),
        ({"space.distill/soft_weight": 2.0}, "space.distill/soft_weight", "between 0 and 1"),
        (
            {"space.distill/soft_weight": {"low": 0.0, "high": 1.5}},
            "space.distill/soft_weight",
            "between 0 and 1",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(changes, path, rule) -> None:
    assert [f.path for f in details(changes)] in ([path], [path, path])
    assert rule in details(changes)[0].rule


@pytest.mark.parametrize(
    ("model", "dataset", "found"),
    [
        ("residual", {"source": "text", "path": "x", "features": "tokens"}, "ids"),
        ("mlp", {"source": "text", "path": "x", "features": "ngrams"}, "ids"),
        ("bag", {"source": "text", "path": "x", "encoder": "e"}, "vectors"),
        ("bag", {"source": "glyphs", "size": 14}, "pixels"),
        ("conv", {"source": "images", "path": "x", "encoder": "e"}, "vectors"),
        ("resnet12", {"source": "table", "path": "x"}, "vectors"),
    ],
)
def test_a_model_gets_what_it_reads(model, dataset, found) -> None:
    (told,) = details({"model": {"name": model}, "datasets.glyphs": dataset})
    assert told.path == "datasets.glyphs"
    assert f"for the model {model}" in told.rule
    assert found in told.found
    assert told.remedy


def test_a_model_without_a_last_layer_does_not_score_classes() -> None:
    rates = {"space.lr/inner": 0.1, "space.lr/adapt": 0.1}
    wrong = {"model": {"name": "residual"}, "learner": {"name": "maml"}, "steps": -1}
    found = details(wrong | rates)
    assert {f.path for f in found} >= {"steps"}
    (told,) = details(wrong | rates | {"steps": 10})
    assert told.path == "model.name"
    assert "for the classes of the learner maml" in told.rule


FINETUNE = load_config(ROOT / "configs" / "finetune.yaml")


@pytest.mark.parametrize("changes", [{"encoder": "another"}, {"features": "encoder"}])
def test_a_transformer_reads_the_tokens_of_its_own_tokenizer(changes) -> None:
    data = FINETUNE.model_dump(by_alias=True, exclude_none=True, mode="json")
    data["datasets"]["clinc"] |= changes
    with pytest.raises(InputError, match="like the model") as caught:
        parse(data)
    assert [f.path for f in caught.value.details] == ["datasets.clinc"]


def test_without_learner_and_teacher_only_rates_are_needed() -> None:
    plan = plan_of(FINETUNE)
    assert plan.recipe.program == "adaptation"
    assert plan.recipe.teacher is None
    assert set(plan.space.ranges) == {"lr/adapt", "weight_decay"}
    assert not plan.space.reference()


PRIOR = {"greek": 0.5, "latin": 0.3, "fonts": 0.2}


@pytest.mark.parametrize(
    ("weights", "path", "rule"),
    [
        ({"prior": PRIOR | {"greek": 0.6}}, "prior", "must sum to 1, but the sum is 1.1"),
        ({"prior": {"greek": 0.5, "latin": 0.5}}, "prior.fonts", "above 0"),
        ({"prior": PRIOR | {"greek": 0.7, "fonts": 0.0}}, "prior.fonts", "above 0"),
        ({"prior": PRIOR | {"lao": 0.0}}, "prior.lao", "not a training task"),
        ({"fixed": PRIOR | {"greek": float("nan")}}, "fixed.greek", "finite"),
        ({"fixed": {"greek": -0.5, "latin": 1.5}}, "fixed.greek", "negative"),
        ({"fixed": {"greek": 0.5, "lao": 0.5}}, "fixed.lao", "not a training task"),
        ({"fixed": {}}, "fixed", "must sum to 1"),
        (
            {"half_width": 0.1, "prior": {"greek": 0.8, "latin": 0.1, "fonts": 0.1}},
            "half_width",
            "too small: `half_width` must be at least 1.47",
        ),
    ],
)
def test_wrong_weights_are_named(weights, path, rule) -> None:
    (input_error,) = details({"space.task_weights": weights})
    assert input_error.path == f"space.task_weights.{path}"
    assert rule in input_error.rule


def test_a_prior_rounded_by_hand_is_taken() -> None:
    prior = {"greek": 0.3333333, "latin": 0.3333333, "fonts": 0.3333333}
    weights = plan_of(parse(changed({"space.task_weights.prior": prior}))).space.weights
    assert sum(weights.prior) == pytest.approx(1, abs=1e-12)


def test_all_faults_are_reported_at_once() -> None:
    found = details(
        {
            "name": "../x",
            "steps": ...,
            "trails": 3,
            "episodes.way": -1,
            "datasets.glyphs.sise": 3,
            "model.name": "mpl",
            "tasks.train.1.corrupt": "shufle",
            "search.eta": 0.5,
            "space.lr/outer": {"low": 2.0, "high": 1.0},
        }
    )
    assert {f.path for f in found} == {
        "name",
        "steps",
        "trails",
        "episodes.way",
        "datasets.glyphs.sise",
        "model.name",
        "tasks.train.1.corrupt",
        "search.eta",
        "space.lr/outer.low",
    }
    with pytest.raises(InputError) as caught:
        raise InputError(found)
    assert len(str(caught.value).splitlines()) == len(found) == 9


def test_faults_between_sections_are_reported_beside_those_within() -> None:
    found = details(
        {
            "name": "../x",
            "steps": ...,
            "trails": 3,
            "episodes.way": -1,
            "space.lr/outer": "fast",
            "space.lr/inner": 0.1,
            "tasks.test.0.dataset": "gliphs",
            "search.eta": 0.5,
            "search.reference_trials": 100,
        }
    )
    assert sorted(f.path for f in found) == [
        "episodes.way",
        "name",
        "search.eta",
        "search.reference_trials",
        "space.lr/inner",
        "space.lr/outer",
        "steps",
        "tasks.test.0.dataset",
        "trails",
    ]


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["name", "seed", "datasets", "tasks", "model", "learner", "space", "search"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.text(max_size=5)
                    | st.sampled_from(
                        ["lr/outer", "task_weights", "train", "name", "source", "prior", "each"]
                    ),
                    inner,
                    max_size=3,
                )
            ),
            max_leaves=6,
        ),
    )
)
def test_whatever_yaml_gives_is_refused_in_words(data) -> None:
    """SMALL with parts of it replaced by anything that YAML can say."""
    found: tuple[ErrorDetail, ...] = ()
    try:
        parse(copy.deepcopy(SMALL) | data)
    except InputError as error:
        found = error.details
        assert found
    assert all(f.path and f.rule.endswith((".", "]")) for f in found)
    assert not any("Section" in str(f) for f in found)


# ---- files and overrides ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\n", "the key 'name' is there twice in line 1"),
        ("space:\n  lr/outer: 1\n  lr/outer: 2\n", "the key 'lr/outer' is there twice"),
        ("name: [", "is not YAML"),
        ("name: 2024-02-31", "can't be read"),
        ("- name", "must be a mapping"),
        ("", "must be a mapping"),
        ("name: !!python/object:os.system x", "is not YAML"),
        ("1: x\nname: y", "1: is a key that is not text"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(written(tmp_path, text))
    assert said in str(caught.value)


def test_a_file_that_can_not_be_read_is_the_users_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        load_config(tmp_path / "binary.yaml")


def test_overrides_set_what_they_name(tmp_path: Path) -> None:
    path = written(tmp_path, yaml.safe_dump(SMALL))
    config = load_config(
        path,
        [
            "name=other",
            "search.trials=16",
            "space.lr/outer.low=1e-4",
            "episodes={way: 3, shot: 2}",
            "space.task_weights.fixed={greek: 0.5, fonts: 0.5}",
        ],
    )
    assert config.name == "other"
    assert config.search.trials == 16
    assert config.space.lr_outer == RangeSection(low=1e-4, high=1e-1)
    assert (config.episodes.way, config.episodes.shot) == (3, 2)
    assert config.space.task_weights.fixed == {"greek": 0.5, "fonts": 0.5}


@pytest.mark.parametrize(
    "override",
    ["search.trials", "=3", "", ".trials=3", "search.=3", "name.x=3", "tasks.train.x=3", "name=["],
)
def test_an_override_that_names_nothing_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(InputError, match="--set"):
        load_config(written(tmp_path, yaml.safe_dump(SMALL)), [override])


def test_an_override_is_checked_like_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, yaml.safe_dump(SMALL))
    with pytest.raises(InputError, match=r"search\.trails: is not a known key"):
        load_config(path, ["search.trails=16"])


def named_after(*values: str) -> dict[str, Any]:
    """SMALL with training tasks for those values of a column."""
    task = {"each": {"script": list(values)}, "dataset": "glyphs", "label": "character"}
    return changed({"tasks.train": [task]})


def test_tasks_keep_the_letters_of_every_script() -> None:
    values = [
        "\u5316\u5b66",
        "\u7269\u7406",
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "cafe\u0301 x/y",
        "..",
    ]
    config = parse(named_after(*values))
    assert config.train_names() == [*values[:3], "caf\u00e9_x_y", "__"]
    assert parse(yaml.safe_load(dump(config))) == config
    one = {
        "name": "\u5316\u5b66",
        "dataset": "glyphs",
        "label": "character",
        "group": "\u0e2a\u0e35",
    }
    assert parse(changed({"tasks.train": [one]})).train_names() == ["\u5316\u5b66"]


def test_values_that_have_one_name_are_named() -> None:
    (input_error,) = details({"tasks.train": named_after("a b", "a/b", "c")["tasks"]["train"]})
    assert input_error.path == "tasks.train"
    assert input_error.rule == "must not use a task name twice."
    assert input_error.found == ["a_b ('a b', 'a/b')"]
    assert "`name`" in input_error.remedy


@pytest.mark.parametrize("names", [["protonet", "maml"], {"a": 1}, 3])
def test_one_name_is_asked_for_not_quotes(names) -> None:
    (input_error,) = details({"learner.name": names})
    assert input_error.path == "learner.name"
    assert input_error.rule == "must be a single name."
    assert "maml, " in input_error.remedy
    assert "protonet" in input_error.remedy
    (input_error,) = details({"tasks.train.1.label": ["a", "b"]})
    assert "quotes" not in input_error.remedy


class TestLora:
    def spaced(self, scalar):
        texts = {"source": "text", "path": "t.csv", "features": "tokens", "encoder": "minilm"}
        space = {"lr/outer": 0.001, "lora/rank": scalar}
        model = {"name": "lora", "encoder": "minilm", "rank": 4}
        return {"model": model, "datasets": {"glyphs": texts}, "space": space}

    @pytest.mark.parametrize("scalar", [1, 4, {"low": 1, "high": 4}])
    def test_a_rank_may_be_searched_up_to_that_of_the_model(self, scalar):
        assert "lora/rank" in parse(changed(self.spaced(scalar))).space.scalars()

    @pytest.mark.parametrize("scalar", [0, 5, {"low": 1, "high": 8}])
    def test_a_rank_out_of_range_is_refused(self, scalar):
        (detail,) = details(self.spaced(scalar))
        assert detail.path == "space.lora/rank"
        assert "1 to model.rank = 4" in detail.rule

    def test_other_models_have_no_rank(self):
        (detail,) = details({"space.lora/rank": 2})
        assert detail.path == "space.lora/rank"

    def test_it_reads_the_tokens_of_its_encoder(self):
        changes = self.spaced(2)
        changes["datasets"]["glyphs"]["features"] = "encoder"
        (detail,) = details(changes)
        assert detail.path == "datasets.glyphs"
        assert "features: tokens" in detail.rule


class TestStepsOfAdaptation:
    def spaced(self, scalar):
        learner = {"name": "fine_tuned_protonet", "adapt_steps": 4}
        space = {"lr/outer": 0.001, "lr/adapt": 0.1, "adapt/steps": scalar}
        return {"learner": learner, "space": space}

    @pytest.mark.parametrize("scalar", [0, 4, {"low": 0, "high": 4}])
    def test_may_be_searched_up_to_those_of_the_learner(self, scalar):
        assert "adapt/steps" in parse(changed(self.spaced(scalar))).space.scalars()

    @pytest.mark.parametrize("scalar", [-1, 5, {"low": 0, "high": 8}])
    def test_outside_their_range_are_refused(self, scalar):
        (detail,) = details(self.spaced(scalar))
        assert detail.path == "space.adapt/steps"
        assert "0 to learner.adapt_steps = 4" in detail.rule

    def test_are_not_read_by_other_learners(self):
        (detail,) = details({"space.adapt/steps": 2})
        assert detail.path == "space.adapt/steps"


def test_episodes_per_step_need_sampled_tasks():
    (detail,) = details({"episodes.per_step": 2})
    assert detail.path == "episodes.per_step"
    assert "weights_as: sampling" in detail.rule
    sampled = {"episodes.per_step": 2, "space.task_weights": {"weights_as": "sampling"}}
    assert parse(changed(sampled)).episodes.per_step == 2
