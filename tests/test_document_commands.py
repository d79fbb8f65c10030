"""Every command of the documents runs in a test, or stands here with the reason why it doesn't.

A search of few steps, whose config is called `configs/quickstart.yaml` in its folder, is searched
once; the commands are called as they are written, one after another, in the order below.
"""

import os
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import yaml

from orchestrator.cli import app as cli
from tests.paths import ROOT
from tests.test_docs import commands
from tests.test_own_data import PAGES

RUN = (
    "fewtune show quickstart --why",
    "fewtune report quickstart",
    "fewtune report quickstart --new-tasks 1000",
    "fewtune report quickstart --out quickstart.html",
    "fewtune compare quickstart omniglot",
    "fewtune similarity configs/quickstart.yaml --out similarity.html",
    "fewtune stages quickstart --new-tasks 1000 --out stages.html",
    "fewtune export quickstart --out best",
    "fewtune init texts.csv --out mine.yaml",
    "fewtune check mine.yaml",
    "fewtune enqueue quickstart --weights greek=0.5,cyrillic=0.5 --set lr/outer=0.01",
    "fewtune search configs/quickstart.yaml --set name=wider --from quickstart",
    "fewtune search configs/quickstart.yaml --resume --trials 96",
)
# Need FEWTUNE_DATA.
CHECKED = (
    "fewtune check configs/diagnosis.yaml",
    "fewtune check configs/education.yaml",
    "fewtune check configs/recommendation.yaml",
)
# Take minutes as they are; they run with few steps and trials, most of them on FEWTUNE_DATA.
SHORTENED = (
    "fewtune search configs/diagnosis.yaml",
    "fewtune search configs/education.yaml",
    "fewtune search configs/names.yaml",
    "fewtune search configs/navigation.yaml",
    "fewtune search configs/recommendation.yaml",
)
CLUSTER = "--address http://127.0.0.1:8265 --home /shared/fewtune"
ONNX = "needs a search of minutes before; tests/orchestrator/results/predictor exports small ones"
MLFLOW = "needs a search of minutes before; tests/orchestrator/results/export registers small ones"
TEXTS = "needs an export of a search on texts; see tests/orchestrator/cli/results"
TITLES = "needs photos with titles; see tests/orchestrator/cli/test_photos.py"
NOT_RUN = {
    "fewtune dashboard": "serves until it is ended; see tests/orchestrator/tracking",
    "fewtune logs quickstart --follow": "needs a cluster; see tests/orchestrator/executors",
    f"fewtune submit configs/quickstart.yaml {CLUSTER}": (
        "needs a cluster; see tests/orchestrator/executors/test_submit.py"
    ),
    "fewtune search mine.yaml": "its encoder needs minutes; the page about own texts has the same",
    "fewtune show mine --why": "as `show quickstart --why`",
    "fewtune export distill --out student --onnx": ONNX,
    "fewtune export mine --onnx": ONNX,
    "fewtune export mine --onnx --with-encoder": ONNX,
    "fewtune export intents --mlflow": MLFLOW,
    "fewtune export mine --mlflow": MLFLOW,
    "fewtune export goods --out best": TITLES,
    "fewtune adapt best --data new_goods --text new_titles.csv --shots 1 --out mine": TITLES,
    "fewtune predict mine --data photos --out goods.csv": TITLES,
    "fewtune adapt best --env Pendulum-v1 --env-arg g=11.5 --out mine": (
        "needs a policy; see tests/orchestrator/results/test_policy.py"
    ),
    "fewtune export mine --out best": TEXTS,
    "fewtune adapt best --data new.csv --shots 5 --out mine": TEXTS,
    "fewtune adapt best --data new.csv --shots 5 --out model": TEXTS,
    "fewtune predict mine --data labelled.csv --evaluate": TEXTS,
    "fewtune predict mine --data more.csv --out predictions.parquet": TEXTS,
    "fewtune predict model --data more.csv": TEXTS,
}
SMALL = {
    "steps": 12,
    "episodes": {"way": 5, "shot": 1, "query": 5, "per_task": 1, "validation": 10, "test": 10},
    "search": {"trials": 8, "reference_trials": 4, "finalists": 1, "seeds": 2, "lanes": 8},
}


def on_pages() -> set[str]:
    """The commands of the pages that `test_own_data` runs."""
    pages = [(ROOT / "docs" / "data" / f"{name}.md").read_text(encoding="utf-8") for name in PAGES]
    blocks = [block for page in pages for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)]
    return {line.partition("#")[0].strip() for block in blocks for line in block.splitlines()}


def test_every_command_runs_or_has_a_reason_why_not() -> None:
    known = {*RUN, *CHECKED, *SHORTENED, *NOT_RUN}
    written = set(commands()) - on_pages()
    assert written <= known
    assert known <= written | on_pages(), "no document has these any more"
    assert len(known) == len(RUN) + len(CHECKED) + len(SHORTENED) + len(NOT_RUN)


def call(command: str) -> int:
    words = shlex.split(command)[1:]
    # Ray takes half a minute of CPU time to start, and searches the same.
    return cli.main([*words, "--executor", "inline"] if words[0] == "search" else words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small search `quickstart`, another `omniglot`, and a file of texts."""
    folder = tmp_path_factory.mktemp("commands")
    config = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
    (folder / "configs").mkdir()
    path = folder / "configs" / "quickstart.yaml"
    path.write_text(yaml.safe_dump(config | SMALL), encoding="utf-8")
    rows = [
        (f"{word} number {i}", word)
        for word in ("pay", "trip", "food", "work") * 5
        for i in range(8)
    ]
    rows = [
        (f"{text} {group}", f"{label} {group}", f"shop {group}")
        for group in range(9)
        for text, label in rows[:32]
    ]
    table = pd.DataFrame(rows, columns=["text", "intent", "shop"])
    table.to_csv(folder / "texts.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("FEWTUNE_HOME", raising=False)
        assert call("fewtune search configs/quickstart.yaml") == 0
        assert call("fewtune search configs/quickstart.yaml --set name=omniglot") == 0
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", RUN)
def test_the_command_runs(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FEWTUNE_HOME", raising=False)
    assert call(command) == 0
    words = shlex.split(command)
    if "--out" in words:
        assert (folder / words[words.index("--out") + 1]).exists()


@pytest.mark.slow
@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("command", CHECKED)
def test_the_config_is_checked(command: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(ROOT / "configs", "configs")
    assert call(command) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("command", SHORTENED)
def test_the_search_of_a_shipped_config_runs(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("FEWTUNE_HOME", str(tmp_path))
    changes = {f"search.{key}": value for key, value in SMALL["search"].items()}
    changes |= {"steps": 12, "episodes.validation": 20, "episodes.test": 20}
    words = shlex.join(f"--set={key}={value}" for key, value in changes.items())
    assert call(f"{command} {words}") == 0
    name = Path(command.split()[-1]).stem
    assert (tmp_path / "searches" / name / "best" / "model.safetensors").exists()
