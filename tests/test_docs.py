"""What documents say must be so: their links lead somewhere, their commands exist."""

import re
import shlex

import pytest
import typer

from orchestrator.cli.app import app
from orchestrator.config.loading import load_config, parse
from tests.paths import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
GENERATED = ("cli.md", "config.md")  # by docs/site/hooks.py, into docs/reference
ids = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_link_leads_somewhere(path):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    made = {ROOT / "docs" / "reference" / name for name in GENERATED}
    to = {link: (path.parent / link).resolve() for link in links if "://" not in link}
    assert not [link for link, target in to.items() if not (target.exists() or target in made)]


def commands() -> list[str]:
    found = []
    for path in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            found += [line.partition("#")[0].strip() for line in block.splitlines()]
    return [command for command in found if command.startswith("fewtune ")]


@pytest.mark.parametrize("command", commands())
def test_every_fewtune_command_is_one_that_the_parser_takes(command):
    words = shlex.split(command)[1:]
    group = typer.main.get_command(app)
    with group.make_context("fewtune", words[:1], resilient_parsing=True) as context:
        name, found, rest = group.resolve_command(context, words)
    found.make_context(name, rest)  # raises where an option or an argument does not exist


def test_every_make_target_that_is_mentioned_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    said = {
        target
        for path in DOCUMENTS
        for target in re.findall(r"(?:`|^)make ([a-z]+)", path.read_text(), re.MULTILINE)
    }
    assert said
    assert said <= targets


CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_every_shipped_config_is_described():
    configs = [f"configs/{path.name}" for path in ROOT.glob("configs/*.yaml")]
    assert configs
    assert all(config in CONFIGURATION for config in configs)


def test_the_example_configs_have_no_faults():
    import yaml

    examples = re.findall(r"```yaml\n(.*?)```", CONFIGURATION, re.DOTALL)
    # PyYAML alone takes 1e-4 for a word.
    whole, choices = (yaml.safe_load(re.sub(r"([0-9])e-", r"\1.0e-", text)) for text in examples)
    assert parse(whole).name == "mine"
    assert len(parse(whole | choices).searched) == 5


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_loads(path):
    assert load_config(path).name == path.stem
