"""Teachers: each kind answers, and none of them sees a label that it may not see."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from fewshot.episodes import Episode
from fewshot.errors.inputs import InputError
from fewshot.learners.teacher import Logistic, log_mean_probabilities
from fewshot.models.pretrained.adapters.lora import Lora
from fewshot.models.pretrained.transformer import Transformer
from tests.trials.conformance import (
    distillation,
    drive,
    fine_tuning,
    functions,
    maml,
    protonet,
    taught,
)
from trials.contract import Component, Recipe
from trials.data.pools import sources_of, task_kinds
from trials.lanes import checkpoint
from trials.programs import teachers
from trials.programs.data_summary import summarise_data
from trials.programs.teachers import EPISODIC_HEADS, HEADS, teacher_of


def trained(case, folder, n=1, steps=3):
    """The folder of a search whose n finalists are trained."""
    for number in range(n):
        spec = case.spec(number, stage="final", rungs=(steps,))
        drive(case.program(folder / "checkpoints"), [spec])
    return folder


def exported(case, folder, steps=3):
    """The folder of an exported model."""
    spec = case.spec(0, stage="final", rungs=(steps,))
    result = drive(case.program(folder / "runs"), [spec])[spec.key].result
    metadata = {"format": "pt", checkpoint.SPEC: spec.to_json()}
    tensors = checkpoint.parameters(result.checkpoint)
    save_file(tensors, folder / "model.safetensors", metadata)
    return folder


def of(recipe: Recipe, name: str, **options) -> Recipe:
    return replace(recipe, teacher=Component(name=name, options=options))


def built(recipe: Recipe, cache, classes=None):
    task_kind = next(iter(task_kinds(recipe)))
    return teacher_of(
        recipe, sources_of(recipe, cache), cache, task_kind=task_kind, classes=classes
    )


def fault_of(recipe: Recipe, cache, classes=None):
    with pytest.raises(InputError) as caught:
        built(recipe, cache, classes)
    (input_error,) = caught.value.details
    return input_error


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path


# ---- of episodes ------------------------------------------------------------------------------


def episodic(folder):
    """A recipe for each kind of teacher in meta-training."""
    case = taught(folder / "data")
    scripts = case.recipe
    other = maml(folder / "data")
    export = exported(protonet(folder / "data"), folder / "a")
    means = trained(protonet(folder / "data"), folder / "b", 3)
    steps = trained(other, folder / "c", 2)
    return {
        **{head: of(scripts, "images", head=head) for head in EPISODIC_HEADS},
        "export": of(scripts, "export", path=str(export)),
        "finalists": of(scripts, "finalists", path=str(means)),
        "finalists of gradient steps": of(scripts, "finalists", path=str(steps)),
    }


def rows_of_episodes(recipe, n=5):
    """Episodes of rows of two scripts, whose characters are twelve rows each."""
    generator = torch.Generator().manual_seed(0)
    way, per_class = recipe.way, recipe.shot + recipe.query
    first = 12 * torch.stack([torch.randperm(10, generator=generator)[:way] for _ in range(n)])
    chosen = torch.rand(n, way, 12, generator=generator).argsort(-1)[..., :per_class]
    rows = first[..., None] + chosen
    labels = torch.arange(way).expand(n, way)[..., None]
    return Episode(
        rows[..., : recipe.shot].flatten(1),
        labels.expand(-1, -1, recipe.shot).flatten(1),
        rows[..., recipe.shot :].flatten(1),
        labels.expand(-1, -1, recipe.query).flatten(1),
    )


def test_every_teacher_of_episodes_knows_the_support_and_not_the_answers(folder):
    for name in ("a", "b", "c"):
        (folder / name).mkdir()
    for name, recipe in episodic(folder).items():
        teacher, rows = built(recipe, folder), rows_of_episodes(recipe)
        said = teacher.logits(rows)
        assert said.shape == (*rows.query_y.shape, recipe.way), name
        for answers in (-torch.ones_like(rows.query_y), rows.query_y.flip(-1)):
            assert torch.equal(teacher.logits(rows._replace(query_y=answers)), said), name
        other = rows._replace(support_y=(rows.support_y + 1) % recipe.way)
        assert (teacher.logits(other) - said).abs().max() > 1e-3, name
        if name in EPISODIC_HEADS:
            assert (said.argmax(-1) == rows.query_y).double().mean() > 0.7, name
    assert summarise_data(recipe, folder).figures["teacher"] > 0.5


def test_finalists_are_averaged_as_probabilities(folder):
    search = trained(protonet(folder / "data"), folder, 3)
    recipe = of(taught(folder / "data").recipe, "finalists", path=str(search))
    teacher, rows = built(recipe, folder), rows_of_episodes(recipe)
    assert len(teacher.models) == 3
    said = [
        replace(teacher, models=(model,), inputs=(inputs,)).logits(rows)
        for model, inputs in zip(teacher.models, teacher.inputs, strict=True)
    ]
    assert not torch.allclose(said[0], said[1])
    mean = torch.stack([one.softmax(-1) for one in said]).mean(0)
    assert_close(teacher.logits(rows).softmax(-1), mean)
    assert_close(
        log_mean_probabilities(torch.stack(said)).exp().sum(-1), torch.ones(rows.query_y.shape)
    )


def test_functions_are_taught_by_what_learned_functions(folder):
    case = functions(folder / "data")
    search = trained(case, folder, 2)
    recipe = of(case.recipe, "finalists", path=str(search))
    teacher = built(recipe, folder)
    x = torch.linspace(-4, 4, 12).view(2, 6, 1)
    said = teacher.logits(Episode(x, x, x, x))
    each = [replace(teacher, models=(m,)).logits(Episode(x, x, x, x)) for m in teacher.models]
    assert_close(said, torch.stack(each).mean(0))
    deaf = {**case.hyperparameters, "distill/soft_weight": 1.0}
    spec = case.spec(0, recipe=recipe, hyperparameters=deaf, rungs=(1, 60))
    reports = drive(case.program(folder / "taught", recipe=recipe), [spec])[spec.key].reports
    assert reports[1].metrics["train/loss"] < reports[0].metrics["train/loss"]


# ---- of a single task -------------------------------------------------------------------------

CLASSES = tuple(f"class {c}" for c in range(4))


def of_one_task(folder):
    """A recipe for each kind of teacher in adaptation."""
    recipe = distillation(folder / "data").recipe
    views = dict(recipe.teacher.options)
    return {
        **{head: of(recipe, "images", **views, head=head) for head in HEADS},
        "a distilled export": of(recipe, "export", path=str(folder / "a")),
        "distilled finalists": of(recipe, "finalists", path=str(folder / "b")),
    }


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    for name in ("data", "a", "b"):
        (folder / name).mkdir()
    exported(distillation(folder / "data"), folder / "a", steps=60)
    trained(distillation(folder / "data"), folder / "b", 2, steps=60)
    return folder


def relabelled(texts):
    """Give every text but those of the support the label of another class."""
    rows = [json.loads(line) for line in texts.splitlines()]
    for row in rows:
        if row["part"] != "support":
            row["label"] = f"class {(int(row['label'][-1]) + 1) % 4}"
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_no_label_but_those_of_the_support_reaches_student_or_teacher(searched):
    case, recipes = distillation(searched / "data"), of_one_task(searched)
    support = torch.arange(112).view(4, 28)[:, :4].flatten(), torch.arange(4).repeat_interleave(4)

    def told(name, folder):
        """Parameters of a student, scores of its teacher, and the student's score."""
        spec = case.spec(0, recipe=recipes[name], rungs=(3,))
        # Its texts are other ones the second time.
        program = case.program(searched / folder / name, recipe=spec.recipe, new_process=True)
        story = drive(program, [spec])[spec.key]
        said = built(spec.recipe, searched, CLASSES).labelled(*support)
        return load_file(story.result.checkpoint), said, story.reports[-1].score

    (searched / "before").mkdir()
    (searched / "after").mkdir()
    before = {name: told(name, "before") for name in recipes}
    texts = searched / "data" / "texts.jsonl"
    texts.write_text(relabelled(texts.read_text()))
    for name, (params, said, score) in before.items():
        others, again, other_score = told(name, "after")
        assert torch.equal(again, said), name
        assert all(torch.equal(others[key], params[key]) for key in params), name
        assert other_score != score, "they do reach the score"


def test_teachers_of_one_task_have_learned_it(searched):
    for name, recipe in of_one_task(searched).items():
        accuracy = summarise_data(recipe, searched).figures["teacher"]
        assert accuracy > (0.5 if "distilled" in name else 0.8), name


def test_a_distilled_student_teaches_the_classes_in_the_order_asked_for(searched):
    recipe = of_one_task(searched)["a distilled export"]
    support = torch.arange(4), torch.arange(4)
    one, other = (built(recipe, searched, c).labelled(*support) for c in (CLASSES, CLASSES[::-1]))
    assert torch.equal(one, other.flip(-1))
    assert torch.equal(built(recipe, searched, CLASSES[1:3]).labelled(*support), one[:, 1:3])


@pytest.mark.parametrize("model", [Transformer, Lora])
def test_a_transformer_teaches_all_rows_in_parts(model, folder, monkeypatch):
    case = fine_tuning(folder / "data")
    known, name = case.recipe, model.__name__.lower()
    options = known.model.options | ({"layers": 1, "rank": 2} if model is Lora else {})
    known = replace(known, model=Component(name=name, options=options))
    spec = replace(case.spec(0, stage="final", rungs=(8,)), recipe=known)
    drive(case.program(folder / "checkpoints", recipe=known), [spec])
    path = known.datasets["texts"].options["path"]
    ids = Component(name="text", options={"path": path, "features": "ngrams", "buckets": 64})
    recipe = replace(known, datasets={"texts": ids}, model=case.recipe.model)
    teacher = built(of(recipe, "finalists", path=str(folder)), folder, tuple("0123"))
    support = torch.arange(4), torch.arange(4)
    whole = teacher.labelled(*support)
    assert len(whole) == 88

    seen = []

    def watched(own, params, x, forward=model.apply_to_lanes):
        seen.append(x.shape[1])
        return forward(own, params, x)

    monkeypatch.setattr(model, "apply_to_lanes", watched)
    monkeypatch.setattr(teachers, "EXAMPLES_AT_ONCE", 20)
    assert_close(teacher.labelled(*support), whole, rtol=1e-4, atol=1e-5)
    assert seen == [20, 20, 20, 20, 8]


def test_a_head_on_features_is_fitted_once_for_all_rows(searched, monkeypatch):
    calls = []
    recipe = of_one_task(searched)["logistic"]
    teacher = built(recipe, searched, CLASSES)
    fit = Logistic.logits
    monkeypatch.setattr(Logistic, "logits", lambda *given: calls.append(0) or fit(*given))
    monkeypatch.setattr(teachers, "EXAMPLES_AT_ONCE", 20)
    assert len(teacher.labelled(torch.arange(4), torch.arange(4))) == 112
    assert len(calls) == 1


# ---- what can not teach -----------------------------------------------------------------------


def test_a_distilled_student_does_not_teach_episodes_nor_classes_that_it_does_not_know(searched):
    recipe = of_one_task(searched)["a distilled export"]
    assert "must be a meta-trained model" in fault_of(recipe, searched).rule
    assert "class 9" in fault_of(recipe, searched, (*CLASSES, "class 9")).rule


def test_a_model_that_scores_classes_teaches_as_many_as_it_has(folder):
    search = trained(maml(folder / "data"), folder)
    recipe = of(taught(folder / "data").recipe, "finalists", path=str(search))
    input_error = fault_of(replace(recipe, way=4), folder)
    assert "with 4 classes per episode; it was trained with 3" in input_error.rule


def test_a_model_of_functions_does_not_teach_classes(folder):
    search = trained(functions(folder / "data"), folder)
    recipe = of(taught(folder / "data").recipe, "finalists", path=str(search))
    assert "trained on classification tasks" in fault_of(recipe, folder).rule


@pytest.mark.parametrize(
    ("name", "rule"), [("export", "No such file"), ("finalists", "retrained its finalists")]
)
def test_a_folder_without_models_is_refused(folder, name, rule):
    recipe = of(taught(folder / "data").recipe, name, path=str(folder))
    input_error = fault_of(recipe, folder)
    assert input_error.path == "teacher.path"
    assert rule in input_error.rule


def test_a_file_that_does_not_say_how_it_was_trained_is_refused(folder):
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    recipe = of(taught(folder / "data").recipe, "export", path=str(folder))
    assert "no record of its training" in fault_of(recipe, folder).rule


def test_a_teacher_must_see_the_same_examples(folder):
    np.savez(folder / "few.npz", images=np.zeros((7, 4, 4), dtype=np.uint8))
    recipe = of(taught(folder / "data").recipe, "images", path=str(folder / "few.npz"))
    input_error = fault_of(recipe, folder)
    assert (input_error.path, input_error.found) == ("teacher", 7)
    assert "same 360 examples as datasets.scripts" in input_error.rule
