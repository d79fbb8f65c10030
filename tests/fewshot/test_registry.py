"""Parts by name: the registered ones, and a user's own."""

from functools import partial

import pytest

from fewshot.errors.inputs import InputError
from fewshot.learners.learners import LEARNERS, learner_named
from fewshot.registry import options_of, resolve

REGISTRY = {"dict": dict, "list": list}
MODULE = """
class Mine:
    pass
answer = 42
"""


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    """Modules of a user: one that is sound, and two that are not."""
    texts = {"sound": MODULE, "broken": "1 / 0", "needy": "import not_to_be_had.anywhere"}
    for name, text in texts.items():
        (tmp_path / f"registry_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_registered_name_is_what_the_registry_has():
    assert resolve(REGISTRY, "list", "learner.name") is list


def test_another_is_imported():
    assert resolve(REGISTRY, "registry_sound:Mine", "learner.name").__name__ == "Mine"
    assert resolve(REGISTRY, "fewshot.models.mlp:MLP", "model.name").__name__ == "MLP"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lists", r"must be one of dict, list\. Found 'lists'\. .* package.module:factory"),
        ("os.path.join", "must be one of dict, list"),
        ("", "must be one of dict, list"),
        ("a:b:c", "must be a registered name, or of the form package.module:factory"),
        ("registry sound:Mine", "must be a registered name, or of the form"),
        (".registry_sound:Mine", "must be a registered name, or of the form"),
        ("registry_sound:", "must be a registered name, or of the form"),
        ("registry_sound:Mine.part", "must be a registered name, or of the form"),
        ("registry_nowhere:Mine", "in a module that is not found: registry_nowhere.*PYTHONPATH"),
        ("registry_sound.nowhere:Mine", "in a module that is not found: registry_sound.nowhere"),
        ("registry_needy:Mine", "in a module that imports a missing module: not_to_be_had"),
        ("registry_broken:Mine", "can't be imported: ZeroDivisionError: division by zero"),
        ("registry_sound:Yours", "but registry_sound has none of this name.*It has Mine"),
        ("registry_sound:answer", "but this is neither"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_with_what_to_do(name, said):
    with pytest.raises(InputError, match=rf"^learner\.name: .*{said}"):
        resolve(REGISTRY, name, "learner.name")


def test_a_learner_has_to_say_what_it_reads():
    with pytest.raises(InputError, match="defines hyperparameters and model_scores_classes"):
        learner_named("registry_sound:Mine")
    assert all(learner_named(name) is made for name, made in LEARNERS.items())


def test_options_are_the_named_parameters_that_nobody_else_decides():
    def factory(model, *rest, width=3, depth, **more):
        raise AssertionError("is not called")

    assert list(options_of(factory, {"model"})) == ["width", "depth"]
    assert list(options_of(partial(factory, width=4), {"model"})) == ["depth"]
