"""What a report says: its numbers are those of the search, and what is missing is left out."""

import json
import math
import re

import pytest

from fewshot.errors.inputs import FewtuneError
from orchestrator import Search, Stopped
from orchestrator.cli.app import main
from orchestrator.record.home import Home
from orchestrator.results.report.answer import answer
from orchestrator.results.report.findings import findings_of
from orchestrator.results.report.report import html_of
from orchestrator.space.search_space import Range, SearchSpace
from tests.orchestrator import tiny, toys
from tests.orchestrator.results.explanation import known
from tests.orchestrator.results.report.made import Page, found, of_many_tasks, toy

NAMES = ("sin3x", "line", "noise")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("orchestrator.sampling.sampler.Sampler.suggest", toys.quick_suggest)


@pytest.fixture(scope="module")
def search(tmp_path_factory) -> Search:
    """A finished search with its record in MLflow."""
    tasks = {
        "train": [{"function": name} for name in NAMES],
        "validation": [{"function": "sinusoid"}, {"function": "square"}],
        "test": [{"function": "sinusoid"}, {"function": "quadratic"}],
    }
    options = {"trials": 16, "reference_trials": 2, "finalists": 2, "seeds": 3, "lanes": 4}
    made = Search(
        tiny.config(tasks=tasks, steps=4, search=options | {"rungs": []}),
        home=tmp_path_factory.mktemp("reported"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.sampling.sampler.Sampler.suggest", toys.quick_suggest)
        made.run(executor="inline")
    return made


@pytest.fixture(scope="module")
def page(search) -> Page:
    return Page(search.home / "searches" / "toy" / "report.html")


def shown(search, capsys) -> dict:
    assert main(["show", search.name, "--home", str(search.home), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_numbers_are_those_of_show(search, page, capsys):
    told = shown(search, capsys)
    assert told.pop("report") == str(search.home / "searches" / "toy" / "report.html")
    assert page.search == told
    by_task = {
        re.sub("<.*?>", "", text).partition(":")[0]: (x, trace["name"])
        for trace in page.figures["plot-effects"]["data"]
        for x, text in zip(trace["x"], trace["hovertext"], strict=True)
    }
    assert by_task.keys() == set(NAMES)
    for effect in told["explanation"]["effects"]:
        value, verdict = by_task[effect["task"]]
        assert value == pytest.approx(100 * effect["effect"]["mean"])
        assert verdict == effect["verdict"]


def test_the_differences_are_those_of_the_verdict(search, page):
    summary = search.summary()
    assert summary.difference is not None
    role = summary.reference.role
    name = "no training" if role == "untrained" else "uniform"
    trace = page.traces("plot-finalists")[f"test, minus {name}"]
    at = trace["hovertext"].index(
        next(t for t in trace["hovertext"] if f"trial {summary.candidate.number}<" in t)
    )
    assert trace["x"][at] == pytest.approx(100 * summary.difference.mean)
    high = trace["x"][at] + trace["error_x"]["array"][at]
    assert high == pytest.approx(100 * summary.difference.high)


def test_the_trials_are_those_of_the_study(search, page):
    table = search.trials()
    traces = page.traces("plot-progress-trials")
    scores = [y for name in ("complete", "complete, reference") for y in traces[name]["y"]]
    complete = table[table.state == "complete"]
    drawn = complete.score[complete.score > min(scores)]
    assert sorted(scores)[-len(drawn) :] == pytest.approx(sorted(drawn))
    assert max(traces["best so far"]["y"]) == pytest.approx(complete.score.max())
    rates = page.traces("plot-parameters-0")["complete"]["x"]
    assert set(rates) <= set(table["lr/outer"])
    best = complete.score.drop([0, 1]).nlargest(10).index  # without the references
    medians = complete.loc[best].filter(like="lambda/").median()
    (trace,) = (t for n, t in page.traces("plot-weights").items() if n.startswith("best 10"))
    assert sorted(trace["x"]) == pytest.approx(sorted(medians))


def test_mlflow_has_the_report_and_the_same_numbers(search, page):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{search.home / 'mlflow.db'}")
    ids = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(ids, "tags.`fewtune.kind` = 'search'")
    (run,) = runs
    path = client.download_artifacts(run.info.run_id, "report.html")
    with open(path, encoding="utf-8") as file:
        assert file.read() == page.html
    for name, value in page.search["test"].items():
        metric = run.data.metrics[f"test/{name}_{page.search['measure']}"]
        assert metric == pytest.approx(value["mean"])
    assert run.data.metrics["test/gain"] == pytest.approx(page.search["difference"]["mean"])


def test_the_time_adds_up(page):
    rows = page.section("times")
    for part in ("start-up", "search", "retraining", "tests", "meta-training", "used", "free"):
        assert f"<td>{part}</td>" in rows
    for row in range(3):
        parts = [t for t in page.figures["plot-times"]["data"] if t["y"] == [row]]
        assert sum(t["x"][0] for t in parts) == pytest.approx(100)


def test_a_search_can_be_done_again(search, page, tmp_path):
    (config,) = re.findall(r"<h3>config.yaml</h3><pre>(.*?)</pre>", page.visible, re.DOTALL)
    (tmp_path / "config.yaml").write_text(config.replace("&#x27;", "'"))
    assert Search.from_yaml(tmp_path / "config.yaml", home=tmp_path).config == search.config
    assert "torch" in page.section("again")


def test_the_page_needs_no_network(page):
    assert len(page.html) < 8_000_000
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page.visible)
    head = page.html.partition("</head>")[0]
    assert "default-src 'none'" in head
    assert "http" not in head.replace("http-equiv", "")


def test_report_writes_a_file_and_says_where(search, tmp_path, capsys):
    out = tmp_path / "deep" / "mine.html"
    home = ["--home", str(search.home)]
    assert main(["report", "toy", "--out", str(out), *home]) == 0
    assert capsys.readouterr().out.strip() == f"report: {out}"
    assert Page(out).search["name"] == "toy"
    assert main(["show", "toy", *home]) == 0
    assert capsys.readouterr().out.strip().endswith("searches/toy/report.html")
    assert search.summary().report(tmp_path / "again.html") == tmp_path / "again.html"


def test_what_is_wrong_with_the_arguments_is_said(search, tmp_path, capsys):
    home = ["--home", str(search.home)]
    assert main(["report", "toi", *home]) == 2
    assert "did you mean" in capsys.readouterr().err.lower()
    assert main(["report", "toy", "--out", str(tmp_path), *home]) == 2
    assert "must be a file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# ---- searches that lack something -------------------------------------------------------------


def test_a_report_can_be_written_while_the_search_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", tiny.quiet)
    made = Search(tiny.config(), home=tmp_path)
    pages = []

    def look(stage, records):
        if stage == "search" and not pages:
            pages.append(Page(html_of(findings_of("toy", Home(tmp_path)))))

    made.run(executor="inline", observe=look)
    assert "The search has not ended: 2 of 2 trials have started" in pages[0].visible
    assert "No trial has ended" in pages[0].section("progress")
    assert "when the search has ended" in pages[0].section("finalists")


def test_a_running_search_has_its_trials_but_no_verdict():
    page = Page(toy(6, untrained=0.1))
    assert "The search has not ended" in page.visible
    assert page.search["verdict"] is None
    assert "plot-progress-trials" in page.figures
    assert "when the search has ended" in page.section("per-task")


def test_a_search_whose_trials_all_fail_says_why():
    def fails(spec, step):
        raise ArithmeticError("</script><script>alert(1)</script>")

    page = Page(toy(score=fails))
    assert "No trial completed: 4 of 4 trials failed" in page.visible
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page.section("failures")
    assert "<script>alert" not in page.html
    assert page.figures.keys() <= {"plot-progress-trials", "plot-progress-time"}
    for key in ("effects", "finalists", "weights", "held-out", "parameters"):
        assert 'class="missing"' in page.section(key)


def test_a_search_that_fails_or_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", tiny.quiet)
    space = {"lr/outer": {"low": 1e30, "high": 1e35}, "lr/inner": 0.01, "lr/adapt": 0.01}
    options = {"trials": 3, "reference_trials": 1, "lanes": 1}
    made = Search(tiny.config(space=space, steps=8, search=options), home=tmp_path)
    with pytest.raises(FewtuneError, match="failed"):
        made.run(executor="inline")
    page = Page(tmp_path / "searches" / "toy" / "report.html")
    assert "No trial completed: 3 of 3 trials failed" in page.visible
    assert "diverged" in page.section("failures")
    other = Search(tiny.config(name="other"), home=tmp_path)
    with pytest.raises(Stopped):
        other.run(executor="inline", should_stop=lambda: True)
    path = tmp_path / "searches" / "other" / "report.html"
    assert not path.exists()
    assert other.summary().report() == path
    assert "The search has not ended" in Page(path).visible


def test_what_is_worse_than_doing_nothing_is_not_praised():
    made = toy(untrained=0.95)
    told = answer(made)
    assert told.headline == "Training did not help: use the untrained model"
    assert {a.name: a.verdict for a in told.against}["no training at all"] != "better"
    assert all("of the best candidate, which is not exported" in a.detail for a in told.against)
    assert "The exported model is the untrained one." in Page(made).visible


def test_a_gain_over_both_references_is_told():
    made = toy(untrained=0.1, seeds=3)
    told = answer(made)
    verdicts = [a.verdict for a in told.against]
    assert verdicts[0] == "better"
    assert told.headline.startswith("The search found a better model than both") == (
        verdicts == ["better", "better"]
    )
    for a in told.against:
        assert "not exported" not in a.detail
        assert re.search(r"points \([+-][\d.]+ to [+-][\d.]+\)", a.value)


def test_without_references_nothing_is_compared():
    space = SearchSpace({"lr/outer": Range(1e-4, 1e-1, log=True)}, {}, dict(toys.SIZES))
    page = Page(toy(space=space, score=lambda spec, step: spec.hyperparameters["lr/outer"]))
    assert "nothing to compare it with" in page.visible
    assert "This search has no reference" in page.section("finalists")
    assert "not searched" in page.section("effects")
    assert "not searched" in page.section("weights")
    assert "No trial with uniform weights" in page.section("held-out")
    assert "is at the end of its range: lr/outer" in page.section("parameters")


def test_one_training_task_has_no_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", tiny.quiet)
    Search(tiny.config(), home=tmp_path).run(executor="inline")
    page = Page(tmp_path / "searches" / "toy" / "report.html")
    assert "not searched" in page.section("effects")
    assert 'class="missing"' in page.section("held-out")


def test_names_from_a_config_are_harmless():
    names = ["<script>alert(1)</script>", "a<b>&c", "</script>", "x" * 90]
    plan = known.plan(names)
    effects = known.additive(dict.fromkeys(names, 0.1))
    page = Page(found(plan, known.search(plan, effects, held_out=dict.fromkeys(names, effects))))
    assert "<script>alert" not in page.html
    assert page.html.count("<script") == 4
    ticks = page.figures["plot-effects"]["layout"]["yaxis"]["ticktext"]
    assert not any("<" in tick for tick in ticks)
    assert all(len(tick) < 60 for tick in ticks)


def test_verdicts_on_tasks_have_marks_of_their_own():
    plan = known.plan(["good", "useless", "bad"])
    score = known.additive({"good": 0.25, "useless": 0.0, "bad": -0.3})
    page = Page(found(plan, known.search(plan, score)))
    traces = page.traces("plot-effects")
    assert {"helps", "harms"} <= traces.keys()
    assert traces["helps"]["marker"]["symbol"] != traces["harms"]["marker"]["symbol"]
    assert "good helps; bad harms" in page.section("effects")


@pytest.mark.parametrize(
    ("sign", "told"), [(1, "Similar tasks helped more"), (-1, "cannot be told")]
)
def test_similarity_is_set_beside_the_effects(sign, told):
    effects = {"a": 0.3, "b": 0.2, "c": 0.1, "d": 0.0, "e": -0.15, "f": -0.3}
    plan = known.plan(list(effects))
    records = known.search(plan, known.additive(effects))
    affinity = {task: 1 + sign * value for task, value in effects.items()}
    records.search.note("affinity", affinity)
    page = Page(found(plan, records))
    assert told in page.section("similarity")
    (trace,) = page.figures["plot-similarity"]["data"]
    assert trace["x"] == pytest.approx(list(affinity.values()))


def test_the_split_between_the_stages_is_measured_if_asked(search, page, tmp_path):
    assert "Not measured" in page.section("stages")
    out = tmp_path / "stages.html"
    home = ["--home", str(search.home)]
    assert main(["report", "toy", "--new-tasks", "100", "--out", str(out), *home]) == 0
    measured = Page(out)
    assert "For 100 new tasks" in measured.section("stages")
    assert measured.figures["plot-stages"]["data"]


@pytest.mark.slow
def test_five_thousand_trials_of_many_tasks_stay_small():
    page = Page(of_many_tasks(80, 60, 5000))
    assert len(page.html) < 8_000_000
    assert "evenly spaced" in page.section("progress")
    marks = sum(len(t["x"]) for t in page.figures["plot-progress-trials"]["data"])
    assert marks < 3000
    assert "are not drawn" in page.section("weights")
    (heat,) = page.figures["plot-held-out"]["data"]
    assert len(heat["z"]) <= 40
    assert max(map(len, heat["z"])) <= 24


def test_a_part_is_never_not_a_number(page):
    def numbers(value):
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for each in value:
                yield from numbers(each)
        elif isinstance(value, float):
            yield value

    assert all(math.isfinite(x) for x in numbers(page.figures))
