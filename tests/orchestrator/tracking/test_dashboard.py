import json
import socket
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cli.app import main
from orchestrator.tracking.dashboard import (
    APP,
    Server,
    _free_port,
    search_url,
    server,
    tracking_uri,
)
from orchestrator.tracking.mlflow_client import tune
from orchestrator.tracking.saved_views import saved_views, view_id
from orchestrator.tracking.sending.mlflow_sender import recorder
from orchestrator.tracking.server_app import PATH
from tests.conftest import missing
from tests.orchestrator import records


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded search of twelve trials."""
    home = tmp_path_factory.mktemp("home")
    report = home / "report.md"
    report.write_text("# What was found")
    with closing(recorder(home / "searches" / "demo", tracking_uri(home), "0a")) as made:
        outcomes = ["complete", "complete", "pruned", "complete", "failed", "complete"] * 2
        records.whole(made, outcomes, artifacts=[report])
        assert made.drain(timeout=90)
    return home


@pytest.fixture(scope="module")
def dashboard(home: Path) -> Iterator[Server]:
    with closing(server(home, _free_port("127.0.0.1", 0))) as running:
        running.wait(timeout=90)
        yield running


def visit(browser: Any, url: str, *texts: str) -> Any:
    """A page on which every text is to be seen."""
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    page.goto(url)
    for text in texts:
        page.get_by_text(text, exact=True).first.wait_for(state="visible", timeout=60_000)
    return page


def test_a_taken_port_is_not_insisted_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert _free_port("127.0.0.1", port) != port
    assert _free_port("127.0.0.1", port) == port


def test_that_another_port_was_taken_is_said(tmp_path, monkeypatch, capsys) -> None:
    class SearchResult:
        base, url = "http://127.0.0.1:40123", "http://127.0.0.1:40123/"
        process = SimpleNamespace(wait=lambda: 0)

        def wait(self, timeout: float) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr("orchestrator.tracking.dashboard.server", lambda home, port: SearchResult())
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    assert main(["dashboard", "--home", str(tmp_path), "--port", "5000"]) == 0
    assert "port 5000 is in use by another program; taking 40123" in capsys.readouterr().err
    assert main(["dashboard", "--home", str(tmp_path), "--port", "40123"]) == 0
    assert "in use" not in capsys.readouterr().err


def test_a_view_of_many_weights_fits_into_a_tag() -> None:
    names = [
        f"{group}/task number {n}" for group in ("lambda", "lr", "log10_lr") for n in range(60)
    ]
    for tag, value in saved_views("demo", names, at=0).items():
        assert len(tag) < 250
        assert len(value) < 20_000
        assert json.loads(value)["name"]


def statistics(home: Path) -> dict[str, int]:
    """The number of rows of each table, as SQLite's planner knows it; empty if it doesn't."""
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        if not database.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'"
        ).fetchone():
            return {}
        rows = database.execute("SELECT tbl, stat FROM sqlite_stat1").fetchall()
    return {table: int(stat.split()[0]) for table, stat in rows}


def test_sqlite_knows_how_large_the_tables_of_a_recorded_search_are(home: Path) -> None:
    # Otherwise it compares each run with each value of a metric that it sorts by.
    known = statistics(home)
    assert known["runs"] >= 20
    assert known["latest_metrics"] > known["runs"]


def test_a_database_that_is_locked_is_not_tuned(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TABLE runs (id PRIMARY KEY)")
        database.execute("INSERT INTO runs VALUES (1)")
        database.commit()
        database.execute("BEGIN EXCLUSIVE")
        tune(tracking_uri(tmp_path))  # says nothing
    assert statistics(tmp_path) == {}
    tune(tracking_uri(tmp_path))
    assert statistics(tmp_path) == {"runs": 1}


@pytest.mark.browser
def test_an_artifact_that_was_recorded_without_a_server_is_served(dashboard: Server) -> None:
    body = json.dumps({"experiment_ids": ["1"], "filter": "tags.`fewtune.kind` = 'search'"})
    found = json.load(
        urllib.request.urlopen(
            urllib.request.Request(
                f"{dashboard.base}/api/2.0/mlflow/runs/search",
                body.encode(),
                {"Content-Type": "application/json"},
            )
        )
    )
    run = found["runs"][0]["info"]["run_id"]
    url = f"{dashboard.base}/get-artifact?path=report.md&run_uuid={run}"
    assert urllib.request.urlopen(url).read() == b"# What was found"


@pytest.mark.browser
def test_the_experiment_is_on_the_first_page(
    dashboard: Server, browser: Any, tmp_path: Path
) -> None:
    page = visit(browser, dashboard.url, "glyphs")
    page.screenshot(path=tmp_path / "first.png")


@pytest.mark.browser
def test_the_trials_are_shown_best_first(
    dashboard: Server, browser: Any, home: Path, tmp_path: Path
) -> None:
    url = search_url(dashboard.base, tracking_uri(home), "glyphs", "demo")
    page = visit(browser, url, "search-0011", "search-0000", "score", "lambda/latin", "pruned")
    page.screenshot(path=tmp_path / "trials.png")
    text = page.inner_text("body")
    order = [text.index(f"search-00{number}") for number in ("11", "09", "00")]
    assert order == sorted(order)


@pytest.mark.browser
def test_the_page_of_trials_has_no_errors(dashboard: Server, browser: Any, home: Path) -> None:
    if not entry_points(group="mlflow.app", name=APP):
        missing("the package installed again (`pip install -e .`), since it has a plugin of MLflow")
    errors: list[str] = []
    page = browser.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    with page.expect_response(lambda answer: answer.url.endswith(PATH)) as answered:
        page.goto(search_url(dashboard.base, tracking_uri(home), "glyphs", "demo"))
    assert answered.value.json()["user"] is None
    page.get_by_text("search-0011", exact=True).first.wait_for(state="visible", timeout=60_000)
    assert not errors


@pytest.mark.browser
def test_adaptations_are_shown_by_task(dashboard: Server, browser: Any, tmp_path: Path) -> None:
    share = f"workflowType=machine_learning&viewStateShareKey={view_id('demo', 'tasks')}"
    url = f"{dashboard.base}/#/experiments/1/runs?{share}"
    page = visit(browser, url, "Group: greek", "Group: korean", "greek (search-0011)", "accuracy")
    page.screenshot(path=tmp_path / "tasks.png")


@pytest.mark.browser
def test_search_trial_and_adaptation_are_one_tree(
    dashboard: Server, browser: Any, tmp_path: Path
) -> None:
    url = f"{dashboard.base}/#/experiments/1/runs?workflowType=machine_learning"
    page = visit(browser, url, "demo")
    for parent, child in [("demo", "search-0011"), ("search-0011", "korean (search-0011)")]:
        cell = page.locator("[role=gridcell][col-id='attributes.`Run Name`']", has_text=parent)
        cell.get_by_role("button").first.click()
        page.get_by_text(child, exact=True).first.wait_for(state="visible")
    page.screenshot(path=tmp_path / "tree.png")
