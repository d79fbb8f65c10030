"""Checks what a recipe does with examples that have an image and a text."""

from fewshot.errors.inputs import ErrorDetail
from trials.contract import Recipe
from trials.data.sources import Sources

_TWO_TOWERS = "two_towers"


def modality_errors(recipe: Recipe, sources: Sources) -> list[ErrorDetail]:
    """All errors between the model, the program and the modalities of the datasets."""
    datasets = {name: sources.dataset(name, "datasets") for name in recipe.datasets}
    details = []
    if recipe.model.name == _TWO_TOWERS:
        wanted, text = {n: d.text_width for n, d in datasets.items()}, recipe.model.options["text"]
        details += [
            ErrorDetail(
                "model.text",
                f"must be {width}, the number of text features of datasets.{name}."
                if width
                else f"needs texts; the examples of datasets.{name} have none.",
                text,
                "" if width else "Set `text` of the dataset, or use another model.",
            )
            for name, width in wanted.items()
            if width != text
        ]
    hidden = [name for name, dataset in datasets.items() if dataset.n_hidden]
    if not hidden:
        return details
    rule = f"can't be used with datasets.{hidden[0]}, whose queries do not show their text."
    if recipe.program != "meta_training":
        remedy = "Set a `learner` and `tasks.train`."
        details.append(ErrorDetail("learner", "is needed: the text helps a learner.", None, remedy))
    if recipe.teacher is not None:
        details.append(ErrorDetail("teacher", rule, recipe.teacher.name, "Remove it."))
    return details + [
        ErrorDetail(f"tasks.{split}.{task.name}.kind", rule, task.kind, "Use tasks with classes.")
        for split, tasks in recipe.tasks.items()
        for task in tasks
        if task.regresses and task.dataset in hidden
    ]
