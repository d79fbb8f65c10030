"""Two searches side by side: their difference, or why they can't be compared."""

import pytest

from orchestrator import Search
from orchestrator.cli.app import main
from orchestrator.record.home import Home
from orchestrator.results.report.comparable import difference_on_tests, obstacles, settings
from orchestrator.results.report.findings import findings_of
from tests.orchestrator import tiny, toys
from tests.orchestrator.results.report.made import Page


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    """Three searches; `other` has other test tasks."""
    home = tmp_path_factory.mktemp("compared")
    parts = {
        "one": {},
        "two": {
            "space": {"lr/outer": {"low": 1e-3, "high": 1e-1}, "lr/inner": 0.1, "lr/adapt": 0.1}
        },
        "other": {
            "tasks": {
                "train": [{"function": "line"}, {"function": "noise"}],
                "validation": [{"function": "sinusoid"}],
                "test": [{"function": "square"}],
            }
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", tiny.quiet)
        patch.setattr("orchestrator.sampling.sampler.Sampler.suggest", toys.quick_suggest)
        for name, changes in parts.items():
            Search(tiny.config(name=name, **changes), home=home).run(executor="inline")
    return Home(home)


def test_settings_that_differ_are_listed(home):
    a, b = (findings_of(name, home) for name in ("one", "two"))
    found = {key: values for key, *values in settings(a, b)}
    assert found["space.lr/inner"] == ["0.01", "0.1"]
    assert "name" not in found
    assert not any(key.startswith("tasks") for key in found)


def test_searches_with_the_same_test_tasks_are_compared(home, tmp_path, capsys):
    a, b = (findings_of(name, home) for name in ("one", "two"))
    assert obstacles(a, b) == []
    difference = difference_on_tests(a, b)
    ours, theirs = (f.summary.test["candidate"].mean for f in (b, a))
    assert difference.mean == pytest.approx(ours - theirs)
    out = tmp_path / "both.html"
    assert main(["compare", "one", "two", "--home", str(home.path), "--out", str(out)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1] == f"comparison: {out}"
    page = Page(out)
    assert page.search.keys() == {"one", "two"}
    assert "space.lr/inner" in page.section("settings")
    assert {"one", "two"} <= page.traces("plot-progress-trials").keys()


def test_other_test_tasks_are_said(home, capsys):
    assert main(["compare", "one", "other", "--home", str(home.path)]) == 0
    told = capsys.readouterr().out
    assert "The scores of one and other can't be compared: their test tasks differ" in told
    page = Page(home.search("one") / "compared-with-other.html")
    assert "their test tasks differ" in page.visible


def test_an_unknown_search_is_refused(home, capsys):
    assert main(["compare", "one", "three", "--home", str(home.path)]) == 2
    assert "one, other, two" in capsys.readouterr().err
