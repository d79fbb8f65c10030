"""Reports in headless Chromium: every figure is drawn, and nothing is reported as an error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Search
from orchestrator.record.home import Home
from orchestrator.results.report.comparison import write_comparison
from tests.orchestrator import own_loops, tiny, toys
from tests.orchestrator.results.explanation import known
from tests.orchestrator.results.report.made import Page, found, of_many_tasks, toy

pytestmark = pytest.mark.browser

# What a figure that is drawn has at least: the marks of its traces.
_MARKS = ".scatterlayer .trace, .heatmaplayer image, .barlayer .trace"


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Callable[..., list[str]]:
    """Opens a page, checks that all of its figures are drawn, and returns their ids."""

    def opens(path: Path, width: int = 1300) -> list[str]:
        said: list[str] = []
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda request: said.append(request.url))
        page.goto(path.as_uri())
        figures = Page(path).figures
        for id, figure in figures.items():
            drawn = page.locator(f"#{id} .main-svg").first
            drawn.wait_for(state="attached", timeout=60_000)
            traces = page.evaluate(f"document.getElementById({id!r}).data.length")
            assert traces == len(figure["data"]) > 0
            assert page.locator(f"#{id}").locator(_MARKS).count() > 0
            assert page.locator(f"#{id}").bounding_box()["width"] <= width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=tmp_path / f"{path.stem}-{width}.png", full_page=True)
        assert said == [path.as_uri()], "one request, and nothing in the console"
        page.close()
        return list(figures)

    return opens


def written(path: Path, page: Page) -> Path:
    path.write_text(page.html, encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [1300, 400])
def test_every_figure_of_a_whole_search_is_drawn(opened, tmp_path, width, monkeypatch):
    monkeypatch.setattr("orchestrator.sampling.sampler.Sampler.suggest", toys.quick_suggest)
    ids = opened(written(tmp_path / "toy.html", Page(toy(untrained=0.2, trials=24))), width)
    assert {"plot-effects", "plot-finalists", "plot-weights", "plot-held-out"} <= set(ids)


def test_names_do_nothing(opened, tmp_path):
    names = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "%{x}", "a&b"]
    plan = known.plan(names)
    score = known.additive(dict.fromkeys(names, 0.1))
    opened(written(tmp_path / "names.html", Page(found(plan, known.search(plan, score)))))


def test_many_tasks_fit_on_a_phone(opened, tmp_path):
    opened(written(tmp_path / "many.html", Page(of_many_tasks(30, 25, 48))), 400)


def test_failed_and_running_searches(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.sampling.sampler.Sampler.suggest", toys.quick_suggest)

    def fails(spec, step):
        raise ArithmeticError("no")

    opened(written(tmp_path / "failed.html", Page(toy(score=fails))))
    opened(written(tmp_path / "running.html", Page(toy(9, untrained=0.1))))


def test_an_own_loop(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", tiny.quiet)
    options = own_loops.data()["search"] | {"trials": 5, "seeds": 2}
    space = own_loops.data()["space"] | {"how": {"choices": ["<b>bold</b>", "plain"]}}
    search = Search(own_loops.data(search=options, space=space), home=tmp_path)
    summary = search.run(executor="inline")
    path = summary.report()
    assert {"plot-weights", "plot-parameters-0", "plot-parameters-1"} <= set(opened(path))
    assert "points" not in Page(path).section("finalists")


def test_two_searches_side_by_side(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", tiny.quiet)
    tasks = {
        "train": [{"function": "line"}, {"function": "noise"}],
        "validation": [{"function": "sinusoid"}],
        "test": [{"function": "sinusoid"}],
    }
    for name in ("one", "two"):
        Search(tiny.config(name=name, tasks=tasks), home=tmp_path).run(executor="inline")
    _, path = write_comparison("one", "two", Home(tmp_path))
    for width in (1300, 400):
        assert "plot-weights" in opened(path, width)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["distill", "functions", "intents", "omniglot"])
def test_a_shipped_config(opened, name, shipped):
    path = shipped(name) / "searches" / name / "report.html"
    ids = opened(path)
    assert {"plot-finalists", "plot-progress-trials", "plot-parameters-0"} <= set(ids)
    weighted = name != "distill"
    assert ("plot-weights" in ids) == weighted
    page = Page(path)
    assert ("not searched" in page.section("effects")) == (not weighted)
